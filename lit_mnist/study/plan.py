"""What a study will run: configurations, each with a config file of its own, and runs, each with a folder."""

import copy
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.configs import NOT_YAML, find_config, read_config
from lit_mnist.record.printable import one_line

Settings = dict[str, Any]  # nested by the dots of the option: {"model": {"lr": 0.1}}
Grid = dict[str, list[Any]]  # dotted options with their values: {"model.lr": [0.01, 0.1]}

MOST_SEEDS = 2**32  # seeds lie below it, as numpy requires
LONGEST_NAME = 200  # bytes; file systems take 255, of which the config file's suffix is a part
OPTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
RESERVED = {
    "config": "name config files with --configs",
    "run_dir": "name the study's folder with --out",
    "seed_everything": "name seeds with --seeds",
    "threads": "a run has one thread, so that each core trains a run of its own",
    "name": "a configuration is named after its file and its grid values",
    "ckpt_path": "a run continues from its own checkpoint",
    "print_config": "look at the written config files, or use --dry-run",
}


@dataclass(frozen=True)
class Configuration:
    """What the runs of one name have in common: everything but the seed."""

    name: str
    settings: Settings
    text: str  # content of its config file

    def file(self, out: Path) -> Path:
        """Path of its config file in the study's folder; `fit` names a run after it."""
        return out / self.name / f"{self.name}.yaml"


@dataclass(frozen=True)
class RunSpec:
    """One run to be trained: a configuration, a seed, and the folder that records it."""

    name: str  # printable, as the folder is: `plan_study` refuses others
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Path of the run folder."""
        return self.out / self.name / f"seed_{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Everything after `python -m lit_mnist`."""
        config = self.out / self.name / f"{self.name}.yaml"
        run = ["--run_dir", str(self.folder), "--seed_everything", str(self.seed), "--threads", "1"]
        return ["fit", "--config", str(config), *run]

    @property
    def line(self) -> str:
        """Command line for a shell."""
        return shlex.join(["python", "-m", "lit_mnist", *self.arguments])

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Configurations and runs, in the order in which they are listed, and the folder that holds them."""

    out: Path
    configurations: list[Configuration]
    runs: list[RunSpec]


def parse_values(text: str) -> list[Any]:
    """Parses values separated by commas, each a number, true, false, null, text, or a [list] or {dict} in YAML.

    Numbers, words and times keep the meaning they have in Python: YAML would read 1e-3 as text, `on` as true, 00:10:00 as 600.

    Raises:
        ValueError: A value is missing, or a bracket.
    """
    try:
        values = yaml.load(f"[{text}]", Loader=yaml.BaseLoader)
    except NOT_YAML:
        raise ValueError(f"{text!r} is not a list of values in YAML: look for a missing value, bracket or quote.") from None
    return [_typed(value) for value in values]


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            pass
    return {"true": True, "false": False, "null": None}.get(value, value)


def check_option(option: str) -> None:
    """Raises ValueError if `option` cannot be one of `fit`, or is one that the study sets itself."""
    if not OPTION.fullmatch(option):
        raise ValueError(f"{option!r} is not an option of fit: write it like model.lr.")
    if option in RESERVED:
        raise ValueError(f"The study sets {option} itself: {RESERVED[option]}.")


def parse_options(arguments: Sequence[str]) -> Settings:
    """Parses options for every run, `--model.lr 0.1` or `--model.lr=0.1`, as {"model.lr": 0.1}.

    Raises:
        ValueError: An argument is not an option, has no value, or is one that the study sets itself.
    """
    options: Settings = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise ValueError(f"{argument!r} belongs to no option (see python -m lit_mnist study --help).")
        name, equals, text = argument[2:].partition("=")
        check_option(name)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{name} needs a value.")
            text = rest.pop(0)
        options[name] = parse_values(text)[0] if text.startswith(("[", "{")) else _typed(text)
    return options


def parse_grid(axes: Sequence[str]) -> Grid:
    """Parses arguments like "model.lr=0.01,0.1", in their order.

    Raises:
        ValueError: An axis has no values or is named twice, or its option is not one for a study.
    """
    grid: Grid = {}
    for axis in axes:
        option, equals, text = axis.removeprefix("--").partition("=")
        try:
            check_option(option)
            values = parse_values(text) if equals else []
        except ValueError as mistake:
            raise ValueError(f"--grid {axis}: {mistake}") from None
        if not values or "" in values:
            raise ValueError(f"--grid {axis}: write an option and its values, like model.lr=0.01,0.1.")
        if option in grid:
            raise ValueError(f"--grid names {option} twice: put all its values after one equals sign.")
        grid[option] = values
    return grid


def parse_seeds(text: str) -> Sequence[int]:
    """Parses "5", which means 1 to 5, or "1,2,3", which means these; "7," is 7 alone. Raises ValueError if it is neither."""
    try:
        if "," not in text:
            seeds: Sequence[int] = range(1, min(int(text) + 1, MOST_SEEDS))
        else:
            seeds = [int(seed) for seed in text.removesuffix(",").split(",")]
            if len(set(seeds)) < len(seeds) or not all(0 <= seed < MOST_SEEDS for seed in seeds):
                raise ValueError
    except ValueError:
        seeds = ()
    if not seeds:
        hint = f"write a number of seeds, like 5, or a list of different ones between 0 and {MOST_SEEDS - 1}, like 1,2,3"
        raise ValueError(f"--seeds {text}: {hint}.")
    return seeds


def point_name(point: Settings) -> str:
    """Names a point of a grid like the shipped configurations: {"model.lr": 0.1, "data.batch_size": 8} is "lr0.1-batch8"."""
    names = []
    for option, value in point.items():
        label = option.rpartition(".")[2].removesuffix("_size")
        number = "x".join(map(str, value)) if isinstance(value, list) else str(value)
        names.append(label + re.sub(r"[^A-Za-z0-9.-]+", "_", number.replace("+", "")))
    return "-".join(names)


def merged(settings: Settings, options: Settings) -> Settings:
    """Returns a copy of `settings` with each dotted option in its nested place."""
    result = copy.deepcopy(settings)
    for option, value in options.items():
        *path, name = option.split(".")
        inner = result
        for key in path:
            if inner.get(key) is None:
                inner[key] = {}
            inner = inner[key]
            if not isinstance(inner, dict):
                raise ValueError(f"--{option}: the config says {key}: {inner!r}, which has no settings of its own.")
        inner[name] = value
    return result


def difference(old: Settings, new: Settings) -> str:
    """Names the first setting in which two configs differ, with both values; "" if there is none."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for option in sorted(before.keys() | after.keys(), key=str):
        left, right = (repr(side[option]) if option in side else "unset" for side in (before, after))
        if left != right:
            return f"{option} was {left} and is now {right}"
    return ""


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plan_study(
    configs: Sequence[str], grid: Grid, options: Settings, seeds: Sequence[int], out: Path, keep_names: bool
) -> Study:
    """Plans each config at each point of the grid with each seed, configuration by configuration. Writes nothing.

    Args:
        configs: Paths, or names of shipped configs.
        grid: Options with their values; all combinations are run, the last option fastest.
        options: Dotted options for all runs; none of them may be in the grid.
        seeds: One run each.
        out: Folder of the study.
        keep_names: True if the name of a grid point begins with the config's.

    Raises:
        ValueError: A config cannot be read or trained, two have one name, or an option is also in the grid.
    """
    if twice := sorted(grid.keys() & options.keys()):
        raise ValueError(f"{twice[0]} is both in the grid and an option for all runs: keep one.")
    configurations: dict[str, Configuration] = {}
    for config in configs:
        file = find_config(config)
        base, text = read_config(file), file.read_text(encoding="utf-8")
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            name = "-".join(part for part in (file.stem if keep_names or not point else "", point_name(point)) if part)
            configuration = _configuration(name, base, text, {**options, **point})
            if name in configurations:
                raise ValueError(f"Two configurations would be called {name}: rename a file or drop a grid value.")
            configurations[name] = configuration
    _check_name(str(out))
    runs = [RunSpec(name, seed, out) for name in configurations for seed in seeds]
    return Study(out, list(configurations.values()), runs)


def _configuration(name: str, base: Settings, text: str, changes: Settings) -> Configuration:
    _check_name(name)
    if len(name.encode()) > LONGEST_NAME or name in (".", ".."):
        raise ValueError(f"{name[:60]}... cannot name a folder: give long values in a config file, with --configs.")
    settings = merged(base, changes)
    trainer = settings.get("trainer")
    if isinstance(trainer, dict) and trainer.get("fast_dev_run"):
        raise ValueError(f"{name}: trainer.fast_dev_run: such a run leaves no record; drop it.")
    if isinstance(trainer, dict) and trainer.get("max_epochs") == -1 and trainer.get("max_steps") in (None, -1):
        raise ValueError(f"{name}: trainer.max_epochs -1: without trainer.max_steps such a run never ends.")
    if changes:
        text = f"# {', '.join(f'{key} {value}' for key, value in changes.items())}\n{yaml.safe_dump(settings, sort_keys=False)}"
    return Configuration(name, settings, text)


def _check_name(name: str) -> None:
    if one_line(name) != name:
        raise ValueError(f"{one_line(name)} cannot be written as a line of text: rename it.")


def refuse_other_settings(study: Study) -> None:
    """Raises ValueError if the study's folder has runs of the same name with other settings."""
    for configuration in study.configurations:
        file = configuration.file(study.out)
        if file.exists() and (change := difference(read_config(file), configuration.settings)):
            raise ValueError(f"{file.parent} holds runs of other settings ({one_line(change)}): choose another --out.")


def write_configs(study: Study) -> None:
    """Writes each configuration's file, unless it is there.

    Raises:
        ValueError: As `refuse_other_settings`, if another study began in the meantime. Nothing was written.
    """
    study.out.mkdir(parents=True, exist_ok=True)
    with FileLock(study.out / ".lock"):  # of two studies started at once, the second sees all that the first wrote
        refuse_other_settings(study)
        for configuration in study.configurations:
            if not (file := configuration.file(study.out)).exists():
                write_atomically(file, configuration.text.encode())

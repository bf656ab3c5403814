"""What a study will run: groups of runs that share all settings but the seed, each with a config file, and its runs."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.configs import SHIPPED, find_config, parse_yaml, read_config
from lit_mnist.record.printable import one_line

Grid = dict[str, list[Any]]  # dotted options with their values: {"model.lr": [0.01, 0.1]}

BASE_OF_A_GRID = "lr0.1"
MOST_RUNS = 1000  # more need --yes: a typing error in a grid is quickly made
LONGEST_FOLDER_NAME = 200  # bytes; file systems take 255, of which the config file's suffix is a part
RESERVED = {
    "config": "name config files with --configs",
    "run_dir": "name the study's folder with --out",
    "seed_everything": "name seeds with --seeds",
    "threads": "a run has one thread, so that each core trains a run of its own",
    "name": "a run is named after its config file and its grid values",
    "ckpt_path": "a run continues from its own checkpoint",
    "trainer.fast_dev_run": "such a run leaves no record",
}


@dataclass(frozen=True)
class RunGroup:
    """Runs that have everything in common but the seed."""

    name: str  # printable, and the name of a folder: `plan_study` refuses others
    out: Path
    text: str  # content of the config file

    @property
    def file(self) -> Path:
        """Path of the config file in the study's folder; `fit` names a run after it."""
        return self.out / self.name / f"{self.name}.yaml"

    @property
    def settings(self) -> dict[str, Any]:
        """What the config file says, nested by the dots of the options: {"model": {"lr": 0.1}}."""
        return dict(parse_yaml(self.text))


@dataclass(frozen=True)
class RunSpec:
    """One run to be trained: a group and a seed."""

    group: RunGroup
    seed: int

    @property
    def folder(self) -> Path:
        """Path of the run folder."""
        return self.group.file.parent / f"seed_{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Everything after `python -m lit_mnist`."""
        run = ["--run_dir", str(self.folder), "--seed_everything", str(self.seed), "--threads", "1"]
        return ["fit", "--config", str(self.group.file), *run]

    def __str__(self) -> str:
        return f"{self.group.name} seed {self.seed}"


def parse_value(text: str) -> Any:
    """Parses JSON, such as 0.1, false or [512, 256]; returns other text as it is, for the parser of `fit`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses options for every run, `--model.lr 0.1` or `--model.lr=0.1`, as {"model.lr": 0.1}.

    Raises:
        ValueError: An argument is not an option, or has no value.
    """
    options: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise ValueError(f"{word!r} belongs to no option (see python -m lit_mnist study --help).")
        name, equals, text = word.partition("=")
        if not equals and (text := next(words, "--")).startswith("--"):
            raise ValueError(f"{name} needs a value.")
        options[name[2:]] = parse_value(text)
    return options


def parse_grid(axes: Sequence[str]) -> Grid:
    """Parses arguments like "model.lr=0.01,0.1", in their order. Raises ValueError if a value is missing."""
    grid: Grid = {}
    for axis in axes:
        option, _, text = axis.removeprefix("--").partition("=")
        values = parse_value(f"[{text}]")
        if isinstance(values, str):  # words among them
            values = [parse_value(value) for value in text.split(",")]
        if not values or "" in values:
            raise ValueError(f"--grid {axis}: write an option and its values, like model.lr=0.01,0.1.")
        grid[option] = [*grid.get(option, []), *values]
    return grid


def parse_seeds(text: str) -> Sequence[int]:
    """Parses "5", which means 1 to 5, or "1,2,3", which means these; "7," is 7 alone. Raises ValueError if it is neither."""
    numbers = [int(number) for number in text.split(",") if number] if re.fullmatch(r"\d{1,10}(,\d{1,10})*,?", text) else []
    seeds = list(dict.fromkeys(numbers)) if "," in text else range(1, sum(numbers) + 1)
    if not seeds:
        raise ValueError(f"--seeds {text}: write a number of seeds, like 5, or a list of them, like 1,2,3.")
    return seeds


def point_name(point: dict[str, Any]) -> str:
    """Names a point of a grid like the shipped configurations: {"model.lr": 0.1, "data.batch_size": 8} is "lr0.1-batch8"."""
    names = []
    for option, value in point.items():
        text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
        names.append(option.rpartition(".")[2].removesuffix("_size") + text.replace("+", ""))
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(names))


def set_option(settings: dict[str, Any], option: str, value: Any) -> None:
    """Puts the value of a dotted option into its nested place. Raises ValueError if a value is where settings should be."""
    *path, name = option.split(".")
    for key in path:
        settings[key] = {} if settings.get(key) is None else settings[key]
        settings = settings[key]
        if not isinstance(settings, dict):
            raise ValueError(f"--{option}: the config says {key}: {settings!r}, which has no settings of its own.")
    settings[name] = value


def first_change(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Names the first setting in which two configs differ, with both values; "" if there is none."""
    for key in sorted(old.keys() | new.keys()):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            if inner := first_change(old[key], new[key]):
                return f"{key}.{inner}"
            continue
        before, after = (repr(side[key]) if key in side else "unset" for side in (old, new))
        if before != after:
            return f"{key} was {before} and is now {after}"
    return ""


def plan_study(
    configs: Sequence[str] | None, grid: Grid, options: dict[str, Any], seeds: Sequence[int], out: Path, most: float = MOST_RUNS
) -> list[RunSpec]:
    """Plans each config at each point of the grid with each seed, group by group. Writes nothing.

    Args:
        configs: Paths, or names of shipped configs, with which the names of grid points then begin; None: the default ones.
        grid: Dotted options with their values; all combinations are run, the last option fastest.
        options: Dotted options for all runs; none of them may be in the grid.
        seeds: One run each.
        out: Folder of the study.
        most: Number of runs above which there is a mistake.

    Raises:
        ValueError: A config cannot be read, two have one name, an option is given twice or set by the study itself, or there
            are too many runs.
    """
    for option in [*options, *grid]:
        if option in RESERVED:
            raise ValueError(f"The study sets {option} itself: {RESERVED[option]}.")
        if option in options and option in grid:
            raise ValueError(f"{option} is both in the grid and an option for all runs: keep one.")
    names = configs or ([BASE_OF_A_GRID] if grid else SHIPPED)
    count = len(names) * math.prod(map(len, grid.values())) * len(seeds)
    if count > most:
        raise ValueError(f"That would be {count:,} runs: confirm with --yes, or give fewer values or seeds.")
    groups: dict[str, RunGroup] = {}
    for file, values in itertools.product(map(find_config, names), itertools.product(*grid.values())):
        point = dict(zip(grid, values, strict=True))
        name = "-".join(part for part in (file.stem if configs or not point else "", point_name(point)) if part)
        if one_line(name) != name or len(name.encode()) > LONGEST_FOLDER_NAME or name in (".", ".."):
            raise ValueError(f"{one_line(name)} cannot name a folder: rename it, or give long values in a config file.")
        if name in groups:
            raise ValueError(f"Two configurations would be called {name}: rename a file or drop a grid value.")
        groups[name] = RunGroup(name, out, _config_text(file, {**options, **point}))
    return [RunSpec(group, seed) for group in groups.values() for seed in seeds]


def _config_text(file: Path, changes: dict[str, Any]) -> str:
    settings = read_config(file)
    if not changes:
        return file.read_text(encoding="utf-8")
    for option, value in changes.items():
        set_option(settings, option, value)
    return yaml.safe_dump(settings, sort_keys=False)


def groups_of(runs: Sequence[RunSpec]) -> list[RunGroup]:
    """Lists the groups of runs, each once."""
    return list(dict.fromkeys(run.group for run in runs))


def refuse_other_settings(runs: Sequence[RunSpec]) -> None:
    """Raises ValueError if the study's folder has runs of the same name with other settings."""
    for group in groups_of(runs):
        if group.file.exists() and (change := first_change(read_config(group.file), group.settings)):
            raise ValueError(f"{group.file.parent} holds runs of other settings ({change}): choose another --out.")


def write_configs(runs: Sequence[RunSpec]) -> None:
    """Writes each group's config file, unless it is there.

    Raises:
        ValueError: As `refuse_other_settings`, if another study began in the meantime. Nothing was written.
    """
    out = runs[0].group.out
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):  # of two studies started at once, the second sees all that the first wrote
        refuse_other_settings(runs)
        for group in groups_of(runs):
            if not group.file.exists():
                write_atomically(group.file, group.text.encode())

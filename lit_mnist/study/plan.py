"""The plan of a study: configurations, each with a config file of its own, and runs, each with a folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock

from lit_mnist.record.atomic import write_durably
from lit_mnist.record.configs import find_config, read_config
from lit_mnist.study.grid import Grid, point_name, points
from lit_mnist.study.settings import Settings, difference, merged

MOST_SEEDS = 2**32  # seeds are below it, as numpy and Lightning want them


@dataclass(frozen=True)
class Configuration:
    """What the runs of one name have in common: everything but the seed."""

    name: str
    settings: Settings
    text: str  # of its config file

    def file(self, out: Path) -> Path:
        """Its config file in the study's folder; `fit` names a run after it."""
        return out / self.name / f"{self.name}.yaml"


@dataclass(frozen=True)
class Run:
    """One training: a configuration, a seed, and the folder that records it."""

    name: str
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / self.name / f"seed_{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """What follows `python -m lit_mnist`."""
        config = self.out / self.name / f"{self.name}.yaml"
        run = ["--run_dir", str(self.folder), "--seed_everything", str(self.seed), "--threads", "1"]
        return ["fit", "--config", str(config), *run]

    @property
    def line(self) -> str:
        """The command line for a shell."""
        return shlex.join(["python", "-m", "lit_mnist", *self.arguments])

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


def parse_seeds(text: str) -> Sequence[int]:
    """The seeds that "5" (1 to 5) or "1,2,3" (these; "7," is 7 alone) stands for."""
    try:
        seeds: Sequence[int]
        if "," in text:
            seeds = [int(seed) for seed in text.removesuffix(",").split(",")]
        else:
            seeds = range(1, min(int(text) + 1, MOST_SEEDS))
    except ValueError:
        hint = "write a number of seeds, like 5, or a list of them, like 1,2,3"
        raise ValueError(f"--seeds {text}: {hint}.") from None
    if not seeds:
        raise ValueError(f"--seeds {text}: a study needs at least one seed.")
    if "," in text and not (min(seeds) >= 0 and max(seeds) < MOST_SEEDS):
        raise ValueError(f"--seeds {text}: a seed lies between 0 and {MOST_SEEDS - 1}.")
    if "," in text and len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {text}: a seed stands there twice, which would be the same run twice.")
    return seeds


def plan_configurations(configs: Sequence[str], grid: Grid, options: Settings, keep_names: bool) -> list[Configuration]:
    """Each config at each point of the grid, with the options for all.

    Args:
        configs: Paths or names of shipped configs.
        grid: Options with their values.
        options: Dotted options that apply to every configuration; a grid may not name them.
        keep_names: Whether a grid point's name starts with the config's.

    Raises:
        ValueError: A config is not there or unreadable, two get one name, or an option is also in the grid.
    """
    for option in options:
        if option in grid:
            raise ValueError(f"{option} is both in the grid and an option for all runs: keep one.")
    configurations: dict[str, Configuration] = {}
    for config in configs:
        file = find_config(config)
        base = read_config(file)
        for point in points(grid):
            changes = {**options, **point}
            settings = merged(base, changes)
            name = "-".join(part for part in (file.stem if keep_names or not point else "", point_name(point)) if part)
            text = file.read_text(encoding="utf-8")
            if changes:
                text = f"# {file.stem} with {', '.join(f'{key} {value}' for key, value in changes.items())}\n"
                text += yaml.safe_dump(settings, sort_keys=False)
            if name in configurations:
                raise ValueError(f"Two configurations would be called {name}: rename a file or drop a grid value.")
            configurations[name] = Configuration(name, settings, text)
    return list(configurations.values())


def plan_runs(configurations: Sequence[Configuration], seeds: Sequence[int], out: Path) -> list[Run]:
    """The runs, in the order of the results table: configuration by configuration, seed by seed."""
    return [Run(configuration.name, seed, out) for configuration in configurations for seed in seeds]


def refuse_other_settings(configurations: Sequence[Configuration], out: Path) -> None:
    """Raises ValueError when the study's folder has runs of the same name with other settings."""
    for configuration in configurations:
        file = configuration.file(out)
        if not file.exists():
            continue
        change = difference(read_config(file), configuration.settings)
        if change:
            raise ValueError(f"{file.parent} holds runs of other settings ({change}): choose another --out.")


def write_configs(configurations: Sequence[Configuration], out: Path) -> None:
    """Writes each configuration's file, unless it is there.

    Raises:
        ValueError: As `refuse_other_settings`; another study may have been started in the meantime. Nothing was written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):  # of two studies started at once, the second sees all that the first wrote
        refuse_other_settings(configurations, out)
        for configuration in configurations:
            file = configuration.file(out)
            if not file.exists():
                write_durably(file, configuration.text.encode())

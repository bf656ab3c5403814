"""Groups runs that differ only in the seed, names the groups by what differs, and finds sweeps among them."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_mnist.record.printable import one_line
from lit_mnist.report.load import PLAIN, Problem, RecordedRun

Axis = Literal["lr", "batch_size"]
AXES: dict[Axis, str] = {"lr": "learning rate", "batch_size": "batch size"}
LONGEST_NAME = 32  # characters, in tables and figures
LONGEST_VALUE = 24


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs of equal hyperparameters, sorted by seed, and a short name for them."""

    name: str
    runs: tuple[RecordedRun, ...]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return self.runs[0].result.hyperparameters

    @property
    def lr(self) -> float:
        return self.runs[0].result.lr

    @property
    def batch_size(self) -> int:
        return self.runs[0].result.batch_size

    @property
    def failed(self) -> tuple[RecordedRun, ...]:
        return tuple(run for run in self.runs if run.result.failed)

    @property
    def survivors(self) -> tuple[RecordedRun, ...]:
        """Runs that did not fail: trained, or still learning when they ended."""
        return tuple(run for run in self.runs if not run.result.failed)

    def level(self, axis: Axis) -> float:
        """Learning rate or batch size."""
        return self.lr if axis == "lr" else self.batch_size


@dataclass(frozen=True, eq=False)
class Sweep:
    """Configurations that differ in one hyperparameter only, sorted by it; at least two."""

    axis: Axis
    configurations: tuple[Configuration, ...]

    @property
    def label(self) -> str:
        return AXES[self.axis]

    @property
    def other(self) -> Axis:
        """The hyperparameter that stays the same, of the two."""
        return "batch_size" if self.axis == "lr" else "lr"

    @property
    def fixed_level(self) -> float:
        """Level of the other hyperparameter."""
        return self.configurations[0].level(self.other)

    @property
    def fixed(self) -> str:
        """The other hyperparameter and its level."""
        return f"{AXES[self.other]} {level_text(self.fixed_level)}"

    @property
    def runs(self) -> Iterator[RecordedRun]:
        return (run for configuration in self.configurations for run in configuration.runs)


def group_runs(runs: Sequence[RecordedRun]) -> tuple[list[Configuration], list[Problem]]:
    """Groups runs by their hyperparameters, in the order of learning rate and batch size.

    A run whose seed and hyperparameters another one has counts once: it would repeat, not confirm.
    """
    groups: dict[str, list[RecordedRun]] = {}
    problems = []
    for run in runs:
        group = groups.setdefault(_key(run.result.hyperparameters), [])
        same = [other for other in group if run.result.command and other.result.seed == run.result.seed]
        if same:
            problems.append(Problem(run.folder, f"same seed and hyperparameters as {same[0].folder}, so it is not counted"))
        else:
            group.append(run)
    ordered = sorted(groups.values(), key=lambda group: (group[0].result.lr, group[0].result.batch_size, group[0].result.name))
    names = _short_names(ordered)
    return [
        Configuration(name, tuple(sorted(group, key=lambda run: (run.result.seed, run.folder))))
        for name, group in zip(names, ordered, strict=True)
    ], problems


def find_sweeps(configurations: Sequence[Configuration], axis: Axis) -> list[Sweep]:
    """Finds the sweeps over one hyperparameter with everything else equal.

    The main sweep comes first: the one with most levels, then most runs, then fewest failures, then in the middle of all.
    """
    groups: dict[str, list[Configuration]] = {}
    for each in configurations:
        groups.setdefault(_key(each.hyperparameters, axis), []).append(each)
    found = [sorted(group, key=lambda each: each.level(axis)) for group in groups.values() if len(group) > 1]
    sweeps = sorted((Sweep(axis, tuple(group)) for group in found), key=lambda sweep: sweep.fixed_level)

    def rank(place: int) -> tuple[int, int, int, float]:
        runs = list(sweeps[place].runs)
        failed = sum(run.result.failed for run in runs)
        return -len(sweeps[place].configurations), -len(runs), failed, abs(place - (len(sweeps) - 1) / 2)

    return [sweeps[place] for place in sorted(range(len(sweeps)), key=rank)]


def _key(hyperparameters: dict[str, Any], without: str = "") -> str:
    """Writes what makes the experiment, apart from one hyperparameter; values that change nothing are left out."""
    told = {key: value for key, value in hyperparameters.items() if key != without and value not in PLAIN.get(key, ())}
    if steps := told.pop("steps_per_epoch", None):  # follows from the batch size, unless the epochs were cut
        told["whole_epochs"] = steps * hyperparameters["batch_size"] >= hyperparameters.get("train_size", 0)
        if told["whole_epochs"]:
            del told["whole_epochs"]
    return json.dumps({key: float(value) if key in AXES else value for key, value in told.items()}, sort_keys=True)


def _short_names(groups: Sequence[Sequence[RecordedRun]]) -> list[str]:
    """Names the groups: as their runs are called where that tells them apart, else with what differs."""
    names = [_cut(min({run.result.name for run in group}), LONGEST_NAME) for group in groups]
    settings = [
        {key: value for key, value in group[0].result.hyperparameters.items() if value not in PLAIN.get(key, ())}
        for group in groups
    ]
    differing = sorted(
        {key for each in settings for key in each if len({json.dumps(other.get(key)) for other in settings}) > 1}
    )
    if len(set(names)) < len(names):
        taken = Counter(names)
        for index, name in enumerate(list(names)):
            if taken[name] > 1:
                alike = [settings[other] for other, text in enumerate(names) if text == name or text.startswith(f"{name}, ")]
                keys = [key for key in differing if len({json.dumps(each.get(key)) for each in alike}) > 1]
                parts = [f"{_word(key)} {_value(settings[index][key])}" for key in keys if settings[index].get(key) is not None]
                names[index] = _cut(", ".join([name, *parts]), 2 * LONGEST_NAME)
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def _word(key: str) -> str:
    return "batch" if key == "batch_size" else key.replace("_", " ")


def _value(value: Any) -> str:
    """Writes a hyperparameter in few characters: a class by its name, a list by its members."""
    if isinstance(value, dict):
        text = str(value["class_path"]).rpartition(".")[2] if "class_path" in value else ", ".join(map(str, value))
    elif isinstance(value, list):
        text = " ".join(map(_value, value))
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return _cut(text, LONGEST_VALUE)


def _cut(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def level_text(value: float) -> str:
    """Writes a learning rate or a batch size as people do."""
    return f"{value:g}" if value < 1e6 else f"{value:,.0f}"

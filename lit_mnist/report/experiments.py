"""Groups runs that differ only in the seed, names the groups by what differs, and finds sweeps among them."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_mnist.record.printable import one_line
from lit_mnist.record.result import Result
from lit_mnist.report.load import UNSTATED, RecordedRun, problem

Axis = Literal["lr", "batch_size"]
AXES: dict[Axis, str] = {"lr": "learning rate", "batch_size": "batch size"}
OTHER: dict[Axis, Axis] = {"lr": "batch_size", "batch_size": "lr"}
NAME_WIDTH, VALUE_WIDTH = 32, 24  # characters, in tables and figures


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration, sorted by seed, and a short name for it."""

    name: str
    runs: tuple[RecordedRun, ...]

    @property
    def result(self) -> Result:
        """The first run's, whose hyperparameters are those of all."""
        return self.runs[0].result

    @property
    def failed(self) -> tuple[RecordedRun, ...]:
        return tuple(run for run in self.runs if run.result.failed)

    def level(self, axis: Axis) -> float:
        """Learning rate or batch size."""
        return self.result.lr if axis == "lr" else self.result.batch_size


@dataclass(frozen=True, eq=False)
class Sweep:
    """Groups that differ in one hyperparameter only, sorted by it, at least two; and what the other one is fixed at."""

    axis: Axis
    groups: tuple[Group, ...]
    fixed_level: float

    @property
    def label(self) -> str:
        """The hyperparameter, in words."""
        return AXES[self.axis]

    @property
    def fixed(self) -> str:
        """The other hyperparameter and its level, in words."""
        return f"{AXES[OTHER[self.axis]]} {level_text(self.fixed_level)}"

    def level(self, group: Group) -> str:
        """Level of the swept hyperparameter, as text."""
        return level_text(group.level(self.axis))


def group_runs(runs: Sequence[RecordedRun]) -> tuple[list[Group], list[str]]:
    """Groups runs by their hyperparameters, in the order of learning rate and batch size.

    A run whose seed and hyperparameters another one has counts once: it would repeat, not confirm.
    """
    found: dict[str, list[RecordedRun]] = {}
    problems = []
    for run in runs:
        group = found.setdefault(experiment_key(run.result.hyperparameters), [])
        same = [other for other in group if run.result.command and other.result.seed == run.result.seed]
        if same:
            problems.append(problem(run.folder, f"same seed and hyperparameters as {same[0].folder}, so it is not counted"))
        else:
            group.append(run)
    ordered = sorted(found.values(), key=lambda group: (group[0].result.lr, group[0].result.batch_size, group[0].result.name))
    return [
        Group(name, tuple(sorted(group, key=lambda run: (run.result.seed, run.folder))))
        for name, group in zip(_short_names(ordered), ordered, strict=True)
    ], problems


def find_sweeps(groups: Sequence[Group], axis: Axis) -> list[Sweep]:
    """Finds the sweeps over one hyperparameter with everything else equal.

    The main sweep comes first: the one with most levels, then most runs, then in the middle of all.
    """
    found = []
    for some in sets_alike(groups, [axis]):
        if len(some) > 1:
            ordered = tuple(sorted(some, key=lambda each: each.level(axis)))
            found.append(Sweep(axis, ordered, some[0].level(OTHER[axis])))
    found.sort(key=lambda sweep: sweep.fixed_level)
    middle, runs = (len(found) - 1) / 2, {sweep: sum(len(each.runs) for each in sweep.groups) for sweep in found}
    return sorted(found, key=lambda sweep: (-len(sweep.groups), -runs[sweep], abs(found.index(sweep) - middle)))


def sets_alike(groups: Sequence[Group], without: Collection[str]) -> list[list[Group]]:
    """Collects the groups that are alike apart from some hyperparameters."""
    alike: dict[str, list[Group]] = {}
    for each in groups:
        alike.setdefault(experiment_key(each.result.hyperparameters, without), []).append(each)
    return [*alike.values()]


def experiment_key(hyperparameters: dict[str, Any], without: Collection[str] = ()) -> str:
    """Writes what makes the experiment, apart from some hyperparameters."""
    told = UNSTATED | hyperparameters
    steps = told.pop("steps_per_epoch", None)  # follows from the batch size, unless the epochs were cut
    told["cut"] = steps is not None and steps * told["batch_size"] < told.get("train_size", 0)
    told |= {axis: float(told[axis]) for axis in AXES}
    return json.dumps({key: value for key, value in told.items() if key not in without}, sort_keys=True)


def _short_names(groups: Sequence[Sequence[RecordedRun]]) -> list[str]:
    """Names the groups: as their runs are called where that tells them apart, else with what differs, else with a number."""
    called = [_cut(min(run.result.name for run in group), NAME_WIDTH) for group in groups]
    settings = [UNSTATED | group[0].result.hyperparameters for group in groups]
    names, seen = [], Counter[str]()
    for name, own in zip(called, settings, strict=True):
        alike = [other for other, same in zip(settings, called, strict=True) if same == name]
        differing = [key for key in sorted(own) if any(other.get(key) != own[key] for other in alike)]
        parts = [f"{key.replace('_', ' ')} {_value(own[key])}" for key in differing if own[key] != UNSTATED.get(key)]
        full = _cut(", ".join([name, *parts]), 2 * NAME_WIDTH)
        seen[full] += 1
        names.append(f"{full} ({seen[full]})" if seen[full] > 1 else full)
    return names


def _value(value: Any) -> str:
    """Writes a hyperparameter in few characters: a list by its members, a class in it without its module."""
    if isinstance(value, list):
        text = " ".join(each.rpartition(".")[2] if isinstance(each, str) else str(each) for each in value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return _cut(text, VALUE_WIDTH)


def _cut(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def level_text(value: float) -> str:
    """Writes a learning rate or a batch size as people do."""
    return f"{value:g}" if value < 1e6 else f"{value:,.0f}"

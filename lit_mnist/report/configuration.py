"""Configurations: the runs that differ in nothing but the seed; and ladders of them that differ in one hyperparameter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_mnist.report.records import Problem
from lit_mnist.report.run import Run


@dataclass(frozen=True)
class Configuration:
    """Runs of one name and one set of hyperparameters, one per seed, sorted by seed; at least one."""

    name: str
    runs: tuple[Run, ...]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return self.runs[0].hyperparameters

    @property
    def lr(self) -> float:
        return self.runs[0].lr

    @property
    def batch_size(self) -> int:
        return self.runs[0].batch_size

    @property
    def trained(self) -> tuple[Run, ...]:
        """The runs that means are taken over."""
        return tuple(run for run in self.runs if run.trained)

    @property
    def failed(self) -> tuple[Run, ...]:
        """Collapsed and diverged runs."""
        return tuple(run for run in self.runs if not run.trained)

    def losses(self) -> NDArray[np.float64]:
        """Training losses of the trained runs, (runs, epochs), as far as all of them went."""
        curves = [run.train_loss_by_epoch for run in self.trained]
        epochs = min(map(len, curves), default=0)
        return np.array([curve[:epochs] for curve in curves]).reshape(len(curves), epochs)

    def rest(self, *keys: str) -> str:
        """All hyperparameters but `keys`, as a text to compare configurations by."""
        others = {key: value for key, value in self.hyperparameters.items() if key not in keys}
        return json.dumps(others, sort_keys=True)


@dataclass(frozen=True)
class Ladder:
    """At least two configurations that differ in one hyperparameter alone, lowest value first."""

    key: str  # "lr" or "batch_size"
    rungs: tuple[Configuration, ...]

    def value(self, configuration: Configuration) -> float:
        return float(configuration.hyperparameters[self.key])

    @property
    def pairs(self) -> list[tuple[Configuration, Configuration]]:
        """What is compared: neighbours, and the two ends; (lower, higher)."""
        neighbours = list(zip(self.rungs, self.rungs[1:], strict=False))
        return neighbours + ([(self.rungs[0], self.rungs[-1])] if len(self.rungs) > 2 else [])


def group_runs(runs: Sequence[Run]) -> tuple[list[Configuration], list[Problem]]:
    """The configurations of the runs, ordered by batch size and learning rate, and what is amiss with them.

    Runs of one name but different hyperparameters become several configurations, named after the difference; of two runs with
    one seed only the first counts, because the second is no independent one.
    """
    problems: list[Problem] = []
    by_name: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        key = json.dumps(run.hyperparameters, sort_keys=True)
        by_name.setdefault(run.name, {}).setdefault(key, []).append(run)
    configurations = []
    for name, variants in by_name.items():
        differing = _differing([group[0].hyperparameters for group in variants.values()])
        if differing:
            what = f"its runs differ in {', '.join(differing)} and are shown as {len(variants)} configurations"
            problems.append(Problem(name, what))
        for group in variants.values():
            described = [f"{key} {_plain(group[0].hyperparameters.get(key))}" for key in differing]
            label = f"{name} ({', '.join(described)})" if differing else name
            once, repeated = _one_per_seed(group)
            problems += repeated
            configurations.append(Configuration(label, once))
            if len(once) == 1:
                problems.append(Problem(label, f"it has one seed only ({once[0].seed}), so no sd is given"))
    configurations.sort(key=lambda each: (each.batch_size, each.lr, each.name, each.rest()))
    return configurations, problems


def _one_per_seed(runs: Sequence[Run]) -> tuple[tuple[Run, ...], list[Problem]]:
    first: dict[int, Run] = {}
    problems = []
    for run in runs:
        known = first.setdefault(run.seed, run)
        if known is not run:
            problems.append(
                Problem(
                    run.folder,
                    f"it has the configuration and the seed of {known.folder}, which alone is counted",
                )
            )
    return tuple(first[seed] for seed in sorted(first)), problems


def _differing(sets: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all of the mappings, sorted."""
    keys = sorted(set().union(*sets))
    return [key for key in keys if len({json.dumps(each.get(key), sort_keys=True) for each in sets}) > 1]


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def differing(configurations: Sequence[Configuration]) -> list[str]:
    """The hyperparameters in which the configurations differ, sorted."""
    return _differing([configuration.hyperparameters for configuration in configurations])


def find_ladders(configurations: Sequence[Configuration], key: str) -> list[Ladder]:
    """All ladders over `key`; of configurations with the same hyperparameters the one with most runs stands in them."""
    families: dict[str, dict[float, Configuration]] = {}
    for configuration in configurations:
        family = families.setdefault(configuration.rest(key), {})
        value = float(configuration.hyperparameters[key])
        if value not in family or len(configuration.runs) > len(family[value].runs):
            family[value] = configuration
    return [Ladder(key, tuple(family[value] for value in sorted(family))) for family in families.values() if len(family) > 1]

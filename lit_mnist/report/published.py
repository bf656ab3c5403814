"""The published runs, and how far they lie from runs of the same hyperparameters here."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from lit_mnist.report import quantity
from lit_mnist.report.configuration import Configuration
from lit_mnist.report.departures import DEPARTURES
from lit_mnist.report.quantity import Quantity
from lit_mnist.report.statistics import Summary, summarise

# What all published runs have in common.
EXPERIMENT = {"hidden": [512, 256], "dataset": "MNIST", "train_size": 60000, "val_size": 0}
# The published figures are rounded: losses to four decimals, accuracies to two decimals of a percent.
LOSS_ROUNDING = 0.00005
ACCURACY_ROUNDING = 0.00005


@dataclass(frozen=True)
class PublishedRun:
    """One published run: one training without a seed. Losses in nats, accuracies as fractions."""

    name: str
    lr: float
    batch_size: int
    epochs: int
    train_loss_by_epoch: tuple[float, ...]
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Comparison:
    """A published value beside the same quantity of the trained runs.

    Attributes:
        quantity: What is compared.
        published: The published value; the number that it was rounded from lies within `rounding` of it.
        seeds: The trained runs.
    """

    quantity: Quantity
    published: float
    rounding: float
    seeds: Summary

    @property
    def distance(self) -> float | None:
        """Of the published value from the mean, in sd; None without an sd, or with one that the rounding exceeds."""
        sd = self.seeds.sd
        return (self.published - self.seeds.mean) / sd if sd and sd >= self.rounding else None

    def is_within(self, widening: float = 0) -> bool | None:
        """Whether the published value lies in the seeds' range, made longer by `widening` times its length.

        None with a single seed, which spans no range.
        """
        if self.seeds.n < 2:
            return None
        slack = self.rounding + widening / 2 * (self.seeds.high - self.seeds.low)
        return self.seeds.low - slack <= self.published <= self.seeds.high + slack


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """All of them, from the file in the package."""
    text = resources.files("lit_mnist").joinpath("published_runs.json").read_text(encoding="utf-8")
    return tuple(
        PublishedRun(
            run["name"],
            run["lr"],
            run["batch_size"],
            run["epochs"],
            tuple(run["train_loss_by_epoch"]),
            run["train_accuracy_percent"] / 100,
            run["test_accuracy_percent"] / 100,
        )
        for run in json.loads(text)["runs"]
    )


def find_published(configuration: Configuration) -> PublishedRun | None:
    """The published run of the same experiment, whatever the configuration is called; the engine does not matter."""
    set_here = configuration.hyperparameters
    if any(set_here.get(key) != value for key, value in EXPERIMENT.items()) or set_here.keys() & set(DEPARTURES):
        return None
    whole = math.ceil(set_here["train_size"] / set_here["batch_size"])
    if any(run.steps_per_epoch != whole for run in configuration.runs):
        return None
    wanted = (set_here["lr"], set_here["batch_size"], set_here.get("max_epochs"))
    return next((run for run in published_runs() if (run.lr, run.batch_size, run.epochs) == wanted), None)


def compare_published(configuration: Configuration, run: PublishedRun) -> list[Comparison]:
    """The five quantities that a published run has, beside the trained runs; empty without any."""
    values: Sequence[tuple[Quantity, float, float]] = (
        (quantity.FIRST_LOSS, run.train_loss_by_epoch[0], LOSS_ROUNDING),
        (quantity.TENTH_LOSS, run.train_loss_by_epoch[9], LOSS_ROUNDING),
        (quantity.FINAL_LOSS, run.train_loss_by_epoch[-1], LOSS_ROUNDING),
        (quantity.TRAIN_ACCURACY, run.train_accuracy, ACCURACY_ROUNDING),
        (quantity.TEST_ACCURACY, run.test_accuracy, ACCURACY_ROUNDING),
    )
    return [
        Comparison(each, published, rounding, summarise(seen))
        for each, published, rounding in values
        if (seen := each.values(configuration.trained))
    ]

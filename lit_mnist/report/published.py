"""The published runs, and where their figures rank among runs of the same experiment here."""

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from lit_mnist.report.experiments import Configuration
from lit_mnist.report.load import RecordedRun
from lit_mnist.report.quantities import FINAL_LOSS, FIRST_LOSS, TEST_ACCURACY, TRAIN_ACCURACY, Quantity
from lit_mnist.report.statistics import spread

# What all published runs have in common.
EXPERIMENT = {"hidden": [512, 256], "dataset": "MNIST", "train_size": 60000, "val_size": 0}
ROUNDING = 0.00005  # losses are given to four decimals, accuracies to two decimals of a percent
TENTH_LOSS = Quantity(
    "training loss of epoch 10",
    "",
    True,
    True,
    lambda run: run.result.train_loss_by_epoch[9] if len(_losses(run)) > 9 else None,
)


def _losses(run: RecordedRun) -> Sequence[float]:
    return run.result.train_loss_by_epoch


@cache
def published_runs() -> tuple[dict[str, Any], ...]:
    """All of them, as in the file: name, lr, batch_size, epochs, train_loss_by_epoch and the two accuracies in percent."""
    text = resources.files("lit_mnist.report").joinpath("published_runs.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["runs"])


def find_published(configuration: Configuration) -> dict[str, Any] | None:
    """Finds the published run of the same experiment, whatever the configuration is called and with whichever engine."""
    here = configuration.hyperparameters
    whole = math.ceil(EXPERIMENT["train_size"] / configuration.batch_size)  # type: ignore[operator]
    if any(here.get(key) != value for key, value in EXPERIMENT.items()) or here.get("callbacks"):
        return None
    if any(run.result.steps_per_epoch != whole for run in configuration.runs):
        return None
    wanted = (configuration.lr, configuration.batch_size, here.get("max_epochs"))
    return next((run for run in published_runs() if (run["lr"], run["batch_size"], run["epochs"]) == wanted), None)


def published_rows(configurations: Sequence[Configuration]) -> list[list[str]]:
    """Rows of a table: each published figure, the median here, and how many of the runs here lie below it."""
    rows = []
    for each in configurations:
        run = find_published(each)
        if run is None:
            continue
        losses = run["train_loss_by_epoch"]
        figures = (
            (FIRST_LOSS, losses[0]),
            (TENTH_LOSS, losses[9]),
            (FINAL_LOSS, losses[-1]),
            (TRAIN_ACCURACY, run["train_accuracy_percent"] / 100),
            (TEST_ACCURACY, run["test_accuracy_percent"] / 100),
        )
        for quantity, value in figures:
            if values := quantity.values(each):
                shown = f"{value:.4f}" if quantity.ratio else f"{100 * value:.2f} %"
                middle = f"{spread(values).median:.4f}" if quantity.ratio else quantity.text(spread(values).median)
                rows.append([each.name, quantity.name, shown, middle, _rank(value, values)])
    return rows


def _rank(published: float, values: Sequence[float]) -> str:
    """Writes how many of the runs here lie below the published value; those within its rounding are equal to it."""
    lower = sum(value < published - ROUNDING for value in values)
    higher = sum(value > published + ROUNDING for value in values)
    n, equal = len(values), len(values) - lower - higher
    if equal == n:
        return f"equal to all {n}" if n > 1 else "equal"
    if lower in (0, n) and not equal:
        return f"{'above' if lower else 'below'} all {n}" if n > 1 else "above" if lower else "below"
    return f"above {lower} of {n}" + (f", equal to {equal}" if equal else "")

"""The published runs, and where their figures rank among runs of the same experiment here."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from statistics import median
from typing import Any

from lit_mnist.report.experiments import Group
from lit_mnist.report.quantities import FINAL_LOSS, FIRST_LOSS, TEST_ACCURACY, TRAIN_ACCURACY, Quantity

SHARED = {"hidden": [512, 256], "dataset": "MNIST", "train_size": 60000, "val_size": 0}  # by all published runs
ROUNDING = 0.00005  # losses are given to four decimals, accuracies to two decimals of a percent
TENTH_LOSS = Quantity("training loss of epoch 10", True, lambda run: next(iter(run.result.train_loss_by_epoch[9:]), None))


@cache
def published_runs() -> tuple[dict[str, Any], ...]:
    """All of them, as in the file: name, lr, batch_size, epochs, train_loss_by_epoch and the two accuracies in percent."""
    text = resources.files("lit_mnist.report").joinpath("published_runs.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["runs"])


def find_published(group: Group) -> dict[str, Any] | None:
    """Finds the published run of the same experiment, whatever the configuration is called and with whichever engine."""
    here = group.result.hyperparameters
    is_whole = all(run.result.steps_per_epoch * group.result.batch_size >= 60000 for run in group.runs)
    if not is_whole or here.get("callbacks") or any(here.get(key) != value for key, value in SHARED.items()):
        return None
    wanted = (group.result.lr, group.result.batch_size, here.get("max_epochs"))
    return next((run for run in published_runs() if (run["lr"], run["batch_size"], run["epochs"]) == wanted), None)


def published_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Rows of a table: configuration, figure, its published value, the median here, and the rank of the published value."""
    rows = []
    for each in groups:
        if (run := find_published(each)) is None:
            continue
        losses = run["train_loss_by_epoch"]
        figures = {FIRST_LOSS: losses[0], TENTH_LOSS: losses[9], FINAL_LOSS: losses[-1]}
        figures |= {TRAIN_ACCURACY: run["train_accuracy_percent"] / 100, TEST_ACCURACY: run["test_accuracy_percent"] / 100}
        for quantity, value in figures.items():
            if values := quantity.values(each):
                form = "{:.4f}" if quantity.is_loss else "{:.2%}"
                shown = [form.format(value), form.format(median(values)), _rank(value, values)]
                rows.append([each.name, quantity.name, *shown])
    return rows


def _rank(published: float, values: Sequence[float]) -> str:
    """Writes how many of the runs here lie below the published value; those within its rounding are equal to it."""
    n, lower = len(values), sum(value < published - ROUNDING for value in values)
    equal = sum(abs(value - published) <= ROUNDING for value in values)
    return f"above {lower} of {n}" + (f", equal to {equal}" if equal else "")

"""Tables of the report: results by group and by level of a sweep, runs, published values, provenance; and results.csv."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from statistics import median, quantiles
from typing import Any

from lit_mnist.record.printable import csv_cell, one_line
from lit_mnist.report.experiments import Group, Sweep, level_text
from lit_mnist.report.quantities import DECLARED, FINAL_LOSS, PUBLISHED, TARGETS, TEST_ACCURACY, TRAIN_ACCURACY, steps_to_target
from lit_mnist.report.render import Table
from lit_mnist.report.statistics import share_interval

COLUMNS = "configuration folder seed lr batch_size outcome epochs steps failed_at_epoch loss_of_epoch_1 final_train_loss"
COLUMNS += " train_accuracy test_accuracy seconds command"
SHARED = {"hidden": [512, 256], "dataset": "MNIST", "train_size": 60000, "val_size": 0}  # by all published runs
ROUNDING = 0.00005  # losses are given to four decimals, accuracies to two decimals of a percent
SOURCE = 'Published: one unseeded run of each configuration, in an unpublished course notebook ("Assignment 2", January 2025).'


def results(groups: Sequence[Group], settings: bool = False, note: str = "") -> Table:
    """One line for each group: its settings if wanted, medians over the runs that did not fail, how many failed."""
    quantities = (FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY)
    rows = [
        [
            each.name,
            *((level_text(each.result.lr), str(each.result.batch_size)) if settings else ()),
            *(quantity.median_text(each) for quantity in quantities),
            f"{len(each.failed)} of {len(each.runs)}",
        ]
        for each in groups
    ]
    columns = ("learning rate", "batch size") if settings else ()
    return Table(("configuration", *columns, *(quantity.name for quantity in quantities), "failed"), rows, note=note)


def levels(sweep: Sweep) -> Table:
    """A column for each level, a row for each quantity."""
    groups = sweep.groups
    shares = [share_interval(len(each.failed), len(each.runs)) for each in groups]
    rows = [
        ["failed", *(f"{len(each.failed)} of {len(each.runs)}" for each in groups)],
        ["share of failures, 95 % interval", *(f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in shares)],
    ]
    rows += [[each.name, *(_with_quartiles(each.text, each.values(group)) for group in groups)] for each in DECLARED]
    for target in TARGETS:
        steps = {each: steps_to_target(target).values(each) for each in groups}
        if all(2 * len(reached) >= len(each.runs) for each, reached in steps.items()):
            epochs = [[step / max(1, each.result.steps_per_epoch) for step in reached] for each, reached in steps.items()]
            rows += [
                [f"epochs to a loss of {target:g}", *(_with_quartiles("{:.2f}".format, each) for each in epochs)],
                [f"SGD steps to {target:g}", *(_with_quartiles("{:,.0f}".format, each) for each in steps.values())],
                [f"runs that reached {target:g}", *(f"{len(steps[each])} of {len(each.runs)}" for each in groups)],
            ]
            break
    return Table([sweep.label, *map(sweep.level, groups)], rows)


def all_runs(groups: Sequence[Group]) -> Table:
    """One line for each run."""
    rows = [
        [
            run.folder,
            each.name,
            str(run.result.seed),
            run.result.outcome + (f" ({one_line(run.result.stopped)})" if run.result.stopped else ""),
            f"{run.length:.4g}",
            FINAL_LOSS.text(FINAL_LOSS.of(run)),
            TEST_ACCURACY.text(TEST_ACCURACY.of(run)),
        ]
        for each in groups
        for run in each.runs
    ]
    return Table(("folder", "configuration", "seed", "outcome", "epochs", FINAL_LOSS.name, TEST_ACCURACY.name), rows, 4)


def results_csv(groups: Sequence[Group]) -> str:
    """Writes one line for each run, with a head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS.split())
    for name, run in ((each.name, run) for each in groups for run in each.runs):
        result = run.result
        cells = [name, run.folder, result.seed, result.lr, result.batch_size, result.outcome, result.epochs, result.steps]
        cells += [run.failure, next(iter(result.train_loss_by_epoch), None), result.final_train_loss]
        cells += [result.train_accuracy, result.test_accuracy, result.times.seconds, one_line(result.command)]
        writer.writerow(map(csv_cell, cells))
    return text.getvalue()


@cache
def published_runs() -> tuple[dict[str, Any], ...]:
    """Reads name, lr, batch_size, epochs, train_loss_by_epoch and the two accuracies in percent of every published run."""
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


def published(groups: Sequence[Group]) -> Table:
    """A row for each published figure of the experiments: its median here, and its rank among the runs here."""
    rows = []
    for each, run in ((each, run) for each in groups if (run := find_published(each))):
        losses, percent = run["train_loss_by_epoch"], (run["train_accuracy_percent"], run["test_accuracy_percent"])
        figures = (losses[0], losses[9], losses[-1], percent[0] / 100, percent[1] / 100)
        for quantity, value in zip(PUBLISHED, figures, strict=True):
            if values := quantity.values(each):
                lower = sum(other < value - ROUNDING for other in values)
                equal = sum(abs(other - value) <= ROUNDING for other in values)
                rank = f"above {lower} of {len(values)}" + (f", equal to {equal}" if equal else "")
                form = "{:.4f}" if quantity.is_loss else "{:.2%}"
                rows.append([each.name, quantity.name, form.format(value), form.format(median(values)), rank])
    columns = ("configuration", "figure", "published", "median here", "the published value ranks")
    return Table(columns, rows, 2, SOURCE)


def provenance(groups: Sequence[Group]) -> Table:
    """Versions, machines and data behind the runs, each value with the number of runs that have it."""
    counts: dict[str, Counter[str]] = {}
    for result in (run.result for each in groups for run in each.runs):
        told = {key: getattr(result, key) for key in ("threads", "device", "commit", "data_sha256")}
        told |= {f"version of {key}": value for key, value in result.versions.items()} | result.machine
        for key, value in told.items():
            if value not in (None, ""):
                counts.setdefault(one_line(key), Counter())[one_line(str(value))] += 1
    rows = [
        [key, ", ".join(f"{value} ({count_of(n, 'run')})" if len(values) > 1 else value for value, n in values.most_common(5))]
        for key, values in counts.items()
    ]
    return Table(("what", "value"), rows, 2)


def count_of(n: int, noun: str) -> str:
    """Writes a number with its noun."""
    return f"{n} {noun}{'s' if n != 1 else ''}"


def _with_quartiles(text: Callable[[float], str], values: Sequence[float]) -> str:
    if len(values) < 3:
        return text(median(values)) if values else "–"
    low, middle, high = (text(value) for value in quantiles(values, method="inclusive"))
    return f"{middle} ({low}–{high})".replace(" %–", "–")

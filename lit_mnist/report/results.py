"""The tables of results: per configuration, beside the published runs, failures, and every single run."""

import csv
import io
from collections.abc import Sequence

from lit_mnist.report.configuration import Configuration, differing
from lit_mnist.report.document import Cell, Code, Table
from lit_mnist.report.published import Comparison, compare_published, find_published
from lit_mnist.report.quantity import (
    EPOCH_SECONDS,
    FINAL_LOSS,
    TEST_ACCURACY,
    TRAIN_ACCURACY,
    Quantity,
    loss_rises,
    seconds_per_epoch,
    signed,
)
from lit_mnist.report.statistics import share_interval, summarise

WIDENED_BY = 0.5
YES_NO = {True: "yes", False: "no", None: "–"}


def results(configurations: Sequence[Configuration]) -> Table:
    """One row per configuration: mean and sd over its trained runs, their range, and the published value beside them."""
    others = [key for key in differing(configurations) if key not in ("lr", "batch_size")]
    head = ["configuration", "lr", "batch size", *others, "runs", "failed"]
    head += [quantity.label for quantity in (FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY, EPOCH_SECONDS)]
    return Table(head, [_row(configuration, others) for configuration in configurations])


def _row(configuration: Configuration, others: Sequence[str]) -> list[Cell]:
    published = find_published(configuration)
    beside = compare_published(configuration, published) if published else []
    by_quantity = {each.quantity.key: each for each in beside}
    measured = (FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY)
    return [
        configuration.name,
        f"{configuration.lr:g}",
        str(configuration.batch_size),
        *(str(configuration.hyperparameters.get(key, "–")) for key in others),
        str(len(configuration.runs)),
        failure_share(configuration),
        *(_measured(configuration, quantity, by_quantity.get(quantity.key)) for quantity in measured),
        _measured(configuration, EPOCH_SECONDS, None),
    ]


def _measured(configuration: Configuration, quantity: Quantity, beside: Comparison | None) -> Cell:
    values = quantity.values(configuration.trained)
    if not values:
        return "–"
    summary = summarise(values)
    lines = [quantity.write_summary(summary)]
    if summary.n > 1:
        lines.append(f"({quantity.write_range(summary)})")
    if beside:
        lines.append(f"published {quantity.write(beside.published)}")
        within = beside.is_within()
        if within is not None:
            distance = "" if beside.distance is None else f"{_sds(beside.distance)} sd, "
            lines.append(distance + ("in range" if within else "out of range"))
    return tuple(lines)


def _sds(distance: float) -> str:
    return ("+" if distance > 0 else "") + signed(f"{distance:.1f}")


def failure_share(configuration: Configuration) -> Cell:
    """How many runs collapsed or diverged, and the interval of that share."""
    n, failed = len(configuration.runs), len(configuration.failed)
    bounds = share_interval(failed, n)
    kinds = [
        f"{count} {outcome}"
        for outcome in ("collapsed", "diverged")
        if (count := sum(run.outcome == outcome for run in configuration.runs))
    ]
    return (f"{failed} of {n}", *kinds, f"({100 * bounds.low:.0f}–{100 * bounds.high:.0f} %)")


def published_table(configurations: Sequence[Configuration]) -> Table | None:
    """Five quantities of every configuration that was published, or None."""
    head = [
        "configuration",
        "quantity",
        "trained runs",
        "range",
        "published",
        "distance",
        "in range",
        "in wider range",
    ]
    rows: list[list[Cell]] = []
    for configuration in configurations:
        published = find_published(configuration)
        for each in compare_published(configuration, published) if published else []:
            rows.append(
                [
                    configuration.name,
                    each.quantity.label,
                    each.quantity.write_summary(each.seeds),
                    each.quantity.write_range(each.seeds),
                    each.quantity.write(each.published),
                    "–" if each.distance is None else f"{_sds(each.distance)} sd",
                    YES_NO[each.is_within()],
                    YES_NO[each.is_within(WIDENED_BY)],
                ]
            )
    return Table(head, rows) if rows else None


def failures_table(configurations: Sequence[Configuration]) -> Table | None:
    """Every run that did not train, or None."""
    rows: list[list[Cell]] = []
    for configuration in configurations:
        for run in configuration.failed:
            place = f"epoch {run.diverged[0]}, step {run.diverged[1]:,}" if run.diverged else "–"
            rows.append([configuration.name, str(run.seed), run.outcome, place, run.reason or "–", run.folder])
    return Table(["configuration", "seed", "outcome", "first infinite or NaN loss", "reason", "folder"], rows) if rows else None


def runs_table(configurations: Sequence[Configuration]) -> Table:
    """Every run with the line that runs it again."""
    head = ["configuration", "seed", "outcome", "final loss", "train, %", "test, %", "s per epoch", "command"]
    rows: list[list[Cell]] = []
    for configuration in configurations:
        for run in configuration.runs:
            measured = [
                "–" if (value := quantity.of(run)) is None else quantity.write(value, decimals)
                for quantity, decimals in (
                    (FINAL_LOSS, 6),
                    (TRAIN_ACCURACY, 3),
                    (TEST_ACCURACY, 2),
                    (EPOCH_SECONDS, 2),
                )
            ]
            rows.append([configuration.name, str(run.seed), run.outcome, *measured, Code(run.command)])
    return Table(head, rows)


def rerun_commands(configurations: Sequence[Configuration]) -> str:
    """One command per configuration: its first seed's."""
    return "\n".join(" ".join(configuration.runs[0].command.split()) for configuration in configurations)


CSV_HEAD = (
    "configuration",
    "folder",
    "seed",
    "lr",
    "batch_size",
    "outcome",
    "diverged_epoch",
    "diverged_step",
    "epochs",
    "steps_per_epoch",
    "final_train_loss",
    "train_accuracy",
    "test_accuracy",
    "epochs_in_which_loss_rose",
    "seconds_per_epoch",
    "train_loss_by_epoch",
    "test_accuracy_by_epoch",
    "command",
)


def results_csv(configurations: Sequence[Configuration]) -> str:
    """One line per run, numbers unrounded, curves as lists within a cell, accuracies as fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for configuration in configurations:
        for run in configuration.runs:
            epoch, step = run.diverged or ("", "")
            writer.writerow(
                [configuration.name, run.folder, run.seed, run.lr, run.batch_size, run.outcome, epoch, step]
                + [len(run.train_loss_by_epoch), run.steps_per_epoch]
                + ["" if value is None else value for value in (run.final_train_loss, run.train_accuracy, run.test_accuracy)]
                + [
                    len(loss_rises(run)),
                    "" if (seconds := seconds_per_epoch(run)) is None else round(seconds, 6),
                ]
                + [" ".join(map(str, curve)) for curve in (run.train_loss_by_epoch, run.test_accuracy_by_epoch)]
                + [run.command]
            )
    return buffer.getvalue()

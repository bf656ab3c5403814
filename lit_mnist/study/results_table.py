"""The table at the end of a study: the same runs give the same characters."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from lit_mnist.study.ending import OUTCOMES, Ending
from lit_mnist.study.plan import Run

HEAD = ("config", "n", *OUTCOMES, "train loss", "train accuracy", "test accuracy")


def _mean(numbers: Sequence[float | None], form: str) -> str:
    known = [number for number in numbers if number is not None]
    return form.format(fmean(known)) if known else "-"


def results_table(endings: Mapping[Run, Ending]) -> str:
    """One row per configuration, in the plan's order; below it a line for each run that did not simply train.

    Losses (nats, mean over the last epoch) and accuracies are means over the trained runs alone.
    """
    groups: dict[str, list[Ending]] = {}
    for run, ending in endings.items():
        groups.setdefault(run.name, []).append(ending)
    rows: list[tuple[str, ...]] = [HEAD]
    for name, group in groups.items():
        trained = [ending for ending in group if ending.outcome == "trained"]
        rows.append(
            (
                name,
                str(len(group)),
                *(str(sum(ending.outcome == outcome for ending in group)) for outcome in OUTCOMES),
                _mean([ending.train_loss for ending in trained], "{:.6f}"),
                _mean([ending.train_accuracy for ending in trained], "{:.3%}"),
                _mean([ending.test_accuracy for ending in trained], "{:.3%}"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    lines += [
        f"{run}: {ending.outcome}. {ending.reason}".rstrip() for run, ending in endings.items() if ending.outcome != "trained"
    ]
    return "\n".join(lines)

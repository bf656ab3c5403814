"""What a hyperparameter does: sentences and tables made from the runs, none that the runs do not support."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import numpy as np

from lit_mnist.report.claims import judge_claims
from lit_mnist.report.comparison import Comparison, write_p
from lit_mnist.report.configuration import Configuration, Ladder
from lit_mnist.report.document import Block, Bullets, Cell, Heading, Paragraph, Table
from lit_mnist.report.quantity import COMPARED, EPOCH_SECONDS, epochs_to_accuracy, epochs_to_loss
from lit_mnist.report.run import Run

LOSS_TARGETS = (0.1, 0.01)  # nats
ACCURACY_TARGETS = (0.95, 0.97, 0.98)


def ladder_findings(ladder: Ladder, comparisons: Sequence[Comparison]) -> list[Block]:
    """Sentences, the descent table, the tests and the published analysis for one ladder."""
    own = [each for each in comparisons if (each.lower, each.higher) in ladder.pairs]
    sentences = [_sentence(ladder, [each for each in own if each.quantity is quantity]) for quantity in (*COMPARED, None)]
    judged = judge_claims(ladder, own)
    claims: list[Block] = (
        [Heading(3, "What the published analysis said, and whether the runs agree"), Bullets(judged)] if judged else []
    )
    return [
        Bullets([*(sentence for sentence in sentences if sentence), *cost_sentences(ladder)]),
        Paragraph("Speed of descent: the first epoch that reaches the target, as mean (min–max) over the runs that reach it."),
        descent_table(ladder),
        Paragraph(
            f"All comparisons, the higher value of {ladder.key} against the lower; losses and seconds as ratios of geometric "
            "means. In brackets: 95 % intervals, each by itself. Epochs to a training loss are compared where every "
            "trained run of both reaches it."
        ),
        comparison_table(own),
        *claims,
    ]


def _sentence(ladder: Ladder, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """One quantity: its value on each rung, then each pair with interval and verdict; empty if no run has it."""
    first = comparisons[0]
    if first.quantity is None:
        values = [f"{len(rung.failed)} of {len(rung.runs)} ({rung.name})" for rung in ladder.rungs]
    else:
        values = [f"{first.quantity.describe(rung.trained)} ({rung.name})" for rung in ladder.rungs]
        if not any(first.quantity.values(rung.trained) for rung in ladder.rungs):
            return ()
    label = first.label[0].upper() + first.label[1:]
    tested = [each for each in comparisons if each.p is not None or each.quantity]
    verdicts = [f"{each.pair}: {each.effect}: {each.verdict}." for each in tested]
    return (f"{label}: {', '.join(values)}.", *verdicts)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Each test with what it rests on."""
    head = [
        "quantity",
        "pair",
        "difference (95 % interval)",
        "test",
        "p",
        "p, Holm",
        "80 % power from",
        "verdict",
    ]
    rows: list[list[Cell]] = [
        [
            each.label,
            each.pair,
            two_lines(each.effect),
            each.test,
            write_p(each.p),
            write_p(each.corrected_p),
            each.detectable,
            each.verdict,
        ]
        for each in comparisons
        if each.p is not None or each.quantity
    ]
    return Table(head, rows)


def two_lines(effect: str) -> Cell:
    """The interval below the estimate."""
    estimate, bracket, interval = effect.partition(" (")
    return (estimate, bracket.strip() + interval) if interval else effect


def descent_table(ladder: Ladder) -> Table:
    """Epochs, SGD steps and seconds to each target, for the trained runs of each rung."""
    targets = [(f"training loss {target:g}", partial(epochs_to_loss, target=target)) for target in LOSS_TARGETS]
    targets += [
        (f"test accuracy {100 * target:g} %", partial(epochs_to_accuracy, target=target)) for target in ACCURACY_TARGETS
    ]
    head = ["target", *(rung.name for rung in ladder.rungs)]
    return Table(head, [[label, *(_descent(rung, reach) for rung in ladder.rungs)] for label, reach in targets])


def _descent(rung: Configuration, reach: Callable[[Run], int | None]) -> Cell:
    reached = [(run, epoch) for run in rung.trained if (epoch := reach(run)) is not None]
    count = f"{len(reached)} of {len(rung.trained)} trained runs"
    if not reached:
        return count
    epochs = [epoch for _, epoch in reached]
    steps = fmean(run.steps_per_epoch * epoch for run, epoch in reached)
    seconds = [sum(run.seconds_by_epoch[:epoch]) for run, epoch in reached if len(run.seconds_by_epoch) >= epoch]
    lines = [f"epoch {fmean(epochs):.1f} ({min(epochs)}–{max(epochs)})", f"{steps:,.0f} steps"]
    lines += [f"{fmean(seconds):.1f} s"] if seconds else []
    return (*lines, count)


def cost_sentences(ladder: Ladder) -> list[str]:
    """Why an epoch costs what it costs: a share for each SGD step and a share for each image."""
    timed = [(rung, value) for rung in ladder.rungs if (value := _mean_seconds(rung)) is not None]
    if ladder.key != "batch_size" or len(timed) < 2:
        return []
    steps = np.array([rung.runs[0].steps_per_epoch for rung, _ in timed], dtype=float)
    seconds = np.array([value for _, value in timed])
    per_step, per_epoch = np.linalg.lstsq(np.stack([steps, np.ones_like(steps)], 1), seconds, rcond=None)[0]
    each = [f"{1000 * value / count:.2f} ms for {rung.name}" for (rung, value), count in zip(timed, steps, strict=True)]
    said = (
        f"Why an epoch costs what it costs: all rungs see the same images, in {_counts(timed)} SGD steps; "
        f"a step takes {', '.join(each)}."
    )
    if per_step <= 0 or per_epoch <= 0:
        return [f"{said} A fixed cost per step and one per image do not describe these times."]
    misfit = f" (largest misfit {100 * np.max(np.abs(steps * per_step + per_epoch - seconds) / seconds):.0f} %)"
    shares = [
        f"{100 * count * per_step / (count * per_step + per_epoch):.0f} % of {rung.name}"
        for (rung, _), count in zip(timed, steps, strict=True)
    ]
    return [
        f"{said} Least squares over them split an epoch into {1000 * per_step:.2f} ms for each step, whatever its batch "
        f"(calls, and reading and writing all weights), and {per_epoch:.1f} s for the images themselves"
        f"{misfit if len(timed) > 2 else ''}: the steps are {', '.join(shares)}."
    ]


def _counts(timed: Sequence[tuple[Configuration, float]]) -> str:
    return ", ".join(f"{rung.runs[0].steps_per_epoch:,}" for rung, _ in timed)


def _mean_seconds(rung: Configuration) -> float | None:
    values = EPOCH_SECONDS.values(rung.trained)
    return fmean(values) if values else None

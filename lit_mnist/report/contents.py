"""What stands in the report, in which order."""

import math
from collections.abc import Sequence
from itertools import chain

from lit_mnist.record.outcome import FAR_WORSE_BY, GUESSING, NO_BETTER_THAN
from lit_mnist.report.accuracy_figure import draw_test_accuracy
from lit_mnist.report.comparison import Comparison, compare_ladders
from lit_mnist.report.configuration import Configuration, Ladder, find_ladders
from lit_mnist.report.document import Block, Bullets, CodeBlock, Document, Heading, Paragraph, Table
from lit_mnist.report.drawing import Palette
from lit_mnist.report.findings import ladder_findings
from lit_mnist.report.heat_map import draw_heat_map, find_grids
from lit_mnist.report.ladder_figures import draw_batch_sizes, draw_learning_rates
from lit_mnist.report.loss_panels import draw_small_multiples
from lit_mnist.report.quantity import EARLY_IMAGES
from lit_mnist.report.records import Problem
from lit_mnist.report.results import (
    WIDENED_BY,
    failures_table,
    published_table,
    rerun_commands,
    results,
    runs_table,
)
from lit_mnist.report.run import Run
from lit_mnist.report.statistics import detectable_shift

PUBLISHED = (
    "The published experiment trained each configuration once, without a seed. Of n runs and one more of the same kind, the "
    "one more lies in the range of the n with probability (n − 1)/(n + 1): 67 % for five. The wider range is the range made "
    f"longer by {100 * WIDENED_BY:g} %, half of that at each end; published figures are rounded, and count as in range if a "
    "number that rounds to them is; no distance in sd is given where an sd is less than what the rounding may hide."
)
METHODS = [
    "Trained, collapsed and diverged are what each run's record says it came to, by its training loss alone: collapsed runs "
    f"stayed finite but ended at {NO_BETTER_THAN:.3f} nats or more ({NO_BETTER_THAN / GUESSING:g} of guessing, ln 10), or "
    f"{FAR_WORSE_BY:.3f} nats or more ({FAR_WORSE_BY / GUESSING:g} of it) above their best epoch; diverged runs met a loss "
    "that was not finite.",
    "Training loss is the mean of an epoch's batch losses in nats, taken while the weights move. Accuracies are measured "
    "after the last epoch, in evaluation mode, on every image; nothing is selected on the test images.",
    "sd is the sample standard deviation (n − 1). Intervals are at 95 %: Student's t for means and differences, Wilson's "
    "for shares; each is by itself, not corrected for the number of them.",
    "Means are arithmetic. Ratios (“times”) are of geometric means, since losses and seconds are compared by their logarithms; "
    "where values spread far, they differ from the ratio of the arithmetic means beside them.",
    "Runs with the same seed start from the same weights. Two configurations whose trained runs have the same seeds are "
    "compared by a paired t test, others by Welch's t test, so that every trained run counts; shares of failed runs by "
    "Fisher's exact test. Comparisons of trained runs say nothing about the runs that failed.",
    "Values that come in whole steps (epochs, single test images) are not believed to scatter less than their rounding. "
    "Others that do not scatter at all are not tested.",
    f"The training loss of the first {EARLY_IMAGES:,} images is that of the SGD steps which see these alone.",
    "Seconds are of training alone, measured while other runs may have shared the machine.",
]
SECTIONS = {"lr": "What the learning rate does", "batch_size": "What the batch size does"}


def compose(title: str, configurations: Sequence[Configuration], problems: Sequence[Problem]) -> Document:
    """The whole report on at least one configuration."""
    palette = Palette(configurations)
    blocks: list[Block] = [Heading(1, f"Report on {title}"), Paragraph(_overview(configurations))]
    if problems:
        blocks += [Heading(2, "Problems"), Bullets([str(problem) for problem in problems])]
    blocks += _results(configurations, palette)
    for key, heading in SECTIONS.items():
        blocks += _ladders(find_ladders(configurations, key), key, heading, palette)
    grids = find_grids(configurations)
    if grids:
        blocks.append(Heading(2, "Learning rate and batch size together"))
        blocks += [draw_heat_map(grid, _numbered("grid", index)) for index, grid in enumerate(grids)]
    return [
        *blocks,
        Heading(2, "How the numbers are made"),
        Bullets(METHODS),
        Heading(2, "Where they come from"),
        _provenance(configurations),
        Heading(2, "Every run"),
        runs_table(configurations),
    ]


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index + 1}" if index else name


def _overview(configurations: Sequence[Configuration]) -> str:
    runs = _runs(configurations)
    outcomes = [
        f"{count} {outcome}"
        for outcome in ("trained", "collapsed", "diverged")
        if (count := sum(run.outcome == outcome for run in runs))
    ]
    return f"{_count(len(configurations), 'configuration')}, {_count(len(runs), 'run')}: {', '.join(outcomes)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _results(configurations: Sequence[Configuration], palette: Palette) -> list[Block]:
    blocks: list[Block] = [
        Heading(2, "Results"),
        Paragraph(
            "Mean ± sd (min–max) over the trained runs alone; failed runs are counted beside them, with the 95 % interval "
            "of their share."
        ),
        results(configurations),
        draw_small_multiples(configurations, palette),
        draw_test_accuracy(configurations, palette),
        Paragraph("Each configuration again, with its first seed:"),
        CodeBlock(rerun_commands(configurations)),
    ]
    failures = failures_table(configurations)
    if failures:
        blocks += [Heading(2, "Failed runs"), failures]
    beside = published_table(configurations)
    if beside:
        blocks += [Heading(2, "Beside the published runs"), Paragraph(PUBLISHED), beside]
    return blocks


def _ladders(ladders: Sequence[Ladder], key: str, heading: str, palette: Palette) -> list[Block]:
    if not ladders:
        return []
    blocks: list[Block] = [Heading(2, heading)]
    comparisons = compare_ladders(ladders)
    draw = draw_learning_rates if key == "lr" else draw_batch_sizes
    name = "learning_rates" if key == "lr" else "batch_sizes"
    for index, ladder in enumerate(ladders):
        blocks += [draw(ladder, palette, _numbered(name, index)), *ladder_findings(ladder, comparisons)]
    blocks.insert(1, Paragraph(_power(comparisons)))
    return blocks


def _power(comparisons: Sequence[Comparison]) -> str:
    """What the tests of a section can show, with as many seeds as there are."""
    tested = sum(each.p is not None for each in comparisons)
    if not tested:
        return "Nothing is tested: that takes two trained runs of two configurations."
    said = (
        "In brackets: 95 % intervals, each by itself and uncorrected. Verdicts: “differs” where p, corrected by Holm's method "
        f"for the {_count(tested, 'test')} of this section, is below 0.05; else “no difference seen”, which does not say that "
        "there is none, and stands beside some intervals that exclude it, because the verdict is corrected and they are not. "
        "“Times”: a ratio of geometric means; the means themselves are arithmetic."
    )
    sizes = sorted(
        {each.difference.n[0] for each in comparisons if each.p is not None and each.difference and len(each.difference.n) == 1}
    )
    powers = [f"{detectable_shift(n - 1) / math.sqrt(n):.1f} sd with {n} pairs" for n in sorted({*sizes[:1], *sizes[-1:]})]
    if powers:
        said += (
            " A paired test at the 5 % level sees a difference with 80 % probability only from this size on, in sd of the "
            f"pairs' differences: {', '.join(powers)}; the correction asks for more."
        )
    return said


def _provenance(configurations: Sequence[Configuration]) -> Table:
    runs = _runs(configurations)
    started = sorted(run.started for run in runs)
    seeds = [f"{each.name}: {', '.join(str(run.seed) for run in each.runs)}" for each in configurations]
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("runs started", (started[0], *([started[-1]] if len(started) > 1 else []))),
        ("seeds", tuple(seeds)),
    ]
    for key in sorted(set(chain.from_iterable(run.provenance for run in runs))):
        values = sorted({run.provenance.get(key, "not recorded") for run in runs})
        rows.append((key, tuple(values)))
    return Table(["what", "value"], rows)


def _runs(configurations: Sequence[Configuration]) -> list[Run]:
    return [run for configuration in configurations for run in configuration.runs]

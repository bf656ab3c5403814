"""Test accuracy: every seed a dot."""

from collections.abc import Sequence
from itertools import chain

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from lit_mnist.report.configuration import Configuration
from lit_mnist.report.document import Figure
from lit_mnist.report.drawing import INK, WIDTH, Palette, margins, style, text_width, to_svg
from lit_mnist.report.published import find_published
from lit_mnist.report.quantity import TEST_ACCURACY
from lit_mnist.report.statistics import mean_interval, summarise


def draw_test_accuracy(configurations: Sequence[Configuration], palette: Palette) -> Figure:
    """(d) One row per configuration: its trained runs, their mean with its interval, the published run."""
    with style():
        canvas = Canvas(figsize=(WIDTH, 1.3 + 0.5 * len(configurations)))
        labels = [_label(configuration) for configuration in configurations]
        margins(canvas, left=0.25 + text_width(chain.from_iterable(map(str.splitlines, labels))), top=0.4)
        axes = canvas.subplots()
        for row, configuration in enumerate(configurations):
            colour = palette.colour(configuration)
            values = [100 * value for value in TEST_ACCURACY.values(configuration.trained)]
            # spread over the row's height in the order of the seeds, so that equal values do not hide each other
            heights = [row + 0.16 + 0.2 * index / max(1, len(values) - 1) for index in range(len(values))]
            axes.plot(
                values,
                heights,
                palette.marker(configuration),
                color=colour,
                markersize=4,
                alpha=0.75,
                linewidth=0,
            )
            if values:
                mean, interval = summarise(values).mean, mean_interval(values)
                if interval:
                    axes.plot([interval.low, interval.high], [row - 0.06] * 2, color=colour, linewidth=2.2)
                axes.plot(mean, row - 0.06, "|", color=colour, markersize=12, markeredgewidth=2.2)
            published = find_published(configuration)
            if published:
                axes.plot(
                    100 * published.test_accuracy,
                    row - 0.26,
                    "D",
                    markerfacecolor="none",
                    markeredgecolor=INK,
                    markersize=5,
                )
        axes.set_yticks(range(len(configurations)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(configurations) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("test accuracy, %")
        axes.margins(x=0.06)
        canvas.legend(handles=_key(configurations), loc="upper center", ncols=3)
        return Figure(
            "test_accuracy",
            "Test accuracy of every seed, one row per configuration",
            "Test accuracy at the end of training: each trained run, their mean with its 95 % interval (Student's t), and the "
            "published run, where there is one. Failed runs are counted under the name; the scale leaves them out.",
            to_svg(canvas),
        )


def _label(configuration: Configuration) -> str:
    failed = f"\n{len(configuration.failed)} of {len(configuration.runs)} failed" if configuration.failed else ""
    return configuration.name + failed


def _key(configurations: Sequence[Configuration]) -> list[Line2D]:
    key = [
        Line2D([], [], color=INK, marker="o", linestyle="none", markersize=4, label="one run"),
        Line2D(
            [],
            [],
            color=INK,
            marker="|",
            markersize=11,
            markeredgewidth=2.2,
            linewidth=2.2,
            label="mean, 95 % interval",
        ),
    ]
    if any(find_published(configuration) for configuration in configurations):
        key.append(Line2D([], [], color=INK, marker="D", markerfacecolor="none", linestyle="none", label="published run"))
    return key

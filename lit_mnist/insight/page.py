"""The page of an explained run: the sentences, and the figures and tables that they rest on."""

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from lit_mnist.insight.branches import Branch
from lit_mnist.insight.failure import Failure, Rerun, Reruns
from lit_mnist.insight.recorded import Recorded
from lit_mnist.insight.replay import Step
from lit_mnist.plots import DRAWABLE, plain
from lit_mnist.record.printable import one_line
from lit_mnist.report.drawing import INK, SCALE, Drawing, canvas, to_svg
from lit_mnist.report.figures import PANEL
from lit_mnist.report.render import Bullets, Figures, Lines, Page, Section, Table

IMAGES, COLUMNS = 8, 4  # drawn, and in a row
_COLOURS = (SCALE[3], SCALE[9], SCALE[14], SCALE[0], SCALE[6], SCALE[12])
ABOUT_RERUNS = (
    "Steps before the failure: where the rerun set out. Moved weights: by 1e-5 of their norm, in random directions. "
    "Without a gradient: the mini-batch of the most harmful step lacks that image. All reruns see the same mini-batches in "
    "the same order, up to 200 steps beyond the failure; one failed if the median of its last 100 losses was at least 80 % "
    "of the loss of guessing. A cap on the gradient norm is an explanation, not advice: with it, SGD is no longer plain."
)


def failure_page(run: Recorded, failure: Failure, reruns: Reruns, said: Sequence[str], replay: str) -> Page:
    """Composes the page of a failed run: what was found, said in sentences, and a sentence on the replay."""
    steps = Figures(
        [*_step_panels(failure), _draw_twins(reruns.twins)],
        f"Each step by its number in the run; the vertical line is {failure.name(failure.index)}, from which on the loss stays "
        "high. Curvature is that of the mini-batch's loss along its own gradient; above 1, a step overshoots to second order. "
        "Units are counted on 1,000 training images.",
    )
    largest = Figures(
        [_draw_images(failure, run.classes)],
        f"The images of {failure.name(failure.tipping.index)}, the most harmful one up to the failure, with the largest "
        "gradients: class, prediction before the step, share of the summed gradient norms of the mini-batch.",
    )
    sections = [
        Section("steps", "The steps", [steps]),
        Section("images", "The images", [largest]),
        Section("reruns", "Reruns with changes", [_tabulate(reruns, failure.max_norm)]),
    ]
    reason = run.result.reason.rstrip(".")
    return _compose(run, "Why {}, failed", f"{reason[:1].upper()}{reason[1:]}. {replay}", said, sections)


def branch_page(run: Recorded, branches: dict[str, Branch], steps: int, said: Sequence[str]) -> Page:
    """Composes the page of a run that did not fail, from branches of so many SGD steps."""
    figures = Figures(
        [_draw_branches(branches)],
        f"Loss over the training images after {steps} steps of each branch, as a multiple of that after unchanged steps "
        "in the same order of the images; small dots: orders; bar: 95 % interval of the geometric mean.",
    )
    rows = [(name, *(f"{loss:.4g}" for loss in branch.losses)) for name, branch in branches.items()]
    head = ["Branch", *(f"Order {number}" for number in range(1, len(rows[0])))]
    sections = [Section("branches", "The branches", [figures, Table(head, rows, note="Training loss in nats.")])]
    return _compose(run, "What limits {}", "Tested from its last checkpoint on.", said, sections)


def _compose(run: Recorded, title: str, subtitle: str, said: Sequence[str], sections: list[Section]) -> Page:
    result = run.result
    return Page(
        title.format(f"{one_line(result.name)}, seed {result.seed}"),
        f"Learning rate {result.lr:g}, batch size {result.batch_size}; {one_line(str(run.folder))}. {subtitle}",
        [Bullets(said)],
        [*sections, Section("again", "The run again", [Lines([result.command])], folded=True)],
    )


def _tabulate(reruns: Reruns, max_norm: float) -> Table:
    rows: list[tuple[str, Rerun]] = [
        *(("weights moved", twins) for twins in reruns.twins),
        (f"gradient norm capped at {max_norm:.2g}", reruns.capped),
        ("in float64", reruns.double),
        ("without the largest gradient", reruns.without_largest),
        ("without the smallest gradient", reruns.without_smallest),
    ]
    head = ("Rerun", "Steps before", "Runs", "Failed", "Infinite or NaN")
    return Table(head, [(name, *map(str, rerun)) for name, rerun in rows], note=ABOUT_RERUNS)


def _step_panels(failure: Failure) -> list[Drawing]:
    starts = {name: norm or 1.0 for name, norm in failure.steps[0].weight_norms.items()}
    draw, half_lr = partial(_draw_steps, failure), failure.window.lr / 2
    return [
        draw("loss", "Mini-batch loss (nats)", lambda step: [step.loss], failure.chance, "guessing"),
        draw("gradient", "Gradient norm", lambda step: [step.gradient_norm], failure.max_norm, "cap of the rerun"),
        draw(
            "curvature",
            "Learning rate x curvature / 2 along the step",
            lambda step: [half_lr * step.curvature],
            1,
            "",
            "symlog",
        ),
        draw("units", "Active units (%)", lambda step: [100 * layer.active for layer in step.units], scale="linear"),
        draw(
            "weights",
            "Weight norms, as a multiple of the first",
            lambda step: [step.weight_norms[name] / start for name, start in starts.items()],
        ),
    ]


def _draw_steps(
    failure: Failure,
    name: str,
    title: str,
    values_of: Callable[[Step], list[float]],
    level: float | None = None,
    label: str = "",
    scale: str = "log",
) -> Drawing:
    """Draws one value of each step and a level to compare it with, or the values of each layer."""
    numbers = [failure.window.first + step.index for step in failure.steps]
    lowest = 1e-6 if scale == "log" else -DRAWABLE
    with canvas(*PANEL) as figure:
        axes = _add_axes(figure, title, "SGD step")
        axes.set_yscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
        axes.axvline(failure.window.first + failure.index, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for layer, values in enumerate(zip(*map(values_of, failure.steps), strict=True)):
            drawn = [min(max(value, lowest), DRAWABLE) for value in values]
            color, width = _COLOURS[layer % len(_COLOURS)], 1.4 if level is None else 1.2
            axes.plot(numbers, drawn, color=color, linewidth=width, label=f"layer {layer + 1}")
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8)
            axes.annotate(label, (numbers[0], level), (0, 3), textcoords="offset points", fontsize=8)
        elif axes.lines[1:]:
            axes.legend(ncols=2)
        if scale == "linear":
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return Drawing(name, title, to_svg(figure))


def _draw_twins(twins: Sequence[Rerun]) -> Drawing:
    with canvas(*PANEL) as figure:
        axes = _add_axes(figure, "Moved reruns that failed (%)", "steps before the failure at which the weights were moved")
        axes.bar(range(len(twins)), [100 * each.failed / each.runs for each in twins], color=_COLOURS[0], width=0.6)
        axes.set_xticks(range(len(twins)), [str(each.steps_before) for each in twins])
        axes.invert_xaxis()
        axes.set_ylim(0, 103)
        return Drawing("twins", "Share of moved reruns that failed, by the steps before", to_svg(figure))


def _add_axes(figure: Figure, title: str, xlabel: str) -> Axes:
    axes = figure.add_axes((0.13, 0.17, 0.84, 0.72), xlabel=xlabel)
    axes.set_title(title, loc="left")
    return axes


def _draw_images(failure: Failure, classes: Sequence[str]) -> Drawing:
    """Draws the images with the largest gradients of the tipping mini-batch."""
    step, (images, _) = failure.tipping, failure.window.batch(failure.tipping.index)
    shown = step.image_shares.argsort(descending=True)[:IMAGES].tolist()
    rows = -(-len(shown) // COLUMNS)
    with canvas(4.4, 1.75 * rows) as figure:
        for place, image in enumerate(shown):
            row, column = divmod(place, COLUMNS)
            axes = figure.add_axes((column / COLUMNS + 0.03, 1 - (row + 0.62) / rows, 1 / COLUMNS - 0.06, 0.6 / rows))
            axes.imshow(images[image, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            label, taken = (plain(classes[int(each[image])], 12) for each in (step.labels, step.predictions))
            share = f"{100 * step.image_shares[image]:.1f} %"
            text = f"{label}\n{'rightly' if label == taken else f'taken for {taken}'}\n{share}"
            figure.text((column + 0.5) / COLUMNS, 1 - (row + 0.64) / rows, text, ha="center", va="top", color=INK)
        return Drawing("images", "The images with the largest gradients", to_svg(figure))


def _draw_branches(branches: dict[str, Branch]) -> Drawing:
    names = [name for name in reversed(branches) if name != "unchanged"]
    with canvas(6.0, 2.4) as figure:
        axes = figure.add_axes((0.16, 0.21, 0.81, 0.75), xscale="log", xlabel="training loss / that after unchanged steps")
        axes.axvline(1, color=INK, linewidth=0.8)
        for row, name in enumerate(names):
            branch, color = branches[name], _COLOURS[1]
            ratios = [ratio for ratio in branch.ratios if 0 < ratio < DRAWABLE]
            axes.plot(ratios, [row + 0.13] * len(ratios), "o", color=color, alpha=0.6, markeredgewidth=0)
            if branch.mean > 0:
                axes.plot([branch.low, branch.high], [row - 0.13] * 2, color=color, linewidth=2.5)
                axes.plot(branch.mean, row - 0.13, "o", color=color, markersize=7)
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-0.6, len(names) - 0.4)
        return Drawing("branches", "Effect of each change on the training loss", to_svg(figure))

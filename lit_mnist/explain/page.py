"""The page of an explained run: the sentences, and the figures and tables that they rest on."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from lit_mnist.explain.recorded import Recorded
from lit_mnist.insight.branches import BRANCHES, BranchTest
from lit_mnist.insight.failure import Failure, Rerun
from lit_mnist.insight.replay import Step
from lit_mnist.plots import plain
from lit_mnist.record.printable import one_line
from lit_mnist.report.drawing import INK, SCALE, Drawing, canvas, to_svg
from lit_mnist.report.figures import PANEL
from lit_mnist.report.render import Block, Bullets, Figures, Lines, Page, Section, Table

LARGEST = 1e30  # drawn: beyond it, matplotlib's arithmetic overflows
IMAGES, COLUMNS = 8, 4  # drawn, and in a row
_COLOURS = (SCALE[3], SCALE[9], SCALE[14], SCALE[0], SCALE[6], SCALE[12])


def failure_page(run: Recorded, failure: Failure, folder: Path, said: Sequence[str], replay: str, images: Tensor) -> Page:
    """Composes the page of a failed run.

    Args:
        run, failure: The run, and what was found.
        folder: The run folder.
        said: The sentences.
        replay: A sentence on the replay.
        images: (B, 1, height, width), those of the tipping mini-batch.
    """
    first, index = run.step + 1, failure.index
    steps = Figures(
        _step_panels(failure, first),
        f"Each step by its number in the run; the vertical line is step {first + index:,}, from which on the loss stays high. "
        "Curvature is that of the mini-batch's loss along its own gradient; above 1, a step overshoots to second order. "
        "Units are counted on 1,000 training images.",
    )
    largest = Figures(
        [_draw_images(failure.tipping, images, run.classes)],
        f"The images of step {first + failure.tipping.index:,}, the most harmful one up to the failure, with the largest "
        "gradients: class, prediction before the step, share of the summed gradient norms of the mini-batch.",
    )
    reruns = Table(
        ("Rerun", "Steps before", "Runs", "Failed", "Infinite or NaN"),
        [
            *(_row("weights moved", rerun) for rerun in failure.twins),
            _row(f"gradient norm capped at {failure.max_norm:.2g}", failure.capped),
            _row("in float64", failure.double),
            *(
                _row(f"without the {which} gradient", rerun)
                for which, rerun in zip(("largest", "smallest"), failure.without, strict=True)
            ),
        ],
        note="Steps before the failure: where the rerun set out. Moved weights: by 1e-5 of their norm, in random directions. "
        "Without a gradient: the mini-batch of the most harmful step lacks that image. All reruns see the same mini-batches in "
        "the same order, up to 200 steps beyond the failure; one failed if the median of its last 100 losses was at least 80 % "
        "of the loss of guessing. A cap on the gradient norm is an explanation, not advice: with it, SGD is no longer plain.",
    )
    return Page(
        title=f"Why {one_line(run.result.name)}, seed {run.result.seed}, failed",
        subtitle=f"{_settings(run, folder)} {run.result.reason[:1].upper()}{run.result.reason[1:].rstrip('.')}. {replay}",
        lead=[Bullets(said)],
        sections=[
            Section("steps", "The steps", [steps]),
            Section("images", "The images", [largest]),
            Section("reruns", "Reruns with changes", [reruns]),
            _again(run),
        ],
    )


def branch_page(run: Recorded, test: BranchTest, folder: Path, said: Sequence[str]) -> Page:
    """Composes the page of a run that did not fail."""
    figures = Figures(
        [_draw_branches(test)],
        f"Loss over the training images after {test.steps} steps of each branch, as a multiple of that after unchanged steps "
        "in the same order of the images; small dots: orders; bar: 95 % interval of the geometric mean.",
    )
    rows = [(name, *(f"{loss:.4g}" for loss in losses)) for name, losses in test.losses.items()]
    orders = [f"Order {order + 1}" for order in range(len(test.losses["unchanged"]))]
    return Page(
        title=f"What limits {one_line(run.result.name)}, seed {run.result.seed}",
        subtitle=f"{_settings(run, folder)} Tested from its last checkpoint on.",
        lead=[Bullets(said)],
        sections=[
            Section("branches", "The branches", [figures, Table(("Branch", *orders), rows, note="Training loss in nats.")]),
            _again(run),
        ],
    )


def _settings(run: Recorded, folder: Path) -> str:
    result = run.result
    return f"Learning rate {result.lr:g}, batch size {result.batch_size}; {one_line(str(folder))}."


def _again(run: Recorded) -> Section:
    blocks: list[Block] = [Lines([run.result.command])]
    return Section("again", "The run again", blocks, folded=True)


def _row(name: str, rerun: Rerun) -> tuple[str, ...]:
    return name, *(str(count) for count in (rerun.steps_before, rerun.runs, rerun.failed, rerun.not_finite))


def _step_panels(failure: Failure, first: int) -> list[Drawing]:
    """Six figures of the measured steps and the twins; `first` is the run's number of the window's first step."""
    steps = failure.steps
    numbers = [first + step.index for step in steps]
    failed_at = first + failure.index

    def panel(name: str, title: str, draw: Callable[[Axes], None], log: bool = False) -> Drawing:
        with canvas(*PANEL) as figure:
            axes = figure.add_axes((0.13, 0.17, 0.84, 0.72), xlabel="SGD step", yscale="log" if log else "linear")
            axes.set_title(title, loc="left")
            axes.axvline(failed_at, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            draw(axes)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            return Drawing(name, title, to_svg(figure))

    def loss(axes: Axes) -> None:
        axes.plot(numbers, [min(max(step.loss, 1e-6), LARGEST) for step in steps], color=_COLOURS[0], linewidth=1.2)
        axes.axhline(failure.chance, color=INK, linewidth=0.8)
        axes.annotate("guessing", (numbers[0], failure.chance), (0, 3), textcoords="offset points", fontsize=8)

    def norm(axes: Axes) -> None:
        axes.plot(numbers, [min(max(step.gradient_norm, 1e-9), LARGEST) for step in steps], color=_COLOURS[0], linewidth=1.2)
        axes.axhline(failure.max_norm, color=INK, linewidth=0.8)
        axes.annotate("cap of the rerun", (numbers[0], failure.max_norm), (0, 3), textcoords="offset points", fontsize=8)

    def curvature(axes: Axes) -> None:
        values = [min(max(failure.lr * step.curvature / 2, -LARGEST), LARGEST) for step in steps]
        axes.set_yscale("symlog", linthresh=1)
        axes.plot(numbers, values, color=_COLOURS[0], linewidth=1.2)
        axes.axhline(1, color=INK, linewidth=0.8)

    def units(axes: Axes) -> None:
        for layer in range(len(steps[0].units)):
            values = [100 * step.units[layer].active for step in steps]
            axes.plot(numbers, values, color=_COLOURS[layer % len(_COLOURS)], linewidth=1.4, label=f"layer {layer + 1}")
        axes.set_ylim(bottom=0)
        if steps[0].units:
            axes.legend(ncols=2)

    def weights(axes: Axes) -> None:
        for layer, name in enumerate(steps[0].weight_norms):
            start = steps[0].weight_norms[name] or 1.0
            values = [min(step.weight_norms[name] / start, LARGEST) for step in steps]
            axes.plot(numbers, values, color=_COLOURS[layer % len(_COLOURS)], linewidth=1.4, label=f"layer {layer + 1}")
        axes.legend(ncols=2)

    return [
        panel("loss", "Mini-batch loss (nats)", loss, log=True),
        panel("gradient", "Gradient norm", norm, log=True),
        panel("curvature", "Learning rate x curvature / 2 along the step", curvature),
        panel("units", "Active units (%)", units),
        panel("weights", "Weight norms, as a multiple of the first", weights, log=True),
        _draw_twins(failure),
    ]


def _draw_twins(failure: Failure) -> Drawing:
    with canvas(*PANEL) as figure:
        axes = figure.add_axes((0.13, 0.17, 0.84, 0.72), xlabel="steps before the failure at which the weights were moved")
        axes.set_title("Moved reruns that failed (%)", loc="left")
        shares = [100 * twins.failed / twins.runs for twins in failure.twins]
        axes.bar(range(len(shares)), shares, color=_COLOURS[0], width=0.6)
        axes.set_xticks(range(len(shares)), [str(twins.steps_before) for twins in failure.twins])
        axes.invert_xaxis()
        axes.set_ylim(0, 103)
        return Drawing("twins", "Share of moved reruns that failed, by the steps before", to_svg(figure))


def _draw_images(step: Step, images: Tensor, classes: Sequence[str]) -> Drawing:
    """Draws the images with the largest gradients of a step's mini-batch, (B, 1, height, width)."""
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


def _draw_branches(test: BranchTest) -> Drawing:
    names = [name for name in BRANCHES if name in test.effects]
    with canvas(6.0, 2.4) as figure:
        axes = figure.add_axes((0.16, 0.21, 0.81, 0.75), xscale="log", xlabel="training loss / that after unchanged steps")
        axes.axvline(1, color=INK, linewidth=0.8)
        for row, name in enumerate(reversed(names)):
            effect, color = test.effects[name], _COLOURS[1]
            ratios = [ratio for ratio in effect.ratios if 0 < ratio < LARGEST]
            axes.plot(ratios, [row + 0.13] * len(ratios), "o", color=color, alpha=0.6, markeredgewidth=0)
            if effect.mean > 0:
                axes.plot([effect.low, effect.high], [row - 0.13] * 2, color=color, linewidth=2.5)
                axes.plot(effect.mean, row - 0.13, "o", color=color, markersize=7)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-0.6, len(names) - 0.4)
        return Drawing("branches", "Effect of each change on the training loss", to_svg(figure))

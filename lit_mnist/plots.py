"""The published plot of one run: training loss against epoch."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss_curve(train_loss_by_epoch: Sequence[float], title: str) -> "Figure":
    """Training loss (nats) against epoch (1-based)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="training loss (nats)", title=title)
    axes.plot(range(1, len(train_loss_by_epoch) + 1), train_loss_by_epoch, marker="o", markersize=4, color="#0072B2")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return figure


def as_png(figure: "Figure") -> bytes:
    """The figure as a PNG file's bytes, without a date in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()

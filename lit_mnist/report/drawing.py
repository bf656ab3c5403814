"""How figures look: sizes, fonts, and colours that are chosen only when a figure is shown, so that it suits light and dark."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from lit_mnist.report.configuration import Configuration

# Placeholders that are drawn with, and what stands for each on a light and a dark page. Series: Okabe & Ito's palette, which
# the colour-blind can tell apart, in an order that puts hues too pale for white paper last; blue and sky blue, and yellow
# for sky blue, change places on a dark page. Markers tell the series apart once more.
INK, FAINT, PAPER = "#c0ffe0", "#c0ffe1", "#c0ffe2"
SERIES = tuple(f"#c0ff{index:02x}" for index in range(8))
LIGHT = {INK: "#1f2328", FAINT: "#d4d9df", PAPER: "#ffffff"} | dict(
    zip(
        SERIES,
        ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#8c6d31"),
        strict=True,
    )
)
DARK = {INK: "#e6edf3", FAINT: "#3d444d", PAPER: "#0d1117"} | dict(
    zip(
        SERIES,
        ("#56b4e9", "#e8701a", "#1bb98c", "#cc79a7", "#ffffff", "#e69f00", "#f0e442", "#c9a45c"),
        strict=True,
    )
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
PLACEHOLDER = re.compile(r"#c0ff[0-9a-f]{2}")

WIDTH = 7.6  # inches; 72 units of the SVG each
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and read out
    "svg.hashsalt": "lit_mnist",  # the same ids each time
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # in matplotlib itself
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw within it; a user's matplotlibrc has no say."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


class Palette:
    """One colour and one marker per configuration, in every figure the same.

    Of more than eight configurations two with the same colour never stand in one ladder of up to eight: the colours form a
    Latin square over learning rate and batch size.
    """

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        places = {each.name: (index, 0) for index, each in enumerate(configurations)}
        if len(configurations) > len(SERIES):
            lrs = sorted({each.lr for each in configurations})
            sizes = sorted({each.batch_size for each in configurations})
            places = {each.name: (lrs.index(each.lr), sizes.index(each.batch_size)) for each in configurations}
        self._places = places

    def colour(self, configuration: Configuration) -> str:
        return SERIES[sum(self._places[configuration.name]) % len(SERIES)]

    def marker(self, configuration: Configuration) -> str:
        column, row = self._places[configuration.name]
        return MARKERS[(column + 2 * row) % len(MARKERS)]


def to_svg(canvas: Canvas) -> str:
    """The drawing in placeholder colours, without date, maker or doctype."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip() + "\n"
    return re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def paint(svg: str, colours: dict[str, str]) -> str:
    """The drawing with its placeholder colours replaced."""
    return PLACEHOLDER.sub(lambda match: colours[match.group()], svg)


def css_name(placeholder: str) -> str:
    """The CSS variable that stands for a placeholder colour on the page."""
    return f"--c{placeholder[-2:]}"


def margins(
    canvas: Canvas,
    left: float = 0.62,
    right: float = 0.12,
    bottom: float = 0.48,
    top: float = 0.12,
    between: tuple[float, float] = (0.5, 0.75),
    panels: tuple[int, int] = (1, 1),
) -> None:
    """Room for labels, in inches; ten times faster than matplotlib's own layout, which draws everything to find out.

    Args:
        canvas: The figure.
        left, right, bottom, top: Around the panels.
        between: Between two panels, across and upwards.
        panels: Columns and rows of panels.
    """
    width, height = canvas.get_size_inches()
    across = (width - left - right - between[0] * (panels[0] - 1)) / panels[0]
    upwards = (height - bottom - top - between[1] * (panels[1] - 1)) / panels[1]
    canvas.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=between[0] / across,
        hspace=between[1] / upwards,
    )


def text_width(texts: Iterable[str], size: float = 9) -> float:
    """Inches that the longest of the texts takes at most, in points of type size."""
    return max(map(len, texts), default=0) * 0.62 * size / 72

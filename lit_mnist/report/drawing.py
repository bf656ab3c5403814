"""SVG drawings whose colours are chosen when they are shown, on a light or a dark page."""

import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lit_mnist.plots import INKED, style
from lit_mnist.report.experiments import AXES, OTHER, Axis, Group, level_text

# Placeholders that are drawn with: a scale of 16 colours for values, ink, faint lines and paper.
SCALE = tuple(f"#c0ff{index:02x}" for index in range(16))
INK, FAINT, PAPER = "#c0ff10", "#c0ff11", "#c0ff12"
THEMES = {INK: ("#1f2328", "#e6edf3"), FAINT: ("#d4d9df", "#3d444d"), PAPER: ("#ffffff", "#0d1117")}
PLACEHOLDER = re.compile(r"#c0ff[01][0-9a-f]")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)))

SVG_STYLE: dict[Any, Any] = dict.fromkeys(INKED, INK) | {
    "svg.fonttype": "none",  # text stays text: searchable, and read out
    "svg.hashsalt": "lit_mnist",  # the same ids each time
    "text.parse_math": False,  # a name may hold a dollar sign
    "path.simplify_threshold": 0.5,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": FAINT,
}


@dataclass(frozen=True)
class Drawing:
    """An SVG in placeholder colours, the name of its file, and a title that is read out instead of it."""

    name: str
    title: str
    svg: str


class Palette:
    """Colours by value: the learning rate, or the batch size where only that differs; line styles for the other one."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.axis: Axis = "lr" if len({each.result.lr for each in groups}) > 1 else "batch_size"
        self.levels = {axis: sorted({each.level(axis) for each in groups}) for axis in AXES}
        self.dashes = [level for level, _ in Counter(each.level(OTHER[self.axis]) for each in groups).most_common()]

    def of(self, group: Group) -> str:
        """Colour of a group's curves."""
        return self.at(self.axis, group.level(self.axis))

    def at(self, axis: Axis, level: float) -> str:
        """Colour of a level on the logarithmic scale between the least and the greatest one."""
        low, high = self.levels[axis][0], self.levels[axis][-1]
        return SCALE[round(15 * math.log(level / low) / math.log(high / low)) if high > low else 4]

    def dash(self, group: Group) -> Any:
        """Line style by the level of the other hyperparameter; solid for the commonest one."""
        return DASHES[self.dashes.index(group.level(OTHER[self.axis])) % len(DASHES)]

    @property
    def key(self) -> str:
        """The meaning of the colours, in words."""
        low, high = self.levels[self.axis][0], self.levels[self.axis][-1]
        return f"Colours brighten from {AXES[self.axis]} {level_text(low)} to {level_text(high)}."


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches, to be drawn on and turned into SVG within the context."""
    with style(SVG_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's browser has the fonts
        yield Figure(figsize=(width, height))


def to_svg(figure: Figure) -> str:
    """The figure without date, maker, doctype and comments."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip() + "\n"
    return re.sub(r"\s*<metadata>.*?</metadata>|<!--.*?-->\n?", "", svg, flags=re.DOTALL)


def paint(svg: str, theme: int) -> str:
    """The SVG in the colours of the light (0) or dark (1) theme."""
    return _in_tags(svg, lambda tag: PLACEHOLDER.sub(lambda found: colours()[found.group()][theme], tag))


def inline(drawing: Drawing) -> str:
    """The SVG for a page whose CSS variables hold the colours, with ids that no other drawing has."""

    def change(tag: str) -> str:
        tag = PLACEHOLDER.sub(lambda found: f"var(--c{found.group()[-2:]})", tag)
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", tag)

    return _in_tags(drawing.svg, change).replace("<svg ", f'<svg role="img" aria-label="{drawing.title}" ', 1)


@cache
def colours() -> dict[str, tuple[str, str]]:
    """Colours on a light and on a dark page, by placeholder; the scale is plasma, without what is too pale or dark to see."""
    light, dark = (mpl.colormaps["plasma"](np.linspace(*ends, len(SCALE))) for ends in ((0.05, 0.74), (0.42, 0.95)))
    return {each: (to_hex(a), to_hex(b)) for each, a, b in zip(SCALE, light, dark, strict=True)} | THEMES


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Changes tags only: between them stands text, which may look like a colour."""
    return re.sub(r"<[^>]*>", lambda found: change(found.group()), svg)

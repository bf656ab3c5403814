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
from matplotlib.figure import Figure

from lit_mnist.plots import INKED, style
from lit_mnist.report.experiments import AXES, Axis, Configuration, level_text

# Placeholders that are drawn with: ink, faint lines, paper, and a scale of 16 colours for values.
INK, FAINT, PAPER = "#c0ff10", "#c0ff11", "#c0ff12"
SCALE = tuple(f"#c0ff{index:02x}" for index in range(16))
THEMES = {INK: ("#1f2328", "#e6edf3"), FAINT: ("#d4d9df", "#3d444d"), PAPER: ("#ffffff", "#0d1117")}
PLACEHOLDER = re.compile(r"#c0ff[01][0-9a-f]")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)))
LARGEST = 1e30  # matplotlib's arithmetic overflows beyond it

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

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        levels = {axis: sorted({each.level(axis) for each in configurations}) for axis in AXES}
        self.axis: Axis = "lr" if len(levels["lr"]) > 1 else "batch_size"
        self.other: Axis = "batch_size" if self.axis == "lr" else "lr"
        self.levels = levels
        usual = Counter(each.level(self.other) for each in configurations)
        self.dashes = [level for level, _ in sorted(usual.items(), key=lambda pair: (-pair[1], pair[0]))]  # the first is solid

    def of(self, configuration: Configuration) -> str:
        """Colour of a configuration's curves."""
        return self.at(self.axis, configuration.level(self.axis))

    def at(self, axis: Axis, level: float) -> str:
        """Colour of a level on the logarithmic scale between the least and the greatest one."""
        low, high = self.levels[axis][0], self.levels[axis][-1]
        return SCALE[round(15 * math.log(level / low) / math.log(high / low)) if high > low else 4]

    def dash(self, configuration: Configuration) -> Any:
        """Line style by the level of the other hyperparameter."""
        return self._dash(configuration.level(self.other))

    def key(self) -> list[tuple[str, str, Any]]:
        """Names, colours and line styles of the levels; the middle ones are left out where there are many."""
        found = []
        for axis in (self.axis, self.other):
            levels = self.levels[axis]
            shown = levels if len(levels) <= 4 else [levels[0], levels[len(levels) // 2], levels[-1]]
            for level in shown if len(levels) > 1 else ():
                is_colour = axis == self.axis
                dash = "solid" if is_colour else self._dash(level)
                found.append((f"{AXES[axis]} {level_text(level)}", self.at(axis, level) if is_colour else INK, dash))
        return found

    def _dash(self, level: float) -> Any:
        return DASHES[self.dashes.index(level) % len(DASHES)]


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
    table = {placeholder: (light, dark)[theme] for placeholder, light, dark in _table()}
    return _replace(svg, lambda placeholder: table[placeholder])


def inline(drawing: Drawing) -> str:
    """The SVG for a page whose CSS variables hold the colours, with ids that no other drawing has."""
    svg = _replace(drawing.svg, lambda placeholder: f"var(--c{placeholder[-2:]})")
    svg = _in_tags(svg, lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", tag))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{drawing.title}" ', 1)


def colours() -> list[tuple[str, str, str]]:
    """Names of the CSS variables, each with its colour on a light and on a dark page."""
    names = {INK: "ink", FAINT: "faint", PAPER: "paper"}
    table = [(f"c{placeholder[-2:]}", light, dark) for placeholder, light, dark in _table()]
    return table + [(names[placeholder], *THEMES[placeholder]) for placeholder in names]


def _replace(svg: str, colour: Callable[[str], str]) -> str:
    return _in_tags(svg, lambda tag: PLACEHOLDER.sub(lambda match: colour(match.group()), tag))


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Changes tags only: between them stands text, which may look like a colour."""
    return re.sub(r"<[^>]*>", lambda match: change(match.group()), svg)


@cache
def _table() -> tuple[tuple[str, str, str], ...]:
    """Every placeholder with its two colours. The scale is matplotlib's plasma, without what is too pale or too dark to see."""
    plasma = mpl.colormaps["plasma"]

    def shade(index: int, start: float, end: float) -> str:
        return mpl.colors.to_hex(plasma(start + (end - start) * index / 15))

    scale = [(each, shade(index, 0.05, 0.74), shade(index, 0.42, 0.95)) for index, each in enumerate(SCALE)]
    return (*scale, *((placeholder, *pair) for placeholder, pair in THEMES.items()))

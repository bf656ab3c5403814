"""The one renderer: the same content as an HTML page (one file, offline, light and dark) and as Markdown with its figures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
from markupsafe import Markup

from lit_mnist.record.printable import one_line
from lit_mnist.report.drawing import Drawing, colours, inline, paint

MARK = "made by lit_mnist report"  # in every file of a report: what does not hold it is never overwritten
COMMAND = ["python", "-m", "lit_mnist", "fit"]
PLAIN_WORD = re.compile(r"[\w@%+=:,./~-]+")


@dataclass(frozen=True)
class Bullets:
    """A list, with a heading of its own if it has one."""

    items: Sequence[str]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text; the first `texts` columns are left-aligned and may wrap, the others hold numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, and a caption for all of them."""

    drawings: Sequence[Drawing]
    caption: str


@dataclass(frozen=True)
class Lines:
    """Commands to paste; what is not plainly a command of ours is shown as text."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Knob:
    """A choice among prepared figures, on the page only, by the places of rate and size; `start` is the one shown first."""

    rates: Sequence[str]
    sizes: Sequence[str]
    cells: Mapping[tuple[int, int], Figures]
    start: tuple[int, int]


Block = Bullets | Table | Figures | Lines | Knob


@dataclass(frozen=True)
class Section:
    """Blocks under a heading that the list of contents links to; folded until it is opened if it is for few readers.

    `methods` say how its numbers were found, and stand at the end of the page.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    folded: bool = False
    methods: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """What is seen first, with lists of blocks side by side where there is room, and the sections below."""

    title: str
    subtitle: str
    lead: Sequence[Block | list[Block]]
    sections: Sequence[Section] = ()


def is_command(line: str) -> bool:
    """Tells if a line from a record is a `fit` command of plain words, which is safe to paste into a shell."""
    words = line.split(" ")
    return words[:4] == COMMAND and all(PLAIN_WORD.fullmatch(word) for word in words)


def render_html(page: Page, mark: str = MARK) -> str:
    """Writes the page as one HTML file: no script, no request, no text that could become markup; `mark` says what made it."""
    return _templates().get_template("page.html.j2").render(page=page, colours=colours(), mark=mark)


def render_markdown(page: Page) -> str:
    """Writes the page as Markdown that names its figures as files in figures/."""
    return _templates().get_template("report.md.j2").render(page=page, mark=MARK)


def figure_files(page: Page) -> dict[str, str]:
    """Draws each figure of the page for a light and for a dark background, by file name."""
    blocks = [block for row in page.lead for block in (row if isinstance(row, list) else [row])]
    blocks += [block for section in page.sections for block in section.blocks]
    return {
        f"{drawing.name}-{theme}.svg": f"<!-- {MARK} -->\n{paint(drawing.svg, index)}"
        for block in blocks
        if isinstance(block, Figures)
        for drawing in block.drawings
        for index, theme in enumerate(("light", "dark"))
    }


def render_table(table: Table) -> str:
    """Writes a table as Markdown."""
    macros = _templates().get_template("report.md.j2").make_module({"page": Page("", "", ()), "mark": MARK})
    return str(macros.show(table)).strip()  # type: ignore[attr-defined]


def markdown_text(text: object) -> Markup:
    """Escapes text for Markdown: no emphasis, link, formula, table cell or tag can come out of it."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$@&])", r"\\\1", _printable(str(text)))
    return Markup(re.sub(r"(?<=\w)(:)(?=//)|(?<=www)(\.)", r"\\\g<0>", escaped))


def _printable(text: str) -> str:
    """Text without what cannot be encoded or seen."""
    return "".join(each if each.isprintable() else one_line(each) for each in text)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lit_mnist.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _printable(value) if type(value) is str else value,
    )
    environment.filters |= {"md": markdown_text, "inline": lambda drawing: Markup(inline(drawing))}
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    environment.tests |= {"command": is_command}
    return environment

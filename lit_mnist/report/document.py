"""The report as data: the HTML page and the Markdown file are two renderings of one list of blocks. All text is plain text."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """Something to be typed."""

    text: str


Cell = str | Code | tuple[str, ...]  # a tuple: one line below the other


@dataclass(frozen=True)
class Heading:
    """Level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; a tuple is a sentence with a list of its own."""

    items: Sequence[str | tuple[str, ...]]


@dataclass(frozen=True)
class CodeBlock:
    """Lines to be typed or copied."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows have as many cells as the head; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: File name without ending.
        title: For people who cannot see it.
        caption: What is drawn and how to read it.
        svg: As matplotlib writes it, in the placeholder colours of `drawing`.
    """

    name: str
    title: str
    caption: str
    svg: str


Block = Heading | Paragraph | Bullets | CodeBlock | Table | Figure
Document = Sequence[Block]

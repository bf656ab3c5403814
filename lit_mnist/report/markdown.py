"""The report as Markdown with figures beside it, readable on GitHub in light and dark."""

import re

from lit_mnist.report.document import (
    Block,
    Bullets,
    Cell,
    Code,
    CodeBlock,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
)

ESCAPED = re.compile(r"([\\`*\[\]|~$#])")


def render_markdown(document: Document) -> str:
    """The whole file; it shows figures/NAME-light.svg and figures/NAME-dark.svg."""
    return "\n\n".join(_block(block) for block in document) + "\n"


def markdown_table(table: Table) -> str:
    """The table alone, without a newline at its end."""
    rows = [[_cell(text) for text in table.head], ["---"] * len(table.head)]
    rows += [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_text(text)}"
        case Paragraph(text):
            return _text(text)
        case Bullets(items):
            return "\n".join(_item(item) for item in items)
        case CodeBlock(text):
            fence = _fence(text, 3)
            return f"{fence}\n{text}\n{fence}"
        case Table():
            return markdown_table(block)
        case Figure():
            return _figure(block)


def _item(item: str | tuple[str, ...]) -> str:
    first, *rest = (item,) if isinstance(item, str) else item
    return "\n".join([f"- {_text(first)}", *(f"  - {_text(line)}" for line in rest)])


def _text(text: str) -> str:
    """Plain text that stays plain: no markup, no HTML, no line break."""
    flat = " ".join(text.split())
    return ESCAPED.sub(r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(cell: Cell) -> str:
    match cell:
        case Code(text):
            flat = " ".join(text.split()).replace("|", "\\|")
            fence = _fence(flat, 1)
            return f"{fence} {flat} {fence}" if "`" in flat else f"{fence}{flat}{fence}"
        case str():
            return _text(cell)
        case _:
            return "<br>".join(map(_text, cell))


def _fence(text: str, least: int) -> str:
    """More backticks than stand together anywhere in the text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _figure(figure: Figure) -> str:
    path = f"figures/{figure.name}"
    return (
        f'<picture>\n<source media="(prefers-color-scheme: dark)" srcset="{path}-dark.svg">\n'
        f'<img src="{path}-light.svg" alt="{figure.title}">\n</picture>\n\n{_text(figure.caption)}'
    )

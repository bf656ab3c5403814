"""The report as one HTML file that needs nothing else: no script, no network, light, dark and on paper."""

import re
from html import escape
from importlib import resources

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
from lit_mnist.report.drawing import DARK, LIGHT, PLACEHOLDER, css_name, paint

# Nothing may be loaded or run, whatever a run's record holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

SHORT = 24  # characters: numbers, which are not to be broken


def render_page(document: Document) -> str:
    """The whole file."""
    title = next(block.text for block in document if isinstance(block, Heading))
    css = resources.files("lit_mnist.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(_block(block) for block in document)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_colours()}{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _colours() -> str:
    light, dark = ("".join(f"{css_name(key)}:{value};" for key, value in theme.items()) for theme in (LIGHT, DARK))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "".join(f"<li>{_item(item)}</li>\n" for item in items) + "</ul>"
        case CodeBlock(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)


def _item(item: str | tuple[str, ...]) -> str:
    if isinstance(item, str):
        return escape(item)
    return f"{escape(item[0])}\n<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in item[1:]) + "</ul>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    rows = []
    for row in table.rows:
        cells = "".join(f"<td{_class(cell)}>{_cell(cell)}</td>" for cell in row[1:])
        rows.append(f'<tr><th scope="row">{_cell(row[0])}</th>{cells}</tr>')
    body = "\n".join(rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _class(cell: Cell) -> str:
    lines = (cell,) if isinstance(cell, str) else () if isinstance(cell, Code) else cell
    return ' class="short"' if lines and max(map(len, lines)) <= SHORT else ""


def _cell(cell: Cell) -> str:
    match cell:
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case str():
            return escape(cell)
        case _:
            first, *rest = cell
            return escape(first) + "".join(f"<br><small>{escape(line)}</small>" for line in rest)


def _figure(figure: Figure) -> str:
    return (
        f'<figure id="{escape(figure.name)}">\n{inline_svg(figure)}<figcaption>{escape(figure.caption)}</figcaption>\n</figure>'
    )


def inline_svg(figure: Figure) -> str:
    """The drawing as part of a page: colours from CSS, ids of its own, as wide as the page lets it be."""
    svg = paint(figure.svg, {placeholder: f"var({css_name(placeholder)})" for placeholder in LIGHT})
    assert not PLACEHOLDER.search(svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{figure.name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.title)}"', 1)

"""Puts a report into a folder."""

from pathlib import Path

from lit_mnist.record.atomic import write_durably
from lit_mnist.report.document import Document, Figure
from lit_mnist.report.drawing import DARK, LIGHT, paint
from lit_mnist.report.markdown import render_markdown
from lit_mnist.report.page import render_page


def write_report(document: Document, csv: str, out: Path) -> None:
    """Writes report.html, report.md, results.csv and figures/NAME-light.svg, figures/NAME-dark.svg."""
    files = {"report.html": render_page(document), "report.md": render_markdown(document), "results.csv": csv}
    for block in document:
        if isinstance(block, Figure):
            for theme, colours in (("light", LIGHT), ("dark", DARK)):
                files[f"figures/{block.name}-{theme}.svg"] = paint(block.svg, colours)
    for name, text in files.items():
        write_durably(out / name, text.encode())

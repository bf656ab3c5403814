"""The assignment as a notebook: executed by a real kernel, and committed with its outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "lit_mnist" / "examples" / "assignment.ipynb"


def outputs_of(notebook: nbformat.NotebookNode) -> str:
    return "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_committed_outputs_hold_figures_accuracies_and_findings() -> None:
    shown = outputs_of(nbformat.read(NOTEBOOK, as_version=4))
    assert shown.count("image/png") == 6
    assert shown.count("test ") >= 15
    assert "Final training loss is lowest" in shown
    assert "Traceback" not in shown
    assert "Warning" not in shown


def test_it_needs_few_lines_of_its_own() -> None:
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert sum(len(source.splitlines()) for source in cells) <= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery
def test_it_runs_from_the_first_cell_to_the_last(workplace: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if "EPOCHS, SEEDS, IMAGES = 5, 3, 60_000" in cell.source)
    settings.source = settings.source.replace("= 5, 3, 60_000", "= 1, 1, 640")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(workplace)}}).execute()
    shown = outputs_of(notebook)
    assert shown.count("image/png") == 6
    assert "stderr" not in shown or "lit_mnist:" not in shown
    assert (workplace / "logs" / "assignment" / "report.html").exists()

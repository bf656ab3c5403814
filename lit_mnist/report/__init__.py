"""The `report` command: run folders in; answers, figures and tables out. It reads records only, and needs no torch."""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_mnist.cli import DONE, FAILED, Parser
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.printable import csv_cell, one_line

if TYPE_CHECKING:
    from lit_mnist.report.experiments import Configuration
    from lit_mnist.report.load import Problem

__all__ = ["main", "results_table", "write_report"]

COLUMNS = "configuration,folder,seed,lr,batch_size,outcome,epochs,steps,failed_at_epoch,loss_of_epoch_1,final_train_loss,"
COLUMNS += "train_accuracy,test_accuracy,seconds,command"


def parser() -> Parser:
    """Makes the parser of the command line."""
    parser = Parser(
        prog="python -m lit_mnist report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads the run folders below each FOLDER and writes report.html (one file, opens offline), report.md with\n"
        "figures/*.svg, and results.csv (one line for each run). The same folders give the same bytes.",
        epilog="exit codes: 0 done, 1 done, but some runs could not be counted (they are named), 2 nothing to report",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a study, a run, or any folder above them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: the first FOLDER)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 if all runs could be counted, 1 if the report names some that could not.

    Raises:
        ValueError: The command line is wrong, there is no finished run, or a file of another origin is in the way.
    """
    options = parser().parse_args(arguments)
    path, problems = write_report(options.folders, options.out)
    for problem in problems:
        print(f"lit_mnist: {problem}", file=sys.stderr)
    print(path)
    return FAILED if problems else DONE


def write_report(folders: Sequence[Path], out: Path | None = None) -> "tuple[Path, list[Problem]]":
    """Writes the report on all finished runs below the folders.

    Args:
        folders: At least one.
        out: Folder to write to; by default the first one.

    Returns:
        Path of report.html, and what could not be counted.

    Raises:
        ValueError: There is no finished run, or a file that is not a report's is in the way. Nothing was written.
        OSError: A file cannot be written.
    """
    from lit_mnist.report.contents import compose  # matplotlib and scipy take a second that --help need not
    from lit_mnist.report.render import MARK, figure_files, render_html, render_markdown

    configurations, problems = _read(folders)
    page = compose(configurations, problems)
    out = out or folders[0]
    files = {
        "report.html": render_html(page),
        "report.md": render_markdown(page),
        "results.csv": results_csv(configurations),
        **{f"figures/{name}": svg for name, svg in figure_files(page).items()},
    }
    for name in files:
        _refuse_foreign(out / name, (MARK, COLUMNS))
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return out / "report.html", problems


def results_table(folder: Path | str) -> str:
    """Writes the results of the runs below `folder` as a Markdown table of five columns; what cannot be read is left out.

    Raises:
        ValueError: There is no finished run.
    """
    from lit_mnist.report.render import markdown_text
    from lit_mnist.report.tables import results

    table = results(_read([Path(folder)])[0])
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join(f"| {' | '.join(str(markdown_text(cell)) for cell in line)} |" for line in lines)


def results_csv(configurations: "Sequence[Configuration]") -> str:
    """Writes one line for each run, with a head."""
    text = io.StringIO()
    text.write(f"{COLUMNS}\n")
    writer = csv.writer(text, lineterminator="\n")
    for each in configurations:
        for run in each.runs:
            result = run.result
            losses = result.train_loss_by_epoch
            cells = [
                each.name,
                run.folder,
                result.seed,
                result.lr,
                result.batch_size,
                result.outcome,
                result.epochs,
                result.steps,
            ]
            cells += [run.failure, losses[0] if losses else None, result.final_train_loss, result.train_accuracy]
            writer.writerow(map(csv_cell, [*cells, result.test_accuracy, result.times.seconds, one_line(result.command)]))
    return text.getvalue()


def _read(folders: Sequence[Path]) -> "tuple[list[Configuration], list[Problem]]":
    from lit_mnist.report.experiments import group_runs
    from lit_mnist.report.load import read_folders

    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; name one that holds runs, such as logs.")
    runs, problems = read_folders(folders)
    configurations, repeated = group_runs(runs)
    if not configurations:
        told = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{folders[0]} holds no finished run{told}; train one with python -m lit_mnist fit.")
    return configurations, [*problems, *repeated]


def _refuse_foreign(path: Path, marks: Sequence[str]) -> None:
    """Raises ValueError if there is a file that no report wrote: it would be overwritten."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(2000).decode("utf-8", "replace")
    if not any(mark in start for mark in marks):
        raise ValueError(f"{path} was not written by a report; move it, or name another folder with --out.")

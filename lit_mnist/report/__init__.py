"""The `report` command: run folders in; answers, figures and tables out. It reads records only, and needs no torch."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli import DONE, FAILED, Parser
from lit_mnist.record.atomic import beginning, write_atomically
from lit_mnist.record.printable import one_line
from lit_mnist.report.experiments import Group, group_runs
from lit_mnist.report.load import read_folders

__all__ = ["main", "results_table", "write_report"]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns 1 if the report names runs that could not be counted, else 0.

    Raises:
        ValueError: The command line is wrong, there is no finished run, or a file of another origin is in the way.
    """
    parser = Parser(
        prog="python -m lit_mnist report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads the run folders below each FOLDER and writes report.html (one file, opens offline), report.md with\n"
        "figures/*.svg, and results.csv (one line for each run). The same folders give the same bytes.",
        epilog="exit codes: 0 done, 1 done, but some runs could not be counted (they are named), 2 nothing to report",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a study, a run, or any folder above them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: the first FOLDER)")
    options = parser.parse_args(arguments)
    path, problems = write_report(options.folders, options.out)
    for problem in problems:
        print(f"lit_mnist: {problem}", file=sys.stderr)
    print(one_line(str(path)))
    return FAILED if problems else DONE


def write_report(folders: Sequence[Path], out: Path | None = None) -> tuple[Path, list[str]]:
    """Writes the report on all finished runs below the folders to `out`, by default to the first of them.

    Returns:
        Path of report.html, and what could not be counted.

    Raises:
        ValueError: There is no finished run, or a file that is not a report's is in the way. Nothing was written.
        OSError: A file cannot be written.
    """
    from lit_mnist.report.contents import compose  # matplotlib and scipy take a second that --help need not
    from lit_mnist.report.render import MARK, figure_files, render_html, render_markdown
    from lit_mnist.report.tables import COLUMNS, results_csv

    groups, problems = _read(folders)
    page = compose(groups, problems)
    out = out or folders[0]
    files = {"report.html": render_html(page), "report.md": render_markdown(page), "results.csv": results_csv(groups)}
    files |= {f"figures/{name}": svg for name, svg in figure_files(page).items()}
    for path in (out / name for name in files):
        is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out))  # links may lie there, too
        start = beginning(path)
        is_ours = MARK.encode() in start or start.startswith(COLUMNS.replace(" ", ",").encode())
        if not is_inside or (os.path.lexists(path) and not is_ours):
            raise ValueError(f"{path} was not written by a report; move it, or name another folder with --out.")
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return out / "report.html", problems


def results_table(folder: Path | str) -> str:
    """Writes the results of the runs below `folder` as a Markdown table of five columns; what cannot be read is left out.

    Raises:
        ValueError: There is no finished run.
    """
    from lit_mnist.report.render import render_table
    from lit_mnist.report.tables import results

    return render_table(results(_read([Path(folder)])[0]))


def _read(folders: Sequence[Path]) -> tuple[list[Group], list[str]]:
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; name one that holds runs, such as logs.")
    runs, problems = read_folders(folders)
    groups, repeated = group_runs(runs)
    if not groups:
        told = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{folders[0]} holds no finished run{told}; train one with python -m lit_mnist fit.")
    return groups, [*problems, *repeated]

"""The `report` command: run folders in; tables, figures and findings out. It reads records only, and needs no torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli.command import DONE, FAILED, Parser

__all__ = ["main", "results_table"]


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m lit_mnist report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads the run folders below FOLDER and writes report.html (one file, opens offline), report.md with\n"
        "figures/*.svg, and results.csv (one line per run). The same folders give the same bytes.",
        epilog="exit codes: 0 done, 1 done, but some input was amiss (named in the report and on stderr), 2 nothing to report",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a study, a run, or any folder above them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: FOLDER)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Returns:
        0 if all input was sound, 1 if the report has a section of problems.

    Raises:
        ValueError: The command line is wrong, or there is no finished run to report. Nothing was written.
    """
    options = parser().parse_args(arguments)
    # matplotlib and scipy take a second that --help and a mistyped folder need not
    from lit_mnist.report.configuration import group_runs
    from lit_mnist.report.contents import compose
    from lit_mnist.report.records import read_runs
    from lit_mnist.report.results import results_csv
    from lit_mnist.report.writing import write_report

    if not options.folder.is_dir():
        raise ValueError(f"{options.folder} is no folder; name a folder with runs, like logs.")
    runs, problems = read_runs(options.folder)
    configurations, more_problems = group_runs(runs)
    problems += more_problems
    for problem in problems:
        print(f"lit_mnist: {problem}", file=sys.stderr)
    if not configurations:
        raise ValueError(f"{options.folder} holds no finished run; train one with python -m lit_mnist fit.")
    document = compose(options.folder.resolve().name, configurations, problems)
    out = options.out or options.folder
    write_report(document, results_csv(configurations), out)
    print(out / "report.html")
    return FAILED if problems else DONE


def results_table(folder: Path | str) -> str:
    """The results of the run folders below `folder` as a Markdown table, as in report.md; what is amiss with them is left out.

    Raises:
        ValueError: There is no finished run.
    """
    from lit_mnist.report.configuration import group_runs
    from lit_mnist.report.markdown import markdown_table
    from lit_mnist.report.records import read_runs
    from lit_mnist.report.results import results

    configurations, _ = group_runs(read_runs(Path(folder))[0])
    if not configurations:
        raise ValueError(f"{folder} holds no finished run.")
    return markdown_table(results(configurations))

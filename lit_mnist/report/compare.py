"""The `compare` command: what differs between two runs, in their settings and in their results, on one screen."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli import DONE, Parser
from lit_mnist.record.printable import one_line
from lit_mnist.report.load import RecordedRun, read_folders
from lit_mnist.report.quantities import FINAL_LOSS, FIRST_LOSS, TEST_ACCURACY, TRAIN_ACCURACY

WIDTH = 40  # characters of a cell; a path is cut at its beginning
ROWS = 12  # settings at most, so that both tables fit on a screen


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Raises:
        ValueError: The command line is wrong, or a folder does not hold exactly one finished run.
    """
    parser = Parser(
        prog="python -m lit_mnist compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Shows what differs between two finished runs: settings first, then results.",
        epilog="exit codes: 0 done, 2 a folder does not hold a finished run",
    )
    parser.add_argument("first", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("second", type=Path, metavar="RUN", help="folder of another run")
    options = parser.parse_args(arguments)
    print(compare(options.first, options.second))
    return DONE


def compare(first: Path, second: Path) -> str:
    """Writes two tables about two runs: settings that differ, and results side by side.

    Raises:
        ValueError: A folder does not hold exactly one finished run.
    """
    runs = [_read(folder) for folder in (first, second)]
    one, other = map(_settings, runs)
    rows = [[key, one.get(key, "–"), other.get(key, "–")] for key in sorted(one | other) if one.get(key) != other.get(key)]
    if len(rows) > ROWS:
        rows[ROWS:] = [[f"and {len(rows) - ROWS} more", "", ""]]
    results = [["outcome", *(run.result.outcome for run in runs)]]
    for quantity in (FIRST_LOSS, FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY):
        results.append([quantity.name, *(quantity.text(quantity.of(run)) for run in runs)])
    results.append(["SGD steps", *(f"{run.result.steps:,}" for run in runs)])
    results.append(["seconds", *(f"{run.result.times.seconds:.1f}" for run in runs)])
    hashes = [run.result.weights_sha256 for run in runs]
    if all(hashes):
        results.append(["weights", "", "equal to the last bit" if hashes[0] == hashes[1] else "different"])
    folders, rows = [str(first), str(second)], rows or [["none", "", ""]]
    return _table([["settings that differ", *folders], *rows, [""] * 3, ["results", *folders], *results])


def _read(folder: Path) -> RecordedRun:
    if not folder.is_dir():
        raise ValueError(f"{one_line(str(folder))} is not a folder; name the folder of a run, such as logs/lr0.1/version_0.")
    runs, problems = read_folders([folder])
    if len(runs) != 1:
        told = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{one_line(str(folder))} holds {len(runs)} finished runs{told}; name the folder of one run.")
    return runs[0]


def _settings(run: RecordedRun) -> dict[str, str]:
    result = run.result
    told = {key: getattr(result, key) for key in ("name", "seed", "threads", "device", "commit", "data_sha256")}
    settings = result.hyperparameters | told | result.versions | result.machine
    return {
        key: f"{value:.9g}" if isinstance(value, float) else str(value) for key, value in settings.items() if value is not None
    }


def _table(lines: Sequence[Sequence[str]]) -> str:
    cut = [[cell if len(cell) <= WIDTH else f"…{cell[1 - WIDTH :]}" for cell in map(one_line, line)] for line in lines]
    widths = [max(len(line[column]) for line in cut) for column in range(3)]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cut)

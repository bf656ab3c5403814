"""The `compare` command: what differs between two runs, in their settings and in their results, on one screen."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_mnist.cli import DONE, Parser
from lit_mnist.record.printable import one_line
from lit_mnist.record.result import Result

ROWS = 20  # of each table: a screen holds both


def parser() -> Parser:
    """Makes the parser of the command line."""
    parser = Parser(
        prog="python -m lit_mnist compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Shows what differs between two finished runs: settings first, then results.",
        epilog="exit codes: 0 done, 2 a folder does not hold a finished run",
    )
    parser.add_argument("first", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("second", type=Path, metavar="RUN", help="the folder of another run")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Raises:
        ValueError: A folder does not hold exactly one finished run.
    """
    options = parser().parse_args(arguments)
    print(compare(options.first, options.second))
    return DONE


def compare(first: Path, second: Path) -> str:
    """Writes two tables about two runs: settings that differ, and results side by side.

    Raises:
        ValueError: A folder does not hold exactly one finished run.
    """
    results = [_read(folder) for folder in (first, second)]
    settings, ours = (_settings(result) for result in results)
    keys = [key for key in sorted({*settings, *ours}) if settings.get(key) != ours.get(key)]
    rows = [(key.replace("_", " "), _text(settings.get(key)), _text(ours.get(key))) for key in keys[:ROWS]]
    if len(keys) > ROWS:
        rows.append((f"and {len(keys) - ROWS} more", "", ""))
    names = [one_line(str(folder)) for folder in (first, second)]
    return (
        _table(("settings that differ", *names), rows or [("none", "", "")])
        + "\n\n"
        + _table(("results", *names), _results(*results))
    )


def _read(folder: Path) -> Result:
    from lit_mnist.report.load import read_folders

    if not folder.is_dir():
        raise ValueError(f"{one_line(str(folder))} is not a folder; name the folder of a run, such as logs/lr0.1/version_0.")
    runs, problems = read_folders([folder])
    if len(runs) != 1:
        told = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{one_line(str(folder))} holds {len(runs)} finished runs{told}; name the folder of one run.")
    return runs[0].result


def _settings(result: Result) -> dict[str, Any]:
    """What may make two runs differ: hyperparameters, then the environment."""
    told = {
        "name": result.name,
        "seed": result.seed,
        "threads": result.threads,
        "device": result.device,
        "commit": result.commit,
    }
    versions = {f"version of {key}": value for key, value in result.versions.items()}
    return result.hyperparameters | told | versions | dict(result.machine) | {"data sha256": result.data_sha256}


def _results(first: Result, second: Result) -> list[tuple[str, str, str]]:
    """Results of both, the second with its difference from the first where both have a number."""
    losses, accuracies = "{:.6g}".format, lambda value: f"{100 * value:.2f} %"
    rows: list[tuple[str, str, str]] = [("outcome", first.outcome, second.outcome)]
    rows += [("reason", one_line(first.reason), one_line(second.reason))] if first.reason or second.reason else []
    for name, form, pair in (
        ("SGD steps", "{:,}".format, (first.steps, second.steps)),
        ("loss of epoch 1", losses, [next(iter(each.train_loss_by_epoch), None) for each in (first, second)]),
        ("final loss", losses, (first.final_train_loss, second.final_train_loss)),
        ("train accuracy", accuracies, (first.train_accuracy, second.train_accuracy)),
        ("test accuracy", accuracies, (first.test_accuracy, second.test_accuracy)),
        ("seconds", "{:.1f}".format, (first.times.seconds, second.times.seconds)),
    ):
        texts = ["–" if value is None else form(value) for value in pair]
        rows.append((name, texts[0], texts[1]))
    hashes = first.weights_sha256, second.weights_sha256
    same = "equal to the last bit" if hashes[0] == hashes[1] else "different"
    return [*rows, ("weights", "", same)] if all(hashes) else rows


def _text(value: Any) -> str:
    return "–" if value is None else one_line(f"{value:g}" if isinstance(value, float) else str(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns three columns, cut to the width of the terminal; of a path its end is kept."""
    lines = [head, *rows]
    first = max(len(line[0]) for line in lines)
    room = max(12, (shutil.get_terminal_size().columns - first - 4) // 2)
    cut = [[line[0], *(cell if len(cell) <= room else f"…{cell[1 - room :]}" for cell in line[1:])] for line in lines]
    width = max(len(line[1]) for line in cut)
    return "\n".join(f"{line[0]:{first}}  {line[1]:{width}}  {line[2]}".rstrip() for line in cut)

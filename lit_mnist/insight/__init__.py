"""Measurements of what decides how a network trains: in the callback `Instruments`, and in the command `explain`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli import DONE, Parser
from lit_mnist.record.atomic import beginning, write_atomically
from lit_mnist.record.printable import one_line

MAKER_OF_PAGE = "made by lit_mnist explain"  # in every page: a file that does not hold it is never overwritten


def main(arguments: Sequence[str]) -> int:
    """Runs the command `explain`.

    Raises:
        ValueError: The run cannot be explained, or a file of another origin is in the way. Nothing was written.
    """
    parser = Parser(
        prog="python -m lit_mnist explain",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Says why a finished run failed, or what limits one that trained, and writes explain.html (one file, that\n"
        "opens offline). A failed run is replayed from its last checkpoint before the loss rose, measured step by step,\n"
        "and rerun with changes. A run that did not fail goes on from its last checkpoint with other learning rates\n"
        "and batch sizes. It takes one core, and two minutes at most.",
        epilog="exit codes: 0 done, or the replay does not fail (it says so), 2 the run cannot be explained",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, such as logs/lr1/version_0")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: the run's)")
    options = parser.parse_args(arguments)
    path = (options.out or options.run) / "explain.html"
    if os.path.lexists(path) and MAKER_OF_PAGE.encode() not in beginning(path):
        raise ValueError(f"{path} was not written by explain; move it, or name another folder with --out.")
    from lit_mnist.insight.explain import explain_run  # torch and matplotlib take seconds that --help need not

    said, html = explain_run(options.run)
    print(*said, sep="\n")
    if html:
        write_atomically(path, html.encode())
        print(one_line(str(path)))
    return DONE

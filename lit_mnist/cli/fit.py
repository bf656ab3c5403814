"""The command `fit`."""

import sys

from lit_mnist.cli import DIVERGED, DONE, FAILED
from lit_mnist.cli.options import run_options
from lit_mnist.training.processes import RefusedByFirst, is_first
from lit_mnist.training.signals import Stopped
from lit_mnist.training.train import train


def main(options: list[str]) -> int:
    """Trains a run, or resumes it, and finishes its record. Returns the exit code: 3 if the loss diverged.

    Raises:
        ValueError: The options cannot be used.
        Stopped: By a signal.
    """
    try:
        trained = train(run_options(options))
    except Stopped:
        if is_first():  # the first process speaks for all
            print("lit_mnist: stopped; the same command resumes from the end of the last whole epoch.", file=sys.stderr)
            raise
        return DONE
    except (RefusedByFirst, ConnectionError):
        if is_first():
            raise
        return FAILED
    return DIVERGED if trained is not None and trained[1].outcome == "diverged" else DONE

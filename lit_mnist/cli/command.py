"""What every command shares: its argument parser and its exit codes."""

import argparse
from typing import NoReturn

DONE = 0
FAILED = 1
BAD_INPUT = 2
DIVERGED = 3
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports a mistyped argument as a `ValueError`, so that all mistakes take one way out."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

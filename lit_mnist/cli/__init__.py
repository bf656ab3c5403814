"""The command line: exit codes, and the parser of the commands that need no torch."""

import argparse
from typing import NoReturn

DONE = 0
FAILED = 1
BAD_INPUT = 2
DIVERGED = 3
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `ValueError` for a mistyped argument, so that every mistake is reported in one way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help).")

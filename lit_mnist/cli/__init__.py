"""The command line: exit codes, and what parses options without torch."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
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


def as_typed(options: Sequence[str]) -> dict[str, str]:
    """Returns each option with its value or the word that follows it, as far as that shows without knowing the options."""
    typed = {}
    for option, following in pairwise([*options, ""]):
        name, equals, value = option.partition("=")
        typed[name] = value if equals else following
    return typed

"""Signals: Ctrl-C, SIGTERM, SIGHUP and a cluster's SIGUSR1 end a command at once, with the exit code a shell expects."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_stack
from types import FrameType

# SIGUSR1 is how clusters announce the end of a job; Lightning's own handler would write a checkpoint into the working folder.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """Raised in the main thread by a signal. Not an `Exception`, so that nothing on the way takes it for a failure.

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Makes signals raise `Stopped` within the block, and restores the process's own handlers after it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop_on_signals()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def stop_on_signals() -> None:
    """Makes the next signal raise `Stopped`; within an import it ends the process, as a second signal does anywhere.

    An exception cannot get through every import: torch catches it in that of NumPy, and continues with half of it.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # signals reach the main thread only
    first = 0

    def handle(signal_number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first or any(each.f_code.co_filename.startswith("<frozen importlib") for each, _ in walk_stack(frame)):
            os._exit(128 + (first or signal_number))
        first = signal_number
        raise Stopped(signal_number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number in (signal.SIGINT, signal.SIGTERM):  # nohup ignores SIGHUP
            signal.signal(number, handle)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Makes signals end the process at once within the block: for a wait in C++, which calls no handler of Python's."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: handler for number in SIGNALS if is_main and callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Ends this process with its parent process, on Linux; elsewhere only if the parent is gone by now.

    Args:
        parent: Process number of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)

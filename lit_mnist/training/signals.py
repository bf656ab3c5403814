"""Ctrl-C and SIGTERM: at once where nothing can be lost, at the next SGD step while a run is training."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ended the command. Not an `Exception`, so that nothing on the way takes it for a failure.

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within it a signal raises `Stopped`; after it the process treats signals as it did before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop_at_once()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def stop_at_once() -> None:
    """From now on a signal raises `Stopped` wherever the program is; within an import it ends the process.

    An exception cannot get through every import: torch catches it in that of numpy, and goes on with half of it.
    """

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            os._exit(128 + signal_number)
        raise Stopped(signal_number)

    _install(handle)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def stop_through(request: Callable[[int], None]) -> None:
    """From now on the first signal calls `request` with its number; a second one raises `Stopped`."""

    def handle(signal_number: int, _: FrameType | None) -> None:
        stop_at_once()
        request(signal_number)

    _install(handle)


def _install(handle: Callable[[int, FrameType | None], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # signals reach the main thread only
    for number in SIGNALS:
        signal.signal(number, handle)

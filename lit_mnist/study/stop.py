"""The wish to stop: a signal to the study, told to workers by a file, since they may sit on other hosts."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_mnist.training.signals import stop_at_once, stop_through


class Stop:
    """Within `listening`, Ctrl-C and SIGTERM ask the workers to stop; a second one ends the study at once.

    Attributes:
        file: Lies in the study's folder only while the study is stopping; each worker looks for it.
        signal: The signal that came, or None.
    """

    def __init__(self, out: Path) -> None:
        self.file = out / f".stop-{uuid.uuid4().hex}"
        self.signal: int | None = None

    def _ask(self, signal_number: int) -> None:
        self.signal = signal_number
        self.file.touch()

    @contextmanager
    def listening(self) -> Iterator[None]:
        stop_through(self._ask)
        try:
            yield
        finally:
            stop_at_once()
            self.file.unlink(missing_ok=True)

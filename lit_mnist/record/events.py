"""TensorBoard event files, written and read without torch."""

import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_mnist.record.folder import EVENT_FILE, RunFolder

LARGEST_EVENT_FILE = 256 * 2**20  # bytes read of an event file; one of a run of 20 epochs has 30,000
LARGEST_RECORD = 16 * 2**20  # bytes; a picture may be one
LARGEST_SCALARS = 2**16  # bytes; a record of scalars has 100
SMALLEST_RECORD = 9  # bytes; the time alone
MOST_POINTS = 1_000_000  # of a run; 20 epochs of mini-batches of 8 have 150,000 SGD steps
HEADER, FOOTER = 12, 4  # bytes around the data of a record: length (8) and its checksum (4), checksum of the data (4)


class EventFile:
    """Writes one event file. A failure to write is reported once on stderr and never stops the run.

    Args:
        folder: Run folder.
        suffix: What the name of the file ends with.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.path = folder / f"{EVENT_FILE}.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.0{suffix}"
        self._writer: RecordWriter | None = None
        self._attempt(self._open)

    def _open(self) -> None:
        self._writer = RecordWriter(self.path.open("wb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        self._writer.write(event.SerializeToString())

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError: values that a protobuf cannot hold
            self._writer = None
            print(
                f"lit_mnist: TensorBoard's event file cannot be written ({error}); training continues without it.",
                file=sys.stderr,
            )

    def _add(self, values: list[Summary.Value], step: int, wall_time: float | None = None) -> None:
        if self._writer is not None:
            event = Event(wall_time=wall_time or time.time(), step=step, summary=Summary(value=values))
            self._attempt(lambda: self._write(event))

    def add_scalar(self, tag: str, value: float, step: int, wall_time: float | None = None) -> None:
        """Adds a point to the curve `tag`; `step` is its x, the 1-based epoch or SGD step."""
        self._add([Summary.Value(tag=tag, simple_value=value)], step, wall_time)

    def add_png(self, tag: str, png: bytes, step: int) -> None:
        """Adds a picture, the content of a PNG file."""
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._add([Summary.Value(tag=tag, image=image)], step)

    def add_hyperparameters(self, hyperparameters: Mapping[str, Any], tags: tuple[str, ...]) -> None:
        """Adds the run's row of the HPARAMS table; `tags` are those of the scalars to show beside the hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(dict(hyperparameters), dict.fromkeys(tags, 0.0)):
            self._add(list(part.value), 0)

    def flush(self) -> None:
        """Hands every point to the operating system."""
        if self._writer is not None:
            self._attempt(self._writer.flush)

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._attempt(self._writer.close)
            self._writer = None


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Reads every curve in the event files of a run: tag -> step -> value. The newest file counts where two have a point.

    Raises:
        ValueError: A file is damaged or of an implausible size; the points before the damage are lost with it.
    """
    curves: dict[str, dict[int, float]] = {}
    count = 0
    for path in RunFolder(folder).event_files:
        for record in _records(path):
            try:
                event = Event.FromString(record)
            except DecodeError:
                raise ValueError(f"the event file {path.name} holds something other than TensorBoard events") from None
            count += 1 + len(event.summary.value)
            if count > MOST_POINTS:
                raise ValueError(f"its event files hold more than {MOST_POINTS:,} points")
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
                elif value.tensor.float_val:  # as newer writers store scalars
                    curves.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    return curves


def _records(path: Path) -> Iterator[bytes]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_EVENT_FILE:
        raise ValueError(f"{path.name} is not an event file, or larger than {LARGEST_EVENT_FILE // 2**20} MB")
    with path.open("rb") as file:
        while header := file.read(HEADER):
            length = int.from_bytes(header[:8], "little")
            if not SMALLEST_RECORD <= length <= LARGEST_RECORD:
                raise ValueError(f"the event file {path.name} is damaged")
            data = file.read(length)
            if len(data) < length or len(file.read(FOOTER)) < FOOTER:
                return  # a run that is being written, or was killed, ends within a record
            if length <= LARGEST_SCALARS:  # else a picture or the like
                yield data

"""TensorBoard event files, read with tensorboard's own reader and without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import (
    RawEventFileLoader,
)
from tensorboard.compat.proto.event_pb2 import Event

PATTERN = "events.out.tfevents.*"
FRAME = 16  # bytes around each record: its length (8), the length's checksum (4), its own checksum (4)


@dataclass(frozen=True)
class Scalars:
    """The curves in a run's event files.

    Attributes:
        files: Number of event files.
        curves: For each tag, its values by x (the epoch or the SGD step, as logged). Where several files (a resumed run has
            some) hold the same x, the newest file counts.
        damage: A sentence for each file that ends within a record or holds something else.
    """

    files: int
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    damage: tuple[str, ...] = ()


def event_files(folder: Path) -> list[Path]:
    """The event files of a run, oldest first: their names begin with the time of their making."""
    return sorted(folder.glob(PATTERN))


def read_scalars(folder: Path) -> Scalars:
    """All scalars of the run in `folder`, as far as its event files can be read."""
    files = event_files(folder)
    curves: dict[str, dict[int, float]] = {}
    damage = []
    for file in files:
        sound = 0
        for record in RawEventFileLoader(str(file)).Load():  # stops without a word at the first unsound record
            sound += len(record) + FRAME
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
        size = file.stat().st_size
        if sound < size:
            damage.append(f"its event file {file.name} is truncated or damaged after byte {sound} of {size}")
    return Scalars(len(files), curves, tuple(damage))

"""The history of a run, and what every checkpoint keeps of the run beside the states that the Trainer saves."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from lit_mnist.record.result import Count, Fraction, Number, Text, Word

CHECKPOINT_FORMAT = 2  # 1: version 1.0, which resumed within epochs


def now() -> str:
    """Returns the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class History(msgspec.Struct, kw_only=True):
    """The run so far. Fields are those of `Result` and `Times` by the same names, and two that only a resumed run needs."""

    train_loss_by_epoch: list[Number] = []
    train_loss_by_block: list[tuple[Count, Number]] = []
    test_accuracy_by_epoch: list[Fraction] = []
    val_loss_by_epoch: list[Number | None] = []
    val_accuracy_by_epoch: list[Fraction | None] = []
    train_seconds_by_epoch: list[Number] = []
    ended: list[Number] = []  # UNIX time of the end of each epoch
    seconds: Number = 0.0  # of the processes before this one
    started: Word = msgspec.field(default_factory=now)
    resumed: Count = 0
    stopped: Text = ""
    changes: list[Text] = []


class SavedRun(msgspec.Struct):
    """The Recorder's part of a checkpoint."""

    format: int
    history: History
    experiment: dict[str, str | int | float | bool | list[str | int | float] | None]
    environment: dict[str, str | int]
    random_state: dict[str, Any]  # torch's, by kind of device

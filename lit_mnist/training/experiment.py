"""What every checkpoint keeps of a run: its experiment, its environment and its history.

The experiment is everything that makes the result, as one flat mapping, which the result keeps, too. A run resumes only from a
checkpoint of the same experiment. The environment (versions, threads, processor, engine) may change the last bits of a result,
but not what is measured: a change of it is reported.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytorch_lightning as pl

from lit_mnist.data import EXPERIMENT, MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.provenance import machine, versions
from lit_mnist.record.result import LIMITS, Count, Fraction, Number, Text, Word

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


def describe_experiment(model: LitMLP, data: MNISTDataModule, trainer: pl.Trainer, callbacks: Any) -> dict[str, Any]:
    """Returns the experiment of a run that is about to begin; `callbacks` as configured: one, a list of them, or None."""
    # the model's own seed is the run's; its other hyperparameters are those of the network and the optimizer
    network = {name: value for name, value in dict(model.hparams).items() if name != "seed"}
    devices = 1 if data.split_batch else trainer.world_size  # those that have mini-batches of their own
    batches, limit = -(-data.train_size // (data.batch_size * devices)), trainer.limit_train_batches
    return {
        **network,
        **{name: value for name, value in data.state_dict().items() if name in EXPERIMENT},
        "devices_with_own_batches": devices,
        "precision": str(trainer.precision),
        "steps_per_epoch": min(batches, limit) if isinstance(limit, int) else int(batches * limit),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "callbacks": [each["class_path"] for each in (callbacks if isinstance(callbacks, list) else [callbacks]) if each],
    }


def describe_environment(trainer: pl.Trainer, threads: int, engine: str) -> dict[str, Any]:
    """Returns the environment of a run that is about to begin."""
    device = trainer.strategy.root_device.type
    where = {"threads": threads, "device": device, "devices": trainer.world_size, "processor": machine()["cpu"]}
    return {"engine": engine, **where, **versions()}


def refuse_other_experiment(now: Mapping[str, Any], then: Mapping[str, Any], epochs: int, steps: int) -> None:
    """Compares the experiment of a run with that of a checkpoint to resume from.

    Args:
        now, then: Experiments, of the run and of the checkpoint.
        epochs, steps: What the checkpoint's run has done.

    Raises:
        ValueError: They differ; the message names both values.
    """
    for name in sorted({*now, *then} - set(LIMITS)):
        ours, theirs = now.get(name), then.get(name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours}, but the run to resume was trained with {theirs}; use its value, or a new run.")
    for name, done in zip(LIMITS, (epochs, steps), strict=True):
        limit = now[name]
        if limit is not None and 0 <= limit < done:
            raise ValueError(f"{name} is {limit}, but the run to resume has already reached {done}.")


def environment_changes(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Lists in sentences what differs between the environments of two processes of one run."""
    changed = (name for name in now if now[name] != then.get(name))
    return [f"{name} is {now[name]}, but the run was begun with {then.get(name)}" for name in changed]

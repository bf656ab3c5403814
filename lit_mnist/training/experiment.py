"""The experiment: everything that makes the result of a run, as one flat mapping, kept in its checkpoints and its result.

A run resumes only from a checkpoint of the same experiment. The environment (versions, threads, processor, engine) may change
the last bits of a result, but not what is measured: a change of it is reported.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from lit_mnist.data import EXPERIMENT, MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.provenance import machine, versions

LIMITS = ("max_epochs", "max_steps")  # a run may be made longer, but not shorter than it is


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

"""Resuming: a checkpoint is compared with the run that is to go on from it, and reduced to what the Trainer must restore."""

import copy
import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import EarlyStopping

from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.checkpoint import mapping_in, read_checkpoint
from lit_mnist.record.folder import RunFolder
from lit_mnist.record.printable import one_line
from lit_mnist.record.provenance import versions
from lit_mnist.record.result import calm_until
from lit_mnist.training.experiment import (
    CHECKPOINT_FORMAT,
    History,
    SavedRun,
    environment_changes,
    refuse_other_experiment,
)
from lit_mnist.training.processes import is_first
from lit_mnist.training.recorder import Recorder

KEPT = 2  # checkpoints: the newest, and the one before it in case the newest is damaged later
WHOLE_RUN = ("epoch", "global_step", "state_dict", "callbacks")  # parts of a checkpoint that a run takes from the file


def read_start(path: Path, trainer: pl.Trainer, model: LitMLP, recorder: Recorder) -> dict[str, Any]:
    """Reads the checkpoint that a run begins with, and sets the Trainer's counters to where it was saved.

    Args:
        path: A checkpoint of the same experiment, saved by `fit` at the end of an epoch.
        trainer, model, recorder: As they are before training.

    Returns:
        What the Trainer is to restore: the file's weights and states of callbacks, and nothing else of it. The optimizer, the
        counters and the data follow from the experiment, whatever the file says of them.

    Raises:
        ValueError: The run would not end from there as it would have without a stop, or the file was altered.
    """
    name = one_line(str(path))
    checkpoint = read_checkpoint(path)
    run, steps = _saved_run(name, checkpoint)
    epochs = len(run.history.train_loss_by_epoch)
    refuse_other_experiment(recorder.experiment, run.experiment, epochs, steps)
    if run.history.stopped:  # else a file could end a run
        raise ValueError(f"{name} was saved as a callback ended the run; name its run folder, or the checkpoint before it.")
    _check_position(name, run.history, steps, recorder.experiment)
    _check_states(name, checkpoint, trainer, model, run.random_state)
    _set_position(trainer, epochs, steps)
    if is_first():
        print(f"resuming {path.parent.parent} after epoch {epochs}", flush=True)
        for change in map(one_line, environment_changes(recorder.environment, run.environment)):
            recorder.history.changes.append(change)
            print(f"lit_mnist: {change}: its bits may differ from those of an uninterrupted run.", file=sys.stderr)
    precision = type(trainer.precision_plugin).__qualname__  # the scale of losses in float16, if it keeps one
    return {
        **{part: value for part, value in checkpoint.items() if part in (*WHOLE_RUN, precision)},
        "optimizer_states": [model.configure_optimizers().state_dict()],
        "lr_schedulers": [],
        "pytorch-lightning_version": versions()["pytorch_lightning"],
    }


def _saved_run(name: str, checkpoint: dict[str, Any]) -> tuple[SavedRun, int]:
    """Returns the Recorder's part of a checkpoint, and the number of SGD steps."""
    try:
        saved = checkpoint["callbacks"]["Recorder"]
        if saved["format"] != CHECKPOINT_FORMAT:
            raise ValueError(f"{name} has format {saved['format']}, not {CHECKPOINT_FORMAT}; train the run again.")
        return msgspec.convert(saved, SavedRun), msgspec.convert(checkpoint["global_step"], int)
    except (KeyError, TypeError, msgspec.ValidationError):
        raise ValueError(f"{name} was not saved by fit, so that there is no run to resume; name a run folder.") from None


def _check_position(name: str, history: History, steps: int, experiment: dict[str, Any]) -> None:
    epochs, limit = len(history.train_loss_by_epoch), experiment["max_steps"]
    expected = epochs * experiment["steps_per_epoch"]
    if steps != (min(expected, limit) if limit >= 0 else expected):
        raise ValueError(
            f"{name} was saved after {steps} SGD steps, but the {epochs} epochs in its record end after {expected}; "
            "resume from the end of an epoch."
        )
    whole = ("train_seconds_by_epoch", "ended")
    for part in (*whole, "test_accuracy_by_epoch", "val_loss_by_epoch", "val_accuracy_by_epoch"):
        count = len(getattr(history, part))
        if count != epochs if part in whole else count > epochs:
            raise ValueError(
                f"{name} has {count} epochs in its {part}, but {epochs} in its train_loss_by_epoch; it was altered."
            )
    made = [step for step, _ in history.train_loss_by_block]
    if made != sorted(set(made)) or made[-1:] != [steps] or made[0] < 1:
        raise ValueError(f"{name} has losses of other steps than it has made in its train_loss_by_block; it was altered.")


def _check_states(name: str, checkpoint: dict[str, Any], trainer: pl.Trainer, model: LitMLP, random: dict[str, Any]) -> None:
    """Refuses weights that do not fit the network or are not finite, and states that callbacks and generators cannot take."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    weights = checkpoint["state_dict"]
    if shapes != {key: getattr(value, "shape", None) for key, value in weights.items()}:
        raise ValueError(f"{name} holds a network other than this run's.")
    if not all(value.is_floating_point() and value.isfinite().all() for value in weights.values()):
        raise ValueError(f"{name} holds weights that are not finite floating-point numbers; it cannot be used.")
    part = "the random state"
    try:
        torch.Generator().set_state(random["cpu"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set by a connector
            part = type(callback).__name__
            if part != Recorder.__name__ and (state := checkpoint["callbacks"].get(callback.state_key)):
                copy.deepcopy(callback).load_state_dict(copy.deepcopy(state))
                if isinstance(callback, EarlyStopping):
                    state["patience"] = callback.patience  # a setting, which no file gives
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise ValueError(f"{name}: what it says of {part} cannot be used; it was altered.") from None


def _set_position(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Sets the Trainer's counters to the beginning of an epoch, as if it had made the steps before itself."""
    loop = trainer.fit_loop
    for count in (loop.epoch_progress.total, loop.epoch_progress.current):
        for name in ("ready", "started", "processed", "completed"):
            setattr(count, name, epochs)
    in_blocks, one_by_one = loop.epoch_loop.manual_optimization, loop.epoch_loop.automatic_optimization
    for progress in (in_blocks.optim_step_progress, one_by_one.optim_progress.optimizer.step):
        progress.total.ready = progress.total.completed = steps
    loop.epoch_loop.on_load_checkpoint({"_batches_that_stepped": steps})  # the x of loggers where steps are single ones


class RunCheckpointIO(CheckpointIO):
    """The Trainer's way to the disk: whole files, few of them kept, and nothing loaded but what `read_start` checked.

    Args:
        folder: The run folder; older checkpoints in it are removed.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.start: dict[str, Any] | None = None  # from `read_start`
        self._saved: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.folder.check_in_place()
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())
        self._saved.add(Path(path).resolve())
        if Path(path) in self.folder.checkpoints:  # and not saved by a callback of the user's
            self._remove_old(checkpoint)

    def _remove_old(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the newest checkpoints, and where the loss has risen for good the last from before, which explains it."""
        history = mapping_in(checkpoint, "callbacks", Recorder.__name__, "history")
        calm = calm_until(history.get("train_loss_by_block", []), checkpoint["hyper_parameters"]["classes"])
        for old in set(self.folder.checkpoints[KEPT:]) - {self.folder.checkpoint_before(calm)}:
            old.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if self.start is None:  # Lightning picks up any hpc_ckpt_1.ckpt when it runs under Slurm
            raise ValueError(f"{one_line(str(path))} was not saved by fit, and a run begins at its start; remove the file.")
        return self.start

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint of the run's own; a resumed `ModelCheckpoint` asks for whatever path its saved state names."""
        place = Path(path).resolve()
        if place in self._saved or (place.suffix == ".ckpt" and place.is_relative_to(self.folder.path.resolve())):
            place.unlink(missing_ok=True)

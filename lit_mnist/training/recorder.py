"""Keeps the record of a run: curves, checkpoints, and in the end what it came to."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.position import epoch_is_complete, validation_follows
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.events import EventLog, event_sizes
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.progress import EpochProgress
from lit_mnist.training.signals import Stopped, stop_at_once, stop_through

SECONDS_BETWEEN_CHECKPOINTS = 5.0  # at 10 to 20 ms each, well under 1 % of the time


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class History:
    """What a run has been through so far; part of every checkpoint, so that a resumed run knows its past."""

    train_loss_by_epoch: list[float] = field(default_factory=list)
    test_accuracy_by_epoch: list[float] = field(default_factory=list)
    val_loss_by_epoch: list[float | None] = field(default_factory=list)  # None: not validated in that epoch
    val_accuracy_by_epoch: list[float | None] = field(default_factory=list)
    train_seconds_by_epoch: list[float] = field(default_factory=list)
    seconds_in_epoch: float = 0.0  # of training in the epoch under way
    seconds_before: float = 0.0  # of the whole run, in the processes before this one
    started: str = field(default_factory=now)
    resumed: int = 0
    changes: list[str] = field(default_factory=list)  # of what may change bits, from one process to the next


class RunRecord(Checkpoint):
    """Measures each epoch, logs it, and saves a checkpoint at its end and every few seconds within it.

    A kind of `Checkpoint`, so that the Trainer adds none of its own and calls this after the module has logged its epoch.

    Args:
        progress: Shows each epoch.
        test_every_epoch: Measure test accuracy after every epoch; nothing is ever selected on it.
        seconds_between_checkpoints: Least time between two checkpoints within an epoch.
    """

    def __init__(
        self,
        progress: EpochProgress | None,
        test_every_epoch: bool = True,
        seconds_between_checkpoints: float = SECONDS_BETWEEN_CHECKPOINTS,
    ) -> None:
        self.progress = progress
        self.test_every_epoch = test_every_epoch
        self.seconds_between_checkpoints = seconds_between_checkpoints
        self.history = History()
        self.settings: dict[str, Any] = {}  # what makes the result beside the module's and the data's parameters
        self.environment: dict[str, Any] = {}  # what may change its bits, but not its sense
        self.changes: list[str] = []  # of the environment, since the checkpoint to go on with
        self.events: EventLog | None = None
        self._folder: RunFolder | None = None
        self._signal: int | None = None
        self._should_stop = False  # the Trainer's, which forgets it
        self._began = self._clock = self._saved = time.monotonic()

    def open(self, folder: RunFolder, events: EventLog | None) -> None:
        """Says where the record is kept, before training starts.

        Args:
            folder: The run folder.
            events: Its event files, if any are to be written.
        """
        self._folder = folder
        self.events = events

    @property
    def folder(self) -> RunFolder:
        assert self._folder is not None
        return self._folder

    @property
    def seconds(self) -> float:
        """Wall time of the run, the processes before this one included."""
        return self.history.seconds_before + time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        history = asdict(self.history) | {"seconds_before": self.seconds}
        return {
            "history": history,
            "event_sizes": event_sizes(self.folder.path),
            "settings": self.settings,
            "environment": self.environment,
            "should_stop": self._should_stop,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = History(**state_dict["history"])
        self.history.resumed += 1
        self.history.changes += self.changes
        self._should_stop = state_dict["should_stop"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self._should_stop
        stop_through(self._request_stop(trainer, cast(LitMLP, pl_module)))
        self._clock = self._saved = time.monotonic()

    def _request_stop(self, trainer: pl.Trainer, module: LitMLP) -> Callable[[int], None]:
        def request(signal_number: int) -> None:
            self._signal = signal_number
            # several processes must make the same SGD steps: they agree on stopping between two blocks
            module.stop_requested = trainer.world_size == 1

        return request

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.history.seconds_in_epoch = 0.0
        self._clock = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count_seconds()
        if not epoch_is_complete(trainer) and not validation_follows(trainer):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        history, metrics, epoch = self.history, trainer.callback_metrics, trainer.current_epoch
        for values, tag in ((history.val_loss_by_epoch, "val/loss"), (history.val_accuracy_by_epoch, "val/accuracy")):
            values += [None] * (epoch - len(values))
            values[epoch:] = [metrics[tag].item()]
        self._clock = time.monotonic()  # validating is not training
        if not epoch_is_complete(trainer):
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, history = cast(LitMLP, pl_module), self.history
        measured = {"loss": module.epoch_loss}
        # in place of the epoch's first part, if max_steps had ended the run there
        history.train_loss_by_epoch[trainer.current_epoch :] = [module.epoch_loss]
        history.train_seconds_by_epoch[trainer.current_epoch :] = [round(history.seconds_in_epoch, 3)]
        if len(history.val_accuracy_by_epoch) > trainer.current_epoch:
            measured["val accuracy"] = cast(float, history.val_accuracy_by_epoch[-1])
        if epoch_is_complete(trainer) and self.test_every_epoch:
            data: MNISTDataModule = trainer.datamodule  # type: ignore[attr-defined] # set by a connector
            accuracy = module.evaluate(data.test_dataloader())["accuracy"]
            history.test_accuracy_by_epoch.append(accuracy)
            measured["test accuracy"] = accuracy
            if self.events:
                self.events.log_metrics({"test/accuracy": accuracy}, step=trainer.current_epoch + 1)
        if self.progress:
            self.progress.epoch_line(trainer, measured, history.seconds_in_epoch)
        if epoch_is_complete(trainer):
            self.history.seconds_in_epoch = 0.0
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_at_once()
        self._stop_if_asked(trainer)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.history.seconds_in_epoch += now - self._clock
        self._clock = now

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        stop = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        late = time.monotonic() - self._saved >= self.seconds_between_checkpoints
        if trainer.strategy.reduce_boolean_decision(late, all=False) or stop:
            self._save(trainer)
        if stop:
            self._stop(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._should_stop = trainer.should_stop
        # A loss may still be finite while the step after it made the weights infinite: keep the last good checkpoint.
        finite = all(weights.isfinite().all() for weights in trainer.lightning_module.state_dict().values())
        if finite:
            if self.events:
                self.events.flush()
            trainer.save_checkpoint(self.folder.checkpoint_path(trainer.global_step))
        self._saved = time.monotonic()

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            done = f"stopped after {trainer.global_step} SGD steps"
            print(f"lit_mnist: {done}; the same command goes on from there.", file=sys.stderr)
        # under several processes the signal may have reached another one only
        raise Stopped(self._signal or signal.SIGTERM)

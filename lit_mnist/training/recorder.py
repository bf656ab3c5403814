"""The callback that keeps the record of a run: its history, TensorBoard curves, and a checkpoint at the end of every epoch."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from lit_mnist.data import MNISTDataModule
from lit_mnist.datasets.loaders import Batch
from lit_mnist.engines.blocks import IMAGES_PER_BLOCK
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.events import EventFile
from lit_mnist.record.folder import Config, RunFolder
from lit_mnist.training.experiment import CHECKPOINT_FORMAT, History
from lit_mnist.training.processes import group_gradients
from lit_mnist.training.progress import EpochProgress
from lit_mnist.training.signals import stop_on_signals


class Diverged(Exception):
    """Ends training whose loss has become infinite or NaN.

    Attributes:
        epoch, step: The epoch and the SGD step of the run, from 1, of the first such mini-batch.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the training loss became infinite or NaN at step {step}, in epoch {epoch}.")
        self.epoch, self.step = epoch, step


class Recorder(Checkpoint):
    """Measures each epoch, logs it, and saves a checkpoint at its end.

    A kind of `Checkpoint`, so that the Trainer adds none of its own and calls this after all other callbacks.

    Args:
        folder: The run folder.
        config: Resolved configuration of the run.

    Attributes:
        experiment, environment: See `lit_mnist.training.experiment`; to be set before training starts.
        events: TensorBoard's event file, in the process that writes it.
        progress: Shows each epoch.
    """

    works_in_blocks = True

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder, self.config = folder, config
        self.progress = EpochProgress() if config["trainer"]["enable_progress_bar"] is not False else None
        self.experiment: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.history = History()
        self.events: EventFile | None = None
        self._pending: list[Tensor] = []  # losses (n,) of the block under way
        self._losses: list[Tensor] = []  # of the epoch under way, by block
        self._random_state: dict[str, Tensor] | None = None
        self._began = self._clock = time.monotonic()
        self._seconds_in_epoch = 0.0

    def state_dict(self) -> dict[str, Any]:
        random_state = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random_state["cuda"] = torch.cuda.get_rng_state()
        return {
            "format": CHECKPOINT_FORMAT,
            "history": msgspec.to_builtins(msgspec.structs.replace(self.history, seconds=self.seconds)),
            "experiment": self.experiment,
            "environment": self.environment,
            "random_state": random_state,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        changes = self.history.changes
        self.history = msgspec.convert(state_dict["history"], History)
        self.history.resumed += 1
        self.history.changes += changes
        self._random_state = state_dict["random_state"]

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier processes included."""
        return self.history.seconds + time.monotonic() - self._began

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.set_num_threads(self.config["threads"])  # which ddp has changed
        if trainer.is_global_zero and self.config["trainer"]["logger"] is not False:
            self._begin_events(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop_on_signals()  # in place of the Trainer's own handlers
        if trainer.world_size > 1:
            group_gradients(pl_module, next(iter(trainer.datamodule.test_dataloader()))[0][:1])  # type: ignore[attr-defined]
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if torch.cuda.is_available() and "cuda" in self._random_state:
                torch.cuda.set_rng_state(self._random_state["cuda"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pending, self._losses = [], []
        self._seconds_in_epoch, self._clock = 0.0, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pending.append(outputs["losses"] if "losses" in outputs else outputs["loss"].detach().view(1))
        self._seconds_in_epoch -= self._clock
        self._clock = time.monotonic()
        self._seconds_in_epoch += self._clock
        if "losses" in outputs and trainer.world_size == 1:  # where it costs nothing beside the steps
            self._check_finite(trainer, self._pending[-1])
        is_full = sum(map(len, self._pending)) >= IMAGES_PER_BLOCK // self.experiment["batch_size"]
        if is_full or trainer.is_last_batch:
            self._end_block(trainer)

    def _check_finite(self, trainer: pl.Trainer, losses: Tensor) -> None:
        """Raises `Diverged` if a loss of the newest SGD steps, (n,), is infinite or NaN."""
        finite = losses.isfinite()
        if not finite.all():
            first = trainer.global_step - len(losses) + 1
            raise Diverged(trainer.current_epoch + 1, first + int(finite.int().argmin()))

    def _end_block(self, trainer: pl.Trainer) -> None:
        """Records the mean loss of the block of SGD steps that ends, of about 4,096 images however the steps were made."""
        if not self._pending:
            return
        losses, self._pending = torch.cat(self._pending), []
        if trainer.world_size > 1:
            losses = trainer.strategy.reduce(losses.double(), reduce_op="mean").to(losses.dtype)
        self._check_finite(trainer, losses)
        self._losses.append(losses)
        point = trainer.global_step, losses.mean().item()
        self.history.train_loss_by_block.append(point)
        if self.events:
            self.events.add_scalar("train/loss_step", point[1], point[0])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        history, epoch = self.history, trainer.current_epoch
        for values, name in ((history.val_loss_by_epoch, "val/loss"), (history.val_accuracy_by_epoch, "val/accuracy")):
            values += [None] * (epoch - len(values))
            values[epoch:] = [float(trainer.callback_metrics[name])]
        self._clock = time.monotonic()  # validating is not training

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LitMLP)
        self._end_block(trainer)
        history, epoch = self.history, trainer.current_epoch
        measured = {"loss": torch.cat(self._losses).cpu().double().mean().item()}  # Apple's GPUs have no float64
        seconds = round(self._seconds_in_epoch, 3)
        history.train_loss_by_epoch.append(measured["loss"])
        history.train_seconds_by_epoch.append(seconds)
        history.ended.append(time.time())
        # asked for before min_epochs, it is asked again after the next epoch, as in a run that resumes there
        trainer.should_stop &= epoch + 1 >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
        # `EarlyStopping` and `StopCollapsed` have a reason
        reasons = (getattr(each, "stopping_reason_message", "") for each in trainer.callbacks)  # type: ignore[attr-defined]
        history.stopped = next(filter(None, reasons), "by a callback") if trainer.should_stop else ""
        if len(history.val_accuracy_by_epoch) > epoch:
            measured["val loss"] = history.val_loss_by_epoch[-1] or 0.0
            measured["val accuracy"] = history.val_accuracy_by_epoch[-1] or 0.0
        is_whole = trainer.global_step % self.experiment["steps_per_epoch"] == 0  # else max_steps ends the run here
        if self.config["test_every_epoch"] and is_whole:
            data: MNISTDataModule = trainer.datamodule  # type: ignore[attr-defined] # set by a connector
            _, measured["test accuracy"] = evaluate(trainer, pl_module, data.test_dataloader())
            history.test_accuracy_by_epoch.append(measured["test accuracy"])
            pl_module.log("test/accuracy", measured["test accuracy"], sync_dist=True)
        pl_module.log("train/seconds", seconds, sync_dist=True)
        if self.events:
            self._write_points(trainer, epoch)
            self.events.flush()
        if self.progress:
            self.progress.epoch_line(trainer, measured, seconds)
        # a loss may still be finite while the step after it made the weights infinite: keep the last good checkpoint
        if all(weights.isfinite().all() for weights in pl_module.state_dict().values()):
            trainer.save_checkpoint(self.folder.checkpoint_path(trainer.global_step))

    def _begin_events(self, trainer: pl.Trainer) -> None:
        """Begins an event file with the points of all epochs that earlier processes of the run have trained."""
        self.folder.remove_events()
        self.events = EventFile(self.folder.path)
        for epoch in range(len(self.history.train_loss_by_epoch)):
            self._write_points(trainer, epoch)
        for step, loss in self.history.train_loss_by_block:
            when = self.history.ended[(step - 1) // self.experiment["steps_per_epoch"]]
            self.events.add_scalar("train/loss_step", loss, step, when)

    def _write_points(self, trainer: pl.Trainer, epoch: int) -> None:
        """Writes what was measured of an epoch, 0-based, to the event file."""
        assert self.events is not None
        history, when = self.history, self.history.ended[epoch]
        curves: dict[str, Sequence[float | None]] = {
            "train/loss": history.train_loss_by_epoch,
            "val/loss": history.val_loss_by_epoch,
            "val/accuracy": history.val_accuracy_by_epoch,
            "test/accuracy": history.test_accuracy_by_epoch,
        }
        for tag, values in curves.items():
            if epoch < len(values) and (value := values[epoch]) is not None:
                self.events.add_scalar(tag, value, epoch + 1, when)
        for measured in measurements(trainer):
            if epoch < measured["epoch"] <= epoch + 1:
                for name, value in measured.items():
                    self.events.add_scalar(f"instruments/{name}", value, int(measured["step"]), when)


def measurements(trainer: pl.Trainer) -> list[dict[str, float]]:
    """Returns what an `Instruments` among the callbacks has measured so far."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
    found = (each.measurements for each in callbacks if hasattr(each, "not_measured"))  # its class takes 0.3 s to import
    return next(found, [])


@torch.inference_mode()
def evaluate(trainer: pl.Trainer, module: LitMLP, batches: Iterable[Batch]) -> tuple[float, float]:
    """Measures loss (nats) and accuracy (fraction) over all images of `batches`, each once, in eval mode.

    Args:
        trainer: Its precision and its devices are used; each process evaluates its own share and must call this.
        module: On the device of the batches.
        batches: (images (n, 1, height, width) in [0, 1], labels (n,)).
    """
    was_training = module.training
    module.eval()
    sums = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images
    with trainer.precision_plugin.val_step_context():
        for images, labels in batches:
            logits = module(images).float()
            right = (logits.argmax(1) == labels).sum()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += torch.tensor([loss.item(), right.item(), len(labels)], dtype=torch.float64)
    module.train(was_training)
    if trainer.world_size > 1:
        sums = trainer.strategy.reduce(sums.to(module.device), reduce_op="sum").cpu()
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])

"""The training system: loss, accuracy, plain SGD, many SGD steps per call of the Trainer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import index
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import SumMetric

from lit_mnist.engines.blocks import Batch, Block
from lit_mnist.engines.exact import exact_steps
from lit_mnist.engines.fast import FastEngine
from lit_mnist.engines.position import count_sgd_steps, restore_position, save_position
from lit_mnist.mlp import IMAGE_PIXELS, MLP
from lit_mnist.record.checkpoint import CHECKPOINT_FORMAT, find_checkpoint
from lit_mnist.training.divergence import check_finite
from lit_mnist.training.metrics import Measures

Engine = Literal["exact", "fast"]
ImagesAndLabels = tuple[Tensor, Tensor]


class LitMLP(pl.LightningModule):
    """MLP 784-512-256-10 trained with cross-entropy and plain SGD: no momentum, no decay, no schedule.

    Logs `train/loss` (nats; the mean of the epoch's batch losses, against the epoch, 1-based), `train/loss_step` (mean over a
    block, against the SGD step), `val/loss` and `val/accuracy` (fraction), `test/loss` and `test/accuracy`.

    Args:
        lr: Learning rate of SGD, above 0.
        hidden: Width of each hidden layer, in neurons.
        engine: exact: autograd and torch.optim.SGD, the same bits as a plain PyTorch loop. fast: the backward pass written
            out by hand, the same SGD rounded differently.
        seed: Draw the initial weights from this seed; null: from the global random state.

    Raises:
        ValueError: lr, hidden or engine is out of range.
        Diverged: In `training_step`, at the latest one block after the loss stopped being finite.
    """

    accepts_blocks = True

    def __init__(
        self,
        lr: float = 0.1,
        hidden: Sequence[int] = (512, 256),
        engine: Engine = "exact",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr must be above 0 and finite, not {lr}.")
        if engine not in ("exact", "fast"):
            raise ValueError(f"engine must be exact or fast, not {engine}.")
        # plain numbers, for numpy's could not be loaded again from a checkpoint that only holds plain values
        self.lr = float(lr)
        self.engine = engine
        self.seed = None if seed is None else index(seed)
        if self.seed is None:
            self.mlp = MLP(hidden)
        else:  # the same weights whatever the device, and no random state of the program moved
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.default_generator.manual_seed(self.seed)
                self.mlp = MLP(hidden)
        self.save_hyperparameters({"lr": self.lr, "hidden": list(self.mlp.hidden), "engine": engine, "seed": self.seed})
        # The Trainer's automatic optimization is one SGD step per training_step, and each of those costs it 2 ms.
        self.automatic_optimization = False
        self.stop_requested = False  # set by a signal handler, say: leave the block after the current SGD step
        self.batch_losses: list[Tensor] = []  # of the epoch so far: one (n,) tensor per block
        self.epoch_loss = float("nan")  # nats, of the last epoch that ended
        self._restored_steps_per_epoch: int | None = None
        self.val_measures = Measures("val/")
        self.test_measures = Measures("test/")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "LitMLP":
        """As Lightning's, but from this machine only, damage is noticed, and nothing in the file is ever run.

        Args:
            checkpoint_path: A checkpoint file, or a run folder: its newest one.
            args, kwargs: As Lightning's; `weights_only` may not be false.

        Raises:
            ValueError: The file is missing, damaged or foreign, or its weights do not fit what it describes.
        """
        path = find_checkpoint(Path(checkpoint_path))
        if kwargs.setdefault("weights_only", True) is not True:
            raise ValueError("weights_only must be true: a checkpoint is data, and is never run.")
        try:
            return super().load_from_checkpoint(path, *args, **kwargs)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} holds another network than {cls.__name__}, or cannot be loaded so: {reason}") from None

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) or (N, 784) in [0, 1] -> logits (N, 10)."""
        return cast(Tensor, self.mlp(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD; `fused` computes the same bits in one call instead of one per parameter.

        Not in half precision, in which it rounds otherwise, and in torch 2.10 moves one weight in a hundred only.
        """
        return torch.optim.SGD(self.mlp.parameters(), lr=self.lr, fused=self.mlp.dtype in (torch.float32, torch.float64))

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Makes sure that the engine can work under this Trainer.

        Raises:
            ValueError: The fast engine was asked for where it does not apply.
        """
        if self.engine == "exact":
            return
        FastEngine(self.mlp, self.lr)
        if trainer.world_size > 1:
            raise ValueError(f"engine fast works on one device, not on {trainer.world_size}; use the exact engine.")
        if trainer.precision not in ("32-true", "64-true"):
            raise ValueError(f"engine fast computes in 32-true or 64-true, not {trainer.precision}; use the exact engine.")

    def on_fit_start(self) -> None:
        self.check_trainer(self.trainer)
        if self.engine == "exact":
            return
        (optimizer,) = self.trainer.optimizers
        plain = torch.optim.SGD([torch.empty(0)], lr=self.lr, fused=True).defaults
        if type(optimizer) is not torch.optim.SGD or optimizer.defaults != plain:
            raise ValueError("engine fast replaces plain SGD only, and this model configures another optimizer.")
        if type(self).batch_loss is not LitMLP.batch_loss:
            raise ValueError("engine fast minimises cross-entropy only, and this model has another batch_loss.")
        self._fast_engine = FastEngine(self.mlp, self.lr)

    def on_train_start(self) -> None:
        restore_position(self.trainer, self._restored_steps_per_epoch, sum(map(len, self.batch_losses)))
        self._restored_steps_per_epoch = None
        if self.trainer.world_size > 1:
            self._group_gradients()

    def _group_gradients(self) -> None:
        """A backward pass without a step: after its first one DDP regroups the gradients that it sums at once.

        From three devices on, the grouping decides in which order they are added, and so the last bit. The first step
        after a resume would add otherwise than the same step of a run that was never stopped.
        """
        self.manual_backward(self.mlp(torch.zeros(1, IMAGE_PIXELS, dtype=self.mlp.dtype, device=self.device)).sum())
        self.mlp.zero_grad()

    def _mean_over_devices(self, losses: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return losses
        # in float64, where the sum is exact: in float32 its last bit would depend on the number of steps in the block
        return cast(Tensor, self.trainer.strategy.reduce(losses.double(), reduce_op="mean")).to(losses.dtype)

    def on_train_epoch_start(self) -> None:
        self.batch_losses = []

    def training_step(self, batch: Block | ImagesAndLabels, batch_idx: int) -> None:
        """Performs the SGD steps of a block, or the single one of an ordinary (images, labels) batch."""
        block = batch if isinstance(batch, Block) else Block.of_one_batch(*batch)
        block.images = block.images.to(self.mlp.dtype)
        begun, max_steps = self.trainer.global_step, self.trainer.max_steps
        steps_left = len(block) if max_steps < 0 else max_steps - begun
        losses: list[Tensor] = []
        try:
            for loss in self._sgd_steps(block, steps_left):
                losses.append(loss)
                if self.stop_requested or len(losses) == steps_left:
                    break
        finally:  # a checkpoint that is saved because of an exception must count the steps that its weights have made
            if losses:
                self.batch_losses.append(torch.cat(losses))
                count_sgd_steps(self.trainer, begun + len(self.batch_losses[-1]) - self.trainer.global_step)
        mean_losses = self.batch_losses[-1] = self._mean_over_devices(self.batch_losses[-1])
        check_finite(mean_losses, self.trainer.current_epoch + 1, begun + 1)
        self._log_block(block, mean_losses)

    def _sgd_steps(self, block: Block, steps_left: int) -> Iterator[Tensor]:
        if self.engine == "exact":
            yield from exact_steps(self, block, self.batch_loss)
            return
        rows = sum(block.sizes[:steps_left])  # the engine may make several steps before it comes back
        images, labels = block.images[:rows].flatten(1), block.labels[:rows]
        for losses in self._fast_engine.train(images, labels, block.sizes[0]):
            block.drawn += len(losses)
            yield losses

    def batch_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy (nats) of a batch, the mean over its images on all devices; override it for another loss."""
        logits = self.mlp(batch.images)
        if batch.weight == 1:
            return F.cross_entropy(logits, batch.labels)
        share = batch.weight / max(1, len(batch.labels))
        return F.cross_entropy(logits, batch.labels, reduction="sum") * share  # a device without an image has no mean

    def _log_block(self, block: Block, losses: Tensor) -> None:
        step, every = self.trainer.global_step, max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined] # set by a connector
        if block.first % block.grid:  # the rest of a block that was begun before a restart: log it whole
            losses = torch.cat(self.batch_losses)[block.first // block.grid * block.grid :]
        if not block.is_drawn or step // every == (step - len(losses)) // every:
            return
        mean = losses.mean().item()
        self.log("loss", mean, prog_bar=True, logger=False)
        for logger in self.loggers:
            logger.log_metrics({"train/loss_step": mean}, step=step)

    def on_train_epoch_end(self) -> None:
        self.epoch_loss = torch.cat(self.batch_losses).cpu().double().mean().item()  # Apple's GPUs have no float64
        self.log("train/loss", self.epoch_loss, logger=False, sync_dist=True)
        # to the loggers here, because the Trainer would tell them after the epoch's checkpoint: killed between, it were lost
        for logger in self.loggers:
            logger.log_metrics({"train/loss": self.epoch_loss}, step=self.trainer.current_epoch + 1)

    def validation_step(self, batch: ImagesAndLabels, batch_idx: int) -> None:
        self._measure(self.val_measures, batch)
        self.log_dict(dict(self.val_measures.items()), logger=False if self.trainer.state.fn == "fit" else None)

    def on_validation_epoch_end(self) -> None:
        measured = self.val_measures.compute()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            for logger in self.loggers:  # not by the Trainer, whose x axis is the SGD step
                logger.log_metrics(measured, step=self.trainer.current_epoch + 1)

    def test_step(self, batch: ImagesAndLabels, batch_idx: int) -> None:
        self._measure(self.test_measures, batch)
        self.log_dict(dict(self.test_measures.items()))

    def predict_step(self, batch: ImagesAndLabels, batch_idx: int) -> Tensor:
        """Images (n, 1, 28, 28) with or without labels -> probabilities (n, 10)."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return cast(Tensor, self(images.to(self.mlp.dtype)).softmax(1))

    def _measure(self, measures: Measures, batch: ImagesAndLabels) -> None:
        images, labels = batch
        measures.measure(self(images.to(self.mlp.dtype)), labels)

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[ImagesAndLabels]) -> dict[str, float]:
        """Measures loss (nats) and accuracy (fraction) over all images of `batches`, each once, in eval mode.

        Args:
            batches: (images (n, 1, 28, 28) in [0, 1], labels (n,)) on this module's device; under several processes, each
                one's share. Every process must call this.
        """
        measures, images = Measures().to(self.device), SumMetric().to(self.device)
        training = self.training
        self.eval()
        with self.in_precision():
            for batch in batches:
                self._measure(measures, batch)
                images.update(len(batch[1]))
        self.train(training)
        total, values = round(images.compute().item()), measures.compute()
        # float32 holds a fraction of 60,000 to within 1e-7: the number of right answers is recovered exactly
        return {"loss": values["loss"].item(), "accuracy": round(values["accuracy"].item() * total) / total}

    def in_precision(self) -> AbstractContextManager[Any]:
        """What the Trainer's own evaluation steps run in: with mixed precision, autocast."""
        return self.trainer.precision_plugin.val_step_context() if self._trainer else nullcontext()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = torch.cat(self.batch_losses).cpu() if self.batch_losses else torch.empty(0)
        checkpoint["lit_mnist"] = {"format": CHECKPOINT_FORMAT, "batch_losses": losses, "steps_per_epoch": None}
        save_position(self.trainer, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the losses of the epoch so far; outside of training, takes over the precision of the weights.

        Raises:
            ValueError: To go on would change the experiment.
        """
        if self._trainer is None or self.trainer.state.fn != "fit":
            self.mlp.to(next(iter(checkpoint["state_dict"].values())).dtype)
            return
        self.check_same_experiment(checkpoint["hyper_parameters"])
        state = checkpoint["lit_mnist"]
        self.batch_losses = [state["batch_losses"].to(self.device)]
        self._restored_steps_per_epoch = state["steps_per_epoch"] or 0

    def check_same_experiment(self, hyper_parameters: dict[str, Any]) -> None:
        """Compares with those of the run to continue; the engine may change, for the checkpoints are the same.

        Raises:
            ValueError: One of them differs.
        """
        for name in ("lr", "hidden", "seed"):
            ours, theirs = self.hparams[name], hyper_parameters[name]
            if ours != theirs:
                raise ValueError(f"{name} is {ours}, but the run to continue was trained with {theirs}.")

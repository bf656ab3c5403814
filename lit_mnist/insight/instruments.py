"""The callback that measures curvature, gradient noise, units and norms while a Trainer trains."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import default_collate

from lit_mnist.insight.activations import Units, relu_units, weight_norms
from lit_mnist.insight.curvature import Hessian, Loss, batch_sharpness
from lit_mnist.insight.noise import gradient_noise_scale

_BATCHES, _FEWEST_BATCHES, _BATCH_IMAGES = 64, 8, 8192  # of batch sharpness: the images of all mini-batches bound its time
_OF_BATCHES = ("batch_sharpness", "batch_sharpness_ratio_of_means")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # SyncBatchNorm has them as its base

_log = logging.getLogger("lit_mnist")


class Instruments(pl.Callback):
    """Measures what decides how training goes, at a few moments, on fixed training images, in any Trainer.

    It reads only: the run's bits are the same with and without it. It measures in eval mode, at the end of the training batch
    nearest to each chosen epoch, and logs to every logger under `instruments/`, against the optimizer step:

    - `loss`, `gradient_norm`: of the fixed images.
    - `sharpness`: largest eigenvalue of the Hessian of that loss; `lr_sharpness_half`: times lr / 2, stable below 1.
    - `batch_sharpness`: mean of g'Hg / g'g over 64 mini-batches of the fixed images (fewer of more than 128 images), each
      with its own gradient g and Hessian H; `batch_sharpness_ratio_of_means`: mean g'Hg / mean g'g;
      `lr_batch_sharpness_half`: the first times lr / 2.
    - `gradient_noise_scale`: tr(Sigma) / |G|^2, in images.
    - `active_units_N`, `dead_units_N`: shares of the N-th ReLU layer (1-based), 0..1.
    - `weight_norm/NAME`: Frobenius norm of each weight matrix.

    What cannot be measured is left out: a value that is not finite; the two with lr, unless the optimizer is plain SGD with
    one learning rate; and whatever `not_measured` gives a reason for. Under several devices the first one measures.

    Args:
        epochs: When to measure, in epochs since the start of training, fractions included, each above 0.
        images: Number of fixed images; all if the data set has fewer.
        seed: Decides which images and mini-batches, whatever the seed of the run.
        loss: Mean loss of a batch, `loss(module, images, labels)`; None: the module's `batch_loss(images, labels)`.

    Attributes:
        measurements: One dictionary for each moment: `epoch`, `step` (optimizer steps so far), `lr`, `batch_size` and the
            above. It is part of the checkpoint, so a resumed run has them all.
        not_measured: What cannot be measured on this module -> a sentence that says why.

    Raises:
        ValueError: An argument is out of range; or, when training starts, the module has no loss, or the training data
            cannot be looked up by index.
    """

    works_in_blocks = True  # a block's end is a moment like any other

    def __init__(
        self,
        epochs: Sequence[float] = (0.07, 0.2, 0.5, 1, 2, 5, 10, 20),
        images: int = 2000,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        for epoch in epochs:
            if not 0 < epoch < math.inf:
                raise ValueError(f"epochs of Instruments must be above 0 and finite, not {epoch}.")
        if images < 2:
            raise ValueError(f"images of Instruments must be at least 2, not {images}.")
        self.epochs, self.images, self.seed, self.loss = tuple(epochs), images, seed, loss
        self.measurements: list[dict[str, float]] = []
        self.not_measured: dict[str, str] = {}
        self._due: set[int] = set()  # batches since the start of training, 1-based
        self._fixed: Sequence[Tensor] = ()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.loss is None and not callable(getattr(pl_module, "batch_loss", None)):
            raise ValueError(
                f"Instruments does not know the loss of {type(pl_module).__name__}: pass Instruments(loss=...), a function of "
                "(module, images, labels) that returns the mean loss of a batch."
            )
        per_epoch = trainer.num_training_batches
        if math.isinf(per_epoch):
            raise ValueError("Instruments cannot tell a fraction of an epoch whose loader has no length.")
        self._due = {max(1, round(epoch * per_epoch)) for epoch in self.epochs}
        with isolate_rng():  # data sets may draw augmentations
            torch.manual_seed(self.seed)
            self._fixed = _choose_images(trainer.train_dataloader, self.images, self.seed)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        per_epoch = trainer.num_training_batches
        position = trainer.current_epoch * int(per_epoch) + batch_idx + 1
        if position not in self._due or not trainer.is_global_zero:
            return
        parameter = next(pl_module.parameters())
        images, labels = (tensor.to(pl_module.device) for tensor in self._fixed)
        images = images.to(parameter.dtype) if images.is_floating_point() else images
        values = {"epoch": position / per_epoch, "step": trainer.global_step}
        values |= self.measure(pl_module, images, labels, _batch_size(trainer, batch), _plain_sgd_lr(trainer))
        self.measurements.append(values)
        for logger in trainer.loggers:
            tags = {f"instruments/{name}": value for name, value in values.items() if name not in ("epoch", "step")}
            logger.log_metrics(tags, step=trainer.global_step)

    def measure(
        self, module: nn.Module, images: Tensor, labels: Tensor, batch_size: int, lr: float = math.nan
    ) -> dict[str, float]:
        """Measures a module on given images, outside of training too.

        Args:
            module: The module; left as it was, its training mode and `.grad` included.
            images, labels: The examples, (N, ...) each, N at least 2, on the module's device.
            batch_size: Examples per mini-batch of the batch sharpness, capped at N.
            lr: Learning rate of plain SGD; nan leaves out what depends on it.
        """
        fixed = module, self.loss or _own_loss, images, labels
        count = max(_FEWEST_BATCHES, min(_BATCHES, _BATCH_IMAGES // batch_size))
        instruments: dict[str, Callable[[], dict[str, float]]] = {
            "sharpness": lambda: _sharpness(Hessian(*fixed)),
            "batch_sharpness": lambda: dict(
                zip(_OF_BATCHES, batch_sharpness(*fixed, batch_size, count, self.seed), strict=True)
            ),
            "gradient_noise_scale": lambda: {"gradient_noise_scale": gradient_noise_scale(*fixed)},
            "units": lambda: _units(relu_units(*fixed)),
        }
        values = {f"weight_norm/{name}": norm for name, norm in weight_norms(module).items()}
        has_batch_norm = any(isinstance(part, _BATCH_NORMS) for part in module.modules())
        with isolate_rng(), _in_eval_mode(module):
            for name, instrument in instruments.items():
                if has_batch_norm and name != "units":
                    self._refuse(name, "with batch normalisation the training loss is no mean over independent examples.")
                    continue
                try:
                    values |= instrument()
                except RuntimeError as error:  # no double backward, no convergence, no memory
                    self._refuse(name, str(error).partition("\n")[0])
        values |= {f"lr_{name}_half": lr * values[name] / 2 for name in ("sharpness", "batch_sharpness") if name in values}
        values |= {"batch_size": batch_size, "lr": lr}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _refuse(self, name: str, reason: str) -> None:
        if name not in self.not_measured:
            self.not_measured[name] = f"{name} is not measured: {reason}"
            _log.warning("lit_mnist: Instruments: %s", self.not_measured[name])

    def state_dict(self) -> dict[str, Any]:
        return {"measurements": list(self.measurements)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.measurements = [dict(values) for values in state_dict["measurements"]]


def _own_loss(module: Any, images: Tensor, labels: Tensor) -> Any:
    return module.batch_loss(images, labels)


def _choose_images(loader: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Looks up `count` random examples of the loader's data set: (images, labels), (n, ...) each."""
    dataset: Any = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError("Instruments needs one training loader, with a data set that has a length and is looked up by index.")
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    batch = default_collate([dataset[index] for index in chosen.tolist()])
    if not (isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise ValueError("Instruments needs a training data set whose items are pairs: an image and its label.")
    return batch[0], batch[1]


def _batch_size(trainer: pl.Trainer, batch: Any) -> int:
    """Counts the images of an SGD step over all devices; a batch may hold several steps, so the loader is asked first."""
    of_loader = getattr(trainer.train_dataloader, "batch_size", None) or len(batch[1])
    return int(of_loader) * trainer.accumulate_grad_batches * trainer.world_size


def _plain_sgd_lr(trainer: pl.Trainer) -> float:
    """Returns the learning rate of plain SGD; nan for another optimizer, or for several rates."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    plain = all(type(optimizer) is torch.optim.SGD for optimizer in trainer.optimizers)
    plain = plain and not any(group["momentum"] or group["weight_decay"] for group in groups)
    rates = {float(group["lr"]) for group in groups}
    return rates.pop() if plain and len(rates) == 1 else math.nan


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _sharpness(hessian: Hessian) -> dict[str, float]:
    norm = float(hessian.gradient.norm())
    return {"loss": hessian.loss, "gradient_norm": norm, "sharpness": hessian.sharpness() if math.isfinite(norm) else math.nan}


def _units(layers: Sequence[Units]) -> dict[str, float]:
    return {
        f"{kind}_units_{number}": getattr(layer, kind) for kind in ("active", "dead") for number, layer in enumerate(layers, 1)
    }

"""A finished run as its folder records it: where a replay begins, its mini-batches, and if the replay has the run's bits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_mnist.data import MNISTDataModule
from lit_mnist.datasets.loaders import EpochLoader
from lit_mnist.datasets.registry import REGISTRY
from lit_mnist.insight.replay import Window
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.mlp import MLP
from lit_mnist.record.checkpoint import load_network, mapping_in, read_checkpoint
from lit_mnist.record.folder import RunFolder
from lit_mnist.record.printable import one_line
from lit_mnist.record.result import LIMITS, RISEN, Result, calm_until, guessing, read_result

MOST_WEIGHTS = 2**26  # of a network made again from its seed; the default one has 2**19
PLAIN: dict[str, Any] = {"precision": "32-true", "devices_with_own_batches": 1, "callbacks": []}  # what a replay repeats
Size = Annotated[int, msgspec.Meta(ge=1, le=MOST_WEIGHTS)]


class Replayable(msgspec.Struct):
    """What `result.json` must say of a run for a replay, beside the fields of `Result`."""

    dataset: str
    train_size: Annotated[int, msgspec.Meta(ge=0)]
    val_size: Annotated[int, msgspec.Meta(ge=0)]
    hidden: list[Size]
    image_shape: list[Size]
    precision: str
    devices_with_own_batches: int
    callbacks: list[str]


@dataclass(frozen=True)
class Recorded:
    """A run that can be replayed.

    Attributes:
        folder, result: The run folder, and the result in it.
        network: In float32 on the CPU, as it was after the first `step` SGD steps.
        step: SGD steps before the replay, whole epochs.
        loader: Hands out its training images in the order of each epoch.
        classes: Names of the classes, by label.
    """

    folder: Path
    result: Result
    network: MLP
    step: int
    loader: EpochLoader
    classes: tuple[str, ...]

    def window(self, steps: int) -> Window:
        """Returns the next `steps` SGD steps."""
        chosen: list[Tensor] = []
        loader, each = self.loader, self.result.steps_per_epoch
        for epoch in range(self.step // each, -(-(self.step + steps) // each)):
            loader.set_epoch(epoch)
            chosen += loader.order().split(loader.batch_size)[:each]
        return Window(cross_entropy, loader.images, loader.labels, chosen[:steps], self.result.lr, self.step + 1)

    def differing_step(self, losses: Sequence[float]) -> int | None:
        """Finds the step by which replayed losses, as `Window.train` returns them, differ from those of the run.

        Returns:
            The last step of the first block whose mean loss is another, or the step at which the run diverged; or None.
        """
        start, diverged = self.step, self.result.diverged
        for end, mean in self.result.train_loss_by_block:
            if self.step < end <= self.step + len(losses):
                if torch.tensor(losses[start - self.step : end - self.step]).mean().item() != mean:
                    return end
                start = end
        finite = sum(map(math.isfinite, losses))
        return diverged.step if diverged and self.step + finite + 1 != diverged.step else None


def cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Computes the loss that `fit` minimises."""
    return F.cross_entropy(module(images), labels)


def read_run(folder: Path) -> Recorded:
    """Reads a finished run: of a failed one the network before its loss rose, of another one the trained network.

    Raises:
        ValueError: It cannot be explained; the sentence says why, and what to do.
    """
    name = one_line(str(folder))
    result = _read_result(folder, name)
    settings = _read_settings(result, name)
    calm = calm_until(result.train_loss_by_block, result.classes) if result.failed else result.steps
    path = RunFolder(folder).checkpoint_before(calm)
    if path is None and calm >= result.steps_per_epoch:
        when = "from before its loss rose" if result.failed else "of its own"
        raise ValueError(f"{name} has no checkpoint {when}; train the run again, which keeps one.")
    checkpoint = read_checkpoint(path) if path else {}
    data = _load_data(result, settings, mapping_in(checkpoint, "MNISTDataModule").get("root"), name)
    if path:
        _check_same_run(result, checkpoint, path)
    network = load_network(path).mlp if path else _initial_network(result, settings, name)
    if network.image_shape != data.data.image_shape or network.classes != len(data.data.classes):
        raise ValueError(f"{name}: its network is for other images than those of {settings.dataset}; it was altered.")
    return Recorded(folder, result, network, checkpoint.get("global_step", 0), data.train_dataloader(), data.data.classes)


def _read_result(folder: Path, name: str) -> Result:
    if not folder.is_dir():
        raise ValueError(f"{name} is not a folder; name a run folder, such as logs/lr1/version_0.")
    try:
        result = read_result(folder)
    except ValueError as damage:
        raise ValueError(f"{name}: {damage}; train the run again.") from None
    if result is None:
        raise ValueError(f"{name} holds no finished run; finish it with the command that began it, then explain it.")
    if result.format == 1:
        raise ValueError(f"{name} was trained by lit_mnist 1.0, whose runs cannot be replayed; train the run again.")
    blocks = result.train_loss_by_block
    if result.outcome == "collapsed" and (not blocks or blocks[-1][1] < RISEN * guessing(result.classes)):
        raise ValueError(f"{name}: its loss rose, but did not stay near that of guessing; there is no failure to replay.")
    return result


def _read_settings(result: Result, name: str) -> Replayable:
    try:
        settings = msgspec.convert(result.hyperparameters, Replayable)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: result.json is not that of a run ({error}); train the run again.") from None
    if settings.dataset not in REGISTRY:
        raise ValueError(f"{name} was trained on a folder of your own; explain replays runs of {', '.join(REGISTRY)} only.")
    settings.callbacks = [each for each in settings.callbacks if not each.startswith("lit_mnist.")]  # ours change no step
    for key, plain in PLAIN.items():
        if (value := getattr(settings, key)) != plain:
            shown = one_line(", ".join(value) if key == "callbacks" else str(value))
            raise ValueError(f"{name} was trained with {key} {shown}, which explain cannot replay.")
    return settings


def _load_data(result: Result, settings: Replayable, root: Any, name: str) -> MNISTDataModule:
    sizes, root = (settings.train_size, settings.val_size), root if isinstance(root, str) else None
    data = MNISTDataModule(result.batch_size, settings.dataset, root, False, *sizes, seed=result.seed)
    data.setup()
    if data.data.sha256 != result.data_sha256:
        raise ValueError(f"{name} was trained on other files than those of {settings.dataset} here.")
    if not 1 <= result.steps_per_epoch <= data.train_dataloader().steps_per_epoch:
        raise ValueError(f"{name}: result.json has another number of steps per epoch than its images; it was altered.")
    return data


def _check_same_run(result: Result, checkpoint: dict[str, Any], path: Path) -> None:
    name, step = one_line(str(path)), int(path.stem.removeprefix("step="))
    experiment = mapping_in(checkpoint, "callbacks", "Recorder", "experiment")
    ours = result.hyperparameters | {"seed": result.seed, "data_sha256": result.data_sha256}
    if not experiment or any(ours.get(key) != experiment[key] for key in experiment.keys() - set(LIMITS)):
        raise ValueError(f"{name} is of another run than the result beside it; train the run again.")
    if checkpoint.get("global_step") != step or (result.failed and step % result.steps_per_epoch):
        raise ValueError(f"{name} was not saved by fit at the end of an epoch after {step} steps; it was altered.")


def _initial_network(result: Result, settings: Replayable, name: str) -> MLP:
    """Makes the initial weights again from the seed."""
    widths = [prod(settings.image_shape), *settings.hidden, result.classes]
    if sum(inputs * outputs for inputs, outputs in pairwise(widths)) > MOST_WEIGHTS:
        raise ValueError(f"{name}: its network is too large to be explained; take one of at most {MOST_WEIGHTS:,} weights.")
    return LitMLP(result.lr, settings.hidden, settings.image_shape, result.classes, result.seed).mlp

"""The data module: MNIST in memory, decoded once, handed out in batches that are slices of it."""

from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_mnist.datasets.files import DEFAULT_ROOT, checksum, find, load, prepare
from lit_mnist.engines.blocks import IMAGES_PER_BLOCK, BlockLoader, EpochOrder, generator

IMAGES_PER_EVALUATION_BATCH = 5000  # 20 MB of activations, and no faster when larger


class SliceLoader:
    """Images in their stored order, in large batches, each exactly once: what evaluation needs.

    Args:
        images: (N, 1, 28, 28) floating point in [0, 1].
        labels: (N,) int64 in 0..9.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.batches = list(
            zip(
                images.split(IMAGES_PER_EVALUATION_BATCH),
                labels.split(IMAGES_PER_EVALUATION_BATCH),
                strict=True,
            )
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _decoded(images: Tensor, labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen images, uint8 (N, 28, 28) -> float32 (n, 1, 28, 28) in [0, 1], as torchvision's ToTensor scales them."""
    return images[chosen].unsqueeze(1).to(torch.float32).div_(255), labels[chosen]


class MNISTDataModule(pl.LightningDataModule):
    """MNIST (or a data set of its shape) for training, validation and test, from files on this machine.

    Images are float32 (N, 1, 28, 28) in [0, 1] (grey level / 255, nothing else), labels int64 (N,) in 0..9. They are decoded
    once and stay on the training device. The order of training epoch e depends on (seed, e) alone.

    Args:
        batch_size: Training images per SGD step.
        dataset: MNIST, FashionMNIST, KMNIST or QMNIST. MNIST comes with the package; the others from `root` or the network.
        root: Folder of the data sets, in torchvision's layout; null: a cache folder of the user. MNIST is unpacked there.
        train_size: Train on the first so many images of the training split only; 0: on all.
        val_size: Images held out of the 60,000 for validation, chosen by the seed; 0: none, as in the published runs.
        seed: Decides the order of the training images and the validation split.
        steps_per_block: SGD steps per call of the Trainer's `training_step`; 0: as many as 4,096 images hold. Changes the
            speed, not the SGD steps (with the fast engine: not beyond rounding). The Trainer takes a block for a batch:
            its `limit_train_batches` and `val_check_interval`, and callbacks at batches, count blocks.
        split_batch: With several devices: true shares `batch_size` images among them, so that the SGD steps are those of one
            device; false gives each device `batch_size` images, so that a step sees devices x batch_size.

    Raises:
        ValueError: An argument is out of range, or the files are not what they should be.
    """

    def __init__(
        self,
        batch_size: int = 32,
        dataset: str = "MNIST",
        root: str | None = None,
        train_size: int = 0,
        val_size: int = 5000,
        seed: int = 1,
        steps_per_block: int = 0,
        split_batch: bool = True,
    ) -> None:
        super().__init__()
        # plain numbers, for numpy's could not be loaded again from a checkpoint that only holds plain values
        self.batch_size, self.val_size, self.seed = index(batch_size), index(val_size), index(seed)
        self.dataset = dataset
        self.root = Path(root).expanduser() if root else DEFAULT_ROOT
        self.steps_per_block = index(steps_per_block) or max(1, IMAGES_PER_BLOCK // max(1, self.batch_size))
        self.split_batch = split_batch
        self.train_size = self._checked_sizes(index(train_size), steps_per_block)
        self.data_sha256 = ""
        self._limit_val_batches: int | float | None = None  # the Trainer's, while this module overrules it
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}

    def _checked_sizes(self, train_size: int, steps_per_block: int) -> int:
        available = find(self.dataset).train_size
        if not 0 <= self.val_size < available:
            raise ValueError(f"val_size must be 0..{available - 1} ({self.dataset}), not {self.val_size}.")
        left = available - self.val_size
        if not 0 <= train_size <= left:
            raise ValueError(f"train_size must be 0..{left} beside val_size {self.val_size}, not {train_size}.")
        images = train_size or left
        if not 1 <= self.batch_size <= images:
            raise ValueError(f"batch_size must be 1..{images}, the training images, not {self.batch_size}.")
        if steps_per_block < 0:
            raise ValueError(f"steps_per_block must be at least 1, or 0 for the default, not {steps_per_block}.")
        return images

    def check_devices(self, devices: int) -> int:
        """Images per SGD step over all devices.

        Raises:
            ValueError: They cannot be shared evenly, or are more than there are.
        """
        batch_size = self.batch_size if self.split_batch else self.batch_size * devices
        if batch_size % devices:
            raise ValueError(
                f"batch_size {batch_size} cannot be shared evenly by {devices} devices; take a multiple of {devices}."
            )
        if batch_size > self.train_size:
            raise ValueError(
                f"batch_size {self.batch_size} on each of {devices} devices makes SGD steps of {batch_size} images, "
                f"but there are {self.train_size}."
            )
        return batch_size

    def prepare_data(self) -> None:
        """Publishes the data set's files under `root` where they are missing or damaged."""
        prepare(self.dataset, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Reads, verifies and decodes the files, once for all stages."""
        if self.trainer is not None and not self.val_size:
            self._limit_val_batches = self.trainer.limit_val_batches
            self.trainer.limit_val_batches = 0  # else the Trainer warns of a validation set without images
        if self._splits:
            return
        images, labels = load(self.dataset, self.root, "train")
        test_images, test_labels = load(self.dataset, self.root, "test")
        kept = torch.arange(len(labels))
        if self.val_size:
            shuffled = torch.randperm(len(labels), generator=generator(self.seed, "validation split"))
            kept = shuffled[self.val_size :].sort().values
            self._splits["val"] = _decoded(images, labels, shuffled[: self.val_size].sort().values)
        self._splits["train"] = _decoded(images, labels, kept[: self.train_size])
        self._splits["test"] = _decoded(test_images, test_labels, torch.arange(len(test_labels)))
        self.data_sha256 = checksum(self.dataset, self.root)

    def teardown(self, stage: str) -> None:
        """Gives the Trainer its own limit back, for another data module may come."""
        if self.trainer is not None and self._limit_val_batches is not None:
            self.trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    def on_exception(self, exception: BaseException) -> None:
        """The Trainer leaves `teardown` out then."""
        self.teardown("fit")

    def train_dataloader(self) -> BlockLoader:
        """The training images in the epoch's order, in SGD batches.

        A module with a true attribute `accepts_blocks` (such as `LitMLP`) receives `Block`s of many batches, any other one
        the usual (images (n, 1, 28, 28), labels (n,)).

        Raises:
            ValueError: As `check_devices`.
        """
        rank, devices, in_blocks = 0, 1, False
        if self.trainer is not None:
            rank, devices = self.trainer.global_rank, self.trainer.world_size
            in_blocks = getattr(self.trainer.lightning_module, "accepts_blocks", False)
        images, labels = self._on_device("train")
        order = EpochOrder(self.train_size, self.seed)
        return BlockLoader(
            images,
            labels,
            order,
            self.check_devices(devices),
            self.steps_per_block,
            rank,
            devices,
            in_blocks,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued must find unchanged; saved in its checkpoints."""
        return {
            "batch_size": self.batch_size,
            "train_size": self.train_size,
            "val_size": self.val_size,
            "seed": self.seed,
            "dataset": self.dataset,
            "data_sha256": self.data_sha256,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares with the run to continue.

        Raises:
            ValueError: It was trained with other data, another order or another batch size.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return  # a trained network may be tested on anything
        for name, value in self.state_dict().items():
            if state_dict[name] != value:
                raise ValueError(f"{name} is {value}, but the run to continue was trained with {state_dict[name]}.")

    def train_evaluation_dataloader(self) -> SliceLoader:
        """The training images in their stored order, for measuring accuracy on them."""
        return self._slices("train")

    def val_dataloader(self) -> SliceLoader | list[Any]:
        """The held-out images; nothing where `val_size` is 0."""
        return self._slices("val") if self.val_size else []

    def test_dataloader(self) -> SliceLoader:
        """The 10,000 test images."""
        return self._slices("test")

    def _slices(self, split: str) -> SliceLoader:
        images, labels = self._on_device(split)
        if self.trainer is not None and self.trainer.world_size > 1:  # contiguous shares: every image on one device
            images = images.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
            labels = labels.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        return SliceLoader(images, labels)

    def _on_device(self, split: str) -> tuple[Tensor, Tensor]:
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            images, labels = self._splits[split]
            self._splits[split] = images.to(device), labels.to(device)
        return self._splits[split]

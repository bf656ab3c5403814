"""The data module: a data set in memory, handed out in mini-batches whose order depends on (seed, epoch) alone."""

from operator import index
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_mnist.datasets.files import DataSet, load
from lit_mnist.datasets.loaders import Batch, EpochLoader, StoredLoader, generator

EXPERIMENT = ("batch_size", "dataset", "train_size", "val_size", "seed", "data_sha256")  # what a resumed run must share


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or another data set of grey images, for training, validation, test and prediction.

    Images are float32 (N, 1, height, width) in [0, 1] (grey level / 255, nothing else), labels int64 (N,). They stay on the
    training device. The order of training epoch e depends on (seed, e) alone.

    Args:
        batch_size: Training images per SGD step.
        dataset: MNIST (part of the package), FashionMNIST, KMNIST, QMNIST, or a folder of IDX files or of class folders.
        root: Folder of the data sets in torchvision's layout. It is only read, unless `download` is true.
        download: Download a data set that is not MNIST into `root`, where its files are missing.
        train_size: Train on this many images only, the first of the training split; 0: on all.
        val_size: Images held out of the training split for validation, chosen by the seed; 0: none, as in the published runs.
        seed: Decides the order of the training images and the validation split; None: torch's initial seed, which
            `seed_everything` sets.
        split_batch: With several devices: true shares `batch_size` images among them, so that the SGD steps are those of one
            device; false gives each device `batch_size` images.

    Raises:
        ValueError: An argument is out of range, or (in `setup`) the files are not what they should be.
    """

    def __init__(
        self,
        batch_size: int = 32,
        dataset: str = "MNIST",
        root: str | None = None,
        download: bool = False,
        train_size: int = 0,
        val_size: int = 0,
        seed: int | None = None,
        split_batch: bool = True,
    ) -> None:
        super().__init__()
        # plain values: NumPy's could not be loaded again from a checkpoint that holds only plain ones
        batch_size, train_size, val_size = index(batch_size), index(train_size), index(val_size)
        self.batch_size, self.train_size, self.val_size = batch_size, train_size, val_size
        for name, value, least in (("batch_size", batch_size, 1), ("train_size", train_size, 0), ("val_size", val_size, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        self.dataset, self.root, self.download = dataset, root, download
        self.split_batch = split_batch
        self._given_seed = None if seed is None else index(seed)
        self.seed = torch.initial_seed() if self._given_seed is None else self._given_seed
        self.save_hyperparameters(ignore=["seed", "root", "download"])  # the module may have a seed of its own
        self._data: DataSet | None = None
        self._splits: dict[str, Batch] = {}
        self._has_begun = False  # to hand out training images, since the last `setup`

    def prepare_data(self) -> None:
        if self.download:
            load(self.dataset, self.root, download=True)

    def setup(self, stage: str | None = None) -> None:
        """Reads, verifies and decodes the files, once for all stages."""
        self._has_begun = False
        if self._data is None:
            self._data = load(self.dataset, self.root and Path(self.root).expanduser())
        # the processes of a run must agree on it: without a seed, each drew its own
        seed = self.seed if self.trainer is None else self.trainer.strategy.broadcast(self.seed)
        if not self._splits or seed != self.seed:
            self.seed = seed
            self._split()

    def _split(self) -> None:
        images, labels = self.data.train
        left = len(labels) - self.val_size
        if left < 1:
            raise ValueError(f"val_size must be 0..{len(labels) - 1} ({self.dataset}), not {self.val_size}.")
        if self.train_size > left:
            raise ValueError(f"train_size must be 0..{left} beside val_size {self.val_size}, not {self.train_size}.")
        if self.batch_size > (self.train_size or left):
            raise ValueError(f"batch_size must be 1..{self.train_size or left}, the training images, not {self.batch_size}.")
        kept = torch.arange(len(labels))
        if self.val_size:
            shuffled = torch.randperm(len(labels), generator=generator(self.seed, "validation split"))
            kept, held_out = shuffled[self.val_size :].sort().values, shuffled[: self.val_size].sort().values
            self._splits["val"] = _decoded(images[held_out], labels[held_out])
        self.train_size = self.train_size or left
        kept = kept[: self.train_size]
        self._splits["train"] = _decoded(images[kept], labels[kept])
        self._splits["test"] = _decoded(*self.data.test)

    @property
    def data(self) -> DataSet:
        """The data set as read from its files; `setup` reads them."""
        assert self._data is not None
        return self._data

    def train_dataloader(self) -> EpochLoader:
        """Hands out the training images in the epoch's order: (images (n, 1, height, width), labels (n,)).

        n is the mini-batch size, or several times that for a module with a method `steps_per_block` (see `in_blocks`).

        Raises:
            ValueError: The devices cannot share the images evenly.
        """
        trainer, (images, labels) = self.trainer, self._on_device("train")
        self._has_begun = True
        if trainer is None:
            return EpochLoader(images, labels, self.batch_size, self.seed)
        devices = trainer.world_size
        steps_per_block = getattr(trainer.lightning_module, "steps_per_block", lambda _: 1)
        size = self.batch_size // devices if self.split_batch else self.batch_size
        if (self.split_batch and self.batch_size % devices) or len(labels) % devices:
            raise ValueError(
                f"{devices} devices cannot share mini-batches of {self.batch_size} of {len(labels)} images evenly; "
                f"take a batch_size and a train_size that are multiples of {devices}."
            )
        return EpochLoader(
            images,
            labels,
            size,
            self.seed,
            steps_per_block(self.batch_size),
            trainer.global_rank,
            devices,
            shuffle=not trainer.overfit_batches,  # type: ignore[attr-defined] # set by a connector
        )

    def train_evaluation_dataloader(self) -> StoredLoader:
        """Hands out the training images in their stored order, to measure accuracy on them."""
        return self._stored("train")

    def val_dataloader(self) -> StoredLoader | list[Any]:
        """Hands out the held-out images; nothing where `val_size` is 0."""
        return self._stored("val") if self.val_size else []

    def test_dataloader(self) -> StoredLoader:
        """Hands out the test images."""
        return self._stored("test")

    def predict_dataloader(self) -> StoredLoader:
        """Hands out the test images."""
        return self._stored("test")

    def _stored(self, split: str) -> StoredLoader:
        images, labels = self._on_device(split)
        if self.trainer is not None and self.trainer.world_size > 1:  # contiguous shares: every image on one device
            images = images.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
            labels = labels.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        return StoredLoader(images, labels)

    def _on_device(self, split: str) -> Batch:
        if not self._splits:  # a loader is asked for without a Trainer
            self.setup()
        if self.trainer is not None:
            images, labels = self._splits[split]
            device = self.trainer.strategy.root_device
            self._splits[split] = images.to(device), labels.to(device)
        return self._splits[split]

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run must find unchanged, and how far into an epoch the checkpoint was taken."""
        batches = 0
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            batches = 0 if progress.is_last_batch else progress.current.ready
        return {
            "batch_size": self.batch_size,
            "dataset": self.dataset,
            "train_size": self.train_size,
            "val_size": self.val_size,
            "seed": self.seed,
            "data_sha256": self.data.sha256,
            "class_names": list(self.data.classes),
            "root": self.root,
            "batches_into_epoch": batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to resume a run on other images, or in another order; takes over its seed if none was given.

        Raises:
            ValueError: The checkpoint was taken within an epoch, or of a run on other data.
        """
        if self.trainer is None:  # `load_from_checkpoint`
            self.seed = state_dict["seed"] if self._given_seed is None else self._given_seed
            return
        if self._has_begun or self.trainer.state.fn != "fit":
            return  # Lightning's tuners go back to where they began; a trained network may be tested on anything
        if state_dict["batches_into_epoch"]:
            raise ValueError(
                "the checkpoint was taken within an epoch, so that training from it would see other images; "
                "resume from one that was saved at the end of an epoch."
            )
        if self._given_seed is None:
            self.seed = state_dict["seed"]
            self._split()
        for name in EXPERIMENT:
            value = self.state_dict()[name]
            if state_dict[name] != value:
                raise ValueError(f"{name} is {value}, but the run to resume was trained with {state_dict[name]}.")


def _decoded(images: Tensor, labels: Tensor) -> Batch:
    """Scales uint8 (N, height, width) to float32 (N, 1, height, width) in [0, 1], as torchvision's ToTensor does."""
    return images.unsqueeze(1).to(torch.float32).div_(255), labels

"""Loaders of a data set in memory: training mini-batches in an order of (seed, epoch) alone, large batches to evaluate."""

import hashlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler, TensorDataset

Batch = tuple[Tensor, Tensor]
IMAGES_PER_EVALUATION_BATCH = 5000  # 20 MB of activations, and no faster when larger


def generator(seed: int, purpose: str) -> torch.Generator:
    """Makes a random generator for each (seed, purpose), independent of the global random state.

    The seed is hashed, because torch's CPU generator uses its low 32 bits only: `seed * n + epoch` would collide.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


class EpochLoader:
    """Training mini-batches in a new order each epoch, from images that are on the training device.

    Args:
        images: (N, 1, height, width) floating point in [0, 1].
        labels: (N,) int64.
        batch_size: Images per SGD step on this device.
        seed: Decides the order, together with the epoch.
        steps_per_item: Consecutive mini-batches handed out at once; the order does not depend on it.
        rank, devices: This device's share of each mini-batch when several devices share it.
        shuffle: False keeps the stored order.

    Attributes:
        dataset, sampler: Where the Trainer looks for the number of images, and for what draws their order.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int,
        steps_per_item: int = 1,
        rank: int = 0,
        devices: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.images, self.labels = images, labels
        self.batch_size, self.steps_per_item = batch_size, steps_per_item
        self.seed, self.rank, self.devices, self.shuffle = seed, rank, devices, shuffle
        self.epoch = 0
        self.dataset = TensorDataset(images, labels)
        self.sampler: EpochLoader | Sampler[int] = self if shuffle else SequentialSampler(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the 0-based `epoch`; the Trainer calls it before each one."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Returns the indices (N / devices,) int64 of the epoch's images, drawn on the CPU whatever the training device."""
        count = len(self.labels)
        order = (
            torch.randperm(count, generator=generator(self.seed, f"epoch {self.epoch}"))
            if self.shuffle
            else torch.arange(count)
        )
        return order[self.rank :: self.devices].to(self.labels.device)

    @property
    def steps_per_epoch(self) -> int:
        """The number of SGD steps in an epoch."""
        return -(-len(self.labels) // (self.batch_size * self.devices))

    def __len__(self) -> int:
        return -(-self.steps_per_epoch // self.steps_per_item)

    def __iter__(self) -> Iterator[Batch]:
        # a generator, because the Trainer asks for an iterator before it sets the epoch
        if dist.is_initialized() and dist.get_world_size() != self.devices:
            raise ValueError(
                f"a loader for {self.devices} device would hand the same images to all {dist.get_world_size()}; "
                "give the Trainer the data module instead: trainer.fit(model, datamodule=data)."
            )
        for indices in self.order().split(self.batch_size * self.steps_per_item):
            yield self.images.index_select(0, indices), self.labels.index_select(0, indices)


class StoredLoader:
    """Images in their stored order in a few large batches, each exactly once, as evaluation needs them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        size = IMAGES_PER_EVALUATION_BATCH
        self.batches = list(zip(images.split(size), labels.split(size), strict=True))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

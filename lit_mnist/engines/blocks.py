"""What training is fed with: the order of an epoch, and blocks of consecutive SGD batches cut from it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGES_PER_BLOCK = 4096  # a tenth of a second to a second of CPU work, beside which the Trainer's 2 ms per block vanish


def generator(seed: int, purpose: str) -> torch.Generator:
    """A random generator of its own for each (seed, purpose), independent of the global random state.

    Hashed, because torch's CPU generator uses the low 32 bits of its seed only: `seed * n + epoch` would collide.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


class EpochOrder:
    """The order in which an epoch visits the training images: a permutation that depends on (seed, epoch) alone.

    Args:
        images: Number of training images, at least 1.
        seed: Any integer.

    Attributes:
        epoch: 0-based; the Trainer sets it through `set_epoch` before each epoch.
    """

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def permutation(self) -> Tensor:
        """Indices (images,) int64, on the CPU whatever the training device, so that every device sees one order."""
        return torch.randperm(self.images, generator=generator(self.seed, f"epoch {self.epoch}"))


@dataclass(frozen=True)
class Batch:
    """What one SGD step sees on this device.

    Attributes:
        images: (n, 1, 28, 28) floating point in [0, 1].
        labels: (n,) int64 in 0..9.
        weight: Factor for the mean loss of these n images that makes the mean over devices the mean over the whole batch:
            1 except where devices share a batch that they cannot split evenly.
    """

    images: Tensor
    labels: Tensor
    weight: float = 1.0


class Block:
    """Consecutive SGD batches of one epoch, gathered into one tensor. Iterating draws them in order, each at most once.

    Not a dataclass: the Trainer would take a copy of one, and the loader see no batch drawn.

    Args:
        images: (n, 1, 28, 28) floating point in [0, 1], the batches one after another.
        labels: (n,) int64 in 0..9.
        sizes: Images per batch on this device.
        weights: `Batch.weight` of each.
        first: Index in the epoch of the first batch, 0-based.
        grid: SGD steps per full block; blocks end at multiples of it, wherever they begin.

    Attributes:
        drawn: Batches drawn so far. A block may be left half drawn: the loader's state says where to go on.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, sizes: list[int], weights: list[float], first: int = 0, grid: int = 1
    ) -> None:
        self.images = images
        self.labels = labels
        self.sizes = sizes
        self.weights = weights
        self.first = first
        self.grid = grid
        self.drawn = 0

    @classmethod
    def of_one_batch(cls, images: Tensor, labels: Tensor) -> "Block":
        return cls(images, labels, [len(labels)], [1.0])

    @property
    def is_drawn(self) -> bool:
        return self.drawn == len(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        start = sum(self.sizes[: self.drawn])
        while not self.is_drawn:
            size, weight = self.sizes[self.drawn], self.weights[self.drawn]
            self.drawn += 1
            yield Batch(self.images[start : start + size], self.labels[start : start + size], weight)
            start += size


class BlockLoader:
    """Cuts each epoch's order into SGD batches and hands them out in blocks, from a data set that sits on the device.

    Args:
        images: (N, 1, 28, 28) floating point in [0, 1], on the training device.
        labels: (N,) int64 in 0..9, on the training device.
        order: Gives the epoch's permutation.
        batch_size: Images per SGD step over all devices, 1..N.
        steps_per_block: SGD steps per block, at least 1. Which steps are made does not depend on it.
        rank, devices: Which share of each batch is this device's.
        in_blocks: False hands out plain (images, labels) batches, for a module that knows no blocks.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: EpochOrder,
        batch_size: int,
        steps_per_block: int,
        rank: int = 0,
        devices: int = 1,
        in_blocks: bool = True,
    ) -> None:
        self.images = images
        self.labels = labels
        self.sampler = order  # the name under which the Trainer looks for set_epoch
        self.batch_size = batch_size
        self.steps_per_block = steps_per_block if in_blocks else 1
        self.rank = rank
        self.devices = devices
        self.in_blocks = in_blocks
        self.steps_per_epoch = -(-len(labels) // batch_size)
        self.start = (0, 0)  # an epoch, and the batch with which its passes begin: that of a run resumed within it
        self._block: Block | None = None

    def __len__(self) -> int:
        """Blocks per epoch."""
        return -(-self.steps_per_epoch // self.steps_per_block)

    @property
    def _first(self) -> int:
        """Batch with which a pass of the current epoch begins."""
        epoch, step = self.start
        return step if epoch == self.sampler.epoch else 0

    def __iter__(self) -> Iterator[Block | tuple[Tensor, Tensor]]:
        # The Trainer asks for an iterator before it sets the epoch, so nothing may be computed before the first `next`.
        permutation = self.sampler.permutation().to(self.labels.device)
        first = self._first
        while first < self.steps_per_epoch:
            end = min((first // self.steps_per_block + 1) * self.steps_per_block, self.steps_per_epoch)
            self._block = self._gather(permutation, first, end)
            if self.in_blocks:
                yield self._block
            else:
                (batch,) = self._block
                yield batch.images, batch.labels
            first = end

    def _gather(self, permutation: Tensor, first: int, end: int) -> Block:
        shares = [batch.tensor_split(self.devices) for batch in self._batches(permutation, first, end)]
        indices = torch.cat([share[self.rank] for share in shares])
        sizes = [len(share[self.rank]) for share in shares]
        weights = [len(share[self.rank]) * self.devices / sum(map(len, share)) for share in shares]
        return Block(
            self.images.index_select(0, indices),
            self.labels.index_select(0, indices),
            sizes,
            weights,
            first,
            self.steps_per_block,
        )

    def _batches(self, permutation: Tensor, first: int, end: int) -> Sequence[Tensor]:
        return torch.split(permutation[first * self.batch_size : end * self.batch_size], self.batch_size)

    def limit_blocks(self, blocks: int) -> None:
        """Ends each epoch after so many blocks, as the Trainer's `limit_train_batches` demands."""
        self.steps_per_epoch = min(self.steps_per_epoch, blocks * self.steps_per_block)

    def state_dict(self) -> dict[str, Any]:
        """Where the newest pass stands; at its end, the start of the next epoch."""
        step = self._first if self._block is None else self._block.first + self._block.drawn
        at_end = step == self.steps_per_epoch
        return {"epoch": self.sampler.epoch + at_end, "step": 0 if at_end else step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the passes of that epoch begin where `state_dict` was taken."""
        self.start, self._block = (state["epoch"], state["step"]), None

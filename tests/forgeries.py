"""Checkpoints, and files that only look like one or are one of something else."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.checkpoint import CHECKPOINT_FORMAT


def checkpoint_of(hidden: tuple[int, ...] = (16,), seed: int = 1) -> dict[str, Any]:
    """What a run saves, as far as loading a network needs it."""
    model = LitMLP(hidden=hidden, seed=seed)
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "lit_mnist": {"format": CHECKPOINT_FORMAT},
        "pytorch-lightning_version": "2.6.6",
    }


class Payload:
    """Unpickled as it was meant to be, it would make a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def forge(kind: str, path: Path, proof: Path) -> None:
    """Writes to `path` what only looks like a checkpoint, or is one of something else."""
    good = checkpoint_of()
    if kind == "pickle":
        path.write_bytes(pickle.dumps(good | {"extra": Payload(proof)}))
    elif kind == "payload":
        torch.save(good | {"extra": Payload(proof)}, path)
    elif kind == "text":
        path.write_text("not a checkpoint\n" * 100)
    elif kind == "truncated":
        torch.save(good, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "tensor":
        torch.save(torch.ones(3), path)
    elif kind == "foreign":
        torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    elif kind == "newer":
        torch.save(good | {"lit_mnist": {"format": CHECKPOINT_FORMAT + 1}}, path)
    elif kind == "architecture":
        torch.save(good | {"state_dict": torch.nn.Conv2d(1, 8, 3).state_dict()}, path)
    elif kind == "shape":
        torch.save(good | {"hyper_parameters": good["hyper_parameters"] | {"hidden": [1_000_000_000_000]}}, path)
    elif kind == "folder":
        path.mkdir()


FORGED = {
    "pickle": "is not a checkpoint",
    "payload": "holds more than tensors and plain values; it was not loaded, and none of it ran",
    "text": "is not a checkpoint",
    "truncated": "is not a checkpoint, or only a part of one",
    "tensor": "is not a checkpoint of lit_mnist",
    "foreign": "is not a checkpoint of lit_mnist",
    "newer": f"has format {CHECKPOINT_FORMAT + 1}, but this version of lit_mnist reads format {CHECKPOINT_FORMAT}",
    "architecture": "holds another network",
    "shape": "holds another network",
    "folder": "holds no usable checkpoint",
    "missing": "does not exist",
}

"""Checkpoints, files that only look like one, and checkpoints that somebody has tampered with."""

import copy
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lit_mnist.lit_mlp import LitMLP


def checkpoint_of(hidden: tuple[int, ...] = (16,), seed: int = 1) -> dict[str, Any]:
    """Returns what a Trainer saves, as far as loading a network needs it."""
    model = LitMLP(hidden=hidden, seed=seed)
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.6",
    }


class Payload:
    """Unpickled as it was meant to be, it would make a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


class Memory:
    """Unpickled, it takes 8 GB."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (8 * 2**30,)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def doubled(times: int) -> list[Any]:
    """Returns a list that would have 2 ** `times` entries if it were written out."""
    value: list[Any] = [0]
    for _ in range(times):
        value = [value, value]
    return value


def _with_weight(weight: torch.Tensor) -> dict[str, Any]:
    good = checkpoint_of()
    return good | {"state_dict": good["state_dict"] | {"mlp.layers.0.weight": weight}}


def _with(**hyperparameters: Any) -> dict[str, Any]:
    good = checkpoint_of()
    return good | {"hyper_parameters": good["hyper_parameters"] | hyperparameters}


def _of_many_layers(count: int) -> dict[str, Any]:
    bias = torch.zeros(1)
    weights = {f"mlp.layers.{layer}.bias": bias.clone() for layer in range(count)}
    return _with(hidden=[1] * count) | {"state_dict": weights}


SHAPE = (16, 784)  # of the first layer's weights
# kind -> what is saved, and what the sentence says of it
ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "a tensor": (lambda: torch.ones(3), "is not a checkpoint of lit_mnist"),
    "foreign": (lambda: {"state_dict": torch.nn.Linear(2, 2).state_dict()}, "is not a checkpoint of lit_mnist"),
    "of version 1.0": (lambda: checkpoint_of() | {"lit_mnist": {"format": 1}}, "was written by lit_mnist 1.0"),
    "another architecture": (
        lambda: checkpoint_of() | {"state_dict": torch.nn.Conv2d(1, 8, 3).state_dict()},
        "a network other",
    ),
    "a width of 10^12": (lambda: _with(hidden=[10**12]), "a network other"),
    "a width that is a word": (lambda: _with(hidden="16"), "a network other"),
    "an image of 200,000 sides": (lambda: _with(image_shape=[2] * 200_000), "a network other|larger than a checkpoint"),
    "layers without weights": (lambda: _with(hidden=[1] * 200_000), "a network other|larger than a checkpoint"),
    "20,000 layers": (lambda: _of_many_layers(20_000), "larger than a checkpoint can be"),
    "a huge number": (lambda: _with(classes=10**50), "hyper_parameters.classes, which no checkpoint has|is not a checkpoint"),
    "stride 0": (lambda: _with_weight(torch.zeros(1).expand(SHAPE)), "state_dict.mlp.layers.0.weight, which no"),
    "transposed": (lambda: _with_weight(torch.zeros(SHAPE[::-1]).T), "state_dict.mlp.layers.0.weight, which no"),
    "complex": (lambda: _with_weight(torch.zeros(SHAPE, dtype=torch.complex64)), "more than dense tensors and plain values"),
    "sparse": (lambda: _with_weight(torch.zeros(SHAPE).to_sparse()), "more than dense tensors and plain values"),
    "without memory": (lambda: _with_weight(torch.zeros(SHAPE, device="meta")), "more than dense tensors and plain values"),
    "quantized": (
        lambda: _with_weight(torch.quantize_per_tensor(torch.zeros(SHAPE), 0.1, 0, torch.qint8)),
        "more than dense tensors and plain values",
    ),
    "whole numbers": (lambda: _with_weight(torch.zeros(SHAPE, dtype=torch.int64)), "a network other"),
    "lists for tensors": (lambda: _with_weight([0.0]), "a network other"),  # type: ignore[arg-type]
    "deep nesting": (lambda: _with(hidden=nested(100)), "hyper_parameters.hidden, which no checkpoint has"),
    "endless nesting": (lambda: _with(hidden=endless()), "hyper_parameters.hidden, which no checkpoint has"),
    "nesting that grows": (
        lambda: _with(hidden=doubled(14)),
        "hidden, which no checkpoint has|more values than can be counted",
    ),
    "8 GB of nothing": (lambda: checkpoint_of() | {"extra": Memory()}, "more than dense tensors and plain values"),
    "weights that are not finite": (lambda: _with_weight(torch.full(SHAPE, torch.nan)), "weights that are not finite"),
    "logits that are not finite": (lambda: _with_weight(torch.full(SHAPE, 3e38)), "logits that are not finite"),
}


def forge(kind: str, path: Path, proof: Path) -> None:
    """Writes to `path` what only looks like a checkpoint, or is one of something else."""
    good = checkpoint_of()
    if kind in ODD:
        torch.save(ODD[kind][0](), path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(good | {"extra": Payload(proof)}))
    elif kind == "payload":
        torch.save(good | {"extra": Payload(proof)}, path)
    elif kind == "text":
        path.write_text("not a checkpoint\n" * 100)
    elif kind == "truncated":
        torch.save(good, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "compressed":
        torch.save(_with_weight(torch.zeros(32 * 2**20)), path)  # 128 MB
        compress(path)
    elif kind == "folder":
        path.mkdir()


def compress(path: Path) -> None:
    """Compresses the parts of an archive, and ends it as torch does: with a record of 64-bit sizes, too."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part, archive.read(part)) for part in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    content, count = path.read_bytes(), len(parts)
    size, begin = struct.unpack("<II", content[-10:-2])  # of the list of parts
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, begin)
    place = struct.pack("<4sIQI", b"PK\x06\x07", 0, begin + size, 1)
    path.write_bytes(content[:-22] + record + place + content[-22:])


FORGED = {
    "pickle": "is not a checkpoint",
    "payload": "holds more than dense tensors and plain values",
    "text": "is not a checkpoint",
    "truncated": "is not a checkpoint, or only a part of one",
    "compressed": "has compressed parts",
    "folder": "holds no usable checkpoint",
    "missing": "does not exist",
    **{kind: sentence for kind, (_, sentence) in ODD.items()},
}


def altered(checkpoint: dict[str, Any], *keys: str | int, value: Any) -> dict[str, Any]:
    """Returns a copy of a checkpoint in which one entry is another."""
    changed = copy.deepcopy(checkpoint)
    inner: Any = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return changed

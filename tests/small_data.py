"""A small data set of five classes, 6 x 9 pixels, in the layouts that can be read."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_mnist.datasets.registry import MNIST

IMAGES = np.random.default_rng(0).integers(256, size=(40, 6, 9), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 5
TRAIN = 30  # images; the others are the test split


def idx(values: np.ndarray[Any, Any]) -> bytes:
    code = {"uint8": 8, "float32": 13, "int32": 12}[values.dtype.name]
    header = bytes([0, 0, code, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path) -> Path:
    """Writes four IDX files, those of the training split compressed."""
    folder.mkdir()
    for name, values in zip(MNIST.files, (IMAGES[:TRAIN], LABELS[:TRAIN], IMAGES[TRAIN:], LABELS[TRAIN:]), strict=True):
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values), mtime=0))
        else:
            (folder / name).write_bytes(idx(values))
    return folder


def write_pictures(folder: Path) -> Path:
    """Writes class folders, in four of Pillow's modes that can all mean grey."""
    for at, (values, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = folder / ("train" if at < TRAIN else "test") / f"letter {'abcde'[label]}" / f"{at:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).convert(("L", "RGB", "RGBA", "LA")[at % 4]).save(path)
    return folder

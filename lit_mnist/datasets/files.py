"""Data sets in memory, decoded and verified. Folders of the user are only read, unless a download into one is asked for."""

import hashlib
import http.client
import importlib
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_mnist.datasets.decode import MOST_BYTES, MOST_PIXELS, PICTURE_FORMATS, read_idx, read_picture
from lit_mnist.datasets.registry import MNIST, REGISTRY, Entry, find
from lit_mnist.record.atomic import write_atomically

_SECONDS_WITHOUT_AN_ANSWER = 30.0


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set of grey images of one size.

    Attributes:
        name: Its name in the registry, or the folder as it was given.
        classes: The names of its classes, by label.
        train: The training images, uint8 (N, H, W), 0 to 255, and their labels, int64 (N,).
        test: The test images and their labels, likewise.
        sha256: SHA-256 of the list of its files and their SHA-256 sums: equal for equal files.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    sha256: str

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.train[0].shape
        return height, width


def load(dataset: str = "MNIST", root: str | Path | None = None, download: bool = False) -> DataSet:
    """Loads a published data set, or a folder of somebody's own data, into memory.

    An own folder holds either four IDX files by the names of MNIST's, plain or compressed (.gz), or class
    folders in the layout of torchvision's `ImageFolder`: `train/<class>/*.png` and `test/<class>/*.png`.

    Args:
        dataset: A name of the registry, or a folder ("./MNIST" if it bears such a name).
        root: The folder with the published files, in torchvision's layout `<root>/<name>/raw/<file>` or as
            `<root>/<file>`. None: those of this package (MNIST) or of Debian's (Fashion-MNIST).
        download: True lets torchvision download the files that are missing into `root`.

    Raises:
        ValueError: A file is missing, damaged or of another kind, or an argument does not fit.
    """
    if dataset not in REGISTRY and os.path.isdir(dataset):  # noqa: PTH112 (Path.is_dir raises on some names)
        if root is not None or download:
            raise ValueError(f"{dataset} is a folder of your own data: leave out --data.root and --data.download.")
        if any(_locate([Path(dataset)], file) for file in MNIST.files):
            return _load_idx(dataset, [Path(dataset)])
        return _load_pictures(dataset)
    entry = find(dataset)
    if root is not None:
        folders = [Path(root) / entry.name / "raw", Path(root)]
        if download:
            _download(entry, folders)
    elif download:
        raise ValueError("--data.download needs --data.root, the folder to download into.")
    elif entry.archives is None or not entry.archives.is_dir():
        raise ValueError(
            f"{entry.name} is not part of this package: give the folder that holds it, or that it may be downloaded "
            f"into (--data.download true), as --data.root (source: {entry.source})."
        )
    else:
        folders = [entry.archives]
    return _load_idx(entry.name, folders, entry)


def _locate(folders: Sequence[Path], file: str) -> Path | None:
    """Finds what bears the file's name, with or without .gz; it may be a folder, a pipe or a dangling link."""
    candidates = (folder / f"{file}{suffix}" for folder in folders for suffix in ("", ".gz"))
    return next((path for path in candidates if os.path.lexists(path)), None)


def _download(entry: Entry, folders: Sequence[Path]) -> None:
    """Downloads the files that none of the folders holds into the first one; replaces nothing."""
    missing = [file for file in entry.files if _locate(folders, file) is None]
    if not missing:
        return
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_WITHOUT_AN_ANSWER)
    try:
        with tempfile.TemporaryDirectory() as temporary:  # torchvision would write over files that are there
            torchvision = getattr(importlib.import_module("torchvision.datasets"), entry.name)  # takes 2 s to import
            for train in (True, False):
                torchvision(temporary, train=train, download=True)
            for file in missing:
                write_atomically(folders[0] / file, (Path(temporary) / entry.name / "raw" / file).read_bytes())
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ValueError(
            f"{entry.name} could not be downloaded ({' '.join(str(error).split())}); put its files "
            f"{', '.join(missing)} into {folders[0]} yourself (source: {entry.source})."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _load_idx(name: str, folders: Sequence[Path], entry: Entry | None = None) -> DataSet:
    """Loads four IDX files: those of an entry of the registry, or somebody's own by the names of MNIST's."""
    paths: list[Path] = []
    arrays: list[NDArray[Any]] = []
    sums: dict[str, str] = {}
    for file in (entry or MNIST).files:
        path = _locate(folders, file)
        if path is None:
            advice = f"add --data.download true, or get it from {entry.source}" if entry else "add it"
            raise ValueError(f"{folders[0] / file} is missing; {advice}.")
        values, sums[file] = read_idx(path, MOST_BYTES - sum(array.nbytes for array in arrays))
        if entry and entry.sha256.get(file, sums[file]) != sums[file]:
            raise ValueError(
                f"{path} is not the published file of {name} (its SHA-256 differs); replace it, or give a folder "
                "of your own data as --data.dataset."
            )
        paths.append(path)
        arrays.append(values[:, 0] if entry and values.ndim == 2 else values)
    train_size, test_size = (entry.train_size, entry.test_size) if entry else (len(arrays[0]), len(arrays[2]))
    image_shape = entry.image_shape if entry else arrays[0].shape[1:]
    classes = entry.classes if entry else tuple(str(label) for label in range(len(np.unique(arrays[1]))))
    _check_split(paths[:2], arrays[:2], (train_size, *image_shape), len(classes))
    if len(np.unique(arrays[1])) < max(len(classes), 2):
        raise ValueError(
            f"{paths[1]} has the labels {_listed(np.unique(arrays[1]).tolist())}; every class needs images, two at least."
        )
    _check_split(paths[2:], arrays[2:], (test_size, *image_shape), len(classes))
    return _data_set(name, classes, arrays, sums)


def _check_split(paths: Sequence[Path], arrays: Sequence[NDArray[Any]], shape: tuple[int, ...], classes: int) -> None:
    """Compares images with the shape that they must have, and their labels with 0 to `classes` - 1."""
    images, labels = arrays
    if images.dtype != np.uint8 or images.ndim != 3 or images.size == 0 or images[0].size > MOST_PIXELS:
        raise ValueError(
            f"{paths[0]} holds {_by(images.shape)} values of type {images.dtype}; it must hold one or more images "
            f"of bytes, of {MOST_PIXELS:,} pixels at most."
        )
    if images.shape != shape:
        raise ValueError(f"{paths[0]} holds {_by(images.shape)} values where {_by(shape)} are needed; replace it.")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{paths[1]} holds {_by(labels.shape)} labels for {len(images):,} images; replace one of the two.")
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= classes:
        raise ValueError(f"{paths[1]} has the labels {_listed(found.tolist())}; they must be 0 to {classes - 1} without a gap.")


def _load_pictures(name: str) -> DataSet:
    """Loads class folders of pictures, classes and files in the order of their names, as torchvision does."""
    splits = [Path(name) / "train", Path(name) / "test"]
    classes, others = ([path.name for path in _sorted_paths(split) if path.is_dir()] for split in splits)
    if classes != others or len(classes) < 2:
        raise ValueError(
            f"{splits[0]} has the classes {_listed(classes)}, and {splits[1]} has {_listed(others)}; "
            "both need the same, two at least."
        )
    if not all(each.isprintable() for each in classes):
        raise ValueError(f"{splits[0]} has a class whose name cannot be printed ({classes!a}); rename it.")
    arrays: list[NDArray[Any]] = []
    sums: dict[str, str] = {}
    for split in splits:
        images: list[NDArray[Any]] = []
        labels: list[int] = []
        for label, folder in enumerate(split / each for each in classes):
            paths = [path for path in _sorted_paths(folder) if path.suffix.lower() in PICTURE_FORMATS]
            if not paths:
                raise ValueError(f"{folder} holds no picture ({', '.join(PICTURE_FORMATS)}); add some, or remove the class.")
            for path in paths:
                image, sums[path.relative_to(name).as_posix()] = read_picture(path)
                images.append(image)
                labels.append(label)
                shape = (arrays[0] if arrays else images)[0].shape
                if image.shape != shape:
                    raise ValueError(f"{path} is {_by(image.shape)} pixels where the first picture is {_by(shape)}; resize it.")
                if len(sums) * image.size > MOST_BYTES:
                    raise ValueError(f"{name} holds more than {MOST_BYTES:,} pixels; take fewer pictures or smaller ones.")
        arrays += [np.stack(images), np.array(labels)]
    return _data_set(name, classes, arrays, sums)


def _sorted_paths(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be listed ({error.strerror}); a folder of data holds the files {', '.join(MNIST.files)}, "
            "or pictures in train/<class> and test/<class>."
        ) from None


def _data_set(name: str, classes: Sequence[str], arrays: Sequence[NDArray[Any]], sums: Mapping[str, str]) -> DataSet:
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    listed = "".join(f"{digest}  {file}\n" for file, digest in sums.items())  # as the command sha256sum prints it
    return DataSet(
        name=name,
        classes=tuple(classes),
        train=(images, labels.long()),
        test=(test_images, test_labels.long()),
        sha256=hashlib.sha256(os.fsencode(listed)).hexdigest(),
    )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "") or "none"

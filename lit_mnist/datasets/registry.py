"""The data sets of MNIST's shape: their files, checksums and class names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_mnist.datasets.checksums import read_sums, sha256
from lit_mnist.datasets.idx import decode_idx, read_bytes


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set.

    Attributes:
        name: Of the uncompressed file; torchvision's.
        shape: Images (N, 28, 28) uint8; labels (N,) uint8, or QMNIST's (N, 8) int32, whose first column is
            the class.
        archive_md5: Of the published `<name>.gz`. Source: torchvision's `resources`.
        sha256: Of the uncompressed file; None where it could not be established.
    """

    name: str
    shape: tuple[int, ...]
    archive_md5: str
    sha256: str | None

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored values."""
        return torch.int32 if len(self.shape) == 2 else torch.uint8

    @property
    def size(self) -> int:
        """Bytes of the uncompressed file."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape) * self.dtype.itemsize

    def decode(self, content: bytes, expected_sha256: str | None) -> Tensor:
        """Images uint8 (N, 28, 28), or labels int64 (N,) in 0..9, from the content of this file.

        Raises:
            ValueError: It is another file or a damaged one, or its SHA-256 differs (None: not compared). The
                message continues a sentence begun with the file's name.
        """
        values = decode_idx(content)
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"holds {_array(values.dtype, values.shape)} instead of {_array(self.dtype, self.shape)}")
        if len(self.shape) < 3:
            values = values.view(len(values), -1)[:, 0].long()
            for label in (int(values.min()), int(values.max())):
                if not 0 <= label <= 9:
                    raise ValueError(f"holds the label {label}, which is outside 0..9")
        if expected_sha256 not in (None, sha256(content)):
            raise ValueError("was altered (its SHA-256 is not the right one)")
        return values

    def fault(self, path: Path, expected_sha256: str | None) -> str | None:
        """What is wrong with the file at that path, as the rest of a sentence begun with its name."""
        try:
            self.decode(read_bytes(path), expected_sha256)
        except ValueError as fault:
            return str(fault)
        return None


def _array(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{' x '.join(f'{size:,}' for size in shape)} {str(dtype).removeprefix('torch.')} values"


@dataclass(frozen=True)
class DataSet:
    """A data set of 28x28 grey images in ten classes.

    Attributes:
        name: Also the name of its folder, and of its class in torchvision.
        classes: The ten class names, by label.
        source: Where its files can be had, for messages.
        train: The files of the training images and labels.
        test: The files of the test images and labels.
        archives: A folder of this machine that holds the compressed files where it exists.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile]
    archives: Path | None = None

    @property
    def files(self) -> tuple[IdxFile, ...]:
        """All four files."""
        return self.train + self.test

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return self.train[0].shape[0]


def _files(prefix: str, size: int, archive_md5s: tuple[str, str], sums: Mapping[str, str]) -> tuple[IdxFile, IdxFile]:
    images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    return (
        IdxFile(images, (size, 28, 28), archive_md5s[0], sums.get(images)),
        IdxFile(labels, (size,), archive_md5s[1], sums.get(labels)),
    )


_DIGITS = tuple("0123456789")
_EMBEDDED = Path(__file__).parent / "mnist"
_MNIST_SUMS = read_sums(_EMBEDDED / "SHA256SUMS")
_FASHION_SUMS = {  # of Debian's files; the labels' also of the publisher's own archives
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

_MNIST = DataSet(
    name="MNIST",
    classes=_DIGITS,
    source="the installed package lit_mnist",
    train=_files("train", 60_000, ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"), _MNIST_SUMS),
    test=_files("t10k", 10_000, ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"), _MNIST_SUMS),
    archives=_EMBEDDED,
)

_FASHION_MNIST = DataSet(
    name="FashionMNIST",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    source="Debian's package dataset-fashion-mnist or https://github.com/zalandoresearch/fashion-mnist",
    train=_files(
        "train",
        60_000,
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        _FASHION_SUMS,
    ),
    test=_files(
        "t10k",
        10_000,
        ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
        _FASHION_SUMS,
    ),
    archives=Path("/usr/share/datasets/fashion-mnist"),  # where Debian's package puts them
)

_KMNIST = DataSet(
    name="KMNIST",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    source="https://github.com/rois-codh/kmnist",
    train=_files("train", 60_000, ("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"), {}),
    test=_files("t10k", 10_000, ("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"), {}),
)

_QMNIST = DataSet(
    name="QMNIST",
    classes=_DIGITS,
    source="https://github.com/facebookresearch/qmnist",
    train=(
        IdxFile("qmnist-train-images-idx3-ubyte", (60_000, 28, 28), "ed72d4157d28c017586c42bc6afe6370", None),
        IdxFile(  # the labels' sums: of the publisher's own archives
            "qmnist-train-labels-idx2-int",
            (60_000, 8),
            "0058f8dd561b90ffdd0f734c6a30e5e4",
            "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
        ),
    ),
    test=(
        IdxFile("qmnist-test-images-idx3-ubyte", (60_000, 28, 28), "1394631089c404de565df7b7aeaf9412", None),
        IdxFile(
            "qmnist-test-labels-idx2-int",
            (60_000, 8),
            "5b5b05890a5e13444e108efe57b788aa",
            "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
        ),
    ),
)

DATASETS: dict[str, DataSet] = {one.name: one for one in (_MNIST, _FASHION_MNIST, _KMNIST, _QMNIST)}


def find(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in DATASETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]

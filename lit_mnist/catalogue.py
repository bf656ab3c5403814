"""The data sets of MNIST's shape: their files, checksums and class names."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_mnist.idx import decode_idx


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set.

    Attributes:
        name: Of the uncompressed file; torchvision's.
        shape: Images (N, 28, 28) uint8; labels (N,) uint8, or QMNIST's (N, 8) int32 whose first column is the class.
        archive_md5: Of the published `<name>.gz`. Source: torchvision's `resources`.
        sha256: Of the uncompressed file; None where it could not be established without the file.
    """

    name: str
    shape: tuple[int, ...]
    archive_md5: str
    sha256: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the uncompressed file."""
        header = 4 + 4 * len(self.shape)
        return header + torch.Size(self.shape).numel() * self._dtype.itemsize

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int32 if len(self.shape) == 2 else torch.uint8

    def decode(self, content: bytes, sha256: str | None) -> Tensor:
        """Images uint8 (N, 28, 28), or labels int64 (N,) in 0..9, from the content of this file.

        Raises:
            ValueError: It is another file or a damaged one, or its SHA-256 is not `sha256` (None: not compared). The message
                continues a sentence begun with the file's name.
        """
        values = decode_idx(content)
        if values.shape != self.shape or values.dtype != self._dtype:
            found, wanted = list(values.shape), list(self.shape)
            raise ValueError(f"holds another array (shape {found}) than it should (shape {wanted})")
        if len(self.shape) < 3:
            values = values.view(len(values), -1)[:, 0].long()
            for label in (int(values.min()), int(values.max())):
                if not 0 <= label <= 9:
                    raise ValueError(f"holds the label {label}, which is outside 0..9")
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("was altered (its SHA-256 is not the right one)")
        return values


@dataclass(frozen=True)
class DataSet:
    """A data set of 28x28 grey images in ten classes.

    Attributes:
        name: Also the name of its folder, and of its class in torchvision.
        classes: The ten class names, by label.
        train: The files of the training images and labels.
        test: The files of the test images and labels.
        archives: A folder of this machine where the compressed files may be found without a network.
    """

    name: str
    classes: tuple[str, ...]
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

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return self.test[0].shape[0]


def _mnist_files(
    split: str, size: int, md5s: tuple[str, str], sha256s: tuple[str | None, str | None]
) -> tuple[IdxFile, IdxFile]:
    return (
        IdxFile(f"{split}-images-idx3-ubyte", (size, 28, 28), md5s[0], sha256s[0]),
        IdxFile(f"{split}-labels-idx1-ubyte", (size,), md5s[1], sha256s[1]),
    )


_DIGITS = tuple("0123456789")

_MNIST = DataSet(  # the SHA-256 sums stand in mnist/SHA256SUMS too
    "MNIST",
    _DIGITS,
    _mnist_files(
        "train",
        60_000,
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    _mnist_files(
        "t10k",
        10_000,
        ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
        (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    archives=Path(__file__).parent / "mnist",
)

_FASHION_MNIST = (
    DataSet(  # SHA-256 sums: of Debian's files; those of the labels agree with the publisher's archives
        "FashionMNIST",
        (
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
        _mnist_files(
            "train",
            60_000,
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
        ),
        _mnist_files(
            "t10k",
            10_000,
            ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
            (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        archives=Path("/usr/share/datasets/fashion-mnist"),  # Debian's package dataset-fashion-mnist
    )
)

_KMNIST = DataSet(
    "KMNIST",
    ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    _mnist_files(
        "train",
        60_000,
        ("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
        (None, None),
    ),
    _mnist_files(
        "t10k", 10_000, ("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"), (None, None)
    ),
)

_QMNIST = DataSet(  # the SHA-256 sums of the labels: from the publisher's archives
    "QMNIST",
    _DIGITS,
    (
        IdxFile("qmnist-train-images-idx3-ubyte", (60_000, 28, 28), "ed72d4157d28c017586c42bc6afe6370"),
        IdxFile(
            "qmnist-train-labels-idx2-int",
            (60_000, 8),
            "0058f8dd561b90ffdd0f734c6a30e5e4",
            "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
        ),
    ),
    (
        IdxFile("qmnist-test-images-idx3-ubyte", (60_000, 28, 28), "1394631089c404de565df7b7aeaf9412"),
        IdxFile(
            "qmnist-test-labels-idx2-int",
            (60_000, 8),
            "5b5b05890a5e13444e108efe57b788aa",
            "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
        ),
    ),
)

DATASETS: dict[str, DataSet] = {
    data_set.name: data_set for data_set in (_MNIST, _FASHION_MNIST, _KMNIST, _QMNIST)
}


def find(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in DATASETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]

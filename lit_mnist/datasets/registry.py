"""Registry of the published data sets: their images, classes, files and checksums. Imports no torch."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# training images, training labels, test images, test labels
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
_DIGITS = tuple("0123456789")
_PACKAGED = Path(__file__).parent / "mnist"


@dataclass(frozen=True)
class Entry:
    """A published data set of grey images.

    Attributes:
        name: Its name, also of its folder and of its class in torchvision.
        classes: The names of its classes, by label.
        source: Where its files can be had, for messages.
        train_size: Number of training images.
        test_size: Number of test images.
        image_shape: Height and width in pixels.
        files: torchvision's names of the uncompressed IDX files: training images and labels, test images and labels. Where
            the labels are a table, its first column is the label.
        sha256: SHA-256 of the uncompressed files, by name; without those that are not known.
        archives: A folder of this machine that may hold the compressed files.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    train_size: int = 60_000
    test_size: int = 10_000
    image_shape: tuple[int, int] = (28, 28)
    files: tuple[str, str, str, str] = _IDX_FILES
    sha256: Mapping[str, str] = field(default_factory=dict)
    archives: Path | None = None


MNIST = Entry(
    name="MNIST",
    classes=_DIGITS,
    source="the package lit_mnist itself: leave out --data.root",
    sha256={name: digest for digest, name in map(str.split, (_PACKAGED / "SHA256SUMS").read_text().splitlines())},
    archives=_PACKAGED,
)

_FASHION_MNIST = Entry(
    name="FashionMNIST",
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    source="Debian's package dataset-fashion-mnist or https://github.com/zalandoresearch/fashion-mnist",
    sha256={  # of the files in Debian's package; the labels' also of those that the publisher offers
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    archives=Path("/usr/share/datasets/fashion-mnist"),  # where Debian's package puts them
)

_KMNIST = Entry(
    name="KMNIST",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    source="https://github.com/rois-codh/kmnist",
)

_QMNIST = Entry(
    name="QMNIST",
    classes=_DIGITS,
    source="https://github.com/facebookresearch/qmnist",
    test_size=60_000,
    files=_QMNIST_FILES,
    sha256={  # of the files that the publisher offers
        "qmnist-train-labels-idx2-int": "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
        "qmnist-test-labels-idx2-int": "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
    },
)

REGISTRY: dict[str, Entry] = {entry.name: entry for entry in (MNIST, _FASHION_MNIST, _KMNIST, _QMNIST)}


def find(name: str) -> Entry:
    """Finds a published data set by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    by_lower_case = {known.lower(): known for known in REGISTRY}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.7)
    hint = f" (did you mean {by_lower_case[close[0]]}?)" if close else ""
    raise ValueError(f"There is no data set or folder {name!r}{hint}; choose one of {', '.join(REGISTRY)} or name a folder.")

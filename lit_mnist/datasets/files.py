"""A data set's files in a folder of this machine: put there, verified, decoded.

The layout is torchvision's, `<root>/<name>/raw/<file>`: a folder that torchvision filled is used as it is,
and torchvision reads one filled here. Every file is compared with its SHA-256 at every load. The sums that
the catalogue does not know stand in `SHA256SUMS` beside the files, written when the files were.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lit_mnist.datasets.checksums import format_sums, read_sums, sha256
from lit_mnist.datasets.idx import read_bytes, read_idx
from lit_mnist.datasets.publication import publish
from lit_mnist.datasets.registry import DATASETS, DataSet, IdxFile, find

__all__ = [
    "DATASETS",
    "DEFAULT_ROOT",
    "DataSet",
    "IdxFile",
    "checksum",
    "find",
    "load",
    "prepare",
    "read_idx",
]

DEFAULT_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lit_mnist"

_log = logging.getLogger("lit_mnist")


def prepare(name: str, root: Path) -> None:
    """Makes `<root>/<name>/raw` hold the data set's four files, verified; where it does, writes nothing.

    MNIST comes out of this package. The others come from the folder where Debian's package has them, from
    `<file>.gz` in `raw` or the folder above it, or else through torchvision from the network. A damaged file
    is replaced, with a warning in the log `lit_mnist` (on stderr, unless the program sets up logging
    otherwise). Any number of processes may call this at once and be killed at any moment: a file is there
    whole or not at all.

    Raises:
        ValueError: The name is unknown, `root` cannot be read or written, or there is no source for a file.
    """
    data_set, raw = find(name), root / name / "raw"
    sums = _known_sums(data_set, raw)
    fault = _first_fault(data_set, raw, sums)
    if fault is None and len(sums) == len(data_set.files):
        return
    try:
        publish(data_set, raw)
    except OSError as error:
        reason = f"{raw} cannot be written ({error.strerror or error})"
        if fault is not None:
            raise ValueError(f"{fault}, and {reason}; choose another folder (--data.root).") from None
        _log.warning("lit_mnist: %s: the sums of its files are not recorded.", reason)


def load(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 28, 28), 0 background to 255 ink, and labels, int64 (N,) in 0..9, of a split.

    The bytes are compared with their SHA-256 sums here, so that whatever happened to the files since
    `prepare` is noticed.

    Args:
        name: Of the data set, a key of `DATASETS`.
        root: The folder that `prepare` filled.
        split: "train" or "test".

    Raises:
        ValueError: A file is missing or damaged, or a name is unknown.
    """
    data_set, raw = find(name), root / name / "raw"
    if split not in ("train", "test"):
        raise ValueError(f"There is no split {split!r}; choose train or test.")
    sums = _known_sums(data_set, raw)
    values = []
    for file in data_set.train if split == "train" else data_set.test:
        with _named(raw / file.name):
            values.append(file.decode(read_bytes(raw / file.name), sums.get(file.name)))
    images, labels = values
    return images, labels


def checksum(name: str, root: Path) -> str:
    """Identifies the data: the SHA-256 of the list of the SHA-256 sums that `load` compares the files with.

    Raises:
        ValueError: The name is unknown, or a file whose sum is not recorded cannot be read.
    """
    data_set, raw = find(name), root / name / "raw"
    sums = _known_sums(data_set, raw)
    for file in data_set.files:
        if file.name not in sums:  # a folder that cannot be written
            with _named(raw / file.name):
                sums[file.name] = sha256(read_bytes(raw / file.name))
    return sha256(format_sums({file.name: sums[file.name] for file in data_set.files}).encode())


def _known_sums(data_set: DataSet, raw: Path) -> dict[str, str]:
    """File name -> SHA-256, from the catalogue, else as recorded; without the files whose sum is unknown."""
    known = read_sums(raw / "SHA256SUMS") | {file.name: file.sha256 for file in data_set.files if file.sha256}
    return {file.name: known[file.name] for file in data_set.files if file.name in known}


def _first_fault(data_set: DataSet, raw: Path, sums: dict[str, str]) -> str | None:
    """The first half of a sentence."""
    for file in data_set.files:
        if fault := file.fault(raw / file.name, sums.get(file.name)):
            return f"{raw / file.name} {fault}"
    return None


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Completes the sentence about a fault of the file."""
    try:
        yield
    except ValueError as fault:
        raise ValueError(f"{path} {fault}; run the command again to have the file replaced.") from None

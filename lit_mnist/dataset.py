"""A data set's files in a folder of this machine: written there, verified, decoded.

The layout is torchvision's, `<root>/<name>/raw/<file>`: a folder that torchvision filled is used as it is, and torchvision
reads one filled here. A data set whose SHA-256 sums are not in the catalogue has them in `SHA256SUMS` beside its files, recorded
when they were written.
"""

import contextlib
import gzip
import hashlib
import io
import logging
import os
import shutil
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lit_mnist.catalogue import DATASETS, DataSet, IdxFile, find
from lit_mnist.durable import write_durably
from lit_mnist.idx import read_bytes, read_idx

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

DEFAULT_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_mnist"

_log = logging.getLogger(
    "lit_mnist"
)  # its warnings go to stderr unless the program that imports us decides otherwise

_SECONDS_WITHOUT_AN_ANSWER = 30.0


def prepare(name: str, root: Path) -> None:
    """Makes `<root>/<name>/raw` hold the data set's four files, whole and verified; does nothing where it does already.

    MNIST comes out of this package. The others come from `<file>.gz` in that folder, from a folder where the system keeps
    them, or else through torchvision from the network. A damaged file is replaced, with a warning in the log `lit_mnist`
    (stderr). Any number of processes may do this at the same time, and be killed at any moment: a file is there whole or not
    at all.

    Raises:
        ValueError: The name is unknown, `root` cannot be read or written, or there is no source for a file.
    """
    data_set = find(name)
    raw = root / name / "raw"
    if _is_complete(data_set, raw):
        return
    try:
        with _exclusive(raw.parent):
            _publish(data_set, raw)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"{raw} cannot be written ({reason}); choose another folder (--data.root)."
        ) from None


def load(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 28, 28), 0 background to 255 ink, and labels, int64 (N,) in 0..9, of "train" or "test".

    The bytes are compared with their SHA-256 sums here, so whatever happened to the files since `prepare` is noticed.

    Raises:
        ValueError: A file is missing or damaged, or a name is unknown.
    """
    data_set = find(name)
    if split not in ("train", "test"):
        raise ValueError(f"There is no split {split!r}; choose train or test.")
    raw = root / name / "raw"
    sums = _sums(data_set, raw)
    images, labels = (
        _read(file, raw, sums.get(file.name))
        for file in (data_set.train if split == "train" else data_set.test)
    )
    return images, labels


def checksum(name: str, root: Path) -> str:
    """One hexadecimal SHA-256 that identifies the bytes that `load` accepts under `root`.

    Raises:
        ValueError: The name is unknown, or the files' sums are not recorded and the files cannot be read.
    """
    data_set = find(name)
    raw = root / name / "raw"
    sums = _sums(data_set, raw)
    for file in data_set.files:
        if file.name not in sums:
            sums[file.name] = hashlib.sha256(_read_or_explain(raw / file.name)).hexdigest()
    return hashlib.sha256(_list_of(data_set, sums).encode()).hexdigest()


def _read(file: IdxFile, raw: Path, sha256: str | None) -> Tensor:
    path = raw / file.name
    try:
        return file.decode(read_bytes(path), sha256)
    except ValueError as fault:
        raise ValueError(f"{path} {fault}; run the command again to have the file written anew.") from None


def _read_or_explain(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except ValueError as fault:
        raise ValueError(f"{path} {fault}; run the command again to have the file written anew.") from None


def _sums(data_set: DataSet, raw: Path) -> dict[str, str]:
    """File name -> SHA-256: the catalogue's, else the recorded ones; without those that are not known."""
    sums = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (raw / "SHA256SUMS").read_text("ascii").splitlines():
            digest, _, name = line.partition("  ")
            sums[name] = digest
    sums.update({file.name: file.sha256 for file in data_set.files if file.sha256})
    return {file.name: sums[file.name] for file in data_set.files if file.name in sums}


def _list_of(data_set: DataSet, sums: dict[str, str]) -> str:
    """In the format of the command `sha256sum`."""
    return "".join(f"{sums[file.name]}  {file.name}\n" for file in data_set.files)


def _is_complete(data_set: DataSet, raw: Path) -> bool:
    sums = _sums(data_set, raw)
    if len(sums) < len(data_set.files):
        return False
    try:
        for file in data_set.files:
            _read(file, raw, sums[file.name])
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Held by one process at a time; leaves no empty folder behind where nothing could be written into it."""
    from filelock import FileLock

    lock = FileLock(folder / ".lock")
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its last holder failed and has just removed the folder
            lock.acquire()
            break
    try:
        yield
    finally:
        if not any(path.name != ".lock" for path in folder.iterdir()):
            (folder / ".lock").unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()
        lock.release()


def _publish(data_set: DataSet, raw: Path) -> None:
    """Writes what is missing or damaged in `raw`; the caller holds the lock."""
    for leftover in raw.glob(".*"):  # of a process that was killed while it wrote
        if leftover.suffix in (".part", ".download"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    recorded = _sums(data_set, raw)
    sums: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        downloads: Path | None = None
        for file in data_set.files:
            path = raw / file.name
            content = _from_archive(file, data_set, raw)
            sha256 = file.sha256 or (
                hashlib.sha256(content).hexdigest() if content else recorded.get(file.name)
            )
            try:
                found = read_bytes(path)
                file.decode(found, sha256)
            except ValueError as fault:
                if content is None:
                    if downloads is None:
                        downloads = stack.enter_context(_downloads(data_set, raw, f"{path} {fault}"))
                    content = _unpack(downloads / f"{file.name}.gz", file)
                write_durably(path, content)
                found = content
                if str(fault) != "is missing":
                    _log.warning("lit_mnist: %s %s; it has been replaced.", path, fault)
            sums[file.name] = hashlib.sha256(found).hexdigest()
    if any(file.sha256 is None for file in data_set.files):
        write_durably(raw / "SHA256SUMS", _list_of(data_set, sums).encode())


def _from_archive(file: IdxFile, data_set: DataSet, raw: Path) -> bytes | None:
    """The file's content from a compressed copy on this machine, None where there is no such copy."""
    for folder in (data_set.archives, raw, raw.parent):
        if folder and (folder / f"{file.name}.gz").exists():
            return _unpack(folder / f"{file.name}.gz", file)
    return None


def _unpack(archive: Path, file: IdxFile) -> bytes:
    """The verified content of a compressed file."""
    try:
        packed = read_bytes(archive)
        if file.sha256 is None and hashlib.md5(packed, usedforsecurity=False).hexdigest() != file.archive_md5:
            raise ValueError("is not the published archive (its MD5 is not the right one)")
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(
                file.size + 1
            )  # bounded, whatever the archive says
        except (OSError, EOFError, zlib.error):
            raise ValueError("is a damaged archive") from None
        file.decode(content, file.sha256)
    except ValueError as fault:
        raise ValueError(f"{archive} {fault}; replace it.") from None
    return content


@contextlib.contextmanager
def _downloads(data_set: DataSet, raw: Path, need: str) -> Iterator[Path]:
    """A temporary folder with the data set's compressed files, fetched by torchvision, which checks their MD5."""
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=raw, prefix=".", suffix=".download") as folder:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_SECONDS_WITHOUT_AN_ANSWER)
        try:
            import torchvision.datasets  # type: ignore[import-untyped, unused-ignore]

            with contextlib.redirect_stdout(sys.stderr):
                for train in (True, False):
                    getattr(torchvision.datasets, data_set.name)(folder, train=train, download=True)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{need}, and {data_set.name} could not be downloaded ({reason}); put its published files into {raw}."
            ) from None
        finally:
            socket.setdefaulttimeout(timeout)
        yield Path(folder) / data_set.name / "raw"

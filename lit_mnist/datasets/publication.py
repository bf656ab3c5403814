"""Putting a data set's files into a folder: from an archive on this machine, or from the network."""

import contextlib
import gzip
import hashlib
import http.client
import importlib
import io
import logging
import shutil
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from lit_mnist.datasets.checksums import format_sums, read_sums, sha256
from lit_mnist.datasets.idx import read_bytes
from lit_mnist.datasets.registry import DataSet, IdxFile
from lit_mnist.record.atomic import remove_parts, write_durably

_log = logging.getLogger("lit_mnist")

_SECONDS_WITHOUT_AN_ANSWER = 30.0
_MOST_ATTEMPTS = 100


def publish(data_set: DataSet, raw: Path) -> None:
    """Writes what is missing or damaged in `raw`, and `SHA256SUMS` where the catalogue lacks a sum.

    Raises:
        ValueError: There is no source for a file, or a damaged one.
        OSError: `raw` cannot be written.
    """
    with _exclusive(raw.parent), contextlib.ExitStack() as stack:
        raw.mkdir(exist_ok=True)
        _sweep(raw)
        recorded = read_sums(raw / "SHA256SUMS")
        downloads: Path | None = None
        unproven: list[str] = []
        for file in data_set.files:
            path = raw / file.name
            known = file.sha256 or recorded.get(file.name) or _archived_sum(data_set, file, raw)
            fault = file.fault(path, known)
            if fault:
                content = _from_archive(data_set, file, raw)
                if content is None:
                    downloads = downloads or stack.enter_context(_downloads(data_set, raw, f"{path} {fault}"))
                    content = _unpack(downloads / f"{file.name}.gz", file)
                write_durably(path, content)
                if fault != "is missing":
                    _log.warning("lit_mnist: %s %s; it has been replaced.", path, fault)
            elif known is None:
                unproven.append(file.name)
        if any(file.sha256 is None for file in data_set.files):
            sums = {file.name: sha256(read_bytes(raw / file.name)) for file in data_set.files}
            write_durably(raw / "SHA256SUMS", format_sums(sums).encode())
        if unproven:
            names = ", ".join(unproven)
            _log.warning("lit_mnist: %s: nothing to compare %s with; taken as found from now on.", raw, names)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One process at a time. No empty folder is left where nothing came into it."""
    path = folder / ".lock"
    lock = FileLock(path)
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        made = [parent for parent in folder.parents if not parent.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            break
        except FileNotFoundError:  # a process that found no source removes the folder, also between these lines
            if attempt == _MOST_ATTEMPTS:
                raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # raised by the first folder that is not empty
            (folder / "raw").rmdir()
            path.unlink()
            for empty in (folder, *made):
                empty.rmdir()
        lock.release()


def _archived_sum(data_set: DataSet, file: IdxFile, raw: Path) -> str | None:
    content = _from_archive(data_set, file, raw)
    return None if content is None else sha256(content)


def _sweep(raw: Path) -> None:
    """Removes what a process left that was killed while it wrote; the caller holds the lock."""
    remove_parts(raw)
    for downloads in raw.glob(".*.download"):
        shutil.rmtree(downloads)


def _from_archive(data_set: DataSet, file: IdxFile, raw: Path) -> bytes | None:
    """The file's content from a compressed copy on this machine; None where there is no such copy."""
    name = f"{file.name}.gz"
    if data_set.archives and data_set.archives.exists():
        return _unpack(data_set.archives / name, file)
    for folder in (raw, raw.parent):
        if (folder / name).exists():
            return _unpack(folder / name, file)
    return None


def _unpack(archive: Path, file: IdxFile) -> bytes:
    """The verified content of a compressed file."""
    try:
        packed = read_bytes(archive)
        if file.sha256 is None and hashlib.md5(packed, usedforsecurity=False).hexdigest() != file.archive_md5:
            raise ValueError("is not the published archive (its MD5 is not the right one)")
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(file.size + 1)  # bounded, whatever it expands to
        except (OSError, EOFError, zlib.error):
            raise ValueError("is a damaged archive") from None
        file.decode(content, file.sha256)
    except ValueError as fault:
        raise ValueError(f"{archive} {fault}; replace it or remove it.") from None
    return content


@contextlib.contextmanager
def _downloads(data_set: DataSet, raw: Path, need: str) -> Iterator[Path]:
    """A temporary folder with the data set's archives, fetched by torchvision, which checks their MD5."""
    with tempfile.TemporaryDirectory(dir=raw, prefix=".", suffix=".download") as folder:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_SECONDS_WITHOUT_AN_ANSWER)
        try:
            datasets = importlib.import_module("torchvision.datasets")  # optional, and slow to import
            with contextlib.redirect_stdout(sys.stderr):
                for train in (True, False):
                    getattr(datasets, data_set.name)(folder, train=train, download=True)
        except (ImportError, OSError, RuntimeError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{need}, and {data_set.name} could not be downloaded ({reason}); "
                f"put its four files, compressed or not, into {raw} (source: {data_set.source})."
            ) from None
        finally:
            socket.setdefaulttimeout(timeout)
        yield Path(folder) / data_set.name / "raw"

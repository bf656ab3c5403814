"""Files that are whole or absent: written beside their place, synced to the disk, then renamed."""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

PART = ".part"  # suffix of unfinished files


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`; a crash at any moment leaves the old file or the new one, never a part.

    A link stays, and its target is written. A pipe or a device is written to directly. The permissions are those that
    the umask gives a new file.

    Raises:
        OSError: The folder cannot be written or the disk is full. It names `path`, which is as it was before.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:  # which names the temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory") from None
    temporary = path.parent / f".{uuid.uuid4().hex}{PART}"  # not made of the name, which may be as long as names can be
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raises OSError if a file cannot be written at `path`, as far as that shows without writing."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def is_part(path: Path) -> bool:
    """Returns True for a file that `write_atomically` began and did not finish."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(folder: Path) -> None:
    """Removes what killed writers left behind. Call it only while no other process writes to the folder."""
    for path in folder.glob(f".*{PART}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes the names in `folder` to the disk, so that a rename survives a power cut.

    The file is in its place by now, so that nothing that fails here may be reported as a file that was not written.
    """
    if os.name != "posix":  # Windows cannot open a folder
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

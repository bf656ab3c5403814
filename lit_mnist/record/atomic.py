"""Files that are whole or absent: written beside their place, synced, read back, then renamed into it."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

PART = ".part"  # how the names of unfinished files end


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` to `path`: a crash at any moment leaves the old file or the new one, no part of it.

    A link stays, and what it leads to is written; a pipe or a device is written to.

    The temporary file lies in the same folder (a rename is atomic within one file system only), is flushed
    to the disk and read back before the rename, and the rename itself is flushed too.

    Raises:
        OSError: The folder cannot be written, the disk is full, or the disk did not return what was written.
            `path`, which it names, is as it was before.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _write(Path(os.path.realpath(path)), content)
    except OSError as error:  # which would name the temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "Not in a folder") from None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise OSError(errno.EIO, "the disk did not return what was written to it")
        temporary.chmod(0o644)  # mkstemp makes files private to the user
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def check_place(path: Path) -> None:
    """Makes sure that a file can be written there, as far as that can be told without writing.

    Raises:
        OSError: It cannot.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not in a folder", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def is_part(path: Path) -> bool:
    """Whether this is a file that `write_durably` has begun and not finished."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(folder: Path) -> None:
    """Removes what writers that were killed left behind. For a folder in which nobody is writing."""
    for path in folder.glob(".*"):
        if is_part(path):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes the names in `folder` to the disk, so that a rename outlasts a power cut."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

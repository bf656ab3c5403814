"""Files that are whole or absent: written beside their place, synced to the disk, then renamed; and read within bounds."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # suffix of unfinished files
DEEPEST_FOLDER = 100  # below the one that is searched
CANNOT_SYNC = (errno.EINVAL, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # said by network shares, which write all the same


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`; a crash at any moment leaves the old file or the new one, never a part.

    A link is replaced, and what it leads to stays. A pipe or a device is written to directly, if somebody reads it. The
    permissions are those that the umask gives a new file.

    Raises:
        OSError: The folder cannot be written or the disk is full. It names `path`, which is as it was before.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes several files as `write_atomically` does; where one does not fit on the disk, all stay as they were.

    Raises:
        OSError: As `write_atomically`; it names the file that could not be written.
    """
    temporaries: dict[Path, Path] = {}  # the file -> what will replace it
    try:
        for path, content in files.items():
            if path.exists() and not path.is_file():
                _write_through(path, content)
                continue
            make_folder(path.parent)
            temporaries[path] = path.parent / f".{uuid.uuid4().hex}{PART}"  # the name may be as long as names can be
            with _naming(path):
                _write_synced(temporaries[path], content)
        for target, temporary in temporaries.items():
            with _naming(target):
                temporary.replace(target)
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()
    for folder in {target.parent for target in temporaries}:
        sync_folder(folder)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # which may name the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_through(path: Path, content: bytes) -> None:
    """Writes to a pipe or a device; a pipe that nobody reads raises OSError."""
    with open(os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)), "wb") as file:  # noqa: PTH123 (of a descriptor)
        os.set_blocking(file.fileno(), True)
        file.write(content)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in CANNOT_SYNC:
                raise


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing.

    Raises:
        OSError: It cannot be made; the error names what is in the way.
    """
    for part in (*reversed(path.parents), path):
        if os.path.lexists(part) and not part.is_dir():
            what = "Not a folder" if part.exists() else "A link to nothing"
            raise NotADirectoryError(errno.ENOTDIR, what, str(part))
    path.mkdir(parents=True, exist_ok=True)


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
    with suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def walk(top: Path, unlisted: list[OSError]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields `top` and the folders below it as os.walk does, names sorted; does not follow links.

    Adds the errors of folders that cannot be listed, or lie more than 100 deep, to `unlisted`.
    """
    for name, folders, files in os.walk(top, onerror=unlisted.append):
        path = Path(name)
        if len(path.parts) - len(top.parts) > DEEPEST_FOLDER:  # os.walk calls itself for each level
            unlisted.append(OSError(errno.ELOOP, "nested too deep", name))
            folders.clear()
        else:
            folders.sort()
            yield path, folders, sorted(files)


def beginning(path: Path) -> bytes:
    """Returns the first 2,000 bytes of a regular file; none of anything else, such as a pipe, which might never end."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(2000)


def read_regular(path: Path, limit: int) -> bytes:
    """Reads a regular file of at most `limit` bytes; a pipe or a device is refused, not waited for.

    Raises:
        ValueError: It is too large, is not a regular file, or cannot be read.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path.name} is not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from None
    if len(content) > limit:
        raise ValueError(f"{path.name} is larger than {limit:,} bytes")
    return content

"""Files that are either whole or absent: written beside their place, synced, read back, then renamed into it."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` to `path` so that a crash at any moment leaves the old file or the new one, never a part of it.

    The temporary file lies in the same folder (a rename is atomic within one file system only), is flushed to the disk and
    read back before the rename, and the rename itself is flushed too.

    Raises:
        OSError: The folder cannot be written, the disk is full, or the disk did not return what was written.
            `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise OSError(f"{path}: the disk did not return what was written to it.")
        temporary.chmod(0o644)  # mkstemp makes files private to the user
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flushes the names in `folder` to the disk, so that a rename outlasts a power cut."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

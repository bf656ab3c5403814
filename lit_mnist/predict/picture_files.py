"""The files that `--images` means."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def list_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and those in folders and their subfolders, sorted; hidden ones are passed over.

    A folder that cannot be listed comes out as it is: reading it fails, and says why.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        unlisted: list[OSError] = []
        for folder, subfolders, names in os.walk(path, onerror=unlisted.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
        yield from (Path(fault.filename) for fault in unlisted)


def printable(path: Path) -> str:
    """The path as text in one line: names of files may hold line breaks, and bytes that are not UTF-8."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)

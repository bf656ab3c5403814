"""SHA-256 sums of files, kept in a file `SHA256SUMS` in the format of the command `sha256sum`."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path


def sha256(content: bytes) -> str:
    """The SHA-256 of the content, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """File name -> SHA-256; empty where the list cannot be read, without the lines that are no sums."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    matches = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines)
    return {match[2]: match[1] for match in matches if match}


def format_sums(sums: Mapping[str, str]) -> str:
    """The text of a list of sums, in the order given."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())

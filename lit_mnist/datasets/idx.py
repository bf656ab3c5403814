"""The IDX file format, in which MNIST and its relatives are published."""

import math
from pathlib import Path

import torch
from torch import Tensor

# Element types by the third byte of the file. Source: the MNIST database's web page.
_TYPES = {
    0x08: torch.uint8,
    0x09: torch.int8,
    0x0B: torch.int16,
    0x0C: torch.int32,
    0x0D: torch.float32,
    0x0E: torch.float64,
}
_MOST_DIMENSIONS = 8  # of any file that is meant; the format would allow 255


def read_idx(path: Path) -> Tensor:
    """The tensor in an uncompressed IDX file, in the shape and the type that its header states.

    Raises:
        ValueError: The file cannot be read, or is not one whole IDX file.
    """
    try:
        return decode_idx(read_bytes(path))
    except ValueError as fault:
        raise ValueError(f"{path} {fault}.") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: It cannot be read; the message continues a sentence begun with the file's name.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def decode_idx(content: bytes) -> Tensor:
    """The tensor in the content of an uncompressed IDX file.

    Raises:
        ValueError: The content is not one whole IDX file; the message continues a sentence begun with the
            file's name.
    """
    if not content:
        raise ValueError("is empty")
    if content[:2] == b"\x1f\x8b":
        raise ValueError("is compressed by gzip where the uncompressed file is needed")
    magic = content[:4]
    if len(magic) < 4 or any(magic[:2]) or magic[2] not in _TYPES or not 1 <= magic[3] <= _MOST_DIMENSIONS:
        raise ValueError("is not an IDX file (its first four bytes are no IDX magic number)")
    dtype, header = _TYPES[magic[2]], 4 + 4 * magic[3]
    if len(content) < header:
        raise ValueError(f"ends inside its header, after {len(content)} bytes")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    size = header + math.prod(shape) * dtype.itemsize
    if len(content) != size:
        raise ValueError(f"has {len(content):,} bytes where its header promises {size:,}")
    if size == header:
        return torch.empty(shape, dtype=dtype)
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)
    if dtype.itemsize > 1:  # stored big-endian; every machine that PyTorch supports is little-endian
        values = values.view(-1, dtype.itemsize).flip(1).flatten()
    return values.view(dtype).view(shape)

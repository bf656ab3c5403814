"""The IDX file format, in which MNIST and its relatives are published."""

import math
from pathlib import Path

import torch
from torch import Tensor

# Element types by the third byte of the file; more than one byte is stored big-endian. Source: the MNIST database's web page.
_TYPES = {
    0x08: torch.uint8,
    0x09: torch.int8,
    0x0B: torch.int16,
    0x0C: torch.int32,
    0x0D: torch.float32,
    0x0E: torch.float64,
}


def read_idx(path: Path) -> Tensor:
    """The tensor in an uncompressed IDX file, in the shape and the type that its header states.

    Raises:
        ValueError: The file cannot be read, or is not one whole IDX file.
    """
    try:
        return decode_idx(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file; what is wrong with the file, as a `ValueError` that continues a sentence begun with its name."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def decode_idx(content: bytes) -> Tensor:
    """The tensor in the content of an uncompressed IDX file.

    Raises:
        ValueError: The content is not one whole IDX file; the message continues a sentence begun with the file's name.
    """
    if not content:
        raise ValueError("is empty")
    if content[:2] == b"\x1f\x8b":
        raise ValueError("is compressed by gzip where the uncompressed file is needed")
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise ValueError("is not an IDX file (its first four bytes are no IDX magic number)")
    dtype, dimensions = _TYPES[content[2]], content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"ends after {len(content):,} bytes, inside its header")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    size = header + math.prod(shape) * dtype.itemsize
    if len(content) != size:
        raise ValueError(f"has {len(content):,} bytes where its header promises {size:,} (shape {shape})")
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    values = torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(-1, dtype.itemsize)
    if dtype.itemsize > 1:
        values = values.flip(
            1
        )  # big-endian to little-endian, the order of every machine that PyTorch supports
    return values.contiguous().view(dtype).view(shape)

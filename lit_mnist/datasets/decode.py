"""Decoding of one file of images or labels that may come from anybody: IDX files and grey pictures."""

import contextlib
import gzip
import hashlib
import io
import math
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BYTES = 2**31  # of one data set, uncompressed
MOST_PIXELS = 2**20  # of one image
PICTURE_FORMATS = {".png": "PNG", ".bmp": "BMP", ".pgm": "PPM", ".jpg": "JPEG", ".jpeg": "JPEG"}  # Pillow's names

_DTYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}  # by the third byte of an IDX file
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow's modes of at most 8 bits per channel


def read_idx(path: Path, most: int = MOST_BYTES) -> tuple[NDArray[Any], str]:
    """Reads the values of an IDX file, and the SHA-256 of its content; both uncompressed if its name ends in .gz.

    Never reads or unpacks more than `most` bytes, or than the header promises.

    Raises:
        ValueError: The file cannot be read, or is not a whole IDX file of one to three dimensions.
    """
    with _opened(path) as file:
        header = file.read(4)
        if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _DTYPES or header[3] not in (1, 2, 3):
            raise ValueError("is not an IDX file (its first four bytes are not an IDX magic number)")
        dtype, dimensions = _DTYPES[header[2]], header[3]
        header += file.read(4 * dimensions)
        if len(header) < 4 + 4 * dimensions:
            raise ValueError("ends inside its header")
        shape = [int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4)]
        size = math.prod(shape) * dtype.itemsize
        if size > most:
            raise ValueError(f"promises {size:,} bytes, and a data set may have {MOST_BYTES:,}")
        content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"has {'more' if len(content) > size else 'fewer'} than the {size:,} bytes its header promises")
        values = np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return values, hashlib.sha256(header + content).hexdigest()


def read_picture(path: Path) -> tuple[NDArray[Any], str]:
    """Reads the grey values, uint8 (height, width), of a picture file, and the SHA-256 of the file.

    Raises:
        ValueError: The file cannot be read, is too large, or is not an opaque grey picture of at most 8 bits.
    """
    with _opened(path) as file:
        content = file.read(8 * MOST_PIXELS + 1)
        if len(content) > 8 * MOST_PIXELS:
            raise ValueError("is too large a file for a small grey picture")
        return _decode(content), hashlib.sha256(content).hexdigest()


def _decode(content: bytes) -> NDArray[Any]:
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(content), formats=[*PICTURE_FORMATS.values()])  # only its header so far
            allowed = math.prod(image.size) <= MOST_PIXELS and image.mode in _MODES
            pixels = np.asarray(image.convert("RGBA")) if allowed else None
    except Exception as error:  # Pillow raises whatever its decoders do: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"is not a whole picture ({type(error).__name__})") from None
    if pixels is None:
        size = f"{image.width} x {image.height} pixels of mode {image.mode}"
        raise ValueError(f"has {size}, not at most {MOST_PIXELS:,} of 8-bit grey")
    if (pixels[..., 3] != 255).any():
        raise ValueError("has transparent pixels")
    if (pixels[..., :2] != pixels[..., 1:3]).any():
        raise ValueError("is a colour picture, where a grey one is needed")
    return pixels[..., 0].copy()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file, or what its .gz holds; sentences on its faults name it."""
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise ValueError("is not a regular file")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except ValueError as fault:
        raise ValueError(f"{path} {fault}; replace it with a good copy.") from None
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise ValueError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); replace it with a good copy."
        ) from None

"""Image files of any format and mode -> grey levels."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lit_mnist.record.atomic import walk

Grey = NDArray[np.float32]  # (H, W), 0 .. 1

WORKING_SIDE = 1024  # pixels; larger pictures are reduced to this first
LARGEST_FILE = 2**30  # bytes; more than 89 million pixels take in any format
# Pillow's names of what cameras, scanners and drawing programs write. Of its other formats, some hold a picture of any
# other one, EPS among them, to decode which it runs another program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")


def list_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and those in folders and their subfolders, sorted; hidden ones are passed over.

    A folder that cannot be listed comes out as it is: reading it fails, and says why.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        unlisted: list[OSError] = []
        for folder, subfolders, names in walk(path, unlisted):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            yield from (folder / name for name in names if not name.startswith("."))
        yield from (Path(fault.filename) for fault in unlisted)


def read(path: Path) -> tuple[Image.Image, bool]:
    """Decodes an image file of one of the usual formats.

    Returns:
        The picture, upright according to its EXIF orientation, of an animation the first frame; and True if there are more.

    Raises:
        ValueError: Missing, not a file, empty, not an image, damaged, or above 89 million pixels, which Pillow does not
            consider safe to decode. The reason alone: the caller names the file.
    """
    try:
        if not path.exists():
            raise ValueError("there is no such file or folder.")
        if not path.is_file():
            raise ValueError("the folder cannot be listed." if path.is_dir() else "neither a file nor a folder.")
        if not 0 < path.stat().st_size <= LARGEST_FILE:
            raise ValueError("the file is too large; save it smaller." if path.stat().st_size else "the file is empty.")
    except PermissionError:
        raise ValueError("no permission to read it.") from None
    Image.init()
    formats = [name for name in Image.OPEN if name in FORMATS]
    with _refusing_damage(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities in metadata do not concern the picture
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=formats) as image:
            has_more = bool(getattr(image, "is_animated", False))  # to count its frames may take minutes
            image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # decodes a large JPEG at a fraction of its size
            image.load()
            return ImageOps.exif_transpose(image), has_more


def upright(picture: Image.Image) -> Image.Image:
    """Decodes a picture that Pillow has opened, and turns it as its EXIF orientation says.

    Raises:
        ValueError: It is damaged, or has no pixel. The reason alone.
    """
    if 0 in picture.size:
        raise ValueError("it has no pixel.")
    with _refusing_damage():
        picture.load()
        return ImageOps.exif_transpose(picture)


@contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError("too many pixels to decode safely; save it smaller.") from None
    except PermissionError:
        raise ValueError("no permission to read it.") from None
    except UnidentifiedImageError:
        raise ValueError("not an image, or in a format that cannot be read; save it as PNG or JPEG.") from None
    except Exception as error:  # damaged files make decoders raise SyntaxError, struct.error, IndexError, ...
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"the image is damaged ({reason}).") from None


def grey(picture: Image.Image) -> Grey:
    """The luminance of a picture of any mode: (H, W), float32 in [0, 1], the longer side at most 1024 pixels.

    A transparent picture is laid on the median level of its opaque part where most of it is opaque, and else on white or
    black, whichever its opaque part is further from. Levels of 16 and 32 bits become shares of the largest.

    Raises:
        ValueError: A level is not a finite number.
    """
    picture = eight_bit(picture)
    layered = picture.convert("RGBA")
    level = _reduced(layered.convert("L"))  # red, green and blue weighted as in ITU-R BT.601
    if not picture.has_transparency_data:
        return level
    alpha = _reduced(layered.getchannel("A"))
    opaque = level[alpha > 0.5]
    backdrop = 0.0 if opaque.size and opaque.mean() > 0.5 else 1.0
    if opaque.size > alpha.size / 2:
        backdrop = float(np.median(opaque))
    laid: Grey = alpha * level + (1 - alpha) * np.float32(backdrop)
    return laid


def eight_bit(picture: Image.Image) -> Image.Image:
    """A picture of grey levels of 16 or 32 bits as one of 8 bits, white being its largest level; any other as it is."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    levels = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("it holds levels that are not finite numbers.")
    levels = levels - min(levels.min(), 0)
    return Image.fromarray(np.round(levels * (255 / max(levels.max(), 1e-9))).astype(np.uint8))


def _reduced(channel: Image.Image) -> Grey:
    scale = min(1.0, WORKING_SIDE / max(channel.size))
    width, height = (max(1, round(size * scale)) for size in channel.size)
    return np.asarray(channel.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)

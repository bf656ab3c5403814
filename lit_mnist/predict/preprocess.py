"""Any picture of one digit -> the 28x28 grey levels that MNIST's own preparation would give.

Source of the preparation: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist/: the black-and-white NIST digits were scaled, aspect ratio kept, into a
20x20 box, which gave them grey levels through anti-aliasing, and moved in a 28x28 field until their centre of
mass was at its centre. In the 60,000 training images the longer side of the digit is 20 pixels (19 in 13 of
them), and the centre of mass lies 13.5 to 14.5 pixels from the middle of the first pixel on both axes.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from lit_mnist.predict.ink import FAINTEST, BlankError, Grey, find_ink, pixels, resized, scaled

SIDE = 28
BOX = 20
CENTRE = 14
WORKING_SIDE = 1024  # pixels; larger pictures are reduced to this first: a pixel of the box is up to 51 of these
THIN, USUAL = 1.5, 2.0  # pixels; widths of strokes in MNIST's training images at the 2nd and the 30th percentile
UNSAFE = frozenset({"EPS"})  # Pillow runs another programme, Ghostscript, to decode these


def read(path: Path) -> tuple[Image.Image, int]:
    """Decodes an image file.

    Args:
        path: Any format and mode that Pillow decodes by itself.

    Returns:
        The picture, turned as its EXIF orientation says, of an animation the first frame; and the number of
        frames in the file.

    Raises:
        ValueError: Missing, no file, empty, no image, damaged, or above 89 million pixels, which Pillow does
            not consider safe to decode. The message continues a sentence begun with the file's name.
    """
    try:
        if not path.exists():
            raise ValueError("there is no such file or folder.")
        if path.is_dir():
            raise ValueError("the folder cannot be listed.")
        if not path.is_file():
            raise ValueError("neither a file nor a folder.")
        if path.stat().st_size == 0:
            raise ValueError("the file is empty.")
        return _decode(path)
    except PermissionError:
        raise ValueError("no permission to read it.") from None


def _decode(path: Path) -> tuple[Image.Image, int]:
    Image.init()
    formats = [name for name in Image.OPEN if name not in UNSAFE]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in metadata do not concern the picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                frames = int(getattr(image, "n_frames", 1))
                image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # decodes a large JPEG at a fraction of its size
                image.load()
                return ImageOps.exif_transpose(image), frames
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError("too many pixels to decode safely; save it smaller.") from None
    except PermissionError:
        raise
    except UnidentifiedImageError:
        raise ValueError("not an image, or in a format that cannot be read.") from None
    except Exception as error:  # damaged files make decoders raise SyntaxError, struct.error, IndexError, ...
        raise _damaged(error) from None


def upright(picture: Image.Image) -> Image.Image:
    """A picture that Pillow has opened: decoded, and turned as its EXIF orientation says.

    Raises:
        ValueError: It is damaged, or has no pixel. The message continues a sentence begun with its name.
    """
    if 0 in picture.size:
        raise ValueError("it has no pixel.")
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"the image is damaged ({reason}).")


def prepare(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture -> what MNIST's preparation makes of it: (28, 28) uint8, 0 background .. 255 ink.

    A picture of exactly 28x28 pixels is taken as prepared already and kept as it is; it is inverted where the
    median of its outermost pixels is above one half, that is where its background is light. Every other size
    is prepared: the digit is found as `lit_mnist.predict.ink.find_ink` says, scaled into the box of 20x20 pixels,
    stretched to full contrast and moved to the centre.

    Raises:
        ValueError: Nothing stands out from the background, or a level is not a finite number.
    """
    level = grey(picture)
    if level.max() - level.min() < FAINTEST:
        raise BlankError
    if level.shape == (SIDE, SIDE):
        edge = np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]])
        ink = 1 - level if np.median(edge) > 0.5 else level
        return np.round(ink * 255).astype(np.uint8)
    return _centred(_thickened(find_ink(level)))


def grey(picture: Image.Image) -> Grey:
    """A picture of any mode -> its luminance (H, W), float32 in [0, 1], the longer side at most 1024 pixels.

    A transparent picture is laid on the median level of its opaque part where most of it is opaque, and else
    on white or black, whichever its opaque part is further from. 16-bit and 32-bit levels are scaled by
    the least usual range (of 8, 10, 12 or 16 bits; 1, 255 or 65535 for floating point) that holds them.

    Raises:
        ValueError: A level is not a finite number.
    """
    if picture.mode.startswith(("I", "F")):
        return _reduced(_scaled_by_range(picture))
    if picture.has_transparency_data:
        layered = with_alpha(picture)
        level, alpha = _luminance(layered), _reduced(layered.getchannel("A")) / np.float32(255)
        opaque = level[alpha > 0.5]
        if opaque.size > alpha.size / 2:
            backdrop = float(np.median(opaque))
        else:
            backdrop = 0.0 if opaque.size and opaque.mean() > 0.5 else 1.0
        return (alpha * level + (1 - alpha) * np.float32(backdrop)).astype(np.float32)
    return _luminance(picture)


def with_alpha(picture: Image.Image) -> Image.Image:
    """The picture in mode RGBA, from any mode but those of 16 and 32 bits."""
    if picture.mode in ("La", "RGBa"):  # premultiplied; Pillow goes back one way only
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.mode == "LAB":  # its luminance is all that is needed, and Pillow has no conversion without a profile
        picture = picture.getchannel("L")
    return picture.convert("RGBA")


def _luminance(picture: Image.Image) -> Grey:
    """Without transparency, (H, W) in [0, 1]; red, green and blue weighted as in ITU-R BT.601."""
    return _reduced(with_alpha(picture).convert("L")) / np.float32(255)


def _scaled_by_range(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("it holds levels that are not finite numbers.")
    # what white may be: "F" has no range of its own, and integers hold 8, 10, 12 or 16 bits
    ranges = (1, 255, 65535) if picture.mode.startswith("F") else (255, 1023, 4095, 65535)
    largest = np.abs(levels).max()
    white = next((white for white in ranges if largest <= white), largest)
    if levels.min() < 0:  # a range on both sides of 0
        levels = (levels + white) / 2
    return Image.fromarray((levels / white).astype(np.float32))


def _reduced(picture: Image.Image) -> NDArray[np.float32]:
    scale = WORKING_SIDE / max(picture.size)
    if scale < 1:
        picture = picture.resize(scaled(picture.size, scale), Image.Resampling.BOX)
    return pixels(picture)


def _thickened(ink: Grey) -> Grey:
    """Strokes thinner than MNIST's, of a fine pen say, are widened to what is usual there.

    Their width is taken as 2 x area / outline, and the outline as the sum of the slopes of the grey levels.
    """
    fine = 5  # pixels for each pixel of the box
    large = np.clip(resized(ink, fine * BOX / max(ink.shape), Image.Resampling.BILINEAR), 0, 1)
    outline = np.hypot(*np.gradient(np.pad(large, 1))).sum()
    width = 2 * float(large.sum() / outline) / fine
    if width >= THIN:
        return ink
    growth = round((USUAL - width) * fine / 2)
    core = np.percentile(large[large > large.max() / 10], 75)  # reducing has made fine lines faint
    bordered = Image.fromarray(np.pad(np.clip(large / core * 255, 0, 255).astype(np.uint8), growth))
    return pixels(bordered.filter(ImageFilter.MaxFilter(2 * growth + 1))) / np.float32(255)


def _centred(ink: Grey) -> NDArray[np.uint8]:
    """Ink (h, w), 0 .. 1, cropped to its box -> (28, 28) uint8, in 20x20 pixels around its centre of mass."""
    small = np.clip(resized(ink, BOX / max(ink.shape), Image.Resampling.BICUBIC), 0, 1)
    small /= small.max()
    mass = small.sum()
    middle = [float((small.sum(axis=1 - axis) * np.arange(small.shape[axis])).sum() / mass) for axis in (0, 1)]
    top, left = (SIDE + CENTRE - round(position) for position in middle)
    field = np.zeros((3 * SIDE, 3 * SIDE), dtype=np.float32)  # a digit may be far off its centre of mass
    field[top : top + small.shape[0], left : left + small.shape[1]] = small
    return np.round(field[SIDE : 2 * SIDE, SIDE : 2 * SIDE] * 255).astype(np.uint8)

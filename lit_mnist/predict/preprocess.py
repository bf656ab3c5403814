"""Any picture of one digit -> the grey levels that MNIST's own preparation would give.

Source of the preparation: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist/: the black-and-white NIST digits were scaled, aspect ratio kept, into a 20x20 box, which
gave them grey levels through anti-aliasing, and moved in a 28x28 field until their centre of mass was at its centre. In the
60,000 training images the longer side of the digit is 20 pixels (19 in 13 of them), and the centre of mass lies 13.5 to
14.5 pixels from the middle of the first pixel on both axes.
"""

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

Grey = NDArray[np.float32]  # (H, W), 0 .. 1
Map = NDArray[np.bool_]  # (h, w)

BOX = 20 / 28  # longer side of a digit's box, as a share of the image's side
WORKING_SIDE = 1024  # pixels; larger pictures are reduced to this first
SMALL_SIDE = 84  # pixels; smaller pictures are enlarged to this first, so that strokes are wider than a pixel
MAP_SIDE = 128  # pixels; the map on which paper is estimated and pieces of ink are told apart
WINDOW = 0.35  # of the longer side of the map: wider than any stroke, narrower than most changes of light
FAINTEST = 0.06  # what differs from the paper by less is not ink: a blank page in a lossy format differs so much
LEAST_ROOM = 0.4  # so that noise is not blown up in deep shadow
INKED = 0.33  # of the largest contrast: more than the edge of a soft shadow has
THIN, USUAL = 1.5, 2.0  # pixels of the box; widths of MNIST's strokes at the 2nd and the 30th percentile
UNSAFE = frozenset({"EPS"})  # Pillow runs another program, Ghostscript, to decode these


def read(path: Path) -> tuple[Image.Image, int]:
    """Decodes an image file of any format and mode that Pillow decodes by itself.

    Returns:
        The picture, upright according to its EXIF orientation, of an animation the first frame; and the number of frames.

    Raises:
        ValueError: Missing, not a file, empty, not an image, damaged, or above 89 million pixels, which Pillow does not
            consider safe to decode. The reason alone: the caller names the file.
    """
    try:
        if not path.exists():
            raise ValueError("there is no such file or folder.")
        if not path.is_file():
            raise ValueError("the folder cannot be listed." if path.is_dir() else "neither a file nor a folder.")
        if path.stat().st_size == 0:
            raise ValueError("the file is empty.")
        Image.init()
        formats = [name for name in Image.OPEN if name not in UNSAFE]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in metadata do not concern the picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                frames = int(getattr(image, "n_frames", 1))
                image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # decodes a large JPEG at a fraction of its size
                return upright(image), frames
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError("too many pixels to decode safely; save it smaller.") from None
    except PermissionError:
        raise ValueError("no permission to read it.") from None
    except UnidentifiedImageError:
        raise ValueError("not an image, or in a format that cannot be read.") from None
    except ValueError:
        raise
    except Exception as error:
        raise _damaged(error) from None


def upright(picture: Image.Image) -> Image.Image:
    """Decodes a picture that Pillow has opened, and turns it as its EXIF orientation says.

    Raises:
        ValueError: It is damaged, or has no pixel. The reason alone.
    """
    if 0 in picture.size:
        raise ValueError("it has no pixel.")
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # damaged files make decoders raise SyntaxError, struct.error, IndexError, ...
        raise _damaged(error) from None


def _damaged(error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"the image is damaged ({reason}).")


def prepare(
    picture: Image.Image, image_shape: tuple[int, int] = (28, 28), like_mnist: bool = True
) -> tuple[NDArray[np.uint8], str]:
    """Makes of a picture what MNIST's preparation makes of it.

    The digit, dark or light, is found on its background in any light, scaled into the box, stretched to full contrast and
    moved to the centre. A picture that is prepared already is kept, or inverted where its background is light.

    Args:
        picture: Of any size and mode.
        image_shape: Height and width of the image to make; box and centre are MNIST's in proportion.
        like_mnist: A picture of this very shape counts as prepared only if it has MNIST's measures (empty background,
            size of the digit's box, centre of mass), as it must be for a network of digits; False: whatever it shows.

    Returns:
        The image, `image_shape` uint8, 0 background .. 255 ink; and a note for the user, a sentence's end, or "".

    Raises:
        ValueError: Nothing stands out from the background, or a level is not a finite number. The reason alone.
    """
    level = grey(picture)
    if np.ptp(level) < FAINTEST:
        raise _blank()
    if level.shape == image_shape:
        edge = np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]])
        kept = 1 - level if np.median(edge) > 0.5 else level
        if not like_mnist or _has_measures_of_mnist(kept):
            return np.round(kept * 255).astype(np.uint8), ""
    if max(level.shape) < SMALL_SIDE:
        level = np.clip(_resized(level, SMALL_SIDE / max(level.shape), Image.Resampling.BICUBIC), 0, 1)
    ink, shapes = _find_ink(level)
    note = f"{shapes} separate shapes are taken for one; give each a picture of its own." if shapes > 1 else ""
    return _centred(_thickened(ink, image_shape), image_shape), note


def grey(picture: Image.Image) -> Grey:
    """The luminance of a picture of any mode: (H, W), float32 in [0, 1], the longer side at most 1024 pixels.

    A transparent picture is laid on the median level of its opaque part where most of it is opaque, and else on white or
    black, whichever its opaque part is further from. 16-bit and 32-bit levels are scaled by the least usual range (of 8, 10,
    12 or 16 bits; 1, 255 or 65535 for floating point) that holds them.

    Raises:
        ValueError: A level is not a finite number.
    """
    if picture.mode.startswith(("I", "F")):
        return _reduced(_scaled_by_range(picture))
    layered = with_alpha(picture)
    level = _reduced(layered.convert("L")) / np.float32(255)  # red, green and blue weighted as in ITU-R BT.601
    if not picture.has_transparency_data:
        return level
    alpha = _reduced(layered.getchannel("A")) / np.float32(255)
    opaque = level[alpha > 0.5]
    backdrop = 0.0 if opaque.size and opaque.mean() > 0.5 else 1.0
    if opaque.size > alpha.size / 2:
        backdrop = float(np.median(opaque))
    return (alpha * level + (1 - alpha) * np.float32(backdrop)).astype(np.float32)


def with_alpha(picture: Image.Image) -> Image.Image:
    """The picture in mode RGBA, from any mode but those of 16 and 32 bits."""
    if picture.mode in ("La", "RGBa"):  # premultiplied; Pillow goes back one way only
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.mode == "LAB":  # its luminance is all that is needed, and Pillow has no conversion without a profile
        picture = picture.getchannel("L")
    return picture.convert("RGBA")


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


def _reduced(picture: Image.Image) -> Grey:
    """The levels of a picture of one channel, in its own units."""
    scale = min(1.0, WORKING_SIDE / max(picture.size))
    width, height = (max(1, round(size * scale)) for size in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.float32)


def _resized(level: Grey, scale: float, method: Image.Resampling) -> Grey:
    """(H, W) scaled on both axes; where pixels get fewer, with anti-aliasing."""
    height, width = (max(1, round(size * scale)) for size in level.shape)
    return np.asarray(Image.fromarray(level).resize((width, height), method), dtype=np.float32)


def _blank() -> ValueError:
    return ValueError("blank: nothing stands out from the background.")


def _has_measures_of_mnist(image: Grey) -> bool:
    """True for an empty background, a digit as long as the box, and its centre of mass in the middle."""
    ink = image > 0
    if not ink.any() or ink.mean() > 0.6:
        return False
    box = _box(ink)
    longer = max((side.stop - side.start) / size for side, size in zip(box, image.shape, strict=True))
    centre = ndimage.center_of_mass(image)
    off = max(abs(place - size / 2) for place, size in zip(centre, image.shape, strict=True))
    return abs(longer - BOX) * max(image.shape) <= 1 and off <= 1


def _find_ink(level: Grey) -> tuple[Grey, int]:
    """Finds the digit: ink (h, w), 0 none .. 1 full, cropped to its box; and the number of shapes that it consists of.

    Paper is what a grey closing leaves of the picture: every dark valley narrower than the window is filled. Ink is what is
    darker than its paper, as a share of it, which evens out the light.
    """
    smooth, noise = _smoothed(level)
    small = _resized(smooth, min(1.0, MAP_SIDE / max(level.shape)), Image.Resampling.BOX)
    scale = max(level.shape) / max(small.shape)
    for sheet in _sheets(small):
        with suppress(ValueError):
            inner, shapes = _find_ink(level[tuple(slice(int(side.start * scale), int(side.stop * scale)) for side in sheet)])
            if (inner > 0.5).mean() < 0.9:  # else it is the hole of an angular zero
                return inner, shapes
    if _is_light_on_dark(small):
        smooth = 1 - smooth
    window = max(3, round(WINDOW * max(level.shape)))
    paper = ndimage.grey_closing(smooth, (window, window), mode="nearest")
    difference = paper - smooth
    contrast = difference / np.maximum(paper, LEAST_ROOM)
    peak = float(contrast.max())
    if peak < FAINTEST or difference.max() < 6 * noise:
        raise _blank()
    ink = (contrast > peak * INKED) & (difference > 3 * noise)
    covered = _resized(ink.astype(np.float32), min(1.0, MAP_SIDE / max(ink.shape)), Image.Resampling.BOX) > 0
    chosen, shapes = _chosen(covered)
    place, size = Image.fromarray(chosen.astype(np.float32)), (level.shape[1], level.shape[0])
    kept = ink & (np.asarray(place.resize(size, Image.Resampling.NEAREST)) > 0)
    near = np.asarray(place.resize(size, Image.Resampling.BILINEAR)) > 0
    full = np.percentile(contrast[kept], 90)
    return np.clip(np.where(near, contrast / full, 0), 0, 1)[_box(kept)].astype(np.float32), shapes


def _sheets(small: Grey) -> list[tuple[slice, ...]]:
    """The insides of what may hold the digit: a sheet that is not the whole picture, or a frame drawn around; the largest first."""
    boxes = []
    middle = (small.max() + small.min()) / 2
    for side in (small > middle, small < middle):
        number, _ = ndimage.label(side, np.ones((3, 3)))
        for piece, box in enumerate(ndimage.find_objects(number), 1):
            size = small[box].size
            if 0.05 * small.size < size < 0.95 * small.size and _fills_its_sides(number[box] == piece):
                inside = [slice(each.start + (rim := -(-(each.stop - each.start) // 20)), each.stop - rim) for each in box]
                boxes.append((size, tuple(inside)))
    return [box for _, box in sorted(boxes, reverse=True, key=lambda each: each[0])]


def _is_light_on_dark(small: Grey) -> bool:
    """The corners tell, where three of them are as light or dark as anything; else the majority around the ink."""
    corners = (small[[0, 0, -1, -1], [0, -1, 0, -1]] - small.min()) / np.ptp(small)
    if max(dark := int((corners < 0.15).sum()), int((corners > 0.85).sum())) >= 3:
        return dark >= 3
    window = max(3, round(WINDOW * max(small.shape)))
    brightest, darkest = ndimage.maximum_filter(small, window), ndimage.minimum_filter(small, window)
    around = brightest - darkest
    return bool((2 * small - brightest - darkest)[around >= around.max() / 2].mean() < 0)


def _smoothed(level: Grey) -> tuple[Grey, float]:
    """Where there is noise: the mean over 3x3 pixels, and an upper bound of the noise that is left.

    White noise would shrink to a third of its standard deviation; a lossy format makes blotches of it, which stay.
    """
    mean = ndimage.uniform_filter(level, 3, mode="nearest")
    noise = 1.4826 * float(np.median(np.abs(level - mean)))  # median -> standard deviation of a normal distribution
    return (level, 0.0) if noise < FAINTEST / 12 else (mean, noise)


def _chosen(ink: Map) -> tuple[Map, int]:
    """The digit's part of a map: no specks, no frame, and nothing that comes in from the edge if more is there.

    Also the number of shapes beside or above each other of which each is at least half as high as the highest.
    """
    number, count = ndimage.label(ink, np.ones((3, 3)))
    boxes = ndimage.find_objects(number)
    area = np.bincount(number.ravel(), minlength=count + 1)
    area[0] = 0
    inside = area.copy()
    inside[np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]])] = 0
    for piece, box in enumerate(boxes, 1):
        if _fills_its_sides(number[box] == piece):
            inside[piece] = 0
    if inside.max() >= max(8, area.max() / 50):
        area = inside
    large = area >= max(1, area.max() / 20)
    heights = [box[0].stop - box[0].start if large[piece] else 0 for piece, box in enumerate(boxes, 1)]
    shapes = [box for box, height in zip(boxes, heights, strict=True) if height >= max(heights) / 2]
    apart = [box for box in shapes if all(_is_apart(box, other) for other in shapes if other is not box)]
    return large[number], len(apart)


def _is_apart(one: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    return any(a.stop <= b.start or b.stop <= a.start for a, b in zip(one, other, strict=True))


def _box(ink: Map) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _fills_its_sides(ink: Map) -> bool:
    """True for ink in its box that runs along all four sides of it, as a frame does."""
    height, width = (max(1, size // 20) for size in ink.shape)
    sides = ink[:height].any(0), ink[-height:].any(0), ink[:, :width].any(1), ink[:, -width:].any(1)
    return all(float(side.mean()) > 0.85 for side in sides)


def _thickened(ink: Grey, image_shape: tuple[int, int]) -> Grey:
    """Widens strokes thinner than MNIST's, of a fine pen say, to what is usual there.

    Their width is taken as 2 x area / outline, and the outline as the sum of the slopes of the grey levels.
    """
    fine = 5  # pixels for each pixel of the box
    large = np.clip(_resized(ink, fine * BOX * 28 / max(ink.shape), Image.Resampling.BILINEAR), 0, 1)
    outline = np.hypot(*np.gradient(np.pad(large, 1))).sum()
    width = 2 * float(large.sum() / outline) / fine
    if width >= THIN:
        return ink
    growth = round((USUAL - width) * fine / 2)
    core = np.percentile(large[large > large.max() / 10], 75)  # reducing has made fine lines faint
    return ndimage.grey_dilation(np.pad(np.clip(large / core, 0, 1), growth), (2 * growth + 1, 2 * growth + 1))


def _centred(ink: Grey, image_shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Ink (h, w), 0 .. 1, cropped to its box -> the image: in the box, around its centre of mass."""
    scale = min(round(BOX * size) / side for size, side in zip(image_shape, ink.shape, strict=True))
    small = np.clip(_resized(ink, scale, Image.Resampling.BICUBIC), 0, 1)
    small /= small.max()
    field = np.zeros([3 * size for size in image_shape], dtype=np.float32)  # a digit may be far off its centre of mass
    starts = [size + size // 2 - round(place) for size, place in zip(image_shape, ndimage.center_of_mass(small), strict=True)]
    field[tuple(slice(start, start + side) for start, side in zip(starts, small.shape, strict=True))] = small
    middle = field[tuple(slice(size, 2 * size) for size in image_shape)]
    return np.round(middle * 255).astype(np.uint8)

"""Any picture of one digit -> the grey levels that MNIST's own preparation would give.

Source of the preparation: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist/: the black-and-white NIST digits were scaled, aspect ratio kept, into a 20x20 box, which
gave them grey levels through anti-aliasing, and moved in a 28x28 field until their centre of mass was at its centre. In the
60,000 training images the longer side of the digit is 20 pixels (19 in 13 of them), and the centre of mass lies 13.5 to
14.5 pixels from the middle of the first pixel on both axes.
"""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lit_mnist.datasets.registry import MNIST
from lit_mnist.predict.pictures import Grey, grey
from lit_mnist.predict.sheets import Map, fills_its_sides, find_sheets, is_ruled

SIDE = MNIST.image_shape[0]
BOX = 20 / SIDE  # longer side of a digit's box, as a share of the image's side
SMALL_SIDE = 84  # pixels; smaller pictures are enlarged to this first, so that strokes are wider than a pixel
MAP_SIDE = 128  # pixels; the map on which paper is estimated and pieces of ink are told apart
WINDOW = 0.35  # of the longer side of the map: wider than any stroke, narrower than most changes of light
FAINTEST = 0.06  # what differs from the paper by less is not ink: a blank page in a lossy format differs so much
LEAST_ROOM = 0.4  # so that noise is not blown up in deep shadow
INK_FROM = (0.33, 0.5, 0.65, 0.8)  # of the largest contrast: more than a soft shadow's edge has, or the lines of ruled paper
THIN, USUAL = 1.5, 2.0  # pixels of the box; widths of MNIST's strokes at the 2nd and the 30th percentile
BLANK = "blank: nothing stands out from the background."
LINES = "lines run through it and may be taken for ink; write on plain paper."


def prepare(
    picture: Image.Image, image_shape: tuple[int, int] = MNIST.image_shape, like_mnist: bool = True
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
        raise ValueError(BLANK)
    if level.shape == image_shape:
        edge = np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]])
        kept = 1 - level if np.median(edge) > 0.5 else level
        if not like_mnist or _has_measures_of_mnist(kept):
            return np.round(kept * 255).astype(np.uint8), ""
    if max(level.shape) < SMALL_SIDE:
        level = np.clip(_resized(level, SMALL_SIDE / max(level.shape), Image.Resampling.BICUBIC), 0, 1)
    ink, note = _find_ink(level)
    return _centred(_thickened(ink), image_shape), note


def _resized(level: Grey, scale: float, method: Image.Resampling) -> Grey:
    """(H, W) scaled on both axes; where pixels get fewer, with anti-aliasing."""
    height, width = (max(1, round(size * scale)) for size in level.shape)
    return np.asarray(Image.fromarray(level).resize((width, height), method), dtype=np.float32)


def _has_measures_of_mnist(image: Grey) -> bool:
    """True for an empty background, a digit as long as the box, and its centre of mass in the middle."""
    ink = image > 0
    if not ink.any() or ink.mean() > 0.6:
        return False
    box = _box(ink)
    longer = max((side.stop - side.start) / size for side, size in zip(box, image.shape, strict=True))
    centre = ndimage.center_of_mass(image)
    off = max(abs(place - size / 2) for place, size in zip(centre, image.shape, strict=True))
    return bool(abs(longer - BOX) * max(image.shape) < 1.5 and off <= 1)


def _find_ink(level: Grey) -> tuple[Grey, str]:
    """Finds the digit: ink (h, w), 0 none .. 1 full, cropped to its box; and a note for the user, or ""."""
    smooth, noise = _smoothed(level)
    small = _resized(smooth, min(1.0, MAP_SIDE / max(level.shape)), Image.Resampling.BOX)
    for inside in find_sheets(small):
        on_sheet = np.asarray(Image.fromarray(inside).resize(level.shape[::-1], Image.Resampling.NEAREST))
        nearest = ndimage.distance_transform_edt(~on_sheet, return_distances=False, return_indices=True)
        with suppress(ValueError):
            inner, note = _find_ink(level[tuple(nearest)][_box(on_sheet)])
            if (inner > 0.5).mean() < 0.9:  # else it is the hole of an angular zero
                return inner, note
    if _is_light_on_dark(small):
        smooth = 1 - smooth
    contrast, dark = _contrast(smooth, noise)
    peak = contrast.max()
    plain = [share for share in INK_FROM if not is_ruled(_covered(dark & (contrast > peak * share)))]
    least = peak * (plain or INK_FROM)[0]
    ink = dark & (contrast > least)
    chosen, shapes = _chosen(_covered(ink))
    place, size = Image.fromarray(chosen.astype(np.float32)), (level.shape[1], level.shape[0])
    kept = ink & (np.asarray(place.resize(size, Image.Resampling.NEAREST)) > 0)
    near = np.asarray(place.resize(size, Image.Resampling.BILINEAR)) > 0
    none, full = 0 if INK_FROM[0] in plain else least, np.percentile(contrast[kept], 90)
    share = np.clip(np.where(near, (contrast - none) / (full - none), 0), 0, 1)[_box(kept)]
    note = f"{shapes} separate shapes are taken for one; give each a picture of its own." if shapes > 1 else ""
    return share.astype(np.float32), note if plain else LINES


def _contrast(smooth: Grey, noise: float) -> tuple[Grey, Map]:
    """Darkness against the paper, as a share of it, which evens out the light; and where it is more than noise.

    Paper is what a grey closing leaves of the picture: every dark valley narrower than the window is filled.
    """
    window = max(3, round(WINDOW * max(smooth.shape)))
    corners = smooth[[0, 0, -1, -1], [0, -1, 0, -1]]
    bright = smooth.max() - 0.15 * np.ptp(smooth)
    around = {"constant_values": smooth.max()} if corners.min() > bright else {"mode": "edge"}  # a shadow goes on beyond
    paper = ndimage.grey_closing(np.pad(smooth, window, **around), (window, window))[window:-window, window:-window]
    corner = np.percentile(corners, 75)
    if (paper - smooth).max() < FAINTEST and corner > bright:
        paper = np.full_like(smooth, corner)  # even light, and ink too broad for the window
    difference = paper - smooth
    contrast = difference / np.maximum(paper, LEAST_ROOM)
    if contrast.max() < FAINTEST or difference.max() < 14 * noise:  # a closing rests on the brightest of the noise
        raise ValueError(BLANK)
    return contrast, difference > 3 * noise


def _covered(ink: Map) -> Map:
    """The map of ink on which pieces are told apart."""
    return _resized(ink.astype(np.float32), min(1.0, MAP_SIDE / max(ink.shape)), Image.Resampling.BOX) > 0


def _is_light_on_dark(small: Grey) -> bool:
    """The corners tell, where three of them are as light or dark as anything; else the majority around the ink."""
    corners = (small[[0, 0, -1, -1], [0, -1, 0, -1]] - small.min()) / max(float(np.ptp(small)), FAINTEST)
    if max(dark := int((corners < 0.15).sum()), int((corners > 0.85).sum())) >= 3:
        return dark >= 3
    window = max(3, round(WINDOW * max(small.shape)))
    level = np.log(small + 0.05)  # a shadow takes the same from paper and ink, and less than ink does
    brightest, darkest = ndimage.maximum_filter(level, window), ndimage.minimum_filter(level, window)
    around = brightest - darkest
    return bool((2 * level - brightest - darkest)[around >= 0.7 * around.max()].mean() < 0)


def _smoothed(level: Grey) -> tuple[Grey, float]:
    """Smooths where there is noise: the mean over 3x3 pixels, and an upper bound of the noise that is left.

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
        if fills_its_sides(number[box] == piece):
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


def _thickened(ink: Grey) -> Grey:
    """Widens strokes thinner than MNIST's, of a fine pen say, to what is usual there.

    Their width is taken as 2 x area / outline, and the outline as the sum of the slopes of the grey levels.
    """
    fine = 5  # pixels for each pixel of the box
    large = np.clip(_resized(ink, fine * BOX * SIDE / max(ink.shape), Image.Resampling.BILINEAR), 0, 1)
    outline = np.hypot(*np.gradient(np.pad(large, 1))).sum()
    width = 2 * float(large.sum() / outline) / fine
    if width >= THIN:
        return ink
    growth = round((USUAL - width) * fine / 2)
    core = np.percentile(large[large > large.max() / 10], 75)  # reducing has made fine lines faint
    widened: Grey = ndimage.grey_dilation(np.pad(np.clip(large / core, 0, 1), growth), (2 * growth + 1, 2 * growth + 1))
    return widened


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

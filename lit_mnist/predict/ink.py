"""Finds the digit in a picture: what is ink, what is paper, and what is neither.

The paper is estimated from the rim of the picture, and ink is what differs from it. Only the largest pieces
are kept, and what comes in from the edge of the picture (a table, a shadow, a frame) is left out if anything
else is there.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]  # (H, W), 0 .. 1
Map = NDArray[np.bool_]  # (h, w)

MAP_SIDE = 128  # pixels; the map on which pieces of ink are told apart
FIT_SIDE = 64  # pixels; enough to see how the light falls
FAINTEST = 0.06  # ink that differs from the paper by less is none: a blank page in a lossy format differs so much
LEAST_ROOM = 0.4  # so that noise is not blown up where the paper is nearly white, or nearly black


class BlankError(ValueError):
    """Nothing in a picture stands out from its background."""

    def __init__(self) -> None:
        super().__init__("blank: nothing stands out from the background.")


def find_ink(level: Grey) -> Grey:
    """The digit in a picture, light or dark on a background that may be unevenly lit, cropped to its box.

    Args:
        level: Luminance (H, W), 0 black .. 1 white.

    Returns:
        Ink (h, w), 0 none .. 1 full.

    Raises:
        BlankError: Nothing stands out from the background.
    """
    level, noise = _smoothed(level)
    paper = _paper(level)
    room = np.maximum(np.where(level < paper, paper, 1 - paper), LEAST_ROOM)
    difference = paper - level
    certain = np.sign(difference) * np.maximum(np.abs(difference) - 2 * noise, 0)
    contrast = certain / room  # darker positive, as a share of the largest possible
    peak = float(np.abs(contrast).max())
    if peak < FAINTEST or np.abs(certain).max() < 4 * noise:
        raise BlankError
    ink = (np.abs(contrast) > peak / 4) & (np.abs(certain) >= 2 * noise)
    covered = resized(ink.astype(np.float32), min(1.0, MAP_SIDE / max(ink.shape)), Image.Resampling.BOX) > 0
    chosen = Image.fromarray(_chosen(covered).astype(np.float32))
    size = (level.shape[1], level.shape[0])
    kept = ink & (pixels(chosen.resize(size, Image.Resampling.NEAREST)) > 0)
    box = _box(kept)
    # a digit in a frame, or on a sheet that is not the whole picture, is looked for inside
    if kept[box].size < 0.95 * kept.size and min(kept[box].shape) >= 28 and _fills_its_sides(kept[box]):
        try:
            inner = find_ink(level[box])
        except BlankError:
            pass
        else:
            if (inner > 0.5).mean() < 0.9:  # else it is the hole of an angular zero
                return inner
    sign = 1 if contrast[kept].sum() >= 0 else -1
    strength = sign * contrast[kept]
    full = np.percentile(strength[strength > 0], 90)
    near = pixels(chosen.resize(size, Image.Resampling.BILINEAR)) > 0
    return np.clip(np.where(near, sign * contrast / full, 0), 0, 1)[box].astype(np.float32)


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """A size (width, height) times `scale`, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def pixels(picture: Image.Image) -> NDArray[np.float32]:
    """The levels of a picture of one channel, (H, W), in its own units."""
    return np.asarray(picture, dtype=np.float32)


def resized(level: Grey, scale: float, method: Image.Resampling) -> Grey:
    """(H, W) scaled on both axes; where pixels get fewer, with anti-aliasing."""
    return pixels(Image.fromarray(level).resize(scaled((level.shape[1], level.shape[0]), scale), method))


def _smoothed(level: Grey) -> tuple[Grey, float]:
    """Where there is noise: the mean over 3x3 pixels, and an upper bound of the noise that is left.

    White noise would shrink to a third of its standard deviation; a lossy format makes blotches of it, which stay.
    """
    if min(level.shape) < 56:  # every pixel counts, and most of them lie on the edge of a stroke
        return level, 0.0
    mean = level
    for axis in (0, 1):
        border = np.pad(mean, [(1, 1), (0, 0)] if axis == 0 else [(0, 0), (1, 1)], mode="edge")
        size = level.shape[axis]
        shifted = [border.take(range(first, first + size), axis) for first in range(3)]
        mean = (shifted[0] + shifted[1] + shifted[2]) / np.float32(3)
    noise = 1.4826 * float(np.median(np.abs(level - mean)))  # median -> standard deviation of a normal distribution
    return (level, 0.0) if noise < FAINTEST / 12 else (mean, noise)


def _paper(level: Grey) -> Grey:
    """The level of the paper at every pixel, (H, W): constant, or in uneven light a quadratic surface.

    Where the rim is neither even nor near such a surface, the digit fills the picture and the corners are
    paper.
    """
    y, x = _axes(level.shape)
    rim = np.maximum(np.abs(x), np.abs(y)) >= 0.9
    constant = np.median(level[rim])
    unevenness = np.median(np.abs(level[rim] - constant))
    if unevenness < FAINTEST / 2:
        return np.full_like(level, constant)
    surface = _light(level)
    if np.median(np.abs(surface[rim] - level[rim])) < unevenness / 3:
        return surface
    return np.full_like(level, np.median(level[[0, 0, -1, -1], [0, -1, 0, -1]]))


def _light(level: Grey) -> Grey:
    """The quadratic surface (H, W) that most of a picture lies on, by reweighted least squares."""
    small = resized(level, min(1.0, FIT_SIDE / max(level.shape)), Image.Resampling.BOX)
    terms, values = _terms(small.shape).reshape(-1, 6), small.ravel()
    best: NDArray[np.floating] = np.zeros(6)
    most = -1
    for start in (values >= 0, values > np.median(values), values < np.median(values)):
        weight = start.astype(np.float64)
        for _ in range(10):  # Cauchy's weights: what is far off hardly counts
            surface = np.linalg.lstsq(terms * weight[:, None], values * weight, rcond=None)[0]
            deviation = np.abs(terms @ surface - values)
            weight = 1 / np.hypot(1, deviation / FAINTEST)
        near = int((deviation < FAINTEST / 2).sum())
        if near > most:
            best, most = surface, near
    return np.clip(_terms(level.shape) @ best, 0, 1).astype(np.float32)


def _axes(shape: tuple[int, ...]) -> tuple[Grey, Grey]:
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij")
    return y, x


def _terms(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The terms of a quadratic polynomial in the position, (H, W, 6)."""
    y, x = _axes(shape)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _pieces(ink: Map) -> NDArray[np.int32]:
    """Numbers the pieces of a map that are connected by sides or corners; 0 where there is no ink."""
    bordered = np.zeros((ink.shape[0] + 2, ink.shape[1] + 2), dtype=np.int32)
    number = bordered[1:-1, 1:-1]
    number[ink] = np.arange(1, ink.sum() + 1)
    while True:  # each takes over the largest number among its neighbours
        rows = np.maximum(np.maximum(bordered[:-2], bordered[1:-1]), bordered[2:])
        spread = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]) * ink
        if np.array_equal(spread, number):
            return number
        number[...] = spread


def _chosen(ink: Map) -> Map:
    """The digit's part of a map: no specks, and nothing that comes in from the edge if more is there."""
    number = _pieces(ink)
    area = np.bincount(number.ravel())
    area[0] = 0
    at_edge = np.zeros(len(area), dtype=np.bool_)
    at_edge[np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]])] = True
    inside = np.where(at_edge, 0, area)
    if inside.max() >= max(8, area.max() / 50):
        area = inside
    large: Map = area >= max(1, area.max() / 20)
    return large[number]


def _box(ink: Map) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _fills_its_sides(ink: Map) -> bool:
    """Whether ink that is cropped to its box runs along all four sides of it, as a frame or a sheet does."""
    height, width = (max(1, size // 20) for size in ink.shape)
    sides = ink[:height].any(0), ink[-height:].any(0), ink[:, :width].any(1), ink[:, -width:].any(1)
    return all(float(side.mean()) > 0.85 for side in sides)

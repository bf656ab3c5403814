"""Sheets and frames in a picture, within which the digit is."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lit_mnist.predict.pictures import Grey

Map = NDArray[np.bool_]  # (h, w)

SHEET = 0.2  # of the picture, at least: more than between two lines of ruled paper


def find_sheets(small: Grey) -> list[Map]:
    """The insides of what may hold the digit, the largest first: a sheet that is not the whole picture, a frame around it."""
    insides = []
    middle = (small.max() + small.min()) / 2
    if is_ruled(small < middle, 3):  # between two lines there is no sheet
        return []
    for side in (small > middle, small < middle):
        number, _ = ndimage.label(side, np.ones((3, 3)))
        for piece, box in enumerate(ndimage.find_objects(number), 1):
            if SHEET * small.size < small[box].size < 0.95 * small.size:
                inside = ndimage.binary_fill_holes(number == piece)
                if upright := fills_its_sides(number[box] == piece):
                    inside[box] = True  # a digit that reaches the side of a sheet is no hole in it
                if upright or _is_turned_sheet(inside, small > middle):
                    insides.append(ndimage.binary_erosion(inside, iterations=-(-max(small[box].shape) // 20)))
    return sorted(filter(np.any, insides), reverse=True, key=np.count_nonzero)


def _is_turned_sheet(inside: Map, light: Map) -> bool:
    """True for a light rectangle at any angle, wholly in the picture and with ink in it; the hole of a zero has none."""
    if inside[[0, -1]].any() or inside[:, [0, -1]].any():
        return False
    y, x = np.nonzero(inside)
    angles = np.radians(np.arange(0, 90, 3))
    areas = [np.ptp(y * np.cos(a) + x * np.sin(a)) * np.ptp(x * np.cos(a) - y * np.sin(a)) for a in angles]
    return bool(len(y) > 0.85 * min(areas) and 0.6 < light[inside].mean() < 0.99)  # a photograph is no exact rectangle


def is_ruled(ink: Map, lines: int = 2) -> bool:
    """True where at least so many lines run to opposite sides of the picture."""
    top, bottom, left, right = (ndimage.label(side)[1] for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
    return bool(max(min(top, bottom), min(left, right)) >= lines)


def fills_its_sides(ink: Map) -> bool:
    """True for ink in its box that runs along all four sides of it, as a frame does."""
    height, width = (max(1, size // 20) for size in ink.shape)
    sides = ink[:height].any(0), ink[-height:].any(0), ink[:, :width].any(1), ink[:, -width:].any(1)
    return all(float(side.mean()) > 0.85 for side in sides)

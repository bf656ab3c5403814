"""Photographs of digits in the kinds of light that fall on a desk, and how many of them a network reads rightly.

usage: python tests/light.py RUN [PICTURES]     (100 pictures in each of 8 kinds of light x 3 strengths: one minute)
"""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[Any]  # (H, W)

WIDTH, HEIGHT = 320, 260  # pixels of the photograph
STRENGTHS = (0.7, 0.5, 0.35)  # light in the darkest part of the picture, as a share of the brightest
INK, PAPER = 0.12, 0.85  # reflectances


def _lamp(x: Field, y: Field, random: np.random.Generator) -> Field:
    across, down = random.uniform(-0.9, 0.9, 2)
    light: Field = np.exp(-((x - across) ** 2 + (y - down) ** 2) / 0.8)
    return light


def _window(x: Field, y: Field, random: np.random.Generator) -> Field:
    angle = random.uniform(0, 2 * np.pi)
    light: Field = np.cos(angle) * x + np.sin(angle) * y
    return light


def _vignette(x: Field, y: Field, random: np.random.Generator) -> Field:
    light: Field = 1 / (1 + random.uniform(0.5, 1) * (x**2 + y**2)) ** 2
    return light


def _shadow(x: Field, y: Field, random: np.random.Generator) -> Field:
    """The shadow of a head or a hand: everything on one side of a soft line."""
    return 1 / (1 + np.exp(-(_window(x, y, random) - random.uniform(-0.5, 0.5)) / random.uniform(0.05, 0.2)))


def _hard_shadow(x: Field, y: Field, random: np.random.Generator) -> Field:
    return 1.0 * (_window(x, y, random) > random.uniform(-0.5, 0.5))


def _two_lamps(x: Field, y: Field, random: np.random.Generator) -> Field:
    return _lamp(x, y, random) + 0.7 * _lamp(x, y, random)


def _bent_page(x: Field, y: Field, random: np.random.Generator) -> Field:
    """A page that bends towards the spine of a book."""
    light: Field = -np.exp(-np.abs(x - random.choice([-1.1, 1.1])) / 0.3) + 0.1 * np.sin(3 * y)
    return light


KINDS: dict[str, Callable[[Field, Field, np.random.Generator], Field]] = {
    "lamp": _lamp,
    "window": _window,
    "vignette": _vignette,
    "soft shadow": _shadow,
    "hard shadow": _hard_shadow,
    "two lamps": _two_lamps,
    "bent page": _bent_page,
    "coloured paper by a lamp": _lamp,
}


def lit(digit: NDArray[np.uint8], kind: str, darkest: float, random: np.random.Generator) -> Image.Image:
    """A photograph of a digit (28, 28) written in dark ink somewhere on a page, with noise, from a JPEG file."""
    side = int(random.integers(150, 240))
    enlarged = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    ink = np.zeros((HEIGHT, WIDTH))
    top, left = int(random.integers(0, HEIGHT - side)), int(random.integers(0, WIDTH - side))
    ink[top : top + side, left : left + side] = enlarged
    y, x = np.meshgrid(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH), indexing="ij")
    light = KINDS[kind](x, y, random)
    light = darkest + (1 - darkest) * (light - light.min()) / np.ptp(light)
    paper, pen = np.full(3, PAPER), np.full(3, INK)
    if kind.startswith("coloured"):
        paper = random.uniform([0.6, 0.5, 0.25], [0.9, 0.75, 0.6])  # yellow, beige, brown
        pen = np.array([0.1, 0.12, 0.3])  # a blue pen
    level = light[..., None] * (paper * (1 - ink[..., None]) + pen * ink[..., None])
    level += random.normal(0, 0.015, level.shape)
    file = io.BytesIO()
    Image.fromarray((np.clip(level, 0, 1) * 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    return Image.open(file)


def photographs(digits: NDArray[np.uint8], seed: int = 0) -> Iterator[tuple[str, float, list[Image.Image]]]:
    """Kind, strength, and a photograph of each of the digits (N, 28, 28), for each kind and strength."""
    random = np.random.default_rng(seed)
    for kind in KINDS:
        for darkest in STRENGTHS:
            yield kind, darkest, [lit(digit, kind, darkest, random) for digit in digits]


def main() -> None:
    from lit_mnist import predict_images
    from lit_mnist.datasets.files import load

    images, labels = (part[: int(sys.argv[2]) if len(sys.argv) > 2 else 100] for part in load().test)
    shares = []
    for kind, darkest, pictures in photographs(images.numpy()):
        shares.append(float((predict_images(sys.argv[1], pictures)[0] == labels).float().mean()))
        print(f"{kind:26} light falls to {darkest:.0%}: {shares[-1]:.0%} of {len(labels)} right")
    print(f"mean {np.mean(shares):.1%}, least {min(shares):.0%}")


if __name__ == "__main__":
    main()

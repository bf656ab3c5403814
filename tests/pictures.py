"""Pictures of digits as people have them, made from MNIST's test images."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

Digit = NDArray[np.uint8]  # (28, 28), 0 background .. 255 ink


def enlarged(digit: Digit, side: int = 280) -> Image.Image:
    return Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)


def on_paper(digit: Digit) -> Image.Image:
    return ImageOps.invert(enlarged(digit))


def shifted(digit: Digit, random: np.random.Generator) -> Image.Image:
    """In a corner of a light page more than twice as wide."""
    page = Image.new("L", (600, 500), 255)
    left, top = random.integers(0, 320), random.integers(0, 220)
    page.paste(on_paper(digit), (int(left), int(top)))
    return page


def in_frame(digit: Digit, random: np.random.Generator) -> Image.Image:
    """Inside a drawn rectangle, which leaves a margin."""
    page = Image.new("L", (340, 340), 250)
    page.paste(ImageOps.invert(enlarged(digit, 220)).point(lambda level: min(level, 250)), (60, 60))
    ImageDraw.Draw(page).rectangle((25, 30, 310, 315), outline=40, width=int(random.integers(1, 12)))
    return page


def on_dark_table(digit: Digit) -> Image.Image:
    """A light sheet that is not the whole picture."""
    table = Image.new("L", (500, 500), 50)
    table.paste(on_paper(digit), (100, 120))
    return table


def photographed(digit: Digit, random: np.random.Generator) -> Image.Image:
    """Grey ink in light that falls to half across the sheet, with noise, as a JPEG file."""
    ink = np.pad(np.asarray(enlarged(digit), dtype=np.float64) / 255, ((100, 60), (50, 150)))
    y, x = np.mgrid[0 : 1 : ink.shape[0] * 1j, 0 : 1 : ink.shape[1] * 1j]
    angle = random.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * x + np.sin(angle) * y
    light = 0.95 - 0.5 * (slope - slope.min()) / np.ptp(slope)
    level = light * (1 - 0.75 * ink) + random.normal(0, 0.03, ink.shape)
    file = io.BytesIO()
    Image.fromarray((np.clip(level, 0, 1) * 255).astype(np.uint8)).save(file, "JPEG", quality=60)
    return Image.open(file)


def write_huge_png(path: Path, side: int) -> None:
    """A PNG file of a few kilobytes that says it has side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(min(side + 1, 100_000)) * 10)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))

"""A picture of predictions: each input beside the 28x28 that the network saw."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_mnist.predict.preprocess import grey, with_alpha

SHOWN = 100  # pictures at most
COLUMNS = 4
TILE = 140  # pixels; 5 for each pixel that the network saw
GAP = 10
CAPTION = 40
PAGE, INK, UNSURE = "white", "black", "#b00020"


class Sheet:
    """Collects the first 100 pictures, reduced in size, and draws them when their predictions are known."""

    def __init__(self) -> None:
        self._tiles: list[tuple[Image.Image, Image.Image]] = []

    def add(self, picture: Image.Image, prepared: NDArray[np.uint8]) -> None:
        """Takes the next picture.

        Args:
            picture: Of any mode.
            prepared: What the network sees of it, (28, 28) uint8, 0 background .. 255 ink.
        """
        if len(self._tiles) < SHOWN:
            seen = Image.fromarray(prepared).resize((TILE, TILE), Image.Resampling.NEAREST)
            self._tiles.append((_thumbnail(picture), seen))

    def as_png(self, names: Sequence[str], digits: Sequence[int], probabilities: Sequence[float]) -> bytes:
        """The sheet as the content of a PNG file. A digit below a probability of one half is set in red.

        Args:
            names: Of all pictures, those that are not shown included; likewise the others.
            digits: Predicted, 0..9.
            probabilities: Of the predicted digits, 0..1.
        """
        shown = len(self._tiles)
        columns = min(COLUMNS, max(1, shown))
        cell_width, cell_height = 2 * TILE + 3 * GAP, TILE + CAPTION + GAP
        width, height = columns * cell_width, -(-shown // columns) * cell_height + CAPTION
        page = Image.new("RGB", (width, height), PAGE)
        draw = ImageDraw.Draw(page)
        large, small = ImageFont.load_default(18), ImageFont.load_default(12)
        rest = f" (the first {shown} of {len(names)})" if len(names) > shown else ""
        draw.text((GAP, GAP), f"input, what the network saw{rest}", fill=INK, font=small)
        for index, (picture, seen) in enumerate(self._tiles):
            row, column = divmod(index, columns)
            left, top = column * cell_width + GAP, row * cell_height + CAPTION
            page.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
            page.paste(seen, (left + TILE + GAP, top))
            for frame in (left, left + TILE + GAP):
                draw.rectangle((frame - 1, top - 1, frame + TILE, top + TILE), outline="#bbbbbb")
            color = INK if probabilities[index] >= 0.5 else UNSURE
            said = f"{digits[index]}   {100 * probabilities[index]:.1f} %"
            draw.text((left + TILE + GAP, top + TILE + 4), said, fill=color, font=large)
            draw.text((left, top + TILE + 8), _shortened(names[index], TILE, small), fill=INK, font=small)
        file = io.BytesIO()
        page.save(file, format="PNG")
        return file.getvalue()


def _thumbnail(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = Image.fromarray(np.round(grey(picture) * 255).astype(np.uint8))
    layered = with_alpha(picture)
    scale = TILE / max(layered.size)
    size = tuple(max(1, round(length * scale)) for length in layered.size)
    smoothly = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    layered = layered.resize((size[0], size[1]), smoothly)
    tile = Image.new("RGBA", layered.size, "#dddddd")  # seen where the picture is transparent
    return Image.alpha_composite(tile, layered).convert("RGB")


def _shortened(name: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a name, as much of it as fits: that is where files differ."""
    shown = name
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = "…" + shown[2:]
    return shown

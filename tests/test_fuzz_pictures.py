"""Whatever files are given to `predict`: each is a line of the table or is named, and changes no other; see test_fuzz.py."""

import csv
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import CASES, HABITS, NAMES, Draw, damage, new_folder, typed, write_hole
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import enlarged, on_paper, write_huge_png
from PIL import Image

from lit_mnist.cli.main import main
from lit_mnist.datasets.files import load
from lit_mnist.record.printable import csv_cell, one_line

Image.init()
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
SIZES = (1, 2, 3, 27, 28, 29, 280, 1_500)  # pixels
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"save_all": True, "append_images": [Image.new("L", (28, 28))] * 2},
    {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},  # lies on its side
    {"compression": "tiff_lzw"},
    {"transparency": 0},
    {"quality": 5, "progressive": True},
)


def predict(run: Path, *names: str) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Returns exit code, complaints, and the lines of the table by file."""
    code, complaints = typed(["predict", str(run), "--images", *names], codes=(0, 1))
    with Path("predictions.csv").open(newline="") as file:
        return code, complaints, {row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = ("--data.train_size", "6000", "--trainer.max_epochs", "1", "--threads", "1")
    assert main(["fit", "--config", "lr0.1", "--run_dir", str(folder), *small]) == 0
    return folder


@pytest.fixture(scope="module")
def good(run: Path) -> tuple[Image.Image, dict[str, str]]:
    """A picture of a seven, and its line of the table when it is alone."""
    picture = on_paper(load().test[0][0].numpy())
    with new_folder():
        picture.save("good.png")
        code, complaints, rows = predict(run, "good.png")
    assert (code, complaints, rows["good.png"]["class"]) == (0, "", "7")
    return picture, rows["good.png"]


def draw_picture(draw: Draw) -> Image.Image:
    """A digit, noise, a ramp or nothing, in any mode and of any shape."""
    width, height = (draw(st.sampled_from(SIZES), side) for side in ("width", "height"))
    digit, noise = load().test[0][draw(st.integers(0, 99), "digit")].numpy(), np.random.default_rng(1)
    kinds: dict[str, Callable[[], Image.Image]] = {
        "light digit": lambda: enlarged(digit),
        "dark digit": lambda: on_paper(digit),
        "noise": lambda: Image.fromarray(noise.integers(0, 256, (64, 64), np.uint8)),
        "ramp": lambda: Image.linear_gradient("L"),
        "nothing": lambda: Image.new("L", (1, 1), draw(st.integers(0, 255), "level")),
    }
    picture = kinds[draw(st.sampled_from(sorted(kinds)), "kind")]().resize((width, height))
    with suppress(ValueError):  # modes into which Pillow does not convert
        return picture.convert("RGB").convert(draw(st.sampled_from(MODES), "mode"))
    return picture


def write_picture(path: Path, draw: Draw) -> None:
    """Writes a picture in any format in which it can be, most often with some bytes altered or its end missing."""
    file, picture = io.BytesIO(), draw_picture(draw)
    try:
        picture.save(file, draw(st.sampled_from(sorted(Image.SAVE)), "format"), **draw(st.sampled_from(OPTIONS), "options"))
    except Exception:  # each format refuses in its own way what it cannot hold
        Image.linear_gradient("L").resize(picture.size).save(
            file, draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), "usual format")
        )
    content = file.getvalue()
    how = draw(st.sampled_from(["damaged", "damaged", "cut", "whole"]), "how")
    if how == "damaged":
        content = damage(content, draw)
    path.write_bytes(content[: draw(st.integers(0, len(content)), "length")] if how == "cut" else content)


def write_other(path: Path, draw: Draw) -> None:
    """Puts something else into the place of a picture, or one that is larger than it looks."""
    magic = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
        b"P6 ",
        b"8BPS",
    ]
    things: dict[str, Callable[[], object]] = {
        "random bytes": lambda: path.write_bytes(
            draw(st.sampled_from(magic), "magic") + draw(st.binary(max_size=300), "bytes")
        ),
        "empty": path.touch,
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "dangling link": lambda: path.symlink_to("nowhere"),
        "link to itself": lambda: path.symlink_to(path.name),
        "device": lambda: path.symlink_to("/dev/zero"),
        "bomb": lambda: write_huge_png(path, draw(st.sampled_from([9_000, 20_000, 2**31 - 1]), "side")),
        "text": lambda: path.write_text("<svg onload='alert(1)'/>"),
        "hole": lambda: write_hole(path, 2**32, draw(st.sampled_from(magic), "magic")),
    }
    things[draw(st.sampled_from(sorted(things)), "thing")]()


@settings(max_examples=CASES or 10, **HABITS)
@given(data=st.data())
def test_every_picture_is_a_line_of_the_table_or_is_named(
    run: Path, good: tuple[Image.Image, dict[str, str]], data: st.DataObject
) -> None:
    with new_folder() as folder:
        good[0].save("good.png")
        (folder / "pictures").mkdir()
        for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), "names"):
            ending = data.draw(st.sampled_from([".png", ".jpg", ".tif", ""]), "ending")
            way = data.draw(st.sampled_from([write_picture, write_picture, write_picture, write_other]), "way")
            way(folder / "pictures" / (name + ending), data.draw)
        code, complaints, rows = predict(run, "good.png", "pictures")
        files = [path.relative_to(folder) for path in (folder / "pictures").iterdir() if not path.is_dir()]
        shown = {csv_cell(one_line(str(path))) for path in files} | {"good.png"}
        assert rows.keys() <= shown
        for name in shown - rows.keys():
            assert complaints.count(f"lit_mnist: {name}: ") == 1, (name, complaints)
        assert code == (shown != rows.keys())
        probabilities = {name: float(row.pop("probability")) for name, row in rows.items()}
        assert all(0.1 <= each <= 1 for each in probabilities.values())
        assert rows["good.png"].items() <= good[1].items()
        assert probabilities["good.png"] == pytest.approx(float(good[1]["probability"]), abs=1e-5)

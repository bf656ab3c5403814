import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pictures import (
    Digit,
    enlarged,
    in_frame,
    on_dark_table,
    on_paper,
    photographed,
    shifted,
    write_huge_png,
)
from PIL import Image, ImageChops, ImageDraw, ImageOps

from lit_mnist.datasets.files import load
from lit_mnist.predict.pictures import grey, read
from lit_mnist.predict.preprocess import prepare as prepare_with_note


def prepare(picture: Image.Image) -> Digit:
    return prepare_with_note(picture)[0]


FORMATS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L.png": lambda page: page,
    "RGB.png": lambda page: page.convert("RGB"),
    "RGBA.png": lambda page: page.convert("RGBA"),
    "LA.png": lambda page: page.convert("LA"),
    "P.png": lambda page: page.convert("P"),
    "P.gif": lambda page: page.convert("P"),
    "I16.png": lambda page: Image.fromarray(np.asarray(page).astype(np.uint16) * 257),
    "I.tif": lambda page: Image.fromarray(np.asarray(page).astype(np.int32) * 257),
    "F.tif": lambda page: Image.fromarray(np.asarray(page).astype(np.float32) / 255),
    "F255.tif": lambda page: Image.fromarray(np.asarray(page).astype(np.float32)),
    "CMYK.tif": lambda page: page.convert("RGB").convert("CMYK"),
    "CMYK.jpg": lambda page: page.convert("RGB").convert("CMYK"),
    "L.jpg": lambda page: page,
    "RGB.webp": lambda page: page.convert("RGB"),
    "L.bmp": lambda page: page,
    "L.ppm": lambda page: page,
    "RGB.tga": lambda page: page.convert("RGB"),
    "RGB.ico": lambda page: page.convert("RGB").resize((256, 256)),
    "RGB.pcx": lambda page: page.convert("RGB"),
    "RGB.jp2": lambda page: page.convert("RGB"),
}


DAMAGED = int(os.environ.get("DAMAGED", "6"))  # of each format; DAMAGED=300 takes a minute


@pytest.fixture(scope="module")
def digits() -> list[Digit]:
    return list(load().test[0][:60].numpy())


def difference(one: Digit, other: Digit) -> float:
    """Mean difference of two images as a share of the mean ink: unrelated digits differ by 0.8 and more.

    Centring rounds to whole pixels, so that the least change of a picture may move the result by one: that is not
    counted.
    """
    moved = [np.roll(other, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(float(np.abs(one.astype(float) - place).sum() / one.sum()) for place in moved)


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_and_the_mode_of_a_file_make_no_difference(name: str, digits: list[Digit], tmp_path: Path) -> None:
    page = on_paper(digits[1])
    FORMATS[name](page).save(tmp_path / name)
    picture, has_more = read(tmp_path / name)
    assert not has_more
    assert difference(prepare(picture), prepare(page)) < 0.1


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_every_mode_of_pillow_has_a_luminance(mode: str, digits: list[Digit]) -> None:
    page = on_paper(digits[1]).convert("L")
    via = {"RGBa": "RGBA", "PA": "P", "HSV": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}.get(mode)
    picture = (page.convert(via) if via else page).convert(mode)
    assert picture.mode == mode
    if mode == "I;16":  # Pillow converts without scaling
        picture = Image.fromarray(np.asarray(page).astype(np.uint16) * 257)
    assert difference(prepare(picture), prepare(page)) < (0.3 if mode == "1" else 0.1)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_levels_of_any_number_of_bits_are_read_from_a_16_bit_picture(bits: int, digits: list[Digit]) -> None:
    page = on_paper(digits[1]).convert("L")
    levels = np.asarray(page).astype(np.float64) / 255
    picture = Image.fromarray(np.round(levels * (2**bits - 1)).astype(np.uint16))
    assert difference(prepare(picture), prepare(page)) < 0.1


def test_levels_may_lie_on_both_sides_of_0(digits: list[Digit]) -> None:
    page = on_paper(digits[1]).convert("L")
    picture = Image.fromarray((np.asarray(page) / 127.5 - 1).astype(np.float32))
    assert difference(prepare(picture), prepare(page)) < 0.1


def test_a_test_image_is_kept_as_it_is_and_its_negative_is_inverted(digits: list[Digit]) -> None:
    for digit in digits:
        assert np.array_equal(prepare(Image.fromarray(digit)), digit)
        assert np.array_equal(prepare(Image.fromarray(255 - digit)), digit)
        of_16_bits = prepare(Image.fromarray(digit.astype(np.uint16) * 257))  # white is the largest level
        assert np.abs(of_16_bits.astype(int) - digit).max() <= 255 - digit.max()


def test_an_enlarged_test_image_is_reduced_to_what_it_was(digits: list[Digit]) -> None:
    assert np.mean([difference(prepare(enlarged(digit)), digit) for digit in digits]) < 0.2


def test_dark_on_light_is_light_on_dark(digits: list[Digit]) -> None:
    for digit in digits[:10]:
        assert difference(prepare(on_paper(digit)), prepare(enlarged(digit))) < 0.01


def test_the_digit_fills_the_box_around_its_centre_of_mass(digits: list[Digit]) -> None:
    places = np.arange(28)
    for digit in digits[:20]:
        prepared = prepare(on_paper(digit)).astype(float)
        rows, columns = prepared.sum(1), prepared.sum(0)
        assert max((rows > 0).sum(), (columns > 0).sum()) in (19, 20)
        for profile in (rows, columns):
            assert 13.5 <= (profile * places).sum() / profile.sum() <= 14.5
        assert prepared.max() == 255


@pytest.mark.parametrize("place", [shifted, in_frame, on_dark_table, photographed], ids=lambda place: place.__name__)
def test_the_surroundings_of_the_digit_are_left_out(place: Callable[..., Image.Image], digits: list[Digit]) -> None:
    random = np.random.default_rng(0)
    worst = []
    for digit in digits[:30]:
        picture = place(digit) if place is on_dark_table else place(digit, random)
        worst.append(difference(prepare(picture), prepare(on_paper(digit))))
    assert np.median(worst) < 0.15
    assert np.max(worst) < 0.5


def test_specks_are_left_out(digits: list[Digit]) -> None:
    page = np.asarray(on_paper(digits[2])).copy()
    page[5:9, 5:9] = page[270:273, 20:24] = page[30:33, 250:253] = 0
    assert difference(prepare(Image.fromarray(page)), prepare(on_paper(digits[2]))) < 0.01


def test_a_digit_that_fills_its_picture_is_not_taken_for_a_frame(digits: list[Digit]) -> None:
    for digit in digits[:20]:
        page = on_paper(digit)
        box = ImageOps.invert(page).getbbox()
        assert difference(prepare(page.crop(box)), prepare(page)) < 0.25


def test_a_stroke_along_the_border_of_the_picture_is_ink() -> None:
    seven = Image.new("L", (96, 96), 255)
    ImageDraw.Draw(seven).line([(15, 6), (80, 6), (40, 95)], fill=0, width=13)
    assert difference(prepare(seven), prepare(ImageOps.expand(seven, 30, 255))) < 0.25


def test_the_ink_of_a_transparent_picture_shows_whether_it_is_black_or_white(digits: list[Digit]) -> None:
    ink = enlarged(digits[0])
    for color in ("black", "white", "red"):
        picture = Image.new("RGBA", ink.size, color)
        picture.putalpha(ink)
        assert difference(prepare(picture), prepare(ink)) < 0.1


def test_what_is_transparent_around_a_round_sticker_is_not_ink(digits: list[Digit]) -> None:
    for card in (on_paper(digits[0]), enlarged(digits[0])):
        circle = Image.new("L", card.size, 0)
        ImageDraw.Draw(circle).ellipse((0, 0, *card.size), fill=255)
        picture = card.convert("RGBA")
        picture.putalpha(circle)
        assert difference(prepare(picture), prepare(card)) < 0.05


def test_a_photograph_is_turned_as_its_exif_orientation_says(digits: list[Digit], tmp_path: Path) -> None:
    page = on_paper(digits[2])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    page.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif)
    page.rotate(90, expand=True).save(tmp_path / "lying.jpg")
    upright = prepare(page)
    assert difference(prepare(read(tmp_path / "turned.jpg")[0]), upright) < 0.05
    assert difference(prepare(read(tmp_path / "lying.jpg")[0]), upright) > 0.4


def test_a_line_one_pixel_wide_becomes_as_thick_as_a_pen_stroke() -> None:
    page = Image.new("L", (600, 600), 255)
    ImageDraw.Draw(page).line([(200, 100), (400, 100), (250, 500)], fill=0, width=1)
    assert (prepare(page) > 128).sum(axis=1).max() >= 9  # the horizontal stroke of the seven
    assert prepare(page).sum() / 255 > 50


def test_faint_ink_is_stretched_to_full_contrast(digits: list[Digit]) -> None:
    pencil = on_paper(digits[0]).point(lambda level: 150 + level // 5)
    assert difference(prepare(pencil), prepare(on_paper(digits[0]))) < 0.1


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (300, 200), (5000, 3)])
@pytest.mark.parametrize("color", ["white", "black", "gray"])
def test_a_blank_picture_is_refused(size: tuple[int, int], color: str) -> None:
    with pytest.raises(ValueError, match=r"^blank: nothing stands out"):
        prepare(Image.new("RGB", size, color))


def test_an_empty_sheet_with_noise_in_uneven_light_is_refused() -> None:
    empty = np.zeros((28, 28), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"^blank"):
        prepare(photographed(empty, np.random.default_rng(0)))


def test_a_picture_of_any_shape_is_prepared() -> None:
    for width, height in [(3, 3), (2, 500), (3000, 2), (27, 28), (28, 29), (2000, 1500)]:
        page = Image.new("L", (width, height), 255)
        ImageDraw.Draw(page).rectangle((width // 3, height // 3, width // 2, height // 2), fill=0)
        assert prepare(page).shape == (28, 28)
        assert prepare(page).max() == 255


def test_levels_that_are_not_numbers_are_refused() -> None:
    for level in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            prepare(Image.fromarray(np.full((40, 40), level, dtype=np.float32)))


def test_large_pictures_are_reduced_first() -> None:
    assert grey(Image.new("L", (6000, 3000))).shape == (512, 1024)


def test_an_animation_gives_its_first_frame(digits: list[Digit], tmp_path: Path) -> None:
    pages = [on_paper(digit) for digit in digits[:4]]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    picture, has_more = read(tmp_path / "a.gif")
    assert has_more
    assert difference(prepare(picture), prepare(pages[0])) < 0.05


def write_bad_files(folder: Path, page: Image.Image) -> dict[str, str]:
    """File name -> what is said of it."""
    page.save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("This is no picture.")
    (folder / "empty.png").touch()
    (folder / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    write_huge_png(folder / "bomb.png", 60_000)
    write_huge_png(folder / "large.png", 10_000)
    os.mkfifo(folder / "pipe.png")
    return {
        "cut.png": "the image is damaged (image file is truncated).",
        "text.png": "not an image, or in a format that cannot be read; save it as PNG or JPEG.",
        "empty.png": "the file is empty.",
        "program.eps": "not an image, or in a format that cannot be read; save it as PNG or JPEG.",
        "bomb.png": "too many pixels to decode safely; save it smaller.",
        "large.png": "too many pixels to decode safely; save it smaller.",
        "pipe.png": "neither a file nor a folder.",
        "nowhere.png": "there is no such file or folder.",
    }


def test_each_bad_file_is_described_in_one_sentence(digits: list[Digit], tmp_path: Path) -> None:
    for name, sentence in write_bad_files(tmp_path, on_paper(digits[0])).items():
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared
            read(tmp_path / name)
        assert str(refusal.value) == sentence


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_without_permission_is_described(digits: list[Digit], tmp_path: Path) -> None:
    on_paper(digits[0]).save("/tmp/lit_mnist_unreadable.png")
    secret = Path("/tmp/lit_mnist_unreadable.png")
    secret.chmod(0)
    try:
        with as_nobody(), pytest.raises(ValueError, match=r"^no permission to read it"):
            read(secret)
    finally:
        secret.unlink()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "JPEG2000", "ICO"])
def test_a_damaged_file_is_a_picture_or_a_sentence_but_never_a_crash(kind: str, digits: list[Digit], tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    file = io.BytesIO()
    on_paper(digits[3]).convert("RGB").resize((64, 64)).save(file, kind)
    refused = 0
    for number in range(DAMAGED):
        content = bytearray(file.getvalue())
        if number % 3 == 0:
            content = content[: random.integers(1, len(content))]
        for place in random.integers(0, min(len(content), 400 if number % 2 else len(content)), 8):
            content[place] = random.integers(0, 256)
        (tmp_path / "damaged").write_bytes(content)
        refusal = ""
        try:
            prepare(read(tmp_path / "damaged")[0])
        except ValueError as fault:
            refusal = str(fault)
            refused += 1
        assert refusal == "" or (refusal.endswith(".") and "\n" not in refusal)
    assert refused > 0


STROKES = {  # drawn with a pencil one pixel wide, (x, y)
    1: [(16, 6), (11, 21)],
    2: [(9, 9), (12, 6), (16, 7), (16, 11), (8, 20), (18, 20)],
    7: [(8, 6), (18, 6), (12, 21)],
}


@pytest.mark.parametrize("digit", STROKES)
def test_a_28x28_drawing_is_prepared_as_the_same_drawing_enlarged(digit: int) -> None:
    page = Image.new("L", (28, 28), 255)
    ImageDraw.Draw(page).line([(x - 3, y) for x, y in STROKES[digit]], fill=0, width=1)
    assert difference(prepare(page), prepare(page.resize((112, 112), Image.Resampling.BICUBIC))) < 0.5
    kept, _ = prepare_with_note(page, like_mnist=False)  # for networks of something else than digits
    assert np.array_equal(kept, 255 - np.asarray(page))


def test_other_image_sizes_have_boxes_in_proportion(digits: list[Digit]) -> None:
    image, _ = prepare_with_note(on_paper(digits[0]), (56, 42))
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert image.shape == (56, 42)
    assert np.ptp(rows) + 1 <= 40
    assert np.ptp(columns) + 1 <= 30


def test_separate_shapes_are_noted_and_a_digit_of_two_strokes_is_not(digits: list[Digit]) -> None:
    page = Image.new("L", (620, 280), 255)
    for left, digit in ((0, digits[0]), (310, digits[1])):
        page.paste(on_paper(digit), (left, 0))
    assert prepare_with_note(page)[1].startswith("2 separate shapes are taken for one")
    assert [prepare_with_note(on_paper(digit))[1] for digit in digits[:20]] == [""] * 20


def test_lines_of_ruled_paper_are_not_ink_and_a_note_says_where_they_may_be(digits: list[Digit]) -> None:
    for level, note in ((170, ""), (20, "lines run through it and may be taken for ink; write on plain paper.")):
        for digit in digits[:10]:
            page = on_paper(digit)
            lines = Image.new("L", page.size, 255)
            for y in range(10, 280, 34):
                ImageDraw.Draw(lines).line([(0, y), (280, y)], fill=level, width=2)
            image, said = prepare_with_note(ImageChops.darker(page, lines))
            assert said == note
            assert note or difference(image, prepare(page)) < 0.5


def test_a_sheet_that_lies_turned_on_a_table_is_found(digits: list[Digit]) -> None:
    for angle, digit in zip(range(-12, 13, 3), digits, strict=False):
        table = Image.new("L", (520, 460), 50)
        sheet = on_paper(digit).convert("RGBA")
        turned = sheet.rotate(angle, expand=True)
        table.paste(turned, (90, 60), turned)
        expected = prepare(sheet.rotate(angle, fillcolor="white"))
        assert difference(prepare(table), expected) < 0.5


def test_preparing_pictures_needs_no_torch() -> None:
    check = "import sys, lit_mnist.predict.preprocess, lit_mnist.predict.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

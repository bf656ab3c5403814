import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from light import lit, photographs
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
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_mnist import MLP, LitMLP, predict_images
from lit_mnist.cli.main import main
from lit_mnist.datasets.files import load
from lit_mnist.record.checkpoint import load_network

SETTINGS = [
    "--trainer.max_epochs",
    "2",
    "--data.train_size",
    "30000",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained on half the images, about 95 % right."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--config", "lr0.1", "--run_dir", str(folder), *SETTINGS]) == 0
    return folder


@pytest.fixture(scope="module")
def test_set() -> tuple[Tensor, Tensor]:
    return load().test


def predictions(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_untouched_test_images_are_told_as_the_network_tells_them(
    run: Path, test_set: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, _ = test_set
    paths = [tmp_path / f"{number:05d}.png" for number in range(1000)]
    for path, image in zip(paths, images.numpy(), strict=False):
        Image.fromarray(image).save(path)
    with torch.inference_mode():
        expected = load_network(run).mlp(images[:1000, None].float() / 255)
    labels, probabilities = predict_images(run, paths)
    assert torch.equal(labels, expected.argmax(1))
    assert torch.allclose(probabilities, expected.softmax(1), atol=1e-6)


def test_without_images_the_accuracy_is_that_of_the_command_test(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--ckpt_path", str(run)]) == 0
    said = capsys.readouterr().out
    rows = predictions(workplace / "predictions.csv")
    right = sum(int(row["class"]) == label for row, label in zip(rows, test_set[1].tolist(), strict=True))
    assert f"{right:,} of 10,000 test images right" in said
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert f"{right / 100:.2f} %" in capsys.readouterr().out
    with Image.open(workplace / "predictions.png") as sheet:
        assert sheet.height > 4000  # a hundred of them


PLACES: dict[str, Callable[[Digit, np.random.Generator], Image.Image]] = {
    "enlarged": lambda digit, _: enlarged(digit),
    "inverted": lambda digit, _: on_paper(digit),
    "shifted": shifted,
    "framed": in_frame,
    "on a dark table": lambda digit, _: on_dark_table(digit),
    "photographed": photographed,
}


@pytest.mark.parametrize("place", PLACES)
def test_test_images_in_other_surroundings_are_told_as_well(place: str, run: Path, test_set: tuple[Tensor, Tensor]) -> None:
    random = np.random.default_rng(0)
    images, labels = test_set[0][:50], test_set[1][:50]
    untouched = (predict_images(run, images)[0] == labels).float().mean()
    pictures = [PLACES[place](image, random) for image in images.numpy()]
    accuracy = (predict_images(run, pictures)[0] == labels).float().mean()
    assert accuracy >= untouched - 0.04


def test_printed_digits_are_mostly_told(run: Path) -> None:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    right = []
    for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique", "STIXGeneral"):
        font = ImageFont.truetype(fonts / f"{name}.ttf", 180)
        pictures = []
        for digit in range(10):
            page = Image.new("RGB", (300, 300), "ivory")
            ImageDraw.Draw(page).text((150, 150), str(digit), fill="navy", font=font, anchor="mm")
            pictures.append(page)
        right += (predict_images(run, pictures)[0] == torch.arange(10)).tolist()
    assert np.mean(right) >= 0.8


def test_a_tensor_may_have_a_channel_or_not_and_bytes_or_fractions(run: Path, test_set: tuple[Tensor, Tensor]) -> None:
    images = test_set[0][:50]
    labels, probabilities = predict_images(run, images)
    assert (labels.shape, labels.dtype) == ((50,), torch.int64)
    assert (probabilities.shape, probabilities.dtype) == ((50, 10), torch.float32)
    assert torch.allclose(probabilities.sum(1), torch.ones(50))
    for same in (images[:, None], images.float() / 255, images[:, None].double() / 255):
        assert torch.equal(predict_images(load_network(run).mlp, same)[0], labels)
    assert predict_images(run, images[:0])[0].shape == predict_images(run, [])[0].shape == (0,)
    one = Image.fromarray(images[0].numpy())
    assert torch.equal(predict_images(run, one)[0], labels[:1])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(2, 3, 28, 28), r"^images: an array must be \(N, 28, 28\) or \(N, 1, 28, 28\), not \(2, 3, 28, 28\)\.$"),
        (torch.full((2, 28, 28), 255.0), r"^floating-point images must lie in \[0, 1\]"),
        (torch.full((2, 28, 28), float("nan")), r"^floating-point images must lie in \[0, 1\]"),
        (torch.zeros(2, 28, 28, dtype=torch.int64), r"^an array of images must be uint8 or floating point"),
        (["nowhere.png"], r"^nowhere\.png: there is no such file"),
        ([Image.new("L", (9, 9))], r"^images\[0\]: blank"),
    ],
)  # fmt: skip
def test_from_python_bad_images_are_refused_by_name(images: object, sentence: str, run: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        predict_images(run, images)  # type: ignore[arg-type]


def test_files_and_folders_are_told_and_bad_ones_stop_nothing(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = test_set
    folder = workplace / "my digits"
    (folder / "deeper").mkdir(parents=True)
    pages = [on_paper(image) for image in images[:4].numpy()]
    pages[0].save(workplace / "seven.png")
    pages[1].save(folder / 'two, "quoted".jpg')
    pages[2].save(folder / "deeper" / "one\nline.png")
    pages[3].save(folder / "moving.gif", save_all=True, append_images=pages[:2])
    pages[3].save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "empty.png").touch()
    Image.new("L", (80, 80), 255).save(folder / "white.png")
    write_huge_png(folder / "bomb.png", 60_000)
    assert main(["predict", "--ckpt_path", str(run), "--images", "seven.png", "my digits", "nowhere.png"]) == 1
    told, complaints = capsys.readouterr()
    rows = predictions(workplace / "predictions.csv")
    names = ["seven.png", "my digits/moving.gif", 'my digits/two, "quoted".jpg', "my digits/deeper/one\\nline.png"]
    assert [row["file"] for row in rows] == names
    assert [int(row["class"]) for row in rows] == [int(labels[index]) for index in (0, 3, 1, 2)]
    assert all(0.5 < float(row["probability"]) <= 1 for row in rows)
    assert [line.split("  ", 2)[2] for line in told.splitlines()[:4]] == names
    assert complaints.splitlines() == [
        "lit_mnist: my digits/bomb.png: too many pixels to decode safely; save it smaller.",
        "lit_mnist: my digits/empty.png: the file is empty.",
        "lit_mnist: my digits/moving.gif: the first of its frames is used.",
        "lit_mnist: my digits/notes.txt: not an image, or in a format that cannot be read; save it as PNG or JPEG.",
        "lit_mnist: my digits/white.png: blank: nothing stands out from the background.",
        "lit_mnist: nowhere.png: there is no such file or folder.",
        "lit_mnist: 5 of 9 files gave no prediction.",
    ]


def test_the_sheet_is_ours_by_its_metadata_and_shows_every_picture(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path
) -> None:
    Image.fromarray(test_set[0][0].numpy()).save(workplace / "a.png")
    assert main(["predict", str(run), "--images", "a.png", "--sheet", "deeper/sheet.png"]) == 0
    with Image.open(workplace / "deeper/sheet.png") as sheet:
        assert (sheet.info["Software"], sheet.info["Title"]) == ("lit_mnist", "lit_mnist: predictions")


@pytest.mark.parametrize(("option", "name"), [("--out", "thesis.csv"), ("--sheet", "photo.png"), ("--sheet", "loss.png")])
def test_no_file_of_another_kind_is_replaced(
    option: str, name: str, run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(test_set[0][0].numpy()).save(workplace / "a.png")
    Image.fromarray(test_set[0][1].numpy()).save(workplace / "photo.png")
    (workplace / "thesis.csv").write_text("file,mark\n")
    (workplace / "loss.png").write_bytes((run / "loss.png").read_bytes())
    before = (workplace / name).read_bytes()
    assert main(["predict", str(run), "--images", "a.png", option, name]) == 2
    assert f"{option} {name} exists and is not a file that predict wrote" in capsys.readouterr().err
    assert (workplace / name).read_bytes() == before


def test_names_of_files_run_nothing_in_a_terminal_or_a_spreadsheet(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("=1+1.png", "\x1b[31m.png"):
        Image.fromarray(test_set[0][0].numpy()).save(workplace / name)
    assert main(["predict", str(run), "--images", "=1+1.png", "\x1b[31m.png"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert [row["file"] for row in predictions(workplace / "predictions.csv")] == ["'=1+1.png", "\\x1b[31m.png"]


def test_several_shapes_in_a_picture_are_a_warning(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Image.new("L", (600, 280), 255)
    for left, image in zip((0, 300), test_set[0][:2].numpy(), strict=True):
        page.paste(on_paper(image), (left, 0))
    page.save(workplace / "two.png")
    assert main(["predict", str(run), "--images", "two.png"]) == 0
    assert "lit_mnist: two.png: 2 separate shapes are taken for one" in capsys.readouterr().err
    assert "2 separate shapes" in predictions(workplace / "predictions.csv")[0]["note"]


def test_from_python_folders_arrays_and_tensors_are_pictures_too(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path
) -> None:
    pages = [on_paper(image) for image in test_set[0][:3].numpy()]
    for number, page in enumerate(pages):
        page.save(workplace / f"{number}.png")
    expected = predict_images(run, pages)[0]
    arrays = [np.asarray(page) for page in pages]
    for same in (workplace, [str(workplace)], arrays, [torch.tensor(array) / 255 for array in arrays]):
        assert torch.equal(predict_images(run, same)[0], expected)
    assert torch.equal(predict_images(run, np.asarray(pages[0]))[0], expected[:1])
    assert torch.equal(predict_images(run, test_set[0][:3].numpy())[0], predict_images(run, test_set[0][:3])[0])


def test_a_network_whose_logits_are_not_finite_gives_no_answer(test_set: tuple[Tensor, Tensor]) -> None:
    network = MLP((28, 28), 10, (4,))
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    with pytest.raises(ValueError, match="logits that are not finite"):
        predict_images(network, test_set[0][:2])


def test_other_image_shapes_and_numbers_of_classes(test_set: tuple[Tensor, Tensor]) -> None:
    labels, probabilities = predict_images(MLP((20, 32), 3, (4,)), [on_paper(test_set[0][0].numpy())])
    assert (labels.shape, probabilities.shape) == ((1,), (1, 3))


def test_uneven_light_does_not_matter(run: Path, test_set: tuple[Tensor, Tensor]) -> None:
    """All of `python tests/light.py RUN`, with fewer pictures."""
    images, labels = test_set[0][:4], test_set[1][:4]
    told = [predict_images(run, pictures)[0] == labels for _, _, pictures in photographs(images.numpy())]
    assert float(torch.cat(told).float().mean()) >= 0.93


def test_the_edge_of_a_hard_shadow_is_not_ink(run: Path, test_set: tuple[Tensor, Tensor]) -> None:
    random = np.random.default_rng(0)
    images, labels = test_set[0][:40], test_set[1][:40]
    pictures = [lit(digit, "hard shadow", 0.35, random) for digit in images.numpy()]
    untouched = (predict_images(run, images)[0] == labels).sum()
    assert (predict_images(run, pictures)[0] == labels).sum() >= untouched - 1


def test_its_own_output_is_neither_read_nor_replaces_a_picture(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(test_set[0][0].numpy()).save(workplace / "a.png")
    for _ in range(2):
        assert main(["predict", "--ckpt_path", str(run), "--images", "."]) == 0
        assert [row["file"] for row in predictions(workplace / "predictions.csv")] == ["a.png"]
    before = (workplace / "a.png").read_bytes()
    assert main(["predict", "--ckpt_path", str(run), "--images", "a.png", "--sheet", "a.png"]) == 2
    assert "among --images and to be written" in capsys.readouterr().err
    assert (workplace / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--images", "nowhere.png"],
            "there is no picture that could be read; nothing was written. Name image files, or folders of them.",
        ),
        (
            ["--images", "empty"],
            "there is no picture that could be read; nothing was written. Name image files, or folders of them.",
        ),
        (["--images", "empty", "--sheet", "sheet.jpg"], "--sheet sheet.jpg: its name must end in .png."),
        (["--images"], "expected at least one argument"),
        (["--pictures", "a.png"], "predict does not take --pictures"),
        (["--dataset", "LSUN"], "LSUN"),
        (["--out", "same.png", "--sheet", "./same.png"], "--out and --sheet are both same.png."),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    options: list[str], sentence: str, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty").mkdir()
    assert main(["predict", "--ckpt_path", str(run), *options]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in workplace.iterdir()] == ["empty"]


def test_a_file_that_cannot_be_written_is_one_sentence_and_exit_code_2(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(test_set[0][0].numpy()).save(workplace / "a.png")
    for option, name in (("--out", "a.png/table.csv"), ("--out", "/proc/table.csv"), ("--sheet", "a.png/sheet.png")):
        assert main(["predict", "--ckpt_path", str(run), "--images", "a.png", option, name]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["a.png"]


def test_a_link_to_itself_is_named_and_the_rest_is_told(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "pictures").mkdir()
    Image.fromarray(test_set[0][0].numpy()).save(workplace / "pictures/a.png")
    (workplace / "pictures/loop.png").symlink_to("loop.png")
    assert main(["predict", "--ckpt_path", str(run), "--images", "pictures"]) == 1
    assert "lit_mnist: pictures/loop.png: " in capsys.readouterr().err
    assert len(predictions(workplace / "predictions.csv")) == 1


def test_a_folder_that_cannot_be_listed_is_named(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lit_mnist.predict.pictures import list_files

    (workplace / "locked").mkdir(mode=0)
    user = os.geteuid()
    workplace.chmod(0o755)
    for parent in workplace.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    if user == 0:
        os.seteuid(65534)  # root may list everything
    try:
        assert list(list_files([Path("locked")])) == [Path("locked")]
    finally:
        os.seteuid(user)


def test_help_fits_a_screen_and_is_quick() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "lit_mnist", "predict", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5
    assert len(result.stdout.splitlines()) <= 30
    assert "torch" not in result.stderr


def test_a_picture_that_pillow_has_opened_is_turned_as_the_file_is(
    run: Path, test_set: tuple[Tensor, Tensor], workplace: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    page = Image.fromarray(test_set[0][0].numpy()).resize((200, 280)).transpose(Image.Transpose.ROTATE_90)
    page.save(workplace / "a.png", exif=exif)
    with Image.open(workplace / "a.png") as opened:
        assert torch.equal(predict_images(run, [opened])[1], predict_images(run, "a.png")[1])


def test_what_is_no_picture_or_no_network_is_named(run: Path, test_set: tuple[Tensor, Tensor], workplace: Path) -> None:
    Image.fromarray(test_set[0][0].numpy()).resize((200, 200)).save(workplace / "a.png")
    cut = Image.open(io.BytesIO((workplace / "a.png").read_bytes()[:-500]))
    wrong: list[tuple[Any, str]] = [
        ([np.zeros(5)], r"images\[0\]: an array of one picture must be \(H, W\)"),
        ([None], r"images\[0\]: neither a path, a PIL image nor an array, but NoneType"),
        (["a.png", Image.new("L", (0, 0))], r"images\[1\]: it has no pixel"),
        ([cut], r"images\[0\]: the image is damaged"),
    ]
    for images, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            predict_images(run, images)
    with pytest.raises(ValueError, match="checkpoint: neither a path nor a network, but dict"):
        predict_images({}, "a.png")  # type: ignore[arg-type]


def test_the_network_may_be_given_as_the_module_that_was_trained(run: Path, test_set: tuple[Tensor, Tensor]) -> None:
    module = LitMLP.load_from_checkpoint(load_network(run).path, weights_only=True)
    assert torch.equal(predict_images(module, test_set[0])[1], predict_images(run, test_set[0])[1])

"""Data of one's own through the command line: trained on, tested, predicted, exported and reported; and only read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from small_data import idx

from lit_mnist.cli.main import main
from lit_mnist.datasets.registry import MNIST
from lit_mnist.record.result import read_result

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def drawn_letters(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws letters of several sizes and places, light on dark: uint8 (count, 20, 24), labels 0..25."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(LETTERS)
    pictures = []
    for label in labels:
        picture = Image.new("L", (24, 20), 0)
        font = ImageFont.load_default(int(random.integers(14, 18)))
        place = int(random.integers(4, 9)), int(random.integers(0, 3))
        ImageDraw.Draw(picture).text(place, LETTERS[label], fill=255, font=font)
        pictures.append(np.asarray(picture))
    return np.stack(pictures), labels.astype(np.uint8)


def prints(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", ["letters", "digits"])
def test_a_folder_of_data_goes_through_every_command_and_is_only_read(
    workplace: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = workplace / kind
    if kind == "letters":
        data.mkdir()
        for name, values in zip(MNIST.files, (*drawn_letters(1560, 0), *drawn_letters(260, 1)), strict=True):
            (data / name).write_bytes(idx(values))
    else:
        images, labels = load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        for at, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = data / ("train" if at < 1400 else "test") / str(label) / f"{at:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    before = prints(data)
    options = ["--data.dataset", str(data), "--trainer.max_epochs", "20", "--model.hidden", "64", "--name", kind]
    assert main(["fit", "--config", "batch8", *options, "--data.batch_size", "16"]) == 0
    run = f"logs/{kind}/version_0"
    result = read_result(Path(run))
    assert result is not None
    assert result.hyperparameters["image_shape"] == ([20, 24] if kind == "letters" else [8, 8])
    assert result.hyperparameters["classes"] == (26 if kind == "letters" else 10)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.9
    assert main(["test", run]) == 0
    assert f"{100 * result.test_accuracy:.2f} %" in capsys.readouterr().out
    one = next(iter(sorted((data / "test").rglob("*.png")))) if kind == "digits" else workplace / "letter.png"
    if kind == "letters":
        Image.fromarray(drawn_letters(26, 2)[0][7]).save(one)
    assert main(["predict", run, "--images", str(one)]) == 0
    assert main(["export", run, "--to", "model.onnx"]) == 0
    assert main(["report", "logs"]) == 0
    assert prints(data) == before

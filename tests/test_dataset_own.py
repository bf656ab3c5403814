"""Own data: IDX files and class folders, any damage to which is a sentence that names the file."""

import gzip
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import IMAGES, LABELS, TRAIN, idx, write_idx, write_pictures

from lit_mnist.datasets.decode import read_idx
from lit_mnist.datasets.files import load
from lit_mnist.datasets.registry import MNIST

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MNIST.files


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "letters")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def test_idx_files_of_any_shape_and_number_of_classes_are_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    before = {path: path.read_bytes() for path in own.iterdir()}
    data = load("letters")
    assert (data.name, data.classes, data.image_shape) == ("letters", ("0", "1", "2", "3", "4"), (6, 9))
    for (images, labels), part in ((data.train, slice(TRAIN)), (data.test, slice(TRAIN, None))):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(images.numpy(), IMAGES[part])
        assert np.array_equal(labels.numpy(), LABELS[part])
    assert {path: path.read_bytes() for path in own.iterdir()} == before
    (own / TEST_IMAGES).write_bytes(idx(IMAGES[TRAIN:][::-1]))
    assert load("letters").sha256 != data.sha256


def test_class_folders_are_read_as_torchvision_reads_them(pictures: Path) -> None:
    (pictures / "train" / "notes.txt").write_text("not a class")
    (pictures / "train" / "letter a" / "notes.txt").write_text("not a picture")
    data = load(str(pictures))
    assert data.classes == tuple(f"letter {letter}" for letter in "abcde")
    for (images, labels), part in ((data.train, slice(TRAIN)), (data.test, slice(TRAIN, None))):
        order = np.argsort(LABELS[part], kind="stable")
        assert np.array_equal(images.numpy(), IMAGES[part][order])
        assert np.array_equal(labels.numpy(), LABELS[part][order])
    path = pictures / "test" / "letter b" / "31.png"
    path.rename(path.with_name("99.png"))
    assert load(str(pictures)).sha256 != data.sha256


HEADER = bytes([0, 0, 8, 3]) + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + (3).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not an IDX file"),
        (HEADER[:3], "is not an IDX file"),
        (b"<!DOCTYPE html><html>", "is not an IDX file"),
        (gzip.compress(HEADER, mtime=0), "is not an IDX file"),
        (idx(np.zeros(3, np.float32)), "is not an IDX file"),
        (bytes([0, 0, 8, 255]) + b"\xff" * 1020, "is not an IDX file"),
        (HEADER[:9], "ends inside its header"),
        (HEADER + b"12345", "has fewer than the 6 bytes"),
        (HEADER + b"1234567", "has more than the 6 bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, r"promises 79,228,162,458,924,105,385,300,197,375 bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 4 + bytes(4) + b"\xff" * 4, "array is too big"),
        (bytes([0, 0, 8, 1]) + (2**31).to_bytes(4, "big"), "promises 2,147,483,648 bytes"),
    ],
)
def test_what_is_not_a_whole_idx_file_is_refused_with_its_fault(content: bytes, fault: str, tmp_path: Path) -> None:
    for path, stored in ((tmp_path / "file", content), (tmp_path / "file.gz", gzip.compress(content))):
        path.write_bytes(stored)
        with pytest.raises(ValueError, match=rf"^{path} {fault}.*; replace it with a good copy\.$"):
            read_idx(path, 2**31 - 1)


def test_a_compressed_bomb_is_unpacked_no_further_than_its_header_promises(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="has more than the 6 bytes"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_big_endian_labels_of_four_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx(np.array([258, -1], np.int32)))
    assert read_idx(path)[0].tolist() == [258, -1]


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Path.exists, "is missing; add it"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("nothing"), "is not a regular file"),
        (lambda path: path.symlink_to(path), "is not a regular file"),
        (lambda path: path.write_bytes(idx(LABELS[:9])), "holds 9 labels for 10 images"),
        (lambda path: path.write_bytes(idx(np.full(10, 5, np.uint8))), "has the labels 5; they must be 0 to 4"),
        (lambda path: path.write_bytes(idx(np.full(10, -1, np.int32))), "has the labels -1; they must be 0 to 4"),
        (lambda path: path.write_bytes(idx(IMAGES[TRAIN:])), "holds 10 x 6 x 9 labels for 10 images"),
    ],
)
def test_what_cannot_be_the_test_labels_is_refused(make: Callable[[Path], object], fault: str, own: Path) -> None:
    path, started = own / TEST_LABELS, time.monotonic()
    replace(path, make)
    with pytest.raises(ValueError, match=f"^{path} {fault}"):
        load(str(own))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (IMAGES[:0], "holds 0 x 6 x 9 values"),
        (IMAGES[TRAIN:, :5], "holds 10 x 5 x 9 values where 10 x 6 x 9 are needed"),
        (IMAGES[TRAIN:].astype(np.int32), "holds 10 x 6 x 9 values of type int32"),
        (LABELS, "holds 40 values"),
        (np.zeros((1, 1025, 1024), np.uint8), "at most 1,048,576 pixels each"),
    ],
)
def test_what_cannot_be_the_test_images_is_refused(values: np.ndarray[Any, Any], fault: str, own: Path) -> None:
    (own / TEST_IMAGES).write_bytes(idx(values))
    with pytest.raises(ValueError, match=f"^{own / TEST_IMAGES} .*{fault}"):
        load(str(own))


def test_training_labels_with_a_gap_and_a_single_class_are_refused(own: Path) -> None:
    for labels, fault in (
        (LABELS + 1, "1, 2, 3, 4, 5; they must be 0 to 4 without a gap"),
        (LABELS * 0, "0; there must be two classes"),
    ):
        (own / TRAIN_LABELS).write_bytes(idx(labels[:TRAIN]))
        with pytest.raises(ValueError, match=f"^{own / TRAIN_LABELS} has the labels {fault}"):
            load(str(own))


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path.write_bytes(b"damaged"), "is not a whole picture"),
        (lambda path: path.write_bytes(b""), "is not a whole picture"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("nothing"), "is not a regular file"),
        (lambda path: Image.new("L", (9, 7)).save(path), "is 7 x 9 pixels where the first picture is 6 x 9"),
        (lambda path: Image.new("RGB", (9, 6), (9, 9, 8)).save(path), "is a colour picture"),
        (lambda path: Image.new("LA", (9, 6), (9, 8)).save(path), "has transparent pixels"),
        (lambda path: Image.new("I;16", (9, 6)).save(path), "has 9 x 6 pixels of mode I"),
        (lambda path: Image.new("1", (1025, 1024)).save(path), "has 1025 x 1024 pixels of mode 1, not at most 1,048,576"),
        (lambda path: Image.new("1", (20_000, 20_000)).save(path), "is not a whole picture .DecompressionBombError"),
    ],
)
def test_a_picture_that_does_not_belong_is_named(make: Callable[[Path], object], fault: str, pictures: Path) -> None:
    path = pictures / "test" / "letter c" / "32.png"
    replace(path, make)
    with pytest.raises(ValueError, match=f"^{path} {fault}"):
        load(str(pictures))


def test_classes_that_are_empty_or_differ_are_named(pictures: Path) -> None:
    for path in (empty := pictures / "test" / "letter e").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=f"^{empty} holds no picture"):
        load(str(pictures))
    empty.rename(pictures / "test" / "other")
    with pytest.raises(ValueError, match=r"/train has the classes letter a, .* letter e, and .*/test has .* letter d, other;"):
        load(str(pictures))
    for split in ("train", "test"):
        for folder in (pictures / split).iterdir():
            folder.rename(folder.with_name(folder.name.replace(" ", "\n")))
    (pictures / "test" / "other").rename(pictures / "test" / "letter\ne")
    with pytest.raises(ValueError, match=r"/train has a class whose name cannot be printed .*letter\\na"):
        load(str(pictures))


def test_a_hundred_random_damages_are_noticed_or_harmless(own: Path) -> None:
    draw, whole = random.Random(0), load(str(own))
    original = {path: path.read_bytes() for path in own.iterdir()}
    refused = accepted = 0
    for _ in range(100):
        path = draw.choice(sorted(original))
        content = bytearray(original[path])
        at = draw.randrange(len(content))
        match draw.randrange(4):
            case 0:
                content = content[:at]
            case 1:
                content[at] ^= 1 << draw.randrange(8)
            case 2:
                content[at:at] = draw.randbytes(draw.randrange(1, 40))
            case 3:
                del content[at : at + draw.randrange(1, 40)]
        path.write_bytes(content)
        try:
            data = load(str(own))
        except ValueError as error:
            refused += str(error).startswith(f"{own}/") and str(error).endswith(".")
        else:  # another pixel or label, which only a checksum can tell, or nothing that matters
            assert [part.shape for part in data.train + data.test] == [part.shape for part in whole.train + whole.test]
            assert data.sha256 != whole.sha256 or all(map(torch.equal, data.train + data.test, whole.train + whole.test))
            accepted += 1
        path.write_bytes(original[path])
    assert refused + accepted == 100
    assert refused >= 60

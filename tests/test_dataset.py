"""The files of the real MNIST and Fashion-MNIST: where they come from, and every kind of damage to them."""

import gzip
import hashlib
import importlib
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import lit_mnist
from lit_mnist.datasets.files import DATASETS, checksum, load, prepare

FILES = [file.name for file in DATASETS["MNIST"].files]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES
torchvision_datasets = importlib.import_module("torchvision.datasets")  # it has no types
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with MNIST, which no test may change."""
    root = tmp_path_factory.mktemp("published")
    prepare("MNIST", root)
    yield root
    for name, digest in sums().items():
        assert hashlib.sha256((root / "MNIST" / "raw" / name).read_bytes()).hexdigest() == digest


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Iterator[Path]:
    """A root with MNIST whose files a test may replace (not write into: they are links)."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).hardlink_to(published / "MNIST" / "raw" / name)
    yield tmp_path
    shutil.rmtree(tmp_path / "MNIST")  # pytest would keep 55 MB for every test


def sums() -> dict[str, str]:
    text = (Path(lit_mnist.__file__).parent / "mnist" / "SHA256SUMS").read_text()
    return {line.split()[1]: line.split()[0] for line in text.splitlines()}


def split_of(name: str) -> str:
    return "train" if name.startswith("train") else "test"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


# Where the files come from.


def test_the_embedded_files_are_mnist() -> None:
    folder = Path(lit_mnist.__file__).parent / "mnist"
    licence = (folder / "LICENSE.md").read_text()
    for name, digest in sums().items():
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest
        assert f"| {name} | {hashlib.md5(content).hexdigest()} |" in licence
    assert sorted(sums()) == sorted(FILES)


def test_the_images_and_labels_are_those_of_mnist(published: Path) -> None:
    images, labels = load("MNIST", published, "train")
    assert (images.dtype, images.shape) == (torch.uint8, (60_000, 28, 28))
    assert (labels.dtype, labels.shape) == (torch.int64, (60_000,))
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert images.sum(dtype=torch.int64).item() / images.numel() / 255 == pytest.approx(0.1307, abs=5e-5)
    images, labels = load("MNIST", published, "test")
    assert (images.shape, labels.shape) == ((10_000, 28, 28), (10_000,))
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_prepare_needs_no_torchvision_and_leaves_nothing_but_the_files(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from lit_mnist.datasets.files import checksum, load, prepare
prepare("MNIST", Path({str(tmp_path)!r}))
load("MNIST", Path({str(tmp_path)!r}), "test")
print("torchvision" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == sorted([".lock", "MNIST", "raw", *FILES])


def test_prepare_writes_nothing_where_the_files_are_whole(root: Path) -> None:
    before = {path: path.stat().st_ino for path in root.rglob("*")}
    prepare("MNIST", root)
    assert {path: path.stat().st_ino for path in root.rglob("*")} == before


@pytest.mark.parametrize("train", [True, False])
def test_torchvision_reads_what_prepare_wrote(published: Path, train: bool) -> None:
    theirs = torchvision_datasets.MNIST(str(published), train=train, download=False)
    images, labels = load("MNIST", published, "train" if train else "test")
    assert torch.equal(images, theirs.data)
    assert torch.equal(labels, theirs.targets)


def test_the_checksum_is_that_of_the_list_of_sums(published: Path, tmp_path: Path) -> None:
    listed = "".join(f"{sums()[name]}  {name}\n" for name in FILES)
    assert checksum("MNIST", published) == hashlib.sha256(listed.encode()).hexdigest()
    assert checksum("MNIST", published) != checksum("FashionMNIST", tmp_path)


# Damage.

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "emptied": (lambda _: b"", "is empty"),
    "cut inside its magic number": (lambda content: content[:3], "is not an IDX file"),
    "cut inside its header": (lambda content: content[:7], "ends inside its header"),
    "cut after its header": (lambda content: content[:16], "has .* bytes where its header promises"),
    "cut in half": (lambda content: content[: len(content) // 2], "has .* bytes where its header promises"),
    "cut by one byte": (lambda content: content[:-1], "has .* bytes where its header promises"),
    "one byte too long": (lambda content: content + b"\0", "has .* bytes where its header promises"),
    "twice over": (lambda content: content * 2, "has .* bytes where its header promises"),
    "compressed": (lambda content: gzip.compress(content, 1), "is compressed by gzip"),
    "a web page": (lambda _: b"<!DOCTYPE html><html>Please log in</html>", "is not an IDX file"),
    "all zeros": (lambda content: bytes(len(content)), "is not an IDX file"),
    "another magic number": (lambda content: b"\0\1" + content[2:], "is not an IDX file"),
    "another type": (
        lambda content: b"\0\0\x09" + content[3:],
        "holds .* int8 values instead of .* uint8 values",
    ),
    "another count": (
        lambda content: content[:7] + b"\1" + content[8:],
        "has .* bytes where its header promises",
    ),
    "one example fewer": (lambda content: one_fewer(content), "holds .*,999.* uint8 values instead of"),
    "reversed": (lambda content: content[:16] + content[:15:-1], "was altered"),
    "its last byte altered": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "was altered"),
}


def one_fewer(content: bytes) -> bytes:
    """The file with its last example taken out of the header and the content alike."""
    count = int.from_bytes(content[4:8], "big")
    example = 784 if content[3] == 3 else 1
    return content[:4] + (count - 1).to_bytes(4, "big") + content[8:-example]


CASES = [(kind, name) for kind in DAMAGE for name in (TEST_IMAGES, TEST_LABELS)]
CASES += [(kind, name) for kind in ("emptied", "cut in half", "reversed") for name in (TRAIN_IMAGES, TRAIN_LABELS)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_damaged_file_is_noticed_named_and_replaced(
    kind: str, name: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, fault = DAMAGE[kind]
    path = root / "MNIST" / "raw" / name
    replace(path, damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"^{path} {fault}.*; run the command again .*\.$"):
        load("MNIST", root, split_of(name))
    with caplog.at_level(logging.WARNING, "lit_mnist"):
        prepare("MNIST", root)
    (notice,) = caplog.messages
    assert notice.startswith(f"lit_mnist: {path} ")
    assert notice.endswith("; it has been replaced.")
    load("MNIST", root, split_of(name))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(name: str, root: Path) -> None:
    path = root / "MNIST" / "raw" / name
    content = path.read_bytes()
    chosen = random.Random(name)
    header = 16 if "images" in name else 8
    flips = 4 if split_of(name) == "train" else 60  # one load of the training images takes a tenth of a second
    positions = [*range(header), *(chosen.randrange(header, len(content)) for _ in range(flips))]
    replace(path, content)
    for position in positions:
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes([content[position] ^ (1 << chosen.randrange(8))]))
        with pytest.raises(ValueError, match=f"^{path} "):
            load("MNIST", root, split_of(name))
        with path.open("r+b") as file:
            file.seek(position)
            file.write(content[position : position + 1])
    load("MNIST", root, split_of(name))


@pytest.mark.parametrize("label", [10, 255])
@pytest.mark.parametrize("name", [TRAIN_LABELS, TEST_LABELS])
def test_a_label_outside_its_range_is_noticed(label: int, name: str, root: Path) -> None:
    path = root / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[1234] = label
    replace(path, bytes(content))
    with pytest.raises(ValueError, match=f"^{path} holds the label {label}, which is outside 0..9; "):
        load("MNIST", root, split_of(name))


@pytest.mark.parametrize("shape", [(14, 56), (784, 1), (28, 27), (0, 28)])
def test_images_of_another_shape_are_noticed(shape: tuple[int, int], root: Path) -> None:
    path = root / "MNIST" / "raw" / TEST_IMAGES
    content = path.read_bytes()
    header = content[:8] + b"".join(size.to_bytes(4, "big") for size in shape)
    replace(path, header + content[16 : 16 + 10_000 * shape[0] * shape[1]])
    rows, columns = shape
    with pytest.raises(ValueError, match=f"^{path} holds 10,000 x {rows} x {columns} uint8 values instead of"):
        load("MNIST", root, "test")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TRAIN_IMAGES, TRAIN_LABELS),
        (TRAIN_IMAGES, TEST_IMAGES),
        (TRAIN_LABELS, TEST_LABELS),
        (TEST_IMAGES, TEST_LABELS),
    ],
)
def test_swapped_files_are_noticed_and_put_right(one: str, other: str, root: Path) -> None:
    raw = root / "MNIST" / "raw"
    (raw / one).rename(raw / "aside")
    (raw / other).rename(raw / one)
    (raw / "aside").rename(raw / other)
    for name in (one, other):
        with pytest.raises(ValueError, match=f"^{raw}/.* holds .* instead of "):
            load("MNIST", root, split_of(name))
    prepare("MNIST", root)
    for split in ("train", "test"):
        load("MNIST", root, split)


def test_a_missing_file_and_a_folder_in_its_place_are_noticed(root: Path) -> None:
    path = root / "MNIST" / "raw" / TEST_LABELS
    path.unlink()
    with pytest.raises(ValueError, match=f"^{path} is missing; "):
        load("MNIST", root, "test")
    path.mkdir()
    with pytest.raises(ValueError, match=rf"^{path} cannot be read \(Is a directory\); "):
        load("MNIST", root, "test")
    with pytest.raises(ValueError, match=rf"^{path} cannot be read .* cannot be written \(Is a directory\); choose"):
        prepare("MNIST", root)


def test_a_file_changed_after_prepare_is_noticed(root: Path) -> None:
    prepare("MNIST", root)
    path = root / "MNIST" / "raw" / TEST_IMAGES
    content = bytearray(path.read_bytes())
    content[4_000_000] ^= 1
    replace(path, bytes(content))
    with pytest.raises(ValueError, match=f"^{path} was altered"):
        load("MNIST", root, "test")


# Names and folders.


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = "choose one of MNIST, FashionMNIST, KMNIST, QMNIST"
    for call in (lambda: prepare("mnist", tmp_path), lambda: load("mnist", tmp_path, "test")):
        with pytest.raises(ValueError, match=rf"^There is no data set 'mnist'; {known}\.$"):
            call()
    with pytest.raises(ValueError, match=r"^There is no split 'val'; choose train or test\.$"):
        load("MNIST", tmp_path, "val")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to itself", "too long a name", "not a disk"])
def test_a_root_that_cannot_be_a_folder_is_refused(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("text")
    elif kind == "dangling link":
        root.symlink_to(tmp_path / "nothing")
    elif kind == "link to itself":
        root.symlink_to(root)
    elif kind == "too long a name":
        root = tmp_path / ("x" * 300)
    elif kind == "not a disk":
        root = Path("/proc/self")
    with pytest.raises(ValueError, match=rf"{root}/MNIST/raw cannot be written \(.*\); choose another folder"):
        prepare("MNIST", root)
    assert [path.name for path in tmp_path.iterdir()] == (["root"] if root.name == "root" else [])


def test_every_class_has_its_name() -> None:
    for data_set in DATASETS.values():
        assert len(set(data_set.classes)) == 10
        theirs = [name.split(" - ")[0] for name in getattr(torchvision_datasets, data_set.name).classes]
        assert list(data_set.classes) == theirs


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_comes_from_debians_package(tmp_path: Path) -> None:
    prepare("FashionMNIST", tmp_path)
    images, labels = load("FashionMNIST", tmp_path, "train")
    assert labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert labels.bincount().tolist() == [6000] * 10
    theirs = torchvision_datasets.FashionMNIST(str(tmp_path), train=True)
    assert torch.equal(images, theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert not (tmp_path / "FashionMNIST" / "raw" / "SHA256SUMS").exists()
    path = tmp_path / "FashionMNIST" / "raw" / TEST_LABELS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"^{path} has 10,007 bytes"):
        load("FashionMNIST", tmp_path, "test")
    prepare("FashionMNIST", tmp_path)
    assert load("FashionMNIST", tmp_path, "test")[1].bincount().tolist() == [1000] * 10

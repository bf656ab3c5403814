"""Data sets: MNIST in the package, and published files in folders and from the network."""

import dataclasses
import gzip
import hashlib
import http.server
import importlib
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import IMAGES, LABELS, idx, write_idx

from lit_mnist.datasets.files import load
from lit_mnist.datasets.registry import MNIST, REGISTRY, Entry, find

FILES = MNIST.files
PACKAGED = MNIST.archives or Path()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "letters")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A closed port is the proxy of every address but 127.0.0.1."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    urllib.request.install_opener(None)  # it read the variables once
    yield
    urllib.request.install_opener(None)


@pytest.fixture
def small_kmnist(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """KMNIST, as small as the data of `write_idx`."""
    sizes = {"train_size": 30, "test_size": 10, "image_shape": (6, 9), "classes": tuple("abcde")}
    entry = dataclasses.replace(find("KMNIST"), **sizes)  # type: ignore[arg-type]
    monkeypatch.setitem(REGISTRY, "KMNIST", entry)
    return entry


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def place(root: Path, flipped: str = "") -> Path:
    """Puts MNIST's files into torchvision's layout, one of them uncompressed and with its last bit flipped."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / f"{name}.gz").symlink_to(PACKAGED / f"{name}.gz")
    if flipped:
        content = bytearray(gzip.decompress((raw / f"{flipped}.gz").read_bytes()))
        content[-1] ^= 1
        (raw / flipped).write_bytes(content)
    return raw


# MNIST and its relatives.


def test_mnist_comes_out_of_the_package_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = snapshot(PACKAGED)
    data = load()
    (images, labels), (_, test_labels) = data.train, data.test
    assert (images.dtype, images.shape, labels.dtype, labels.shape) == (torch.uint8, (60_000, 28, 28), torch.int64, (60_000,))
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.sum(dtype=torch.int64).item() / images.numel() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert (data.name, data.classes, data.image_shape) == ("MNIST", tuple("0123456789"), (28, 28))
    assert data.sha256 == "d0a3eec1f5a454401d758fdbf15b9b0163a7034963586d671960c180b97e2c1a"
    assert snapshot(PACKAGED) == before
    assert list(tmp_path.iterdir()) == []


def test_the_licence_of_mnist_names_its_files() -> None:
    licence = (PACKAGED / "LICENSE.md").read_text()
    for name in FILES:
        assert f"| {name} | {hashlib.md5(gzip.decompress((PACKAGED / f'{name}.gz').read_bytes())).hexdigest()} |" in licence


def test_a_flipped_bit_in_any_of_mnists_files_is_noticed(tmp_path: Path) -> None:
    for name in FILES:
        raw = place(tmp_path / name, flipped=name)
        with pytest.raises(ValueError, match=rf"^{raw / name} is not the published file of MNIST \(its SHA-256 differs\)"):
            load("MNIST", tmp_path / name)
        shutil.rmtree(tmp_path / name)  # pytest would keep it


def test_torchvision_reads_the_same_from_the_same_folder(tmp_path: Path) -> None:
    raw = place(tmp_path)
    for name in FILES:
        (raw / name).write_bytes(gzip.decompress((PACKAGED / f"{name}.gz").read_bytes()))
    data, module = load("MNIST", tmp_path), importlib.import_module("torchvision.datasets")
    for train, (images, labels) in ((True, data.train), (False, data.test)):
        theirs = module.MNIST(str(tmp_path), train=train)
        assert torch.equal(images, theirs.data)
        assert torch.equal(labels, theirs.targets)
    for entry in REGISTRY.values():
        assert list(entry.classes) == [name.split(" - ")[0] for name in getattr(module, entry.name).classes]


def test_own_files_as_root_are_neither_taken_for_mnist_nor_touched(own: Path, no_network: None) -> None:
    before = snapshot(own)
    for download in (False, True):
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not the published .*; .* as --data.dataset\.$"):
            load("MNIST", own, download)
    assert snapshot(own) == before


def test_fashion_mnist_comes_from_debians_package_or_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fashion = find("FashionMNIST")
    if fashion.archives and fashion.archives.is_dir():
        data = load("FashionMNIST")
        assert data.train[1].bincount().tolist() == [6000] * 10
        assert data.classes[9] == "Ankle boot"
    monkeypatch.setitem(REGISTRY, "FashionMNIST", dataclasses.replace(fashion, archives=Path("/nowhere")))
    with pytest.raises(ValueError, match=r"not part of this package: .*--data.download true.*dataset-fashion-mnist"):
        load("FashionMNIST")


def test_the_first_column_of_qmnists_labels_is_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"train_size": 30, "test_size": 10, "image_shape": (6, 9), "classes": tuple("abcde"), "sha256": {}}
    entry = dataclasses.replace(find("QMNIST"), **small)  # type: ignore[arg-type]
    monkeypatch.setitem(REGISTRY, "QMNIST", entry)
    table = np.column_stack([LABELS, *[np.full_like(LABELS, 7)] * 7]).astype(np.int32)
    values: list[np.ndarray[Any, Any]] = [IMAGES[:30], table[:30], IMAGES[30:], table[30:]]
    for name, array in zip(entry.files, values, strict=True):
        (tmp_path / name).write_bytes(idx(array))
    assert load("QMNIST", tmp_path).test[1].tolist() == LABELS[30:].tolist()


def test_only_what_is_missing_is_downloaded(own: Path, small_kmnist: Entry, no_network: None, monkeypatch: Any) -> None:
    archives = own.parent / "served"
    archives.mkdir()
    for name, values in zip(FILES, (IMAGES[:30], LABELS[:30], IMAGES[30:], LABELS[30:]), strict=True):
        (archives / f"{name}.gz").write_bytes(gzip.compress(idx(values), mtime=0))
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory=str(archives))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    theirs = importlib.import_module("torchvision.datasets").KMNIST
    monkeypatch.setattr(theirs, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(archives.iterdir())]
    monkeypatch.setattr(theirs, "resources", [pair for name in FILES for pair in sums if pair[0] == f"{name}.gz"])
    (own / FILES[3]).unlink()
    before = snapshot(own)
    data = load("KMNIST", own, download=True)
    server.shutdown()
    server.server_close()
    assert {path: snapshot(own)[path] for path in before} == before
    assert [path.name for path in (own / "KMNIST" / "raw").iterdir()] == [FILES[3]]
    assert data.test[1].tolist() == LABELS[30:].tolist()
    (own / FILES[2]).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"^{own / FILES[2]} is not an IDX file"):
        load("KMNIST", own, download=True)


def test_without_a_network_one_sentence_says_where_the_files_can_be_had(tmp_path: Path, no_network: None) -> None:
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=rf"^KMNIST could not .* into {root}/KMNIST/raw yourself .*rois-codh/kmnist\)\.$"):
        load("KMNIST", root, download=True)
    with pytest.raises(ValueError, match=rf"^{root}/KMNIST/raw/{FILES[0]} is missing; add --data.download true"):
        load("KMNIST", root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mnist",), r"'mnist' \(did you mean MNIST\?\); choose one of MNIST, FashionMNIST, KMNIST, QMNIST or name a folder"),
        (("fashion-mnist",), r"did you mean FashionMNIST\?"),
        (("no/folder",), "no data set or folder 'no/folder'; choose"),
        (("",), "no data set or folder ''"),
        (("\0" + "x" * 5000,), "no data set or folder"),
        (("MNIST", None, True), "--data.download needs --data.root"),
        (("/tmp", "/tmp"), "leave out --data.root"),
        (("/proc/self/fd",), "/train cannot be listed .*; a folder of data holds the files"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load(*arguments)

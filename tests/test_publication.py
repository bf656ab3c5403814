"""Data sets that come from an archive or the network and have no published SHA-256: on small real files."""

import dataclasses
import gzip
import hashlib
import http.server
import importlib
import logging
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_mnist.datasets.files import checksum, load, prepare
from lit_mnist.datasets.registry import DATASETS, DataSet, IdxFile

TRAIN, TEST = 20, 10
torchvision_datasets = importlib.import_module("torchvision.datasets")  # it has no types


def idx(values: torch.Tensor) -> bytes:
    code = {torch.uint8: 8, torch.int32: 12}[values.dtype]
    header = bytes([0, 0, code, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.numpy().astype(values.numpy().dtype.newbyteorder(">")).tobytes()


def examples(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (N, 28, 28) uint8 and labels (N,) int64 of the training and the test split."""
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(256, (size, 28, 28), generator=draw, dtype=torch.uint8),
            torch.randint(10, (size,), generator=draw),
        )
        for size in (TRAIN, TEST)
    ]


def contents(name: str, seed: int = 0) -> list[bytes]:
    """The four files of a small data set."""
    files = []
    for images, labels in examples(seed):
        if name == "QMNIST":  # the class stands in the first of eight columns
            stored = torch.stack([labels, *[torch.full_like(labels, -7)] * 7], dim=1).to(torch.int32)
        else:
            stored = labels.to(torch.uint8)
        files += [idx(images), idx(stored)]
    return files


def small(name: str) -> DataSet:
    """The catalogue's data set with small files, known by the MD5 of their archives alone."""
    data_set = DATASETS[name]
    files = []
    for file, content in zip(data_set.files, contents(name), strict=True):
        size = TRAIN if file in data_set.train else TEST
        md5 = hashlib.md5(gzip.compress(content, mtime=0)).hexdigest()
        files.append(IdxFile(file.name, (size, *file.shape[1:]), md5, None))
    return dataclasses.replace(data_set, train=(files[0], files[1]), test=(files[2], files[3]))


@pytest.fixture(params=["KMNIST", "QMNIST"])
def data_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    chosen = small(request.param)
    monkeypatch.setitem(DATASETS, chosen.name, chosen)
    for variable in ("http_proxy", "https_proxy"):  # a closed port: there is no network
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    return chosen


def write_archives(data_set: DataSet, folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(data_set.files, contents(data_set.name, seed), strict=True):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(content, mtime=0))


def write_files(data_set: DataSet, folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(data_set.files, contents(data_set.name, seed), strict=True):
        (folder / file.name).write_bytes(content)


def raw_of(data_set: DataSet, root: Path) -> Path:
    return root / data_set.name / "raw"


def assert_loads(data_set: DataSet, root: Path, seed: int = 0) -> None:
    for split, (images, labels) in zip(("train", "test"), examples(seed), strict=True):
        found_images, found_labels = load(data_set.name, root, split)
        assert torch.equal(found_images, images)
        assert torch.equal(found_labels, labels)
        assert (found_images.dtype, found_labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("place", ["raw", "."])
def test_archives_in_the_folder_are_unpacked_and_their_sums_recorded(data_set: DataSet, place: str, tmp_path: Path) -> None:
    write_archives(data_set, tmp_path / data_set.name / place)
    prepare(data_set.name, tmp_path)
    assert_loads(data_set, tmp_path)
    recorded = (raw_of(data_set, tmp_path) / "SHA256SUMS").read_text()
    assert recorded == "".join(
        f"{hashlib.sha256(content).hexdigest()}  {file.name}\n"
        for file, content in zip(data_set.files, contents(data_set.name), strict=True)
    )
    assert checksum(data_set.name, tmp_path) == hashlib.sha256(recorded.encode()).hexdigest()


def test_a_file_that_differs_from_its_archive_is_replaced(
    data_set: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_archives(data_set, raw_of(data_set, tmp_path))
    write_files(data_set, raw_of(data_set, tmp_path), seed=1)
    with caplog.at_level(logging.WARNING, "lit_mnist"):
        prepare(data_set.name, tmp_path)
    assert_loads(data_set, tmp_path)
    assert len(caplog.messages) == 4
    assert all(message.endswith("; it has been replaced.") for message in caplog.messages)


def test_files_without_archive_are_taken_as_found_with_a_warning_and_guarded_from_then_on(
    data_set: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = raw_of(data_set, tmp_path)
    write_files(data_set, raw, seed=1)
    with caplog.at_level(logging.WARNING, "lit_mnist"):
        prepare(data_set.name, tmp_path)
        prepare(data_set.name, tmp_path)
    (notice,) = caplog.messages
    assert notice.startswith(f"lit_mnist: {raw}: nothing to compare ")
    assert_loads(data_set, tmp_path, seed=1)
    for number, file in enumerate(data_set.files):
        path = raw / file.name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"^{path} was altered"):
            load(data_set.name, tmp_path, "train" if number < 2 else "test")
        with pytest.raises(ValueError, match=f"^{path} was altered .*, and {data_set.name} could not be downloaded"):
            prepare(data_set.name, tmp_path)
        path.write_bytes(content)
    prepare(data_set.name, tmp_path)


def test_an_altered_list_of_sums_is_noticed(data_set: DataSet, tmp_path: Path) -> None:
    write_files(data_set, raw_of(data_set, tmp_path))
    prepare(data_set.name, tmp_path)
    listed = raw_of(data_set, tmp_path) / "SHA256SUMS"
    text = listed.read_text()
    listed.write_text(("1" if text[0] == "0" else "0") + text[1:])
    with pytest.raises(ValueError, match=f"{data_set.files[0].name} was altered"):
        load(data_set.name, tmp_path, "train")


def test_a_truncated_or_foreign_archive_is_refused_by_name(data_set: DataSet, tmp_path: Path) -> None:
    raw = raw_of(data_set, tmp_path)
    write_archives(data_set, raw)
    archive = raw / f"{data_set.files[2].name}.gz"
    whole = archive.read_bytes()
    for content in (b"", whole[:-1], whole[:100], gzip.compress(b"other"), b"<html>"):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{archive} is not the published archive .*; replace it or remove it\.$"):
            prepare(data_set.name, tmp_path)
        assert not (raw / data_set.files[2].name).exists()


def test_without_a_network_the_sentence_says_what_to_do_and_nothing_is_left(data_set: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    with pytest.raises(ValueError, match=r"^.* is missing, and .* could not be downloaded") as caught:
        prepare(data_set.name, root)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"put its four files, compressed or not, into {root}/{data_set.name}/raw (source: https://" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_users_own_files_and_folders(data_set: DataSet, tmp_path: Path) -> None:
    raw = raw_of(data_set, tmp_path)
    raw.mkdir(parents=True)
    (raw.parent / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="could not be downloaded"):
        prepare(data_set.name, tmp_path)
    assert [path.name for path in raw.parent.iterdir()] == ["notes.txt"]


def test_labels_outside_their_range_are_noticed_in_every_kind_of_file(data_set: DataSet, tmp_path: Path) -> None:
    raw = raw_of(data_set, tmp_path)
    write_files(data_set, raw)
    path = raw / data_set.test[1].name
    content = bytearray(path.read_bytes())
    first = 12 if data_set.name == "QMNIST" else 8
    size = 4 if data_set.name == "QMNIST" else 1
    for label in (10, 200):
        content[first : first + size] = label.to_bytes(size, "big")
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path} holds the label {label}, which is outside 0..9"):
            load(data_set.name, tmp_path, "test")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves one folder on a free port of this machine."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


@pytest.fixture
def server(data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which torchvision downloads the small data set."""
    folder = tmp_path / "served"
    write_archives(data_set, folder)
    with Server(folder) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        theirs = getattr(torchvision_datasets, data_set.name)
        names = [(f"{file.name}.gz", file.archive_md5) for file in data_set.files]
        if data_set.name == "QMNIST":
            links = [(running.url + name, md5) for name, md5 in names]
            monkeypatch.setattr(theirs, "resources", {"train": links[:2], "test": links[2:]})
        else:
            monkeypatch.setattr(theirs, "resources", names)
            monkeypatch.setattr(theirs, "mirrors", [running.url])
        yield folder
        running.shutdown()


@pytest.mark.usefixtures("server")
def test_torchvision_downloads_what_is_not_there_and_only_whole_files_stay(
    data_set: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    prepare(data_set.name, root)
    assert_loads(data_set, root)
    assert capsys.readouterr().out == ""
    raw = raw_of(data_set, root)
    assert sorted(path.name for path in raw.iterdir()) == sorted(["SHA256SUMS", *(file.name for file in data_set.files)])
    theirs = getattr(torchvision_datasets, data_set.name)(str(root), train=True)
    images, labels = load(data_set.name, root, "train")
    assert torch.equal(theirs.data, images)
    assert [theirs[at][1] for at in range(TRAIN)] == labels.tolist()


@pytest.mark.usefixtures("server")
def test_a_damaged_file_is_downloaded_anew(data_set: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "root"
    prepare(data_set.name, root)
    path = raw_of(data_set, root) / data_set.files[1].name
    path.write_bytes(path.read_bytes()[:-1])
    prepare(data_set.name, root)
    assert_loads(data_set, root)


def test_a_download_of_other_bytes_is_refused_and_leaves_nothing(data_set: DataSet, server: Path, tmp_path: Path) -> None:
    archive = server / f"{data_set.files[3].name}.gz"
    archive.write_bytes(gzip.compress(b"other"))
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=f"{data_set.name} could not be downloaded .*corrupted"):
        prepare(data_set.name, root)
    assert not root.exists()


def test_a_folder_that_torchvision_filled_is_used_as_it_is(
    data_set: DataSet, server: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    for train in (True, False):
        getattr(torchvision_datasets, data_set.name)(str(root), train=train, download=True)
    before = {path: path.stat().st_ino for path in raw_of(data_set, root).iterdir()}
    prepare(data_set.name, root)
    assert_loads(data_set, root)
    after = {path: path.stat().st_ino for path in raw_of(data_set, root).iterdir() if path.name != "SHA256SUMS"}
    assert after == before
    assert caplog.messages == []

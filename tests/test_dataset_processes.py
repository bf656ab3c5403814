"""Publishing a data set by several processes at once, by killed processes, by users without permission."""

import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from test_publication import assert_loads, raw_of, small, write_archives, write_files

from lit_mnist.datasets.files import load, prepare
from lit_mnist.datasets.registry import DATASETS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL, user ids and file permissions are POSIX's")

CONTEXT = multiprocessing.get_context("forkserver")
NOBODY = 65534


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> None:
    """Lets every process begin with the package imported, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server of forks is not told of it otherwise
        CONTEXT.set_forkserver_preload(["test_publication"])
        forkserver.ensure_running()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FILES = sorted(file.name for file in DATASETS["MNIST"].files)


def prepare_together(barrier: Barrier, root: Path) -> None:
    barrier.wait()
    prepare("MNIST", root)


def test_eight_processes_that_start_at_once_on_an_empty_folder_all_succeed(tmp_path: Path) -> None:
    root = tmp_path / "new"
    barrier = CONTEXT.Barrier(8)
    processes = [CONTEXT.Process(target=prepare_together, args=(barrier, root)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    load("MNIST", root, "train")
    load("MNIST", root, "test")
    assert names(root / "MNIST" / "raw") == FILES


def test_prepare_waits_for_the_process_that_publishes(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    process = CONTEXT.Process(target=prepare, args=("MNIST", tmp_path))
    with FileLock(tmp_path / "MNIST" / ".lock"):
        process.start()
        process.join(1.5)
        assert process.is_alive()
        assert names(tmp_path / "MNIST") == [".lock"]
    process.join()
    assert process.exitcode == 0
    assert names(tmp_path / "MNIST" / "raw") == FILES


def fail_together(barrier: Barrier, root: Path) -> None:
    os.environ["http_proxy"] = "http://127.0.0.1:9"  # a closed port: there is no network
    barrier.wait()
    try:
        prepare("KMNIST", root)
    except ValueError as error:
        sys.exit(2 if "could not be downloaded" in str(error) else 1)


def test_processes_that_find_no_source_at_the_same_time_all_say_so_and_leave_no_file(tmp_path: Path) -> None:
    root = tmp_path / "new"
    barrier = CONTEXT.Barrier(4)
    processes = [CONTEXT.Process(target=fail_together, args=(barrier, root)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [2] * 4
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_process_killed_at_a_random_moment_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    chosen = random.Random(1)
    interrupted = 0
    for _ in range(10):
        raw = tmp_path / "MNIST" / "raw"
        before = set(raw.iterdir()) if raw.exists() else set()
        process = CONTEXT.Process(target=prepare, args=("MNIST", tmp_path))
        process.start()
        while process.is_alive() and not (raw.exists() and set(raw.iterdir()) - before):
            time.sleep(0.001)
        time.sleep(chosen.uniform(0, 0.1))  # while it writes
        process.kill()
        process.join()
        interrupted += process.exitcode == -signal.SIGKILL
        for file in DATASETS["MNIST"].files:  # each is whole or not there
            assert file.fault(raw / file.name, file.sha256) in (None, "is missing")
        if process.exitcode and chosen.random() < 0.5:
            continue  # the next process finds what this one and those before it left
        prepare("MNIST", tmp_path)
        assert names(raw) == FILES
        shutil.rmtree(tmp_path / "MNIST")
    assert interrupted >= 5


def prepare_until(name: str, root: Path, killing_call: int) -> None:
    """Prepares a small data set, killed before the given one of its calls that change files under `root`."""
    DATASETS[name] = small(name)
    calls = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal calls
        reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
        if (event == "open" or event.startswith("os.")) and not reads and str(root) in str(args[0]):
            calls += 1
            if calls == killing_call:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    prepare(name, root)


def test_a_process_killed_before_any_change_to_the_folder_leaves_nothing_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "KMNIST"
    data_set = small(name)
    monkeypatch.setitem(DATASETS, name, data_set)
    calls = 0
    while True:
        calls += 1
        root = tmp_path / str(calls)
        write_archives(data_set, raw_of(data_set, root))
        process = CONTEXT.Process(target=prepare_until, args=(name, root, calls))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        for file in data_set.files:
            assert file.fault(raw_of(data_set, root) / file.name, None) in (None, "is missing")
        prepare(name, root)
        assert_loads(data_set, root)
        files = [file.name for file in data_set.files]
        assert names(raw_of(data_set, root)) == sorted(["SHA256SUMS", *files, *(f"{file}.gz" for file in files)])
        if process.exitcode == 0:
            break
    assert calls > 5 * 4  # at least: open, change the mode, rename, sync the folder for each of five files


# Without permission. Root, as which tests may run, has every permission, so these run as another user.


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(action: Callable[..., str], *args: Any) -> str:
    """What the action returns in a process without privileges."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT, initializer=drop_privileges) as pool:
        return pool.submit(action, *args).result()


def drop_privileges() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def sentence(action: Callable[..., object], *args: Any) -> str:
    """The sentence of the `ValueError` that the action raises, or the first line that it logs."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lit_mnist").addHandler(handler)
    try:
        action(*args)
    except ValueError as error:
        return str(error)
    return "".join(messages)


def test_a_complete_folder_without_write_permission_is_used_as_it_is(open_folder: Path) -> None:
    prepare("MNIST", open_folder)
    (open_folder / "MNIST" / ".lock").unlink()
    for folder in (open_folder / "MNIST" / "raw", open_folder / "MNIST", open_folder):
        folder.chmod(0o555)
    assert as_nobody(sentence, prepare, "MNIST", open_folder) == ""
    assert as_nobody(sentence, load, "MNIST", open_folder, "test") == ""
    assert names(open_folder / "MNIST") == ["raw"]


def test_a_root_without_write_permission_is_refused(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    raw = open_folder / "MNIST" / "raw"
    assert as_nobody(sentence, prepare, "MNIST", open_folder) == (
        f"{raw}/train-images-idx3-ubyte is missing, and {raw} cannot be written (Permission denied); "
        "choose another folder (--data.root)."
    )
    assert names(open_folder) == []


@pytest.mark.parametrize("closed", [".", "MNIST", "MNIST/raw"])
def test_a_folder_without_any_permission_is_refused(closed: str, open_folder: Path) -> None:
    prepare("MNIST", open_folder)
    (open_folder / closed).chmod(0)
    try:
        path = open_folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
        refused = f"{path} cannot be read (Permission denied)"
        assert as_nobody(sentence, prepare, "MNIST", open_folder).startswith(refused)
        assert as_nobody(sentence, load, "MNIST", open_folder, "train").startswith(refused)
    finally:
        (open_folder / closed).chmod(0o755)


def test_a_file_without_read_permission_is_refused(open_folder: Path) -> None:
    prepare("MNIST", open_folder)
    path = open_folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.chmod(0)
    for folder in (open_folder / "MNIST" / "raw", open_folder / "MNIST"):
        folder.chmod(0o555)
    refused = f"{path} cannot be read (Permission denied)"
    assert as_nobody(sentence, prepare, "MNIST", open_folder).startswith(refused)
    assert as_nobody(sentence, load, "MNIST", open_folder, "test").startswith(refused)


def prepare_small(name: str, root: Path) -> None:
    DATASETS[name] = small(name)
    prepare(name, root)
    assert_loads(DATASETS[name], root)


def test_a_folder_of_torchvisions_without_write_permission_is_used_with_a_warning(open_folder: Path) -> None:
    data_set = small("KMNIST")
    raw = raw_of(data_set, open_folder)
    write_files(data_set, raw)
    for folder in (raw, raw.parent):
        folder.chmod(0o555)
    assert as_nobody(sentence, prepare_small, "KMNIST", open_folder) == (
        f"lit_mnist: {raw} cannot be written (Permission denied): the sums of its files are not recorded."
    )


def prepare_on_a_full_disk(root: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # no file grows beyond a megabyte
    prepare("MNIST", root)


def test_a_write_that_fails_half_way_leaves_no_file(open_folder: Path) -> None:
    open_folder.chmod(0o777)
    root = open_folder / "new"
    assert as_nobody(sentence, prepare_on_a_full_disk, root) == (
        f"{root}/MNIST/raw/train-images-idx3-ubyte is missing, and {root}/MNIST/raw cannot be written "
        "(File too large); choose another folder (--data.root)."
    )
    assert names(open_folder) == []

"""Files that are whole or absent, whatever happens while they are written: kills, full disks, read-only folders."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from victim import Moment, Victim

from lit_mnist.record.atomic import is_part, remove_parts, write_durably
from lit_mnist.record.checkpoint import list_checkpoints, read_checkpoint

OLD, NEW = b"old" * 10_000, b"new" * 20_000
TRAIN = (
    *("fit", "--config", "lr0.1", "--run_dir", "run", "--trainer.max_epochs", "4", "--test_every_epoch", "false"),
    *("--model.hidden", "[64,32]", "--data.train_size", "6000", "--data.steps_per_block", "8"),
    *("--checkpoint_seconds", "0"),
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="mounts, /dev/shm and os.fork as on Linux")


def overwrite(path: Path) -> int:
    write_durably(path, NEW)
    return 0


@linux_only
def test_a_kill_before_any_system_call_of_a_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    found, boundary = [], 0
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))  # another file system: to move a file from there is no rename
    while True:
        boundary += 1
        here = tmp_path / str(boundary)
        here.mkdir()
        (here / "file").write_bytes(OLD)
        killed = Moment("durable", "write_durably", c_call=boundary)
        victim = Victim(here / "file", folder=here, act=overwrite, moment=killed, environment={"TMPDIR": str(elsewhere)})
        code = victim.wait()
        found.append((here / "file").read_bytes())
        remove_parts(here)
        assert sorted(path.name for path in here.iterdir()) == ["file", "stderr", "stdout"]
        assert victim.stderr == ""
        assert list(elsewhere.iterdir()) == []
        if code == 0:
            break
        assert code == -signal.SIGKILL
    elsewhere.rmdir()
    assert boundary > 10
    renamed = found.index(NEW)
    assert set(found[:renamed]) == {OLD}
    assert set(found[renamed:]) == {NEW}
    assert renamed < boundary - 1  # there are kills after the rename, too


def exceed_the_limit(path: Path) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(OLD), len(OLD)))
    try:
        write_durably(path, NEW)
    except OSError as error:
        print(error.filename, error.strerror)
        return 7
    return 0


def test_a_write_that_does_not_fit_keeps_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    victim = Victim(path, folder=tmp_path, act=exceed_the_limit)
    assert victim.wait() == 7, victim.stderr
    assert victim.stdout == f"{path} File too large\n"
    assert path.read_bytes() == OLD
    assert not [path for path in tmp_path.iterdir() if is_part(path)]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Writes until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("link", "dangling"):
        write_durably(tmp_path / name, NEW)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_bytes() == (tmp_path / "new").read_bytes() == NEW
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_durably(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def trained(folder: Path) -> list[Path]:
    return list_checkpoints(folder / "run")


@linux_only
def test_a_full_disk_ends_a_run_with_one_sentence_and_the_checkpoint_before_is_gone_on_with(
    root: Path, tiny_disk: Path, tmp_path: Path
) -> None:
    options = (*TRAIN, "--run_dir", str(tiny_disk / "run"))
    victim = Victim(*options, folder=tmp_path)
    assert victim.wait_until(lambda: len(trained(tiny_disk)) > 1)
    filler = tiny_disk / "filler"
    fill(filler)
    assert victim.wait() == 1
    complaints = [line for line in victim.stderr.splitlines() if "TensorBoard" not in line]
    assert len(complaints) == 1, victim.stderr
    assert complaints[0].startswith(f"lit_mnist: {tiny_disk}/run/checkpoints/step=")
    assert complaints[0].endswith(": No space left on device.")
    saved = trained(tiny_disk)
    assert saved
    assert all(read_checkpoint(path) for path in saved)
    filler.unlink()
    again = Victim(*options, folder=tmp_path)
    assert again.wait() == 0, again.stderr
    assert f"after {read_checkpoint_step(saved[0])} SGD steps" in again.stdout


def read_checkpoint_step(path: Path) -> int:
    return int(path.stem.removeprefix("step="))


@linux_only
def test_a_folder_that_became_read_only_ends_a_run_with_one_sentence_and_the_checkpoint_before_is_gone_on_with(
    root: Path, tmp_path: Path
) -> None:
    victim = Victim(*TRAIN, folder=tmp_path)
    assert victim.wait_until(lambda: len(trained(tmp_path)) > 1), victim.stderr
    (tmp_path / "run" / "checkpoints").chmod(0o555)
    assert victim.wait() == 2
    assert victim.stderr.startswith("lit_mnist: run/checkpoints/step=")
    assert victim.stderr.endswith(".ckpt: Permission denied.\n")
    assert victim.stderr.count("\n") == 1
    saved = trained(tmp_path)
    assert all(read_checkpoint(path) for path in saved)
    (tmp_path / "run" / "checkpoints").chmod(0o755)
    again = Victim(*TRAIN, folder=tmp_path)
    assert again.wait() == 0, again.stderr
    assert f"after {read_checkpoint_step(saved[0])} SGD steps" in again.stdout

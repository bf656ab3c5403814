"""Files that are whole or absent, whatever happens while they are written: kills, full disks, read-only and lost folders."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kills import Experiment
from victim import Moment, Victim, command

from lit_mnist.record.atomic import is_part, remove_parts, write_atomically, write_together
from lit_mnist.record.checkpoint import read_checkpoint
from lit_mnist.record.folder import RunFolder

OLD, NEW = b"old" * 10_000, b"new" * 20_000
TRAIN = (*Experiment(32, epochs=2000).options, "--data.train_size", "640", "--test_every_epoch", "false")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="mounts and capabilities as on Linux")


def overwrite_in_spite_of_kills(folder: Path) -> int:
    """Overwrites a file, killed before its first system call; then one in the next folder, killed before the second; ..."""
    boundary, code = 0, -1
    while code:
        boundary += 1
        path = folder / f"{boundary:03}" / "file"
        path.parent.mkdir()
        path.write_bytes(OLD)
        if not (pid := os.fork()):
            Moment("atomic", "write_together", c_call=boundary).watch()
            write_atomically(path, NEW)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
    return 0


@linux_only
def test_a_kill_before_any_system_call_of_a_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    victim = Victim(tmp_path / "killed", folder=tmp_path, act=overwrite_in_spite_of_kills)
    assert (victim.wait(), victim.stderr) == (0, "")
    found = []
    for here in sorted((tmp_path / "killed").iterdir()):
        found.append((here / "file").read_bytes())
        remove_parts(here)
        assert [path.name for path in here.iterdir()] == ["file"]
    renamed = found.index(NEW)
    assert set(found[:renamed]) == {OLD}
    assert set(found[renamed:]) == {NEW}
    assert 3 < renamed < len(found) - 2  # there are kills before and after the rename


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
    """Appends until the disk is full."""
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_of_several_files_that_do_not_fit_together_none_is_new(tiny_disk: Path) -> None:
    names = {tiny_disk / "one": NEW, tiny_disk / "two": bytes(3 * 2**20)}
    for path in names:
        path.write_bytes(OLD)
    with pytest.raises(OSError, match="No space left on device") as failure:
        write_together(names)
    assert failure.value.filename == str(tiny_disk / "two")
    assert [path.read_bytes() for path in names] == [OLD, OLD]
    assert not [path for path in tiny_disk.iterdir() if is_part(path)]


def test_what_a_link_leads_to_stays_and_a_pipe_is_written_to_if_somebody_reads_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("link", "dangling"):
        write_atomically(tmp_path / name, NEW)
        assert (tmp_path / name).read_bytes() == NEW
    assert (tmp_path / "file").read_bytes() == OLD
    assert not (tmp_path / "new").exists()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        write_atomically(tmp_path / "pipe", b"to nobody")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def train(folder: Path, *options: str) -> Victim:
    """A run that has saved two checkpoints, and would train on for a minute."""
    victim = Victim(*TRAIN, *options, folder=folder)
    run = Path(options[-1]) if options else folder / "run"
    assert victim.wait_until(lambda: len(RunFolder(run).checkpoints) > 1), victim.stderr
    return victim


def check_resumable(run: Path, folder: Path, *options: str) -> None:
    """Asserts that all checkpoints are whole, and that the run goes on from the newest."""
    saved = RunFolder(run).checkpoints
    assert saved
    epochs = [len(read_checkpoint(path)["callbacks"]["Recorder"]["history"]["train_loss_by_epoch"]) for path in saved]
    again = Victim(*TRAIN, *options, folder=folder)
    again.wait_until(lambda: f"after epoch {max(epochs)}\n" in again.stdout)
    again.send(signal.SIGTERM)
    assert again.wait() == 143, again.stderr


@linux_only
def test_a_full_disk_ends_a_run_with_one_sentence_and_it_resumes_from_the_checkpoint_before(
    tiny_disk: Path, tmp_path: Path
) -> None:
    options = ("--run_dir", str(tiny_disk / "run"))
    victim = train(tmp_path, *options)
    while victim.is_alive:  # each old checkpoint that is removed makes room for one more
        fill(tiny_disk / "filler")
        time.sleep(0.01)
    assert victim.wait() == 1
    complaints = [line for line in victim.stderr.splitlines() if "TensorBoard" not in line]
    assert len(complaints) == 1, victim.stderr
    assert complaints[0].startswith(f"lit_mnist: {tiny_disk}/run/checkpoints/step=")
    assert complaints[0].endswith(": No space left on device.")
    (tiny_disk / "filler").unlink()
    check_resumable(tiny_disk / "run", tmp_path, *options)


@linux_only
def test_a_folder_that_became_read_only_ends_a_run_with_one_sentence(tmp_path: Path) -> None:
    victim = train(tmp_path)
    (tmp_path / "run" / "checkpoints").chmod(0o555)
    assert victim.wait() == 2
    assert victim.stderr.startswith("lit_mnist: run/checkpoints/step=")
    assert victim.stderr.endswith(".ckpt: Permission denied.\n")
    assert victim.stderr.count("\n") == 1
    (tmp_path / "run" / "checkpoints").chmod(0o755)
    check_resumable(tmp_path / "run", tmp_path)


def test_a_run_folder_that_is_lost_ends_the_run_with_one_sentence(tmp_path: Path) -> None:
    victim = train(tmp_path)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert victim.wait() == 2
    assert victim.stderr == "lit_mnist: run: The run folder was removed or renamed during the run.\n"
    assert not (tmp_path / "run").exists()


@linux_only
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
def test_system_calls_that_fail_end_a_run_with_a_sentence_and_it_resumes_to_the_same_bits() -> None:
    """The command makes every call fail without `--every`."""
    sample = [sys.executable, str(Path(__file__).with_name("faults.py")), "--every", "100", "--at-once", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    tried = subprocess.run(sample, capture_output=True, text=True, check=False, env=environment)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def in_a_group(*options: str) -> int:
    os.umask(0o002)
    return command(*options)


@linux_only
def test_files_and_folders_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    victim = Victim(*Experiment(32, epochs=1).options, folder=tmp_path, act=in_a_group)
    assert victim.wait() == 0, victim.stderr
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path

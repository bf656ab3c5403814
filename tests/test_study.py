"""Studies of real, small runs: killed, stopped, continued, started twice, failing, diverging, on Dask."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lit_mnist.cli import main as cli

STUDY = [sys.executable, "-m", "lit_mnist", "study"]
GRID = [
    "--grid",
    "model.lr=0.1,0.5",
    "--seeds",
    "2",
    "--trainer.max_epochs",
    "4",
    "--data.train_size",
    "4000",
]
T = TypeVar("T")
PATIENCE = 300  # seconds for anything that takes a few of them; machines may be busy

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def start(*arguments: str, folder: Path, **options: Any) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*STUDY, *arguments], cwd=folder, **{**pipes, **options})


def study(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a study started in `folder`."""
    process = start(*arguments, folder=folder)
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def wait_for(condition: Callable[[], T], what: str, process: "subprocess.Popen[Any]") -> T:
    """What `condition` gives, once that is true; `process` has to live as long."""
    deadline = time.monotonic() + PATIENCE
    while not (given := condition()):
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return given


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines of the processes whose working directory is `folder`, by process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # ended in the meantime, or not ours
    return found


def results(folder: Path) -> dict[str, Any]:
    """What each run recorded, times apart."""
    found = {}
    for file in sorted(folder.glob("logs/study/*/*/result.json")):
        found[str(file.relative_to(folder))] = json.loads(file.read_text())
        del found[str(file.relative_to(folder))]["times"]
    return found


def begun(folder: Path) -> int:
    """How many runs have saved a checkpoint."""
    return len({file.parent for file in folder.glob("logs/study/*/*/checkpoints/*.ckpt")})


def launches(folder: Path) -> list[int]:
    """How often each run was started."""
    return [file.read_text().count("$ python -m") for file in sorted(folder.glob("logs/study/*/*/output.txt"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Standard output and results of the study of `GRID` that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output, errors = study(*GRID, folder=folder)
    assert code == 0, errors
    assert re.search(r"(?m)^4 runs; \d+ at once, about \d+ (s|min)", errors), errors
    assert "lr0.5 seed 2: trained, train loss" in errors
    assert output.splitlines()[-1] == "python -m lit_mnist report logs/study"
    assert len(results(folder)) == 4
    return output, results(folder)


@linux_only
@pytest.mark.slow
def test_a_study_killed_then_stopped_continues_to_the_same_bytes(
    undisturbed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    killed = start(*GRID, folder=tmp_path)
    wait_for(lambda: begun(tmp_path) >= 1, "a first checkpoint", killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)  # until all that could write to its pipes have ended
    deadline = time.monotonic() + 10
    while processes_in(tmp_path):
        assert time.monotonic() < deadline, f"outlived the killed study: {processes_in(tmp_path)}"
        time.sleep(0.02)
    assert not results(tmp_path), "a run went on after its study was killed"

    stopped = start(*GRID, folder=tmp_path)
    wait_for(lambda: begun(tmp_path) >= 3, "a checkpoint of a third run", stopped)
    stopped.terminate()
    output, errors = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 143
    assert "Stopped by SIGTERM" in errors
    assert output == ""
    assert not processes_in(tmp_path)
    assert len(results(tmp_path)) < 4

    assert study(*GRID, folder=tmp_path)[:2] == (0, undisturbed[0])
    assert results(tmp_path) == undisturbed[1]
    resumed = [json.loads(file.read_text())["times"]["resumed"] for file in tmp_path.rglob("result.json")]
    assert sum(resumed) >= 1, "no run went on from a checkpoint"

    before = launches(tmp_path)
    assert study(*GRID, folder=tmp_path)[:2] == (0, undisturbed[0])
    assert launches(tmp_path) == before, "a finished run was started again"


@linux_only
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_a_study_that_shows_a_table(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = start(*GRID, folder=tmp_path, env=environment, **terminal)
    os.close(theirs)
    screen = bytearray()

    def read() -> None:
        while True:
            try:
                screen.extend(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: re.search(rb"[1-4]/4", screen), "an epoch in the table", process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: all of its foreground processes get it
    assert process.wait(PATIENCE) == 130
    reader.join()
    os.close(ours)
    shown = screen.decode()
    for words in ("train loss", "time left", "lr0.1 seed 1", "running", "Stopped by SIGINT"):
        assert words in shown
    assert "Traceback" not in shown
    assert not processes_in(tmp_path)


@pytest.mark.slow
def test_two_studies_of_one_folder_train_each_run_once(tmp_path: Path) -> None:
    small = [
        "--configs",
        "batch128",
        "--seeds",
        "2",
        "--trainer.max_epochs",
        "2",
        "--data.train_size",
        "6000",
    ]
    pair = [start(*small, folder=tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert launches(tmp_path) == [1, 1]


@pytest.mark.slow
def test_a_failing_run_and_a_diverging_one_are_recorded_while_the_others_go_on(tmp_path: Path) -> None:
    grid = [
        "--grid",
        "model.lr=0.5,1e20",
        "--seeds",
        "1",
        "--trainer.max_epochs",
        "2",
        "--data.train_size",
        "4000",
    ]
    planted = tmp_path / "logs/study/lr0.5/seed_1/checkpoints"
    planted.parent.mkdir(parents=True)
    planted.write_text("a file where fit wants a folder")

    code, output, _ = study(*grid, folder=tmp_path)
    assert code == 1
    assert "lr1e20 seed 1: diverged. " in output
    failure = json.loads((planted.parent / "failure.json").read_text())
    assert f"fit ended with exit code {failure['exit_code']}: " in failure["reason"]
    assert str(planted.relative_to(tmp_path)) in failure["reason"]
    assert f"lr0.5 seed 1: failed. {failure['reason']}" in output

    planted.unlink()
    code, output, _ = study(*grid, folder=tmp_path)
    assert code == 3
    assert "failed." not in output
    assert "lr1e20 seed 1: diverged. " in output
    assert not (planted.parent / "failure.json").exists()


def test_a_config_that_fit_refuses_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    code, output, errors = study("--grid", "model.lr=0.1,-1", "--out", "here", folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1].startswith("lit_mnist: lr-1: ")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_leaves_no_record_is_refused_in_one_sentence(tmp_path: Path) -> None:
    code, output, errors = study("--configs", "lr0.1", "--trainer.fast_dev_run", "true", folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1].startswith("lit_mnist: lr0.1: --trainer.fast_dev_run: ")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_each_line_of_a_dry_run_is_one_that_fit_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "--grid", "model.hidden=[64],[32,16]", "--seeds", "7,8", "--data.train_size", "600"]
    assert cli.main([*arguments, "--dry-run", "--out", "logs/a study"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert line[:4] == ["python", "-m", "lit_mnist", "fit"]
        with pytest.raises(SystemExit) as end:
            cli.main([*line[3:], "--print_config"])
        assert end.value.code == 0
        assert "train_size: 600" in capsys.readouterr().out
    assert not list(tmp_path.rglob("seed_*"))


@contextmanager
def cluster(folder: Path, size: int = 2) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """The address of a Dask scheduler on loopback, and its workers, all working in `folder`."""
    dask = [sys.executable, "-m", "dask"]
    with (folder / "dask.txt").open("wb") as log:
        options: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log}
        local = [
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            "scheduler.json",
        ]
        processes = [subprocess.Popen([*dask, *local], **options)]
        try:
            wait_for((folder / "scheduler.json").exists, "a scheduler", processes[0])
            address = json.loads((folder / "scheduler.json").read_text())["address"]
            one = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            workers = [subprocess.Popen([*one, "--local-directory", f"worker_{i}"], **options) for i in range(size)]
            processes += workers
            yield address, workers
        finally:
            for process in processes:
                process.kill()
                process.wait()


def training_workers(folder: Path, workers: list["subprocess.Popen[bytes]"]) -> list["subprocess.Popen[bytes]"]:
    """The workers whose run has saved a checkpoint and is not finished."""
    busy = []
    for process, line in processes_in(folder).items():
        run = re.search(r" fit .*--run_dir (\S+)", line)
        if run and any((folder / run[1]).glob("checkpoints/*.ckpt")) and not (folder / run[1] / "result.json").exists():
            parent = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
            busy += [worker for worker in workers if worker.pid == parent]
    return busy


@linux_only
@pytest.mark.slow
def test_a_study_on_dask_survives_a_killed_worker(undisturbed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with cluster(tmp_path) as (address, workers):
        process = start(*GRID, "--scheduler", address, folder=tmp_path)
        busy = wait_for(lambda: training_workers(tmp_path, workers), "a worker that trains", process)
        busy[0].kill()
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert output == undisturbed[0]
        assert results(tmp_path) == undisturbed[1]
        assert sum(launches(tmp_path)) == 5, "one run in two processes, after one another"


def test_a_scheduler_without_workers_is_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with cluster(tmp_path, size=0) as (address, _):
        code, output, errors = study("--scheduler", address, folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors == f"lit_mnist: The Dask scheduler at {address} has no workers: start some first.\n"


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    code, output, errors = study("--scheduler", "tcp://127.0.0.1:1", folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors.startswith("lit_mnist: No Dask scheduler answers at tcp://127.0.0.1:1")
    assert errors.count("\n") == 1

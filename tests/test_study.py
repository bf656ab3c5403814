"""Studies of real, small runs: killed, stopped, continued, started twice, failing, diverging, on Dask."""

import json
import os
import pty
import re
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

STUDY = [sys.executable, "-m", "lit_mnist", "study"]
SHORT = ["--trainer.max_epochs", "2", "--data.train_size", "1000"]
LONG = ["--trainer.max_epochs", "6", "--data.train_size", "2000"]  # long enough to be caught in the middle
GRID = ["--grid", "model.lr=0.1,0.5", "--seeds", "1", *LONG]
T = TypeVar("T")
PATIENCE = 300  # seconds for anything that takes a few of them; machines may be busy

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def start(*arguments: str, folder: Path, **options: Any) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*STUDY, *arguments], cwd=folder, **{**pipes, **options})


def study(*arguments: str, folder: Path, **options: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a study started in `folder`."""
    process = start(*arguments, folder=folder, **options)
    output, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    return process.returncode, output, errors


def wait_for(condition: Callable[[], T], what: str, process: "subprocess.Popen[Any]") -> T:
    """What `condition` gives, once that is true; `process` has to live as long."""
    deadline = time.monotonic() + PATIENCE
    while not (given := condition()):
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return given


def processes_in(folder: Path) -> list[int]:
    """Process numbers of those whose working directory is `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            continue  # ended in the meantime, or not ours
    return found


def await_no_process_in(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while processes_in(folder):
        assert time.monotonic() < deadline, f"outlived the study: {processes_in(folder)}"
        time.sleep(0.02)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def trainer_of(folder: Path) -> int:
    """The process that writes the output of the run in `folder`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd/1").readlink() == folder / "output.txt":
                return int(process.name)
        except OSError:
            continue
    return 0


def results(folder: Path) -> dict[str, Any]:
    """What each run recorded, times apart."""
    found = {}
    for file in sorted(folder.glob("logs/study/*/*/result.json")):
        result = json.loads(file.read_text())
        found[str(file.relative_to(folder))] = {key: result[key] for key in result if key not in ("times", "commit")}
    return found


def begun(folder: Path) -> int:
    """How many runs have saved a checkpoint."""
    return len({file.parent for file in folder.glob("logs/study/*/*/checkpoints/*.ckpt")})


def launches(folder: Path) -> list[int]:
    """How often each run was started."""
    return [file.read_text().count("$ python -m") for file in sorted(folder.glob("logs/study/*/*/output.txt"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Standard output and results of the study of `GRID`, started by a thread of a script without a main guard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    script = f"""
import threading
from lit_mnist.study import main
open("lines", "a").write("once\\n")
thread = threading.Thread(target=main, args=({GRID},))
thread.start()
thread.join()
"""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "script.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    umask = os.umask(0o002)
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    os.umask(umask)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"(?m)^2 runs; \d+ at once\.$", ended.stderr), ended.stderr
    assert re.search(r"lr0\.5 seed 1: (trained|learning), train loss", ended.stderr), ended.stderr
    assert (folder / "lines").read_text() == "once\n"
    assert len(results(folder)) == 2
    narrow = [path for path in folder.glob("logs/**/*") if path.stat().st_mode & 0o060 != 0o060]
    assert not [path for path in narrow if path.name not in (".lock",)], "files that a group with umask 002 cannot write"
    return ended.stdout, results(folder)


def test_a_run_of_a_study_has_the_bits_of_the_same_fit(undisturbed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    command = ["-m", "lit_mnist", "fit", "--config", "lr0.1", "--seed_everything", "1", "--threads", "1", "--run_dir", "run"]
    subprocess.run([sys.executable, *command, *LONG], cwd=tmp_path, check=True, capture_output=True)
    alone = json.loads((tmp_path / "run/result.json").read_text())
    assert undisturbed[1]["logs/study/lr0.1/seed_1/result.json"]["weights_sha256"] == alone["weights_sha256"]


def test_a_study_ends_with_a_table_and_a_report(undisturbed: tuple[str, dict[str, Any]]) -> None:
    table, report = undisturbed[0].splitlines()[:3], undisturbed[0].splitlines()[-1]
    assert table[0].split() == ["config", "n", "failed", "final", "loss", "train", "accuracy", "test", "accuracy"]
    assert table[1].split()[:3] == ["lr0.1", "1", "0"]
    assert report == "logs/study/report.html"


@linux_only
@pytest.mark.slow
def test_a_study_killed_then_stopped_continues_to_the_same_bytes(
    undisturbed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    killed = start(*GRID, folder=tmp_path)
    wait_for(lambda: begun(tmp_path) >= 1, "a first checkpoint", killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)  # until all that could write to its pipes have ended
    await_no_process_in(tmp_path)
    assert not results(tmp_path), "a run went on after its study was killed"

    stopped = start(*GRID, "--workers", "1", folder=tmp_path)
    wait_for(lambda: sum(launches(tmp_path)) == 3, "a run", stopped)
    stopped.terminate()
    output, errors = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 143
    assert "Stopped by SIGTERM: 2 of 2 runs are unfinished." in errors
    assert "Traceback" not in errors
    assert output == ""
    await_no_process_in(tmp_path)
    assert not list(tmp_path.rglob(".stop-*"))

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
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    many = ["--configs", "lr0.1", "lr1", "--seeds", "20", "--trainer.max_epochs", "30", "--data.train_size", "2000"]
    process = start(*many, folder=tmp_path, env=environment, **terminal)
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
    wait_for(lambda: re.search(rb"\d/30", screen), "an epoch in the table", process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: all of its foreground processes get it
    assert process.wait(PATIENCE) == 130
    reader.join()
    os.close(ours)
    shown = screen.decode()
    for words in (
        "train loss",
        "time left",
        "lr0.1 seed 1",
        "running",
        "left",
        "Stopped by SIGINT: 40 of 40 runs are unfinished",
    ):
        assert words in shown
    assert "Traceback" not in shown
    frames = shown.split("train loss")
    assert max(frame.count("\n") for frame in frames) <= 24
    await_no_process_in(tmp_path)


@pytest.mark.slow
def test_two_studies_of_one_folder_train_each_run_once(tmp_path: Path) -> None:
    small = ["--configs", "batch128", "--seeds", "2", *SHORT]
    pair = [start(*small, folder=tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert launches(tmp_path) == [1, 1]


@linux_only
@pytest.mark.slow
def test_a_run_that_fails_is_killed_or_diverges_is_recorded_while_the_others_go_on(tmp_path: Path) -> None:
    grid = ["--grid", "model.lr=0.5,1e6", "--seeds", "2", *LONG]
    planted = tmp_path / "logs/study/lr0.5/seed_1/checkpoints"
    planted.parent.mkdir(parents=True)
    planted.write_text("a file where fit wants a folder")
    killed = tmp_path / "logs/study/lr0.5/seed_2"

    process = start(*grid, folder=tmp_path)
    wait_for(lambda: list(killed.glob("checkpoints/*.ckpt")), "a checkpoint", process)
    os.kill(trainer_of(killed), signal.SIGKILL)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "lr1000000.0 seed 1: diverged. " in output
    failure = json.loads((planted.parent / "failure.json").read_text())
    assert f"fit ended with exit code {failure['exit_code']}: " in failure["reason"]
    assert str(planted.relative_to(tmp_path)) in failure["reason"]
    assert f"lr0.5 seed 1: failed. {failure['reason']}" in output
    assert "lr0.5 seed 2: failed. fit was killed by SIGKILL." in output

    planted.unlink()
    code, output, _ = study(*grid, folder=tmp_path)
    assert code == 3
    assert "failed." not in output
    assert "lr1000000.0 seed 1: diverged. " in output
    assert not list(tmp_path.rglob("failure.json"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grid", "model.lr=0.1,-1"], "lr-1: "),  # a value that the network refuses
        (["--grid", "lr=0.1,0.2", "--dry-run"], "lr0.1: "),  # an option that the parser does not know
    ],
)
def test_what_fit_refuses_is_refused_before_anything_is_written(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    code, output, errors = study(*arguments, "--out", "here", folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1].startswith(f"lit_mnist: {complaint}")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is missing')")
    code, output, errors = study("--configs", "lr0.1", *SHORT, folder=tmp_path)
    assert (code, output) == (1, "")
    assert "ImportError: libtorch.so is missing" in errors
    assert not (tmp_path / "logs").exists()


@linux_only
def test_the_server_has_one_thread_when_it_forks_and_ends_with_its_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_mnist.study.server"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        request = {"number": 7, "calls": [["--version"]], "folder": str(tmp_path), "output": str(tmp_path / "output.txt")}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        assert json.loads(server.stdout.readline()) == {"number": 7, "exit_code": 0}
        assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
        server.stdin.close()
        assert server.wait(PATIENCE) == 0
    assert re.fullmatch(r"\$ python -m lit_mnist --version\nlit_mnist \S+\n", (tmp_path / "output.txt").read_text())


@contextmanager
def cluster(folder: Path, size: int = 2, **environment: str) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """The address of a Dask scheduler on loopback, and its process and those of its workers, all working in `folder`."""
    dask = [sys.executable, "-m", "dask"]
    with (folder / "dask.txt").open("wb") as log:
        options: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, "env": {**os.environ, **environment}}
        local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "scheduler.json"]
        processes = [subprocess.Popen([*dask, "scheduler", *local], **options)]
        try:
            wait_for((folder / "scheduler.json").exists, "a scheduler", processes[0])
            address = json.loads((folder / "scheduler.json").read_text())["address"]
            one = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            processes += [subprocess.Popen([*one, "--local-directory", f"worker_{i}"], **options) for i in range(size)]
            yield address, processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def busy_worker(folder: Path) -> int:
    """A worker whose run has saved a checkpoint and is not finished."""
    for checkpoint in folder.glob("logs/study/*/*/checkpoints/*.ckpt"):
        run = checkpoint.parent.parent
        if not (run / "result.json").exists() and (process := trainer_of(run)):
            return parent_of(parent_of(process))  # above the server
    return 0


@linux_only
@pytest.mark.slow
def test_a_study_on_dask_survives_a_killed_worker(undisturbed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with cluster(tmp_path) as (address, _):
        process = start(*GRID, "--scheduler", address, folder=tmp_path)
        os.kill(wait_for(lambda: busy_worker(tmp_path), "a worker that trains", process), signal.SIGKILL)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert output == undisturbed[0]
        assert results(tmp_path) == undisturbed[1]
        assert sum(launches(tmp_path)) == 3, "one run in two processes, after one another"
        assert "Traceback" not in errors


@linux_only
@pytest.mark.slow
def test_a_killed_client_or_scheduler_of_dask_leaves_a_study_that_can_be_continued(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    runs = ["--configs", "lr0.1", "--seeds", "1", "--trainer.max_epochs", "1000", "--data.train_size", "2000"]
    with cluster(tmp_path) as (address, (scheduler, *_)):
        process = start(*runs, "--scheduler", address, folder=tmp_path)
        wait_for(lambda: begun(tmp_path) == 1, "a checkpoint", process)
        process.kill()
        process.communicate(timeout=PATIENCE)

        process = start(*runs, "--scheduler", address, folder=tmp_path)
        wait_for(lambda: "elsewhere" in process.stderr.readline(), "a run of the killed client", process)  # type: ignore[union-attr]
        scheduler.kill()
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (1, "")
        assert errors.splitlines()[-1] == "lit_mnist: The Dask scheduler was lost. The same command continues the study."
        assert "Traceback" not in errors


def test_workers_of_dask_with_other_versions_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    (tmp_path / "lit_mnist").mkdir()
    (tmp_path / "lit_mnist/__init__.py").write_text("__version__ = '0.1'\n")
    with cluster(tmp_path, size=1, PYTHONPATH="") as (address, _):
        code, output, errors = study("--scheduler", address, folder=tmp_path / "here")
    assert (code, output) == (2, "")
    assert errors.startswith("lit_mnist: The Dask worker tcp://127.0.0.1:")
    assert "has other versions" in errors
    assert errors.count("\n") == 1


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

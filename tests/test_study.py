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
from victim import Victim

from lit_mnist.study import execute, main, server

STUDY = [sys.executable, "-m", "lit_mnist", "study"]
SMALL = ["--data.train_size", "640", "--model.hidden", "[16]"]
LONG = ["--trainer.max_epochs", "16", *SMALL]  # long enough to be caught in the middle
GRID = ["--grid", "model.lr=0.1,1e30", "--seeds", "2", *LONG]  # the larger one diverges at once
ENDLESS = ["--configs", "lr0.1", "--seeds", "3", "--trainer.max_epochs", "9000", *SMALL]
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
    """Standard output and results of the study of `GRID`, by a script without a main guard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    script = f"""
import threading
from lit_mnist.study import main
open("lines", "a").write("once\\n")
thread = threading.Thread(target=lambda: open("code", "w").write(str(main({GRID}))))
thread.start()
thread.join()
"""
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, env=environment, umask=0o002, capture_output=True, text=True, timeout=PATIENCE)
    errors = done.stderr
    assert (done.returncode, (folder / "code").read_text()) == (0, "3"), errors
    assert re.search(r"(?m)^4 runs; \d+ at once\.$", errors), errors
    assert re.search(r"lr0\.1 seed 1: (trained|learning), train loss \d\.\d+ \(\d of 4 runs done", errors), errors
    assert (folder / "lines").read_text() == "once\n"
    assert len(results(folder)) == 4
    narrow = [path for path in folder.glob("logs/**/*") if path.stat().st_mode & 0o060 != 0o060]
    assert not [path for path in narrow if path.name not in (".lock",)], "files that a group with umask 002 cannot write"
    return done.stdout, results(folder)


@pytest.fixture(scope="module")
def served() -> Iterator[None]:
    """Lets studies within this process share a server."""
    yield
    server.close()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grid", "model.lr=0.1,-1"], "lr-1: "),  # a value that the network refuses
        (["--grid", "lr=0.1,0.2"], "lr0.1: "),  # an option that the parser does not know
    ],
)
def test_what_fit_refuses_is_refused_before_anything_is_written(
    arguments: list[str], complaint: str, served: None, workplace: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{complaint}"):
        main([*arguments, "--out", "here", "--dry-run"])
    assert list(workplace.iterdir()) == []


def test_a_thousand_runs_need_a_yes_repeated_configs_add_up_and_fit_takes_the_lines_of_a_dry_run(
    served: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a study"
    arguments = ["--configs", "lr1", "--configs", "batch8", "--grid", "model.hidden=[32,16]", "--data.train_size", "600"]
    arguments += ["--seeds", "501", "--out", str(out), "--dry-run"]
    with pytest.raises(ValueError, match="1,002 runs"):
        main(arguments)
    assert not out.exists()
    assert main([*arguments, "--yes"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 1002
    assert list(dict.fromkeys(Path(line[5]).stem for line in lines)) == ["lr1-hidden32x16", "batch8-hidden32x16"]
    assert not list(tmp_path.rglob("seed_*"))
    assert lines[0][:3] == ["python", "-m", "lit_mnist"]
    assert server.run_apart([[*lines[0][3:], "--trainer.fast_dev_run", "true"]], tmp_path, tmp_path / "output.txt") == 0


@linux_only
def test_the_server_has_one_thread_when_it_forks_also_after_loading_the_fast_engine(served: None, tmp_path: Path) -> None:
    for engine in ("exact", "fast"):
        assert server.run_apart([["--version"]], tmp_path, tmp_path / engine, engine) == 0
        assert re.fullmatch(r"\$ python -m lit_mnist --version\nlit_mnist \S+\n", (tmp_path / engine).read_text())
        (process,) = [
            int(path.name)
            for path in Path("/proc").glob("[0-9]*")
            if (path / "cmdline").exists()
            and b"lit_mnist.study.server" in (path / "cmdline").read_bytes()
            and parent_of(int(path.name)) == os.getpid()
        ]
        assert len(list(Path(f"/proc/{process}/task").iterdir())) == 1


def test_what_torch_lacks_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is missing')")
    code, output, errors = study("--configs", "lr0.1", *LONG, folder=tmp_path)
    assert (code, output) == (2, "")
    assert "libtorch.so is missing" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "logs").exists()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """The address of a Dask scheduler on loopback, and its process, to which those of workers may be added."""
    dask = [sys.executable, "-m", "dask"]
    with (folder / "dask.txt").open("wb") as log:
        options: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log}
        local = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "scheduler.json"]
        processes = [subprocess.Popen([*dask, "scheduler", *local], **options)]
        try:
            wait_for((folder / "scheduler.json").exists, "a scheduler", processes[0])
            address = json.loads((folder / "scheduler.json").read_text())["address"]
            yield address, processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_a_scheduler_that_is_of_no_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(execute, "CONNECT_SECONDS", 1)
    with cluster(tmp_path) as (address, _), pytest.raises(ValueError, match=f"scheduler at {address} has no workers: start"):
        main(["--scheduler", address, "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"^No Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        main(["--scheduler", "tcp://127.0.0.1:1", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_run_of_a_study_has_the_bits_of_the_same_fit(undisturbed: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    run = ["--config", "lr0.1", "--seed_everything", "1", "--threads", "1", "--run_dir", "run", *LONG]
    fit = Victim("fit", *run, folder=tmp_path)
    assert fit.wait() == 0, fit.stderr
    alone = json.loads((tmp_path / "run/result.json").read_text())
    assert undisturbed[1]["logs/study/lr0.1/seed_1/result.json"]["weights_sha256"] == alone["weights_sha256"]


def test_a_study_ends_with_the_failed_runs_a_table_and_a_report(undisturbed: tuple[str, dict[str, Any]]) -> None:
    lines = undisturbed[0].splitlines()
    assert [line.partition(". ")[0] for line in lines[:2]] == ["lr1e30 seed 1: diverged", "lr1e30 seed 2: diverged"]
    assert lines[2].split("|")[1:-1] == [
        " configuration ",
        " final training loss ",
        " train accuracy ",
        " test accuracy ",
        " failed ",
    ]
    assert "0 of 2" in lines[4]
    assert lines[-1] == "logs/study/report.html"


@linux_only
@pytest.mark.slow
def test_a_run_that_fails_or_is_killed_fails_alone_and_the_same_command_continues_to_the_same_bytes(
    undisturbed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    planted = tmp_path / "logs/study/lr0.1/seed_1/checkpoints"
    planted.parent.mkdir(parents=True)
    planted.write_text("a file where fit wants a folder")
    killed = tmp_path / "logs/study/lr0.1/seed_2"
    process = start(*GRID, folder=tmp_path)
    wait_for(lambda: list(killed.glob("checkpoints/*.ckpt")), "a checkpoint", process)
    os.kill(trainer_of(killed), signal.SIGKILL)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "lr1e30 seed 1: diverged. " in output
    failure = json.loads((planted.parent / "failure.json").read_text())
    assert f"fit ended with exit code {failure['exit_code']}: " in failure["reason"]
    assert str(planted.relative_to(tmp_path)) in failure["reason"]
    assert f"lr0.1 seed 1: failed. {failure['reason']}" in output
    assert "lr0.1 seed 2: failed. fit was killed by SIGKILL." in output

    planted.unlink()
    before = launches(tmp_path)
    pair = [start(*GRID, folder=tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE) for process in pair]
    assert [process.returncode for process in pair] == [3, 3], ended
    assert [output for output, _ in ended] == [undisturbed[0]] * 2
    assert sum(launches(tmp_path)) == sum(before) + 2, "two studies of one folder train each run once"
    assert results(tmp_path) == undisturbed[1]
    assert json.loads((killed / "result.json").read_text())["times"]["resumed"] >= 1, "it went on from a checkpoint"
    assert not list(tmp_path.rglob("failure.json"))

    before = launches(tmp_path)
    assert study(*GRID, folder=tmp_path)[:2] == (3, undisturbed[0])
    assert launches(tmp_path) == before, "a finished run was started again"


@linux_only
@pytest.mark.slow
def test_studies_that_are_stopped_or_killed_say_how_to_continue_and_leave_no_process(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    shows_a_table = start(*ENDLESS, "--workers", "1", folder=tmp_path, env=environment, **terminal)
    os.close(theirs)
    stopped, killed = (start(*ENDLESS, "--workers", "1", folder=tmp_path) for _ in range(2))
    screen = bytearray()

    def read() -> None:
        while True:
            try:
                screen.extend(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: begun(tmp_path) == 3, "a checkpoint of each study's run", shows_a_table)
    wait_for(lambda: re.search(rb"\d/9000", screen), "an epoch in the table", shows_a_table)
    os.killpg(shows_a_table.pid, signal.SIGINT)  # what a terminal does: all of its foreground processes get it
    stopped.terminate()
    killed.kill()
    assert shows_a_table.wait(PATIENCE) == 130
    output, errors = stopped.communicate(timeout=PATIENCE)
    assert (stopped.returncode, output) == (143, "")
    killed.communicate(timeout=PATIENCE)  # until all that could write to its pipes have ended
    await_no_process_in(tmp_path)
    reader.join()
    os.close(ours)
    shown = screen.decode()
    assert "Stopped by SIGTERM: 3 of 3 runs are unfinished. The same command continues the study." in errors
    for words in ("train loss", "lr0.1 seed 1", "running", "min left", "Stopped by SIGINT: 3 of 3 runs are unfinished"):
        assert words in shown
    assert "Traceback" not in shown + errors
    assert max(frame.count("\n") for frame in shown.split("train loss")) <= 24
    assert not list(tmp_path.rglob(".stop-*"))


def busy_worker(folder: Path) -> int:
    """A worker whose run has saved a checkpoint and is not finished."""
    for checkpoint in folder.glob("logs/study/*/*/checkpoints/*.ckpt"):
        run = checkpoint.parent.parent
        if not (run / "result.json").exists() and (process := trainer_of(run)):
            return parent_of(parent_of(parent_of(process)))  # above the watcher and the server
    return 0


@linux_only
@pytest.mark.slow
def test_a_study_on_dask_survives_a_killed_worker_and_can_be_continued_after_a_killed_client_or_scheduler(
    undisturbed: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with cluster(tmp_path) as (address, processes):
        for number in range(2):
            one = [
                "worker",
                address,
                "--nthreads",
                "2",
                "--no-nanny",
                "--no-dashboard",
                "--local-directory",
                f"worker_{number}",
            ]
            processes.append(subprocess.Popen([sys.executable, "-m", "dask", *one], cwd=tmp_path, stderr=subprocess.DEVNULL))
        endless = [*ENDLESS, "--seeds", "1", "--out", "endless", "--scheduler", address]
        client, another = start(*GRID, "--scheduler", address, folder=tmp_path), start(*endless, folder=tmp_path)
        os.kill(wait_for(lambda: busy_worker(tmp_path), "a worker that trains", client), signal.SIGKILL)
        output, errors = client.communicate(timeout=PATIENCE)
        assert (client.returncode, output) == (3, undisturbed[0]), errors
        assert results(tmp_path) == undisturbed[1]
        assert sum(launches(tmp_path)) > 4, "a run in two processes, after one another"
        assert "Traceback" not in errors

        wait_for(lambda: list(tmp_path.glob("endless/*/*/checkpoints/*.ckpt")), "a checkpoint", another)
        another.kill()
        another.communicate(timeout=PATIENCE)
        client = start(*endless, folder=tmp_path)
        wait_for(lambda: "elsewhere" in client.stderr.readline(), "a run of the killed client", client)  # type: ignore[union-attr]
        processes[0].kill()
        output, errors = client.communicate(timeout=PATIENCE)
        assert (client.returncode, output) == (1, "")
        assert errors.splitlines()[-1] == "lit_mnist: The Dask scheduler was lost. The same command continues the study."
        assert "Traceback" not in errors

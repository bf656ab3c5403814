"""One run in a process of its own, watched until it ends: what a worker executes, here or on another host."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from lit_mnist.study.ending import BUSY, FAILED, STOPPED, Ending, read_ending, write_failure
from lit_mnist.study.plan import Run

LOOK_SECONDS = 0.2  # between two looks at the process and at the stop file
GRACE_SECONDS = 30  # for a checkpoint after SIGTERM; fit needs about one

# Linux ends a process when its parent dies, if asked to: prctl(PR_SET_PDEATHSIG = 1, SIGTERM = 15),
# kept across exec (prctl(2)). Asked by a program of its own: `preexec_fn` is unsafe in a worker with threads.
_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def tethered(arguments: list[str]) -> list[str]:
    """A command line for this Python that, on Linux, gets SIGTERM when the thread that started it is gone."""
    tether = ["-I", "-S", "-c", _TETHER] if sys.platform == "linux" else []
    return [sys.executable, *tether, *arguments]


def one_thread() -> dict[str, str]:
    """The environment for a run: unbuffered, and one thread from the first import on."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def supervise(run: Run, workplace: Path, stop: Path, wait: bool) -> tuple[Run, Ending]:
    """Trains `run` to its end, unless it is finished, another process trains it, or the study is stopping.

    Args:
        run: Its folder is relative to `workplace`.
        workplace: The folder the study was started in; all workers see it under this path.
        stop: A file that exists from when the study wants to stop.
        wait: Whether to wait for another process that trains this run, instead of returning `BUSY`.
    """
    folder = workplace / run.folder
    study_lock = FileLock(folder / ".study.lock")
    fit_lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _hold(study_lock, stop, wait):
            return run, Ending(STOPPED if stop.exists() else BUSY)
        try:
            # `fit` holds this one: started by hand, or outliving its killed study until it has saved.
            if not _hold(fit_lock, stop, wait):
                return run, Ending(STOPPED if stop.exists() else BUSY)
            fit_lock.release()
            return run, read_ending(folder) or _train(run, workplace, stop)
        finally:
            study_lock.release()
    except OSError as error:
        return run, Ending(FAILED, f"{error}.")


def _hold(lock: FileLock, stop: Path, wait: bool) -> bool:
    """Takes `lock`; False when another process has it, or when the study stops in the meantime."""
    while not stop.exists():
        try:
            lock.acquire(blocking=False)
            return True
        except Timeout:
            if not wait:
                return False
            time.sleep(LOOK_SECONDS)
    return False


def _train(run: Run, workplace: Path, stop: Path) -> Ending:
    folder = workplace / run.folder
    failure, output = folder / "failure.json", folder / "output.txt"
    failure.unlink(missing_ok=True)
    with output.open("ab") as file:
        file.write(f"$ {run.line}\n".encode())
        start = file.tell()
        # A session of its own: Ctrl-C in the terminal reaches the study alone, which tells the workers.
        process = subprocess.Popen(
            tethered(["-m", "lit_mnist", *run.arguments]),
            cwd=workplace,
            env=one_thread(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        stopped = _watch(process, stop)
    finally:
        process.kill()  # does nothing to a process that has ended
        process.wait()
    ending = read_ending(folder)
    if ending:
        return ending
    if stopped:
        return Ending(STOPPED)
    reason = _reason(process.returncode, output, start)
    write_failure(folder, reason, process.returncode)
    return Ending(FAILED, reason)


def _watch(process: "subprocess.Popen[bytes]", stop: Path) -> bool:
    """Waits for the process to end, sends it SIGTERM when the study stops; True when it was told to stop."""
    while process.poll() is None:
        if stop.exists():
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _reason(code: int, output: Path, start: int) -> str:
    """Why `fit` ended without a result: the signal that killed it, or its last words, after byte `start`."""
    if code < 0:
        return f"fit was killed by {signal.Signals(-code).name}."
    return f"fit ended with exit code {code}: {last_words(output.read_bytes()[start:].decode(errors='replace'))}"


def last_words(output: str) -> str:
    """The sentence with which a command of lit_mnist ended, else the last line it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing."]
    sentences = [line for line in lines if line.startswith("lit_mnist: ")]
    return (sentences or lines)[-1].removeprefix("lit_mnist: ")

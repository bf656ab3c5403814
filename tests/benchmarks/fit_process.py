"""`python -m lit_mnist` as a user runs it, with a process and a terminal of its own, measured from outside."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from first_step import MARK
from worker import pin

FIRST_STEP = Path(__file__).with_name("first_step.py")


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        started: Seconds since the epoch.
        seconds: Wall-clock seconds from start to end.
        peak_mib: The most memory that it held, in MiB.
        output: What it wrote to the terminal.
    """

    started: float
    seconds: float
    peak_mib: float
    output: str


def run(arguments: list[str], threads: int = 0) -> Finished:
    """Runs this interpreter with `arguments` on a terminal of its own, on as many cores as threads (0: all).

    Raises:
        RuntimeError: It failed; with the end of what it wrote.
    """
    terminal, its_end = pty.openpty()
    started = time.time()
    process = subprocess.Popen([sys.executable, *arguments], stdout=its_end, stderr=its_end)
    pin(process.pid, threads)
    os.close(its_end)
    written: list[bytes] = []
    reader = threading.Thread(target=_read, args=(terminal, written))
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.time() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    os.close(terminal)
    output = b"".join(written).decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{output[-2000:]}")
    kibibytes = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    return Finished(started, seconds, kibibytes / 1024, output)


def _read(terminal: int, written: list[bytes]) -> None:
    try:
        while chunk := os.read(terminal, 65536):
            written.append(chunk)
    except OSError:  # Linux reports the closed other end of a terminal as an error
        return


def fit(engine: str, batch_size: int, threads: int, images: int, epochs: int) -> tuple[list[float], Finished]:
    """Trains with all that is on by default; returns the seconds of each epoch, evaluation excepted."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [
            f"--engine={engine}",
            f"--data.batch_size={batch_size}",
            f"--data.train_size={images}",
        ]
        length = [f"--threads={threads}", f"--trainer.max_epochs={epochs}", f"--run_dir={folder}/run"]
        finished = run(["-m", "lit_mnist", "fit", "--config", "lr0.1", *chosen, *length], threads)
        result: dict[str, Any] = json.loads(Path(folder, "run", "result.json").read_text())
    seconds: list[float] = result["times"]["train_seconds_by_epoch"]
    return seconds, finished


def whole_command(engine: str, epochs: int) -> float:
    """Seconds of `fit --config lr0.1` with everything that it does by default, from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--engine={engine}", f"--trainer.max_epochs={epochs}", f"--run_dir={folder}/run"]
        return run(["-m", "lit_mnist", "fit", "--config", "lr0.1", *options]).seconds


def until_first_step() -> float:
    """Seconds from the start of `fit --config lr0.1` to its first SGD step."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data.train_size=640", "--trainer.max_epochs=1", f"--run_dir={folder}/run"]
        finished = run([str(FIRST_STEP), "fit", "--config", "lr0.1", *options])
    return float(finished.output.split(MARK)[1].split()[0]) - finished.started

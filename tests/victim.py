"""Processes to be killed: each forked from a server that has imported the package already, so that none waits for that."""

import ctypes
import gc
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lit_mnist.study.server import IMPORTS

# A clean server, without the threads and handlers of the test runner, from which forked children are like new processes.
SERVER: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
SERVER.set_forkserver_preload(["lit_mnist.cli.evaluate", *IMPORTS.split(), "pytest"])
PATIENCE = 240  # seconds for anything that takes a few of them; CI machines are slow and shared


@dataclass(frozen=True)
class Moment:
    """A place in the program at which the process kills itself with SIGKILL, like a power cut there.

    Attributes:
        module, function: Of the package; the last part of each name.
        nth: Which call of the function triggers it, from 1.
        c_call: None: on entering it. A number: before the so many-th call of a function of the operating system that is
            made within it, from 1.
    """

    module: str
    function: str
    nth: int = 1
    c_call: int | None = None

    def watch(self) -> None:
        """From now on waits for the moment, in this thread."""
        calls = c_calls = depth = 0

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            nonlocal calls, c_calls, depth
            if event == "c_call" and depth and _is_of_the_system(arg):
                c_calls += 1
                if c_calls == self.c_call:
                    os.kill(os.getpid(), signal.SIGKILL)
            elif event in ("call", "return") and self._is_in(frame):
                calls += event == "call"
                if calls == self.nth and event == "call" and self.c_call is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                depth += (1 if event == "call" else -1) if calls == self.nth else 0

        sys.setprofile(profile)

    def _is_in(self, frame: FrameType) -> bool:
        code = frame.f_code
        return code.co_name == self.function and code.co_filename.endswith(f"/{self.module}.py")


def _is_of_the_system(function: Any) -> bool:
    """Functions of the module `os`, and methods of files."""
    return getattr(function, "__module__", None) in (os.name, "io", "_io") or type(function.__self__).__module__ == "_io"


def command(*options: str) -> int:
    """Runs a command of lit_mnist as `python -m lit_mnist` does; Lightning's launcher starts other processes by that line."""
    from lit_mnist.cli.main import main

    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lit_mnist.__main__")
    sys.argv = ["lit_mnist", *options]
    return main(list(options))


def _heed_permissions() -> None:
    """On Linux, makes root heed the permission bits of files, as anybody else has to."""
    if sys.platform != "linux":
        return
    # see capset(2): version 3 and this process; effective, permitted and inheritable capabilities, 1-32 and 33-64
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    assert libc.capget(header, held) == 0
    held[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, held) == 0


def _live(
    act: Callable[..., int],
    arguments: tuple[Any, ...],
    folder: Path,
    environment: Mapping[str, str],
    moment: Moment | None,
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    gc.freeze()  # or a collection would copy all that is shared with the server
    _heed_permissions()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup leaves ignored
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if moment:
        moment.watch()
    sys.exit(act(*arguments))


class Victim:
    """A process of its own that does something in a folder.

    Args:
        arguments: Of `act`; by default the options of a command of lit_mnist.
        folder: Where it works, and where what it prints is appended to `stdout` and `stderr`.
        act: What it does; its result is the exit code.
        environment: Added to the environment.
        moment: When it kills itself.
    """

    def __init__(
        self,
        *arguments: Any,
        folder: Path,
        act: Callable[..., int] = command,
        environment: Mapping[str, str] | None = None,
        moment: Moment | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._printed = len(self._text("stdout")), len(self._text("stderr"))
        self._process = SERVER.Process(target=_live, args=(act, arguments, folder, environment or {}, moment))
        self._process.start()

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._text("stdout")[self._printed[0] :]

    @property
    def stderr(self) -> str:
        """What it has complained of so far."""
        return self._text("stderr")[self._printed[1] :]

    @property
    def pid(self) -> int:
        assert self._process.pid
        return int(self._process.pid)

    @property
    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def send(self, number: signal.Signals) -> None:
        if self.is_alive:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"still running after {PATIENCE} s: {self.stdout}{self.stderr}")
        return int(self._process.exitcode)

    def wait_until(self, has_happened: Callable[[], bool]) -> bool:
        """Waits for something to happen; false if it ended before."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if has_happened():
                return True
            if not self.is_alive:
                return has_happened()
            time.sleep(0.002)
        raise TimeoutError(f"did not happen within {PATIENCE} s: {self.stdout}{self.stderr}")

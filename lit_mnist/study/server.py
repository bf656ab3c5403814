"""Processes for runs, forked from one that has imported torch and Lightning: `python -m lit_mnist.study.server`.

The server reads requests from its standard input, a JSON object per line, and answers on its standard output. It has one
thread, since a fork copies no other; it forks a child for each request, and ends, with its children, when its input ends.
Where a fork is not safe, which is anywhere but on Linux, each request gets a new process, which imports all by itself.
"""

import functools
import gc
import itertools
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module, util
from pathlib import Path
from typing import Any

from lit_mnist.cli import DIVERGED, DONE, FAILED
from lit_mnist.record.printable import one_line
from lit_mnist.training.signals import end_with_parent

SERVER = [sys.executable, "-m", "lit_mnist.study.server"]
PROMPT = "$ python -m lit_mnist "  # begins the line that says what a process executes
LOOK_SECONDS = 0.05  # between two looks at processes and files
# what a run imports sooner or later
IMPORTS = "lit_mnist.cli.fit lit_mnist.plots matplotlib.backends.backend_agg matplotlib.style PIL.JpegImagePlugin "
IMPORTS += "tensorboard.plugins.hparams.plugin_data_pb2 torch.utils.serialization torch.utils.tensorboard"
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # from the first import on


def run_apart(calls: list[list[str]], folder: Path, output: Path, engine: str = "", stop: Path | None = None) -> int:
    """Executes command lines, one after another until one fails, in a process of their own.

    Args:
        calls: Arguments of `lit_mnist`, of each command line.
        folder: Working directory.
        output: File to which the process appends what it prints.
        engine: Engine of the runs; what "fast" compiles is loaded once for all of them.
        stop: File at whose appearance the process gets SIGTERM.

    Returns:
        The process's exit code, or minus the signal that ended it.

    Raises:
        OSError: No process can be started; the sentence says why.
    """
    request = {"calls": calls, "folder": str(folder), "output": str(output), "engine": engine}
    wait: Callable[[float | None], int]
    if sys.platform == "linux":
        wait, terminate = _have_served(request, folder)
    else:
        process = subprocess.Popen([*SERVER, json.dumps(request)], **_surroundings(folder))
        wait, terminate = process.wait, process.terminate
    while stop is None or not stop.exists():
        with suppress(TimeoutError, subprocess.TimeoutExpired):
            return wait(LOOK_SECONDS)
    terminate()
    return wait(None)


def _surroundings(folder: Path) -> dict[str, Any]:
    # a session of its own: Ctrl-C in a terminal reaches the study alone, which tells its runs
    environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}
    return {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}


def _have_served(request: dict[str, Any], folder: Path) -> tuple[Callable[[float | None], int], Callable[[], None]]:
    global _server
    with _lock:
        if _server is None or _server.is_lost:
            _server = _Server(folder)
        number, exit_code = _server.start(request)
        return exit_code.result, functools.partial(_server.write, {"number": number, "signal": signal.SIGTERM})


def close() -> None:
    """Ends this process's server, unless a run is still under way; the next `run_apart` makes another."""
    global _server
    with _lock:
        server = _server
        if server is None or server.exit_codes:
            return
        _server = None
    server.close()


_lock = threading.RLock()  # of the threads that start and stop runs, one speaks at a time
_server: "_Server | None" = None


class _Server:
    """The server's process, as the study's process sees it."""

    def __init__(self, folder: Path) -> None:
        self.exit_codes: dict[int, Future[int]] = {}  # of the children that run, by the number of the request
        self.is_lost = False
        self._numbers = itertools.count()
        pipes = {**_surroundings(folder), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(SERVER, text=True, **pipes)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as answers:
            for answer in map(json.loads, answers):
                self.exit_codes.pop(answer["number"]).set_result(answer["exit_code"])
        with _lock:
            self.is_lost = True
            for exit_code in self.exit_codes.values():
                exit_code.set_exception(ChildProcessError(None, "the process that starts runs was lost"))

    def start(self, request: dict[str, Any]) -> tuple[int, Future[int]]:
        number, exit_code = next(self._numbers), Future[int]()
        self.exit_codes[number] = exit_code
        self.write({"number": number, **request})
        return number, exit_code

    def write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with _lock:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._listener.join()


def last_words(output: str) -> str:
    """Returns the sentence with which a command of lit_mnist ended, else the last line that it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing."]
    sentences = [line for line in lines if line.startswith("lit_mnist: ")]
    return one_line((sentences or lines)[-1].removeprefix("lit_mnist: "))


def serve() -> None:
    """Imports what runs need, and forks a child for each request until the input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what imports print is not an answer
    for name in IMPORTS.split():
        with suppress(ImportError):  # a run will say so
            import_module(name)
    gc.freeze()  # or a child's garbage collection would copy all that is here
    children: dict[int, int] = {}  # process ids, by the number of the request
    unread = b""
    while True:
        if select.select([0], [], [], LOOK_SECONDS)[0]:
            if not (read := os.read(0, 65536)):
                break
            *lines, unread = (unread + read).split(b"\n")
            for message in map(json.loads, lines):
                number = message.pop("number")
                if "calls" in message:
                    children[number] = _fork(message)
                elif number in children:
                    os.kill(children[number], message["signal"])
        for number, pid in list(children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del children[number]
                answer = {"number": number, "exit_code": os.waitstatus_to_exitcode(status)}
                os.write(answers, json.dumps(answer).encode() + b"\n")
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _fork(request: dict[str, Any]) -> int:
    """Returns the child's process id. The child does not tear down what it shares with the server: that takes seconds."""
    if request["engine"] == "fast":
        _load_compiled_loops()
    server = os.getpid()
    if pid := os.fork():
        return pid
    code = FAILED
    try:
        os.setsid()
        end_with_parent(server)
        code = run(**request)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


@functools.cache
def _load_compiled_loops() -> None:
    """Calls the fast engine with one thread, if numba is there: each run would wait 0.6 s for it, or 12 s uncached."""
    torch, fast = import_module("torch"), import_module("lit_mnist.engines.fast")
    if fast.HAS_NUMBA:
        images, labels = torch.zeros(1, 1, 1), torch.zeros(1, dtype=torch.int64)
        fast.FastEngine(fast.MLP((1, 1), 2, (1,)), 0.1).steps(images, labels, 1)


def run(calls: list[list[str]], folder: str, output: str, **_: Any) -> int:
    """Executes a request in this process, which becomes one like `python -m lit_mnist`; returns the exit code."""
    from lit_mnist.cli.main import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.chdir(folder)
    program = util.find_spec("lit_mnist.__main__")
    assert program
    sys.modules["__main__"].__spec__ = program  # Lightning starts further processes of a run by this name
    code = DONE
    for arguments in calls:
        print(PROMPT + shlex.join(arguments), flush=True)
        sys.argv = [str(program.origin), *arguments]
        code = main(arguments)
        if code not in (DONE, DIVERGED):
            break
    return code


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(run(**json.loads(sys.argv[1])))
    serve()

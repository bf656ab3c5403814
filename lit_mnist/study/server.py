"""Processes for runs, forked from one that has imported torch and Lightning: `python -m lit_mnist.study.server`.

The server reads requests from its standard input, a JSON object per line, and answers on its standard output. It has one
thread, since a fork copies no other; it forks a child for each request, and ends, with its children, when its input ends.
Where a fork is not safe, which is anywhere but on Linux, each request gets a new process, which imports all by itself.
"""

import functools
import gc
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import traceback
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
IMPORTS = ("lit_mnist.cli.fit", "lit_mnist.plots", "matplotlib.backends.backend_agg", "matplotlib.style", "PIL.JpegImagePlugin")
IMPORTS += ("tensorboard.plugins.hparams.plugin_data_pb2", "torch.utils.serialization", "torch.utils.tensorboard")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # from the first import on


class ServedProcess:
    """A child of the server, as the study's process sees it; it is used like a `subprocess.Popen`."""

    def __init__(self, server: "_Server", number: int) -> None:
        self.server, self.number = server, number
        self.exit_code: int | None = None

    def poll(self) -> int | None:
        """Exit code, or minus the signal that ended the child; None while it runs. OSError if the server is gone."""
        if self.exit_code is None and self.server.ended:
            raise ChildProcessError(None, "the process that starts runs was lost")
        return self.exit_code

    def send_signal(self, sig: int, /) -> None:
        self.server.write({"number": self.number, "signal": sig})


def start(calls: list[list[str]], folder: Path, output: Path, engine: str = "") -> "subprocess.Popen[bytes] | ServedProcess":
    """Starts a process that executes command lines one after another, until one fails.

    Args:
        calls: Arguments of `lit_mnist`, of each command line.
        folder: Working directory.
        output: File to which the process appends what it prints.
        engine: Engine of the runs; what "fast" compiles is loaded once for all of them.

    Raises:
        OSError: No process can be started; the sentence says why.
    """
    request = {"calls": calls, "folder": str(folder), "output": str(output), "engine": engine}
    if sys.platform != "linux":
        return subprocess.Popen([*SERVER, json.dumps(request)], **_surroundings(folder))
    global _server
    with _lock:
        if _server is None or _server.ended:
            _server = _Server(folder)
        return _server.start(request)


def close() -> None:
    """Ends this process's server, unless a run is still under way; the next `start` makes another."""
    global _server
    with _lock:
        if _server and not _server.children:
            _server.close()
            _server = None


_lock = threading.RLock()  # of several threads that start and stop runs, one writes at a time
_server: "_Server | None" = None


def _surroundings(folder: Path) -> dict[str, Any]:
    # a session of its own: Ctrl-C in a terminal reaches the study alone, which tells its runs
    environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}
    return {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}


class _Server:
    """The server's process, as the study's process sees it."""

    def __init__(self, folder: Path) -> None:
        self.children: dict[int, ServedProcess] = {}  # those that run, by the number of the request
        self.ended = False
        self._count = 0
        pipes = {**_surroundings(folder), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(SERVER, text=True, **pipes)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as answers:
            for answer in map(json.loads, answers):
                self.children.pop(answer["number"]).exit_code = answer["exit_code"]
        self.ended = True

    def start(self, request: dict[str, Any]) -> ServedProcess:
        self._count += 1
        child = self.children[self._count] = ServedProcess(self, self._count)
        self.write({"number": child.number, **request})
        return child

    def write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with _lock:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends the server and all its children."""
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
    for name in IMPORTS:
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


def run(calls: list[list[str]], folder: str, output: str, engine: str) -> int:
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

"""Processes for runs, forked from one that has imported torch and Lightning: `python -m lit_mnist.study.server`.

The server reads requests from its standard input, a JSON object per line, and answers on its standard output. It has one
thread, since a fork copies no other; it forks a child for each request, and ends, with its children, when its input ends.
Where a fork is not safe, which is anywhere but on Linux, each request gets a new process, which imports all by itself.
"""

import gc
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module, util
from pathlib import Path
from typing import Any, NoReturn, Protocol

from lit_mnist.cli import DIVERGED, DONE, FAILED
from lit_mnist.record.printable import one_line
from lit_mnist.training.signals import end_with_parent

MODULE = "lit_mnist.study.server"
PROMPT = "$ python -m lit_mnist "  # begins the line that says what a process executes
LOOK_SECONDS = 0.05  # between two looks at the children
# what a run imports sooner or later
IMPORTS = ("lit_mnist.cli.fit", "lit_mnist.plots", "matplotlib.backends.backend_agg", "torch.utils.tensorboard")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # from the first import on


class Process(Protocol):
    """A started process: a `subprocess.Popen`, or a child of the server."""

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...


def start(calls: list[list[str]], folder: Path, output: Path) -> Process:
    """Starts a process that executes command lines one after another, until one fails.

    Args:
        calls: Arguments of `lit_mnist`, of each command line.
        folder: Working directory.
        output: File to which the process appends what it prints.

    Raises:
        OSError: No process can be started; the sentence says why.
    """
    request = {"calls": calls, "folder": str(folder), "output": str(output)}
    if sys.platform != "linux":
        return subprocess.Popen([sys.executable, "-m", MODULE, json.dumps(request)], **_surroundings(folder))
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


_lock = threading.Lock()
_server: "_Server | None" = None


def _surroundings(folder: Path) -> dict[str, Any]:
    # a session of its own: Ctrl-C in a terminal reaches the study alone, which tells its runs
    environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}
    return {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}


class _Child:
    """A child of the server, as the study's process sees it."""

    def __init__(self, server: "_Server", number: int) -> None:
        self.server, self.number = server, number
        self.exit_code: int | None = None

    def poll(self) -> int | None:
        """Exit code, or minus the signal that ended the child; None while it runs. OSError if the server is gone."""
        if self.exit_code is None and self.server.ended:
            raise self.server.failure()
        return self.exit_code

    def send_signal(self, sig: int, /) -> None:
        self.server.write({"number": self.number, "signal": sig})


class _Server:
    """The server's process, as the study's process sees it."""

    def __init__(self, folder: Path) -> None:
        self.children: dict[int, _Child] = {}  # those that run, by the number of the request
        self.ended = False
        self._count = 0
        self._writing = threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the server runs)
        pipes = {**_surroundings(folder), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen([sys.executable, "-m", MODULE], text=True, **pipes)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            self.children.pop(answer["number"]).exit_code = answer["exit_code"]
        self.ended = True
        self._process.stdout.close()

    def start(self, request: dict[str, Any]) -> _Child:
        self._count += 1
        child = self.children[self._count] = _Child(self, self._count)
        self.write({"number": child.number, **request})
        return child

    def write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            with self._writing:  # threads of several runs write
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure() from None

    def failure(self) -> OSError:
        """Makes an error of what the server said last."""
        code = self._process.wait()
        self._errors.seek(0)
        words = last_words(self._errors.read().decode(errors="replace"))
        return ChildProcessError(None, f"the process that starts runs ended with exit code {code}: {words}")

    def close(self) -> None:
        """Ends the server and all its children."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        self._errors.close()


def last_words(output: str) -> str:
    """Returns the sentence with which a command of lit_mnist ended, else the last line that it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing."]
    sentences = [line for line in lines if line.startswith("lit_mnist: ")]
    return one_line((sentences or lines)[-1].removeprefix("lit_mnist: "))


def serve() -> None:
    """Imports what runs need, and forks a child for each request until the input ends."""
    server, answers = os.getpid(), os.dup(1)
    os.dup2(2, 1)  # what imports print is not an answer
    for name in IMPORTS:
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
                if "signal" in message:
                    if message["number"] in children:
                        os.kill(children[message["number"]], message["signal"])
                elif pid := os.fork():
                    children[message["number"]] = pid
                else:
                    os.close(answers)
                    _become_run(message, server)
        for number, pid in list(children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del children[number]
                answer = {"number": number, "exit_code": os.waitstatus_to_exitcode(status)}
                os.write(answers, json.dumps(answer).encode() + b"\n")
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _become_run(request: dict[str, Any], server: int) -> NoReturn:
    """Executes a request in a child, which ends without tearing down what it shares with the server: that takes seconds."""
    code = FAILED
    try:
        os.setsid()
        end_with_parent(server)
        code = run(**request)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


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

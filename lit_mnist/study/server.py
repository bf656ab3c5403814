"""Processes for runs, forked from one that has imported torch and Lightning: `python -m lit_mnist.study.server`.

The server's standard input is a socket. For each request it gets one end of another socket there, and forks a watcher; this
forks the process that executes the request, and answers with its exit code. The server has one thread, since a fork copies no
other. It ends with the process that started it, and so do the others.
Where a fork is not safe, which is anywhere but on Linux, each request gets a new process, which imports all by itself.
"""

import functools
import gc
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module, util
from multiprocessing import Pipe
from multiprocessing.connection import Connection
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

_lock = threading.Lock()
_server: tuple["subprocess.Popen[bytes]", socket.socket] | None = None  # this process's own, and our end of its input


def run_apart(calls: list[list[str]], folder: Path, output: Path, engine: str = "exact", stop: Path | None = None) -> int:
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
        OSError: No process can be started, or the one that watches it was lost; the sentence says why.
    """
    request = json.dumps({"calls": calls, "folder": str(folder), "output": str(output)})
    wait: Callable[[float | None], int]
    if sys.platform == "linux":
        wait, terminate = _have_served(request, engine, folder)
    else:
        process = _start(folder, subprocess.DEVNULL, request)
        wait, terminate = process.wait, process.terminate
    while stop is None or not stop.exists():
        with suppress(TimeoutError, subprocess.TimeoutExpired):
            return wait(LOOK_SECONDS)
    terminate()
    return wait(None)


def _start(folder: Path, standard_input: int, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*SERVER, *arguments],
        cwd=folder,
        env={**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"},
        stdin=standard_input,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal reaches the study alone, which tells its runs
    )


def _have_served(request: str, engine: str, folder: Path) -> tuple[Callable[[float | None], int], Callable[[], None]]:
    """Sends a request; returns functions that wait for its exit code, for so many seconds, and that terminate its process."""
    global _server
    ours, theirs = Pipe()
    with _lock, theirs:
        if _server is None or _server[0].poll() is not None:
            requests, its_input = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its_input:
                _server = _start(folder, its_input.fileno()), requests
        socket.send_fds(_server[1], [engine.encode()], [theirs.fileno()])
    ours.send(request)

    def wait(seconds: float | None) -> int:
        if not ours.poll(seconds):
            raise TimeoutError
        with ours:
            try:
                return int(ours.recv())
            except EOFError:
                raise ChildProcessError(None, "the process that watches the run was lost") from None

    def terminate() -> None:
        with suppress(BrokenPipeError):  # it has just ended
            ours.send("stop")

    return wait, terminate


def close() -> None:
    """Ends this process's server; runs that are under way go on, and the next `run_apart` makes another."""
    global _server
    with _lock:
        if _server:
            process, requests = _server
            requests.close()
            process.wait()
        _server = None


def last_words(output: str) -> str:
    """Returns the sentence with which a command of lit_mnist ended, else the last line that it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing."]
    sentences = [line for line in lines if line.startswith("lit_mnist: ")]
    return one_line((sentences or lines)[-1].removeprefix("lit_mnist: "))


def serve() -> None:
    """Imports what runs need, and forks a watcher for each request until there can be no more."""
    for name in IMPORTS.split():
        with suppress(ImportError):  # a run will say so
            import_module(name)
    gc.freeze()  # or a child's garbage collection would copy all that is here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of watchers nothing is left
    requests = socket.socket(fileno=0)
    while (received := socket.recv_fds(requests, 100, 1))[0]:
        if received[0] == b"fast":
            _load_compiled_loops()
        with Connection(received[1][0]) as study:
            if os.fork() == 0:
                requests.close()
                code = FAILED
                try:
                    code = _watch(study)
                except BaseException:
                    traceback.print_exc()
                os._exit(code)  # what is shared with the server is not torn down: that takes seconds


def _watch(study: "Connection[Any, Any]") -> int:
    """Forks the process of a request and answers with its exit code; ends it when told so, or when the study is gone.

    Returns twice, as a fork does: the exit code of this process, and of the other.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, watcher = study.recv(), os.getpid()
    if not (pid := os.fork()):
        study.close()
        os.setsid()
        end_with_parent(watcher)
        return run(**json.loads(request))
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        try:
            if study.poll(LOOK_SECONDS) and study.recv():
                os.kill(pid, signal.SIGTERM)
        except EOFError:
            os.kill(pid, signal.SIGKILL)
    study.send(os.waitstatus_to_exitcode(ended[1]))
    return DONE


@functools.cache
def _load_compiled_loops() -> None:
    """Calls the fast engine with one thread, if numba is there: each run would wait 0.6 s for it, or 12 s uncached."""
    torch, fast = import_module("torch"), import_module("lit_mnist.engines.fast")
    if fast.HAS_NUMBA:
        images, labels = torch.zeros(1, 1, 1), torch.zeros(1, dtype=torch.int64)
        fast.FastEngine(fast.MLP((1, 1), 2, (1,)), 0.1).steps(images, labels, 1)


def run(calls: list[list[str]], folder: str, output: str) -> int:
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

"""Trains the runs of a study: each in a process of its own, watched by a thread here or by a worker of a Dask cluster."""

import json
import logging
import os
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from lit_mnist import __version__
from lit_mnist.cli import DIVERGED, DONE
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.printable import one_line
from lit_mnist.study import server
from lit_mnist.study.plan import RunSpec, Study, write_configs
from lit_mnist.study.progress import ELSEWHERE, ENDED, FAILED, STOPPED, Progress, Status, read_status, shown
from lit_mnist.training.signals import Stopped

LOOK_SECONDS = 0.1  # between two looks at a process and at the stop file
GRACE_SECONDS = 30  # between SIGTERM and SIGKILL; fit needs less than one
CONNECT_SECONDS = 10  # for a Dask scheduler to answer
BITS_DEPEND_ON = ("torch", "numpy")  # packages


class WorkersLostError(Exception):
    """The Dask scheduler went away before all runs were done."""


def conduct(
    study: Study,
    statuses: dict[RunSpec, Status],
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console | None = None,
) -> None:
    """Trains the runs that are not in `statuses`, and puts there how each one ends.

    Args:
        study: Configurations and runs; its folder is relative to the working directory, which all workers see.
        statuses: Runs that were finished before. Afterwards a run is missing only if the workers were lost.
        workers: Runs at once on this machine; None: one per core.
        scheduler: Address of a Dask scheduler whose workers train the runs; None: this machine does.
        console: Shows the progress; None: standard error.

    Raises:
        ValueError: `fit` refuses a configuration, or the scheduler cannot be used. Nothing was written.
        Stopped, KeyboardInterrupt: A signal came. All runs have been stopped, and the console says how to go on.
    """
    console = console or Console(stderr=True)
    unfinished = [run for run in study.runs if run not in statuses]
    try:
        with open_executor(min(workers or _cores(), len(unfinished)), scheduler) as (executor, at_once):
            check(study, unfinished)
            write_configs(study)
            before = f", {len(statuses)} of them finished before" if statuses else ""
            _say(console, f"{len(study.runs)} runs{before}; {at_once} at once.")
            with shown(Progress(study.runs, at_once, statuses), console):
                _train_runs(unfinished, statuses, study.out.absolute(), executor)
    except WorkersLostError as lost:
        for run in [run for run in unfinished if run not in statuses or statuses[run].state not in ENDED]:
            statuses.pop(run, None)
            if status := read_status(run.folder):
                statuses[run] = status
        if len(statuses) < len(study.runs):
            _say(console, f"lit_mnist: {lost} The same command continues the study.")
    except (Stopped, KeyboardInterrupt) as stopped:
        left = sum(read_status(run.folder) is None for run in study.runs)
        words = f"{left} of {len(study.runs)} runs are unfinished. The same command continues the study."
        _say(console, f"Stopped by {str(stopped) or 'Ctrl-C'}: {words}")
        raise
    finally:
        server.close()


def _cores() -> int:
    """Counts the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(console: Console, words: str) -> None:
    console.print(words, soft_wrap=True, highlight=False, markup=False)


def check(study: Study, runs: Sequence[RunSpec]) -> None:
    """Tries each configuration of `runs` on one block of mini-batches, in one process, and leaves nothing behind.

    Raises:
        ValueError: `fit` refuses a configuration.
    """
    names = {run.name for run in runs}
    configurations = [configuration for configuration in study.configurations if configuration.name in names]
    with tempfile.TemporaryDirectory(prefix="lit_mnist_check_") as folder:
        files = [Path(folder) / f"{configuration.name}.yaml" for configuration in configurations]
        for file, configuration in zip(files, configurations, strict=True):
            file.write_text(configuration.text, encoding="utf-8")
        output = Path(folder) / "output.txt"
        short = ["--threads", "1", "--trainer.fast_dev_run", "true"]
        process = server.start([["fit", "--config", str(file), *short] for file in files], Path.cwd(), output)
        while (code := process.poll()) is None:
            time.sleep(LOOK_SECONDS)
        if code not in (DONE, DIVERGED):
            said = output.read_text(encoding="utf-8", errors="replace")
            refused = files[said.count(server.PROMPT) - 1].stem
            raise ValueError(f"{one_line(refused)}: {server.last_words(said)}")


@contextmanager
def open_executor(threads: int, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Opens `threads` threads, or the workers of a Dask cluster, as an executor; gives it and its number of runs at once.

    Raises:
        ValueError: The scheduler does not answer, has no workers or other versions, or Dask is not installed.
    """
    if scheduler is None:
        with ThreadPoolExecutor(threads) as pool:
            yield pool, threads
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--scheduler needs Dask: pip install 'lit_mnist[cluster]'.") from None
    for name in ("distributed", "distributed.client"):  # they report with tracebacks what we say in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):  # of other versions: see below
            client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ValueError(f"No Dask scheduler answers at {scheduler} ({error}).") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise ValueError(f"The Dask scheduler at {scheduler} has no workers: start some first.") from None
        for worker, found in client.run(versions, on_error="return").items():
            if found != versions():
                raise ValueError(f"The Dask worker {worker} has other versions ({one_line(str(found))}) than {versions()}.")
        yield client.get_executor(pure=False), sum(client.nthreads().values())


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the bits of a run, in this process."""
    return {"lit_mnist": __version__} | {name: version(name) for name in BITS_DEPEND_ON}


def _train_runs(runs: Sequence[RunSpec], statuses: dict[RunSpec, Status], out: Path, executor: Executor) -> None:
    """Trains runs in the order given. One that another process trains is waited for when all others are done."""
    stop = out / f".stop-{uuid.uuid4().hex}"  # lies there while the study stops; workers look for it
    futures: dict[Future[Status], RunSpec] = {}
    try:
        for wait in (False, True):
            futures.clear()
            for run in runs:
                futures[executor.submit(train_run, run, Path.cwd(), stop, wait)] = run
            for future in as_completed(futures):
                statuses[futures[future]] = _status(future, futures[future])
            runs = [run for run in runs if statuses[run].state == ELSEWHERE]
    except BaseException:
        stop.touch()
        wait_for_all(futures)
        raise
    finally:
        stop.unlink(missing_ok=True)


def _status(future: Future[Status], run: RunSpec) -> Status:
    try:
        return future.result()
    except CancelledError:
        raise WorkersLostError("The Dask scheduler was lost.") from None
    except Exception as error:  # of whatever the cluster could not do; of a KilledWorker, several workers died of the run
        return _failed(run.folder, f"the cluster could not run it ({type(error).__name__}: {one_line(str(error))}).", None)


def train_run(run: RunSpec, workplace: Path, stop: Path, wait: bool) -> Status:
    """Trains `run` to its end, unless it is finished, another process trains it, or the study is stopping.

    Args:
        run: Its folder is relative to `workplace`.
        workplace: Folder in which the study was started; all workers see it under this path.
        stop: File that exists from when the study wants to stop.
        wait: True to wait for another process that trains this run, False to return `ELSEWHERE`.
    """
    if stop.exists():
        return Status(STOPPED)
    folder = workplace / run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder / ".study.lock", stop, wait) as ours:
            # `fit` holds the other one: started by hand, or outliving its killed study for a moment
            with _held(folder / ".lock", stop, wait) as free:
                pass
            if not (ours and free):
                return Status(STOPPED if stop.exists() else ELSEWHERE)
            return read_status(folder) or _train(run, workplace, stop)
    except OSError as error:
        return _failed(folder, f"{one_line(str(error.strerror or error)).rstrip('.')}.", None)


@contextmanager
def _held(path: Path, stop: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock; gives False if another process has it, or if the study stops in the meantime."""
    lock = FileLock(path, mode=0o666)
    while not stop.exists():
        with suppress(Timeout):
            lock.acquire(blocking=False)
            break
        if not wait:
            break
        time.sleep(LOOK_SECONDS)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _train(run: RunSpec, workplace: Path, stop: Path) -> Status:
    """Watches a run in a process of its own until it ends; sends it SIGTERM when the study stops."""
    folder = workplace / run.folder
    (folder / "failure.json").unlink(missing_ok=True)
    output = folder / "output.txt"
    start = output.stat().st_size if output.exists() else 0
    process = server.start([run.arguments], workplace, output)
    told = 0.0
    while (code := process.poll()) is None:
        if stop.exists() and not told:
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
        elif told and time.monotonic() > told + GRACE_SECONDS:
            process.send_signal(signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
    if status := read_status(folder):
        return status
    if told:
        return Status(STOPPED)
    if code < 0:
        return _failed(folder, f"fit was killed by {signal.Signals(-code).name}.", code)
    words = server.last_words(output.read_bytes()[start:].decode(errors="replace"))
    return _failed(folder, f"fit ended with exit code {code}: {words}", code)


def _failed(folder: Path, reason: str, exit_code: int | None) -> Status:
    """Records in the run folder why there is no result; no exit code where the process itself was lost."""
    content = json.dumps({"reason": reason, "exit_code": exit_code}, indent=2)
    with suppress(OSError):
        write_atomically(folder / "failure.json", content.encode() + b"\n")
    return Status(FAILED, reason)

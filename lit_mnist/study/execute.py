"""Trains the runs of a study: each in a process of its own, watched by a thread here or by a worker of a Dask cluster."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lit_mnist.cli import DIVERGED, DONE
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.printable import one_line
from lit_mnist.study import server
from lit_mnist.study.plan import RunSpec, groups_of, write_configs
from lit_mnist.study.progress import ELSEWHERE, WITHOUT_RESULT, Progress, Status, read_status, read_statuses
from lit_mnist.training.signals import Stopped

CONNECT_SECONDS = 10  # for a Dask scheduler to answer


def conduct(runs: Sequence[RunSpec], workers: int | None = None, scheduler: str | None = None) -> dict[RunSpec, Status]:
    """Trains the runs that are not finished, and says on standard error how that goes on.

    Args:
        runs: Their folders are relative to the working directory, which all workers see.
        workers: Runs at once on this machine; None: one per core.
        scheduler: Address of a Dask scheduler whose workers train the runs; None: this machine does.

    Returns:
        How each run ended, in the order given. A run is missing only if the scheduler was lost.

    Raises:
        ValueError: `fit` refuses a configuration, or the scheduler cannot be used. Nothing was written.
        Stopped, KeyboardInterrupt: A signal came. All runs have been stopped.
    """
    statuses = read_statuses(runs)
    unfinished = [run for run in runs if run not in statuses]
    if not unfinished:
        return statuses
    before = f", {len(statuses)} of them finished before" if statuses else ""
    try:
        with open_executor(workers, scheduler) as (executor, at_once):
            check(unfinished)
            write_configs(runs)
            _say(f"{len(runs)} runs{before}; {at_once} at once.")
            progress = Progress(runs, statuses)
            with progress.shown():
                _train_runs(unfinished, statuses, executor, progress)
    except CancelledError:
        _say("lit_mnist: The Dask scheduler was lost. The same command continues the study.")
        statuses = read_statuses(runs)
    except (Stopped, KeyboardInterrupt) as stopped:
        left = f"{len(runs) - len(read_statuses(runs))} of {len(runs)} runs are unfinished"
        _say(f"Stopped by {str(stopped) or 'Ctrl-C'}: {left}. The same command continues the study.")
        raise
    finally:
        server.close()
    return {run: statuses[run] for run in runs if run in statuses}


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def check(runs: Sequence[RunSpec]) -> None:
    """Tries every setting that is among the runs on one block of mini-batches, in one process, and leaves nothing behind.

    A point of a grid that only combines what others have tried is left out: there may be hundreds.

    Raises:
        ValueError: `fit` refuses a configuration.
    """
    groups, tried = [], set[str]()
    for group in groups_of(runs):
        if not tried.issuperset(lines := group.text.splitlines()):
            groups.append(group)
            tried.update(lines)
    with tempfile.TemporaryDirectory(prefix="lit_mnist_check_") as folder:
        calls, output = [], Path(folder) / "output.txt"
        for group in groups:
            file = Path(folder) / f"{group.name}.yaml"
            file.write_text(group.text, encoding="utf-8")
            calls.append(["fit", "--config", str(file), "--threads", "1", "--trainer.fast_dev_run", "true"])
        code = server.run_apart(calls, Path.cwd(), output)
        if code not in (DONE, DIVERGED):
            said = output.read_text(encoding="utf-8", errors="replace")
            raise ValueError(f"{groups[said.count(server.PROMPT) - 1].name}: {server.last_words(said)}")


@contextmanager
def open_executor(workers: int | None, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Opens threads, or the workers of a Dask cluster, as an executor; gives it and its number of runs at once.

    Raises:
        ValueError: The scheduler does not answer or has no workers, or Dask is not installed.
    """
    if scheduler is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = workers or cores or 1
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
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ValueError(f"No Dask scheduler answers at {scheduler} ({error}).") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise ValueError(f"The Dask scheduler at {scheduler} has no workers: start some first.") from None
        yield client.get_executor(pure=False), sum(client.nthreads().values())


def _train_runs(runs: Sequence[RunSpec], statuses: dict[RunSpec, Status], executor: Executor, progress: Progress) -> None:
    """Trains runs in the order given. One that another process trains is waited for when all others are done."""
    stop = runs[0].group.out.absolute() / f".stop-{uuid.uuid4().hex}"  # lies there while the study stops
    futures: dict[Future[Status], RunSpec] = {}
    try:
        for wait in (False, True):
            futures.clear()
            for run in runs:
                futures[executor.submit(train_run, run, Path.cwd(), stop, wait)] = run
            for future in as_completed(futures):
                run = futures[future]
                try:
                    statuses[run] = future.result()
                except CancelledError:  # the cluster is lost
                    raise
                except Exception as error:  # of a cluster; of a KilledWorker, several workers died of the run
                    reason = f"the cluster could not run it ({type(error).__name__}: {one_line(str(error))})."
                    statuses[run] = _failed(run.folder, reason)
                progress.say(run)
            runs = [run for run in runs if statuses[run].state == ELSEWHERE]
    except BaseException:
        stop.touch()
        wait_for_all(futures)
        raise
    finally:
        stop.unlink(missing_ok=True)


def train_run(run: RunSpec, workplace: Path, stop: Path, wait: bool) -> Status:
    """Trains `run` to its end; the status is `ELSEWHERE` if another process trains it, or if the study is stopping.

    Args:
        run: Its folder is relative to `workplace`.
        workplace: Folder in which the study was started; all workers see it under this path.
        stop: File that exists from when the study wants to stop.
        wait: True to wait for another process that trains this run.
    """
    if stop.exists():
        return Status(ELSEWHERE)
    folder = workplace / run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder / ".study.lock", stop, wait) as ours:
            # `fit` holds the other one: started by hand, or outliving its killed study for a moment
            with _held(folder / ".lock", stop, wait) as free:
                pass
            if not (ours and free):
                return Status(ELSEWHERE)
            return read_status(folder) or _train(run, workplace, stop)
    except OSError as error:
        return _failed(folder, f"{one_line(str(error.strerror or error)).rstrip('.')}.")


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
        time.sleep(server.LOOK_SECONDS)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _train(run: RunSpec, workplace: Path, stop: Path) -> Status:
    """Trains a run in a process of its own, and finds out how it ended."""
    folder = workplace / run.folder
    (folder / "failure.json").unlink(missing_ok=True)
    output = folder / "output.txt"
    code = server.run_apart([run.arguments], workplace, output, str(run.group.settings.get("engine")), stop)
    if status := read_status(folder):
        return status
    if stop.exists():
        return Status(ELSEWHERE)
    if code < 0:
        return _failed(folder, f"fit was killed by {signal.Signals(-code).name}.", code)
    said = output.read_text(encoding="utf-8", errors="replace").rpartition(server.PROMPT)[2]
    return _failed(folder, f"fit ended with exit code {code}: {server.last_words(said)}", code)


def _failed(folder: Path, reason: str, exit_code: int | None = None) -> Status:
    """Records in the run folder why there is no result; no exit code where the process itself was lost."""
    content = json.dumps({"reason": reason, "exit_code": exit_code}, indent=2)
    with suppress(OSError):
        write_atomically(folder / "failure.json", content.encode() + b"\n")
    return Status(WITHOUT_RESULT, reason)

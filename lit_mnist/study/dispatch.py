"""Runs to workers by joblib: processes of this machine, or those of a Dask cluster."""

import ctypes
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import joblib

from lit_mnist.study.ending import BUSY, Ending
from lit_mnist.study.plan import Run
from lit_mnist.study.supervisor import supervise
from lit_mnist.training.signals import SIGNALS


class WorkersLostError(Exception):
    """The workers or the scheduler went away before the runs were done."""


def cores() -> int:
    """CPU cores that this process may use."""
    count: int = joblib.cpu_count()
    return count


@contextmanager
def open_workers(count: int, scheduler: str | None) -> Iterator[int]:
    """Makes joblib send its tasks to `count` local processes or to a Dask scheduler; gives their number.

    Raises:
        ValueError: The scheduler does not answer, has no workers, or Dask is not installed.
    """
    if scheduler is None:
        with joblib.parallel_config(backend="loky", n_jobs=count, initializer=_start_worker):
            yield count
        return
    try:
        from lit_mnist.study.cluster import open_cluster
    except ImportError:
        raise ValueError("--scheduler needs Dask: pip install 'lit_mnist[cluster]'.") from None
    with open_cluster(scheduler) as at_once:
        yield at_once


def dispatch(runs: Sequence[Run], workplace: Path, stop: Path) -> Iterator[tuple[Run, Ending]]:
    """Trains the runs in the order given, as many at once as there are workers, and gives each as it ends.

    A run that another process trains is given as `BUSY`, and again with its result once all others are done.

    Raises:
        WorkersLostError: No worker is left to go on. Finished runs are recorded, the others can be continued.
    """
    for wait in (False, True):
        busy: list[Run] = []
        tasks = [joblib.delayed(supervise)(run, workplace, stop, wait) for run in runs]
        # One run per task: grouped, several short runs would become one long task on one worker.
        parallel = joblib.Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
        try:
            for run, ending in parallel(tasks):
                if ending.outcome == BUSY:
                    busy.append(run)
                yield run, ending
        except (BrokenProcessPool, CancelledError, OSError) as error:
            raise WorkersLostError(f"The workers were lost ({type(error).__name__}).") from error
        runs = busy


def _start_worker() -> None:
    """Lets a local worker leave signals to the study, and end when the study is gone."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # a function, since `fit` would inherit SIG_IGN
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)

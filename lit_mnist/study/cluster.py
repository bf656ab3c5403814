"""Runs on a Dask cluster, through joblib. Imported only when a scheduler is named, since Dask is an extra."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import joblib
from distributed import Client
from joblib._dask import DaskDistributedBackend

from lit_mnist.study.ending import FAILED, Ending, write_failure

CONNECT_SECONDS = 10


class Backend(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
    """joblib's, which does not tell `Parallel` of a task that Dask gave up: a study would wait for ever.

    Dask starts a run again when its worker dies, and gives it up when more workers died of it than the
    scheduler's setting `allowed-failures`, which is 3 by default.
    """

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        [(_, (run, *_), _)] = func.items  # one call of `supervise`, since each task is one run

        def given_up(future: "Future[Any]") -> None:
            if callback and (error := future.exception()):
                reason = f"Dask gave it up ({type(error).__name__}): its workers died."
                write_failure(run.folder, reason, None)
                callback([(run, Ending(FAILED, reason))])

        future = super().submit(func, callback)
        future.add_done_callback(given_up)
        return future


@contextmanager
def open_cluster(scheduler: str) -> Iterator[int]:
    """Makes joblib send its tasks to this scheduler; gives the number of runs its workers take at once.

    Raises:
        ValueError: The scheduler does not answer or has no workers.
    """
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        raise ValueError(f"No Dask scheduler answers at {scheduler} ({error}).") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except asyncio.TimeoutError:  # in Python 3.10 not the built-in one
            raise ValueError(f"The Dask scheduler at {scheduler} has no workers: start some first.") from None
        with joblib.parallel_config(backend=Backend(client=client), n_jobs=-1):
            yield sum(client.nthreads().values())

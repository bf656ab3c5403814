"""Conducts a study: checks and times its configurations, hands its runs to workers, shows their progress."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lit_mnist.cli.command import DONE, FAILED
from lit_mnist.study.dispatch import WorkersLostError, cores, dispatch, open_workers
from lit_mnist.study.ending import BUSY, STOPPED, Ending
from lit_mnist.study.estimate import Cost, estimate, spoken, wall_seconds
from lit_mnist.study.live_table import shown
from lit_mnist.study.plan import Configuration, Run, write_configs
from lit_mnist.study.stop import Stop
from lit_mnist.study.watch import Watch


def conduct(
    runs: Sequence[Run],
    configurations: Sequence[Configuration],
    endings: dict[Run, Ending],
    out: Path,
    workers: int | None,
    scheduler: str | None,
) -> int:
    """Trains the runs that are not in `endings`, and puts there how each one ends.

    Args:
        runs: All runs of the study.
        configurations: Theirs.
        endings: What was finished before.
        out: The study's folder.
        workers: Runs at once on this machine; None: one per core.
        scheduler: Address of a Dask scheduler, or None for this machine.

    Returns:
        DONE when every run has ended by itself, FAILED when the workers were lost, 128 + the signal that
        stopped the study.

    Raises:
        ValueError: `fit` refuses a configuration, or there is no such scheduler. Nothing was started.
    """
    console = Console(stderr=True)  # standard output is for the results
    unfinished = [run for run in runs if run not in endings]
    with open_workers(min(workers or cores(), len(unfinished)), scheduler) as at_once:
        names = {run.name for run in unfinished}
        console.print(f"Checking and timing {len(names)} configurations ...", highlight=False)
        costs = estimate([configuration for configuration in configurations if configuration.name in names])
        write_configs(configurations, out)
        console.print(announcement(runs, unfinished, costs, at_once), soft_wrap=True, highlight=False)
        # The longest first: started last, it would train alone while the other cores idle.
        unfinished.sort(key=lambda run: -costs[run.name].seconds)
        watch = Watch(runs, costs, at_once, endings)
        stop = Stop(out.absolute())
        try:
            with stop.listening(), shown(watch, console):
                for run, ending in dispatch(unfinished, Path.cwd(), stop.file):
                    endings[run] = ending
        except WorkersLostError as error:
            if stop.signal is None:
                console.print(f"lit_mnist: {error} The same command continues the study.", soft_wrap=True)
                return FAILED
    if stop.signal is None:
        return DONE
    left = sum(run not in endings or endings[run].outcome in (STOPPED, BUSY) for run in runs)
    name = signal.Signals(stop.signal).name
    words = f"Stopped by {name}, {left} of {len(runs)} runs are unfinished. The same command continues the study."
    console.print(words, soft_wrap=True, highlight=False)
    return 128 + stop.signal


def announcement(runs: Sequence[Run], unfinished: Sequence[Run], costs: Mapping[str, Cost], at_once: int) -> str:
    """How much there is to do and how long it will take, in a sentence."""
    seconds = wall_seconds((costs[run.name].seconds for run in unfinished), at_once)
    finished = len(runs) - len(unfinished)
    before = f", {finished} of them finished before" if finished else ""
    return f"{len(runs)} runs{before}; {at_once} at once, about {spoken(seconds)} by the short runs just timed."

"""The processes of one run: the first alone decides and writes, all make its SGD steps, each on a share."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from lit_mnist.training.signals import Stopped, stop_at_once, stop_through

T = TypeVar("T")
ARRIVED = "LIT_MNIST_ARRIVED"  # in the environment: the file by which a process says that it is ready to join
SECONDS_TO_END = 10.0  # for the other processes, once the first is done


class RefusedError(ValueError):
    """What another process than the first raises where the first refused; the first says why."""


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in all processes of the run; only the first one calls it.

    Args:
        make: Its result must be picklable where there are several processes.

    Raises:
        ValueError: `make` raised one. A `RefusedError` in the processes that did not call it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return make()
    made: list[Any] = [None, None]
    mistake = None
    if dist.get_rank() == 0:
        try:
            made = [make(), None]
        except ValueError as error:
            mistake, made = error, [None, str(error)]
    dist.broadcast_object_list(made)
    if mistake is not None:
        raise mistake
    if made[1] is not None:
        raise RefusedError(made[1])
    result: T = made[0]
    return result


class Processes:
    """Starts the other processes of a run, brings all together, and ends them; idle where there is but one.

    The first starts the others as `python -m lit_mnist ...` with LOCAL_RANK set, which the Trainer takes for
    the work of a launcher such as torchrun; what a real one started is left to it. Unlike the Trainer's own
    launcher this one can be interrupted, knows the command line when called from Python, and does not kill
    the first process for the others' exit codes.

    Args:
        trainer: Not yet used.
        command: The arguments of `python -m lit_mnist` for another process.

    Raises:
        ValueError: The Trainer's strategy is not one under which the processes make the same SGD steps.
    """

    def __init__(self, trainer: pl.Trainer, command: Sequence[str]) -> None:
        self.trainer = trainer
        self.command = [sys.executable, "-m", "lit_mnist", *command]
        self._others: list[subprocess.Popen[bytes]] = []
        self._environment: dict[str, str] = {}
        strategy, started = trainer.strategy, int(os.environ.get("WORLD_SIZE", 1))
        if TorchElasticEnvironment.detect() and started != trainer.world_size:
            raise ValueError(
                f"torchrun started {started} processes, but --trainer.devices (its --nproc-per-node) times "
                f"--trainer.num_nodes is {trainer.world_size}."
            )
        if trainer.world_size == 1:
            return
        if type(strategy) is not DDPStrategy or not isinstance(strategy.launcher, _SubprocessScriptLauncher):
            raise ValueError("--trainer.strategy: several devices make the same SGD steps under ddp only.")

    def begin(self, plan: Callable[[], T]) -> T:
        """Brings the processes together and returns what `plan` returned in the first, in all of them.

        Raises:
            ValueError: `plan` raised one; see `from_first`.
            ConnectionError: Another process ended before it joined.
        """
        strategy = self.trainer.strategy
        if not isinstance(strategy, ParallelStrategy) or self.trainer.world_size == 1:
            return plan()
        assert strategy.cluster_environment is not None
        # where it is not set, the Trainer shares all cores out among the processes
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        if strategy.cluster_environment.creates_processes_externally:
            if ARRIVED in os.environ:
                Path(os.environ.pop(ARRIVED)).touch()
            strategy.setup_environment()
            return from_first(plan)
        # what is refused is refused before another process is started
        made = plan() if self.trainer.is_global_zero else None
        self._start_others(strategy)
        strategy.setup_environment()
        return from_first(lambda: made)  # type: ignore[return-value]

    def _start_others(self, strategy: ParallelStrategy) -> None:
        cluster = strategy.cluster_environment
        assert cluster is not None
        self._environment = {
            "MASTER_ADDR": cluster.main_address,
            "MASTER_PORT": str(cluster.main_port),
            "NODE_RANK": str(cluster.node_rank()),
            "LOCAL_RANK": "0",
        }
        with tempfile.TemporaryDirectory() as meeting:
            arrivals = [Path(meeting) / str(rank) for rank in range(1, self.trainer.num_devices)]
            stopped: list[int] = []
            stop_through(stopped.append)  # not before each process that has been started is known
            for arrival in arrivals:
                rank = {"LOCAL_RANK": arrival.name, ARRIVED: str(arrival)}
                self._others.append(subprocess.Popen(self.command, env=os.environ | self._environment | rank))
            stop_at_once()
            if stopped:
                raise Stopped(stopped[0])
            # here, and not in the process group's constructor, which hears of no signal and of no death
            while not all(arrival.exists() for arrival in arrivals):
                if any(process.poll() is not None for process in self._others):
                    raise ConnectionError("another process of this run ended before it could join")
                time.sleep(0.02)
        os.environ.update(self._environment)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the others. A failure of the connection to them becomes one sentence.

        Raises:
            ConnectionError: Another process of the run has ended.
        """
        if self.trainer.world_size == 1:
            return
        if dist.is_initialized():
            dist.destroy_process_group()
        for process in self._others:
            if error is not None:
                process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in self._environment:
            os.environ.pop(name, None)
        if isinstance(error, RuntimeError) and "peer" in str(error):
            raise ConnectionError(
                "another process of this run has ended; the same command goes on from the last checkpoint"
            ) from None

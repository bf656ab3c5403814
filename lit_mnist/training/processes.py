"""Several processes of one run: only the first claims the run folder and writes; all make its SGD steps, each on a share.

Lightning's own launcher starts the others from the same command line, or `torchrun` starts all of them.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lit_mnist.training.signals import end_with_parent, ending_on_signals

HANDED_OVER = "LIT_MNIST_RUN"  # in the environment of the processes that Lightning's launcher starts


class RefusedByFirst(ValueError):
    """Raised in the other processes of a run when the first refuses it; the first says why."""


def is_first() -> bool:
    """Returns True in the process that writes the run's record."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def in_first(plan: Callable[[], list[Any]], devices: int) -> list[Any]:
    """Calls `plan` in the first process of a run and returns its result in all of them.

    Args:
        plan: Returns a list of plain values.
        devices: Number of devices of the run, as given on the command line.

    Raises:
        ValueError: `plan` raised one. In the other processes, too, where torchrun started them.
    """
    if TorchElasticEnvironment.detect():
        return _broadcast(plan)
    if HANDED_OVER in os.environ and "LOCAL_RANK" in os.environ:
        parent, planned = json.loads(os.environ[HANDED_OVER])
        end_with_parent(parent)
        return list(planned)
    planned = plan()
    if devices != 1:
        os.environ[HANDED_OVER] = json.dumps([os.getpid(), planned])
    return planned


def _broadcast(plan: Callable[[], list[Any]]) -> list[Any]:
    if not dist.is_initialized():
        # by its name, from which Lightning knows that it must divide sums itself: gloo has no mean
        with ending_on_signals():  # it waits for the first process, which may be gone
            dist.init_process_group(None if torch.cuda.is_available() else "gloo")
    made: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        try:
            made = [plan(), ""]
        except ValueError as mistake:
            made = [None, str(mistake)]
    dist.broadcast_object_list(made)
    if made[1]:
        raise ValueError(made[1]) if dist.get_rank() == 0 else RefusedByFirst(made[1])
    return list(made[0])


def leave_group() -> None:
    """Leaves the group of the run's processes, whose threads may otherwise abort the interpreter as it ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def check_strategy(trainer: pl.Trainer) -> None:
    """Raises ValueError if several processes would not make the SGD steps of a single one."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if TorchElasticEnvironment.detect() and started != trainer.world_size:
        raise ValueError(
            f"torchrun started {started} processes, but --trainer.devices (its --nproc-per-node) times "
            f"--trainer.num_nodes is {trainer.world_size}; make them equal."
        )
    if trainer.world_size > 1 and type(trainer.strategy) is not pl.strategies.DDPStrategy:
        raise ValueError("--trainer.strategy: several devices make the same SGD steps under ddp only; choose ddp.")


def group_gradients(module: pl.LightningModule, images: torch.Tensor) -> None:
    """Runs a backward pass without a step, because after its first one DDP regroups the gradients that it sums at once.

    From three devices on, the grouping decides in which order they are added, and so the last bit: the first step after a
    resume would differ from the same step of a run that was never stopped.
    """
    module(images).sum().backward()  # through the parameters' hooks, which are DDP's
    module.zero_grad()

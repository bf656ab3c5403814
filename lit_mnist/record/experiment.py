"""What makes two runs the same experiment: one flat mapping of plain values, stored in checkpoint and result, compared here.

`lit_mnist.training.train` builds it from the network's hyperparameters, the data and the Trainer's options. The environment
(versions, threads, processor, engine) may change the last bits of a result, but not what is measured.
"""

from collections.abc import Mapping
from typing import Any

LIMITS = ("max_epochs", "max_steps")  # a run may be made longer, but not shorter than it is


def refuse_other_experiment(now: Mapping[str, Any], then: Mapping[str, Any], epochs: int, steps: int) -> None:
    """Compares the experiment of a run with that of a checkpoint to resume from.

    Args:
        now, then: Experiments, of the run and of the checkpoint.
        epochs, steps: What the checkpoint's run has done.

    Raises:
        ValueError: They differ; the message names both values.
    """
    for name in sorted({*now, *then} - set(LIMITS)):
        ours, theirs = now.get(name), then.get(name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours}, but the run to resume was trained with {theirs}; use its value, or a new run.")
    for name, done in zip(LIMITS, (epochs, steps), strict=True):
        limit = now[name]
        if limit is not None and 0 <= limit < done:
            raise ValueError(f"{name} is {limit}, but the run to resume has already reached {done}.")


def environment_changes(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Lists in sentences what differs between the environments of two processes of one run."""
    changed = (name for name in now if now[name] != then.get(name))
    return [f"{name} is {now[name]}, but the run was begun with {then.get(name)}" for name in changed]

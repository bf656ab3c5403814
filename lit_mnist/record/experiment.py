"""Whether a run may go on from a checkpoint: only if it then ends as it would have uninterrupted."""

import sys
from pathlib import Path
from typing import Any

from lit_mnist.record.checkpoint import load_mlp, read_checkpoint
from lit_mnist.training.run import Run


def check_same_experiment(run: Run, start: Path) -> list[str]:
    """Compares a run with the one that saved a checkpoint.

    Args:
        run: Its data module set up; nothing trained yet.
        start: The checkpoint.

    Returns:
        What may make the bits, but not the sense, of the result differ. It has been said on stderr.

    Raises:
        ValueError: The experiment would be another one; names what differs, and both values.
    """
    checkpoint = read_checkpoint(start)
    try:
        run.model.check_same_experiment(checkpoint["hyper_parameters"])
        run.data.load_state_dict(checkpoint["MNISTDataModule"])
        begun = checkpoint["callbacks"]["RunRecord"]
        _check_history(begun["history"], checkpoint["global_step"], checkpoint["lit_mnist"]["steps_per_epoch"])
        _check_settings(run.record.settings, begun["settings"])
        _check_end(run, checkpoint["global_step"], checkpoint["lit_mnist"]["steps_per_epoch"])
        load_mlp(start)  # its weights are of the network that it describes
        return _warn_of_other_bits(run.record.environment, begun["environment"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{start} was not saved by the command fit: there is no run to go on with.") from None


def _check_history(history: dict[str, Any], steps: int, steps_per_epoch: int) -> None:
    """A callback of the user's may have saved between the end of an epoch and the record of it."""
    recorded = len(history["train_loss_by_epoch"])
    if recorded < steps // steps_per_epoch:
        raise ValueError(
            f"the checkpoint was saved after {steps // steps_per_epoch} epochs, {recorded} of which are in its record; "
            "go on with one of those that are called step=N.ckpt."
        )


def _check_settings(now: dict[str, Any], then: dict[str, Any]) -> None:
    for name, value in now.items():
        if value != then[name]:
            raise ValueError(f"{name} is {value}, but the run to continue was trained with {then[name]}.")


def _check_end(run: Run, steps: int, steps_per_epoch: int) -> None:
    """The run may be made longer, but not shorter than it is."""
    for name, limit, done in (
        ("max_epochs", run.trainer.max_epochs, steps / steps_per_epoch),
        ("max_steps", run.trainer.max_steps, steps),
    ):
        if limit is not None and 0 <= limit < done:
            raise ValueError(f"{name} is {limit}, but the run to continue has already come to {done:g}.")


def _warn_of_other_bits(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    changes = [
        f"{name} is {now[name]}, but the run was begun with {then.get(name)}" for name in now if now[name] != then.get(name)
    ]
    for change in changes:
        print(f"lit_mnist: {change}: its bits may differ from those of an uninterrupted run.", file=sys.stderr)
    return changes

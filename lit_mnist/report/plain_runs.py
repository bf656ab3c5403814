"""Reads runs that a plain Trainer made with `LitMLP`: no result.json, but Lightning's hparams.yaml and event files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lit_mnist.record.configs import read_config
from lit_mnist.record.result import RULE_VERSION, Result, judge, read_regular


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Reads a run's curves by tag and x; imports tensorboard, which takes half a second, only where they are needed."""
    from lit_mnist.record.events import read_scalars

    return read_scalars(folder)


def finite_points(curve: Mapping[int, float]) -> list[tuple[int, float]]:
    """Sorts a curve by x and leaves out what is not finite."""
    return sorted((x, value) for x, value in curve.items() if math.isfinite(value))


def read_plain_run(path: Path) -> Result:
    """Makes a result of the hyperparameters and curves that Lightning's TensorBoardLogger left in a folder.

    Raises:
        ValueError: There is too little to report; a sentence without its subject.
    """
    settings = _read_hyperparameters(path / "hparams.yaml")
    curves = read_curves(path)
    epochs = finite_points(curves.get("train/loss", {}))
    if not epochs:
        raise ValueError("its event files hold no train/loss, the mean loss of each epoch")
    losses = [loss for _, loss in epochs]
    steps = epochs[-1][0] + 1  # Lightning counts SGD steps from 0
    tested, blocks = finite_points(curves.get("test/accuracy", {})), finite_points(curves.get("train/loss_step", {}))
    seed, classes = settings.pop("seed", None), settings.get("classes", 10)
    outcome, reason = judge(losses, classes if isinstance(classes, int) and classes > 1 else 10)
    nothing: dict[str, Any] = {"command": "", "device": "", "data_sha256": "", "threads": 0, "versions": {}, "machine": {}}
    nothing |= dict.fromkeys(("train_accuracy", "test_loss", "diverged", "weights_sha256", "commit"))
    nothing |= {"test_accuracy_by_epoch": [], "val_loss_by_epoch": [], "val_accuracy_by_epoch": []}
    nothing["times"] = {"started": "", "finished": "", "seconds": 0, "train_seconds_by_epoch": []}
    known = {
        "name": path.parent.name if path.name.startswith("version_") else path.name,
        "outcome": outcome,
        "outcome_rule": RULE_VERSION,
        "reason": reason,
        "seed": seed if isinstance(seed, int) else 0,
        "hyperparameters": settings | {"max_epochs": len(losses)},
        "epochs": len(losses),
        "steps": steps,
        "steps_per_epoch": -(-steps // len(losses)),
        "train_loss_by_epoch": losses,
        "train_loss_by_block": [(step + 1, loss) for step, loss in blocks],
        "final_train_loss": losses[-1],
        "test_accuracy": tested[-1][1] if tested else None,
    }
    try:
        return msgspec.convert(nothing | known, Result)
    except msgspec.ValidationError as error:
        raise ValueError(f"what Lightning logged is not plausible: {error}") from None


def _read_hyperparameters(path: Path) -> dict[str, Any]:
    read_regular(path, 2**20)  # never waits for a pipe
    settings = read_config(path)
    if missing := [key for key in ("lr", "batch_size") if key not in settings]:
        raise ValueError(f"hparams.yaml holds no {' and no '.join(missing)}, so that there is nothing to compare the run by")
    return settings

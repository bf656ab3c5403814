"""Reads runs that a plain Trainer made with `LitMLP`: no result.json, but Lightning's hparams.yaml and event files."""

import math
from pathlib import Path
from typing import Any

import msgspec

from lit_mnist.record.atomic import read_regular
from lit_mnist.record.configs import read_config
from lit_mnist.record.result import RULE_VERSION, Result, judge

UNKNOWN: dict[str, Any] = {"command": "", "device": "", "data_sha256": "", "threads": 0, "versions": {}, "machine": {}}
UNKNOWN |= dict.fromkeys(("train_accuracy", "test_loss", "diverged", "weights_sha256", "commit"))
UNKNOWN |= {"test_accuracy_by_epoch": [], "val_loss_by_epoch": [], "val_accuracy_by_epoch": [], "reason": ""}
UNKNOWN["times"] = {"started": "", "finished": "", "seconds": 0, "train_seconds_by_epoch": []}


def read_curves(folder: Path, *tags: str) -> list[list[tuple[int, float]]]:
    """Reads curves in a run's event files: their finite points from step 0 on, sorted; none of a curve that is not there."""
    from lit_mnist.record.events import read_scalars  # imports tensorboard, which takes half a second

    scalars = read_scalars(folder)
    curves = [scalars.get(tag, {}) for tag in tags]
    return [sorted((step, value) for step, value in curve.items() if step >= 0 and math.isfinite(value)) for curve in curves]


def read_plain_run(path: Path) -> Result:
    """Makes a result of the hyperparameters and curves that Lightning's TensorBoardLogger left in a folder.

    Raises:
        ValueError: There is too little to report; a sentence without its subject.
    """
    read_regular(path / "hparams.yaml", 2**20)  # never waits for a pipe
    settings = read_config(path / "hparams.yaml")
    if missing := [key for key in ("lr", "batch_size") if key not in settings]:
        raise ValueError(f"hparams.yaml holds no {' and no '.join(missing)}, so that there is nothing to compare the run by")
    epochs, blocks, tested = read_curves(path, "train/loss", "train/loss_step", "test/accuracy")
    if not epochs:
        raise ValueError("its event files hold no train/loss, the mean loss of each epoch")
    losses, steps = [loss for _, loss in epochs], epochs[-1][0] + 1  # Lightning counts SGD steps from 0
    seed = settings.pop("seed", None)
    known = {
        "name": path.parent.name if path.name.startswith("version_") else path.name,
        "outcome": "trained",  # until it is judged below
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
        result = msgspec.convert(UNKNOWN | known, Result)
    except msgspec.ValidationError as error:
        raise ValueError(f"what Lightning logged is not plausible: {error}") from None
    outcome, reason = judge(losses, result.classes)
    return msgspec.structs.replace(result, outcome=outcome, reason=reason, outcome_rule=RULE_VERSION)

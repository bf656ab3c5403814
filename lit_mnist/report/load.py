"""Finds the runs below a folder and reads them; what cannot be read is named and does not keep the rest from being read."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from lit_mnist.record.atomic import read_regular, walk
from lit_mnist.record.configs import read_config
from lit_mnist.record.printable import one_line
from lit_mnist.record.result import NEAR_GUESSING, ROSE, RULE_VERSION, Result, guessing, judge, read_result

RECORDS = {"result.json", "config.yaml", "failure.json", ".study.lock", "hparams.yaml"}  # each marks the folder of a run
EVENTS = "events.out.tfevents."
# What version 1.0, and a plain Trainer, did without stating it.
UNSTATED: dict[str, Any] = {"image_shape": [28, 28], "classes": 10, "precision": "32-true", "max_steps": -1, "callbacks": []}
UNSTATED |= {"devices_with_own_batches": 1}
# What a plain Trainer does not record.
UNKNOWN: dict[str, Any] = {"command": "", "device": "", "data_sha256": "", "threads": 0, "versions": {}, "machine": {}}
UNKNOWN |= dict.fromkeys(("train_accuracy", "test_loss", "diverged", "weights_sha256", "commit"))
UNKNOWN |= {"test_accuracy_by_epoch": [], "val_loss_by_epoch": [], "val_accuracy_by_epoch": [], "reason": ""}
UNKNOWN["times"] = {"started": "", "finished": "", "seconds": 0, "train_seconds_by_epoch": []}


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A finished run and the folder that holds it, as a path below the reported one, printable."""

    folder: str
    result: Result
    path: Path

    @cached_property
    def block_losses(self) -> list[tuple[int, float]]:
        """Pairs of SGD step and mean loss of the steps up to it; version 1.0 kept them in its event files only."""
        if self.result.format == 2:
            return self.result.train_loss_by_block
        try:
            return _read_curves(self.path, "train/loss_step")[0]
        except (OSError, ValueError):
            return []

    @cached_property
    def failure(self) -> float | None:
        """Epochs trained when the run failed: where its loss stopped being finite, or was last seen below the mark of failure.

        None if it did not fail.
        """
        result = self.result
        if not result.failed:
            return None
        if result.diverged:
            return result.diverged.step / max(1, result.steps_per_epoch)
        losses, start = result.train_loss_by_epoch, guessing(result.classes)
        mark = min(NEAR_GUESSING * start, min(losses) + ROSE * start)
        return max((epoch + 1.0 for epoch, loss in enumerate(losses, 1) if loss < mark), default=1.0)

    @property
    def length(self) -> float:
        """Epochs that the run trained, its last, unfinished one counted by its SGD steps."""
        return self.failure or self.result.steps / max(1, self.result.steps_per_epoch)


def read_folders(folders: Sequence[Path]) -> tuple[list[RecordedRun], list[str]]:
    """Reads all finished runs below the folders, sorted by path, each once; and says what is wrong with the others."""
    runs: dict[Path, RecordedRun] = {}
    problems: list[str] = []
    for folder in folders:
        unlisted: list[OSError] = []
        for path, below, files in walk(folder, unlisted):
            if not RECORDS & {*files, *below} and not any(file.startswith(EVENTS) for file in files):
                continue
            below.clear()  # checkpoints and the like
            where = os.path.relpath(path, folder) if path != folder else path.resolve().name
            where = where if len(folders) == 1 or path == folder else f"{folder.name}/{where}"
            try:
                runs.setdefault(path.resolve(), RecordedRun(one_line(Path(where).as_posix()), _read_run(path), path))
            except (OSError, ValueError) as error:
                problems.append(problem(where, str(getattr(error, "strerror", None) or error)))
        problems += [problem(str(error.filename), f"the folder cannot be listed ({error.strerror})") for error in unlisted]
    return list(runs.values()), problems


def problem(where: str, what: str) -> str:
    """Writes what is wrong with a folder, on one line."""
    return f"{one_line(where)}: {one_line(what.rstrip('.'))}."


def _read_run(path: Path) -> Result:
    """Reads one finished run.

    Raises:
        ValueError: It is not finished or cannot be read; a sentence without its subject.
    """
    result = read_result(path)
    if result is not None:
        return result
    if (path / "hparams.yaml").exists() and not (path / "config.yaml").exists():
        return _read_plain_run(path)
    why = ""
    if (path / "failure.json").exists():
        try:
            failure = msgspec.json.decode(read_regular(path / "failure.json", 2**20), type=dict[str, Any])
            why = f": {str(failure.get('reason'))[:300]}"
        except (ValueError, msgspec.MsgspecError, RecursionError):
            why = ", nor can failure.json be read"
    raise ValueError(f"the run is not finished and not counted{why}")


def _read_plain_run(path: Path) -> Result:
    """Makes a result of the hyperparameters and curves that Lightning's TensorBoardLogger left in a folder.

    Raises:
        ValueError: There is too little to report; a sentence without its subject.
    """
    settings = read_config(path / "hparams.yaml")
    if missing := [key for key in ("lr", "batch_size") if key not in settings]:
        raise ValueError(f"hparams.yaml holds no {' and no '.join(missing)}, so that there is nothing to compare the run by")
    epochs, blocks, tested = _read_curves(path, "train/loss", "train/loss_step", "test/accuracy")
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


def _read_curves(folder: Path, *tags: str) -> list[list[tuple[int, float]]]:
    """Reads curves in a run's event files: their finite points from step 0 on, sorted; none of a curve that is not there."""
    from lit_mnist.record.events import read_scalars  # imports tensorboard, which takes half a second

    scalars = read_scalars(folder)
    curves = [scalars.get(tag, {}) for tag in tags]
    return [sorted((step, value) for step, value in curve.items() if step >= 0 and math.isfinite(value)) for curve in curves]

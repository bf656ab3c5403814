"""Finds the runs below a folder and reads them; what cannot be read is named and does not keep the rest from being read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from lit_mnist.record.configs import read_config
from lit_mnist.record.printable import one_line
from lit_mnist.record.result import NEAR_GUESSING, ROSE, Result, guessing, read_regular, read_result
from lit_mnist.report.plain_runs import finite_points, read_curves, read_plain_run

RECORDS = {"result.json", "config.yaml", "failure.json", ".study.lock", "hparams.yaml"}  # each marks the folder of a run
EVENTS = "events.out.tfevents."
NOT_STARTED = {".lock", ".study.lock"}  # all that a study leaves of a run that it never started
# Values that make no other experiment than leaving the option out, which version 1.0 did.
PLAIN: dict[str, tuple[Any, ...]] = {
    "image_shape": ([28, 28],),
    "classes": (10,),
    "precision": (None, "32-true", 32),
    "max_steps": (None, -1),
    "max_time": (None,),
    "limit_train_batches": (None, 1.0),
    "overfit_batches": (None, 0.0),
    "callbacks": (None, []),
    "plugins": (None, []),
    "devices_with_own_batches": (1,),
}


@dataclass(frozen=True)
class Problem:
    """A folder, and a sentence about it without subject and full stop."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{one_line(self.where)}: {one_line(self.what.rstrip('.'))}."


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
            return finite_points(read_curves(self.path).get("train/loss_step", {}))
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
        start = guessing(result.classes)
        mark = min(NEAR_GUESSING * start, min(result.train_loss_by_epoch) + ROSE * start)
        below = [epoch for epoch, loss in enumerate(result.train_loss_by_epoch, 1) if loss < mark]
        return float(below[-1] + 1 if below else 1)

    @property
    def length(self) -> float:
        """Epochs that the run trained, its last, unfinished one counted by its SGD steps."""
        return self.failure or self.result.steps / max(1, self.result.steps_per_epoch)


def read_folders(folders: Sequence[Path]) -> tuple[list[RecordedRun], list[Problem]]:
    """Reads all finished runs below the folders, sorted by path, each once; and says what is wrong with the others."""
    runs: dict[Path, RecordedRun] = {}
    problems: list[Problem] = []
    for folder in folders:
        unlisted: list[OSError] = []
        for path in _run_folders(folder, unlisted):
            where = os.path.relpath(path, folder) if path != folder else path.resolve().name
            where = where if len(folders) == 1 or path == folder else f"{folder.name}/{where}"
            try:
                result = _read_run(path)
            except (OSError, ValueError) as error:
                problems.append(Problem(where, str(getattr(error, "strerror", None) or error)))
            else:
                runs.setdefault(path.resolve(), RecordedRun(one_line(Path(where).as_posix()), result, path))
        problems += [Problem(str(error.filename), f"the folder cannot be listed ({error.strerror})") for error in unlisted]
    return list(runs.values()), problems


def _run_folders(folder: Path, unlisted: list[OSError]) -> Iterator[Path]:
    """Yields folders that hold a run, or only what a study leaves behind; links to folders are not followed."""
    for name, folders, files in os.walk(folder, onerror=unlisted.append):
        folders.sort()
        path = Path(name)
        if RECORDS & {*files, *folders} or any(file.startswith(EVENTS) for file in files):
            folders.clear()  # checkpoints and the like
            yield path
        elif files and set(files) <= NOT_STARTED and path != folder:
            yield path


def _read_run(path: Path) -> Result:
    """Reads one finished run.

    Raises:
        ValueError: It is not finished or cannot be read; a sentence without its subject.
    """
    result = read_result(path)
    if result is None and (path / "hparams.yaml").exists() and not (path / "config.yaml").exists():
        return read_plain_run(path)
    if result is None:
        raise ValueError(_why_unfinished(path))
    if result.format == 1:
        added = _options_of_version_1(path / "config.yaml")
        result = msgspec.structs.replace(result, hyperparameters=result.hyperparameters | added)
    return result


def _why_unfinished(path: Path) -> str:
    try:
        failure = msgspec.json.decode(read_regular(path / "failure.json", 2**20), type=dict[str, Any])
        return f"the run is not finished and not counted: {str(failure.get('reason'))[:300]}"
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return "the run is not finished and not counted"


def _options_of_version_1(config: Path) -> dict[str, Any]:
    """Reads the options that version 1.0 kept in config.yaml only."""
    if not config.exists():
        return {}
    read_regular(config, 2**20)  # never waits for a pipe
    options = read_config(config)
    trainer, data = options.get("trainer"), options.get("data")
    trainer, data = trainer if isinstance(trainer, dict) else {}, data if isinstance(data, dict) else {}
    found = {key: trainer[key] for key in PLAIN if key in trainer}
    if data.get("split_batch") is False:
        found["devices_with_own_batches"] = trainer.get("devices")
    return found

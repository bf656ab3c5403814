"""Finds the runs below a folder and reads them; what cannot be read is named and does not keep the rest from being read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from lit_mnist.record.atomic import read_regular, walk
from lit_mnist.record.printable import one_line
from lit_mnist.record.result import NEAR_GUESSING, ROSE, Result, guessing, read_result
from lit_mnist.report.plain_runs import read_curves, read_plain_run

RECORDS = {"result.json", "config.yaml", "failure.json", ".study.lock", "hparams.yaml"}  # each marks the folder of a run
EVENTS = "events.out.tfevents."
# What version 1.0, and a plain Trainer, did without stating it.
UNSTATED: dict[str, Any] = {"image_shape": [28, 28], "classes": 10, "precision": "32-true", "max_steps": -1, "callbacks": []}
UNSTATED |= {"devices_with_own_batches": 1}


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
            return read_curves(self.path, "train/loss_step")[0]
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
        for path in _run_folders(folder, unlisted):
            where = os.path.relpath(path, folder) if path != folder else path.resolve().name
            where = where if len(folders) == 1 or path == folder else f"{folder.name}/{where}"
            try:
                result = _read_run(path)
            except (OSError, ValueError) as error:
                problems.append(problem(where, str(getattr(error, "strerror", None) or error)))
            else:
                runs.setdefault(path.resolve(), RecordedRun(one_line(Path(where).as_posix()), result, path))
        problems += [problem(str(error.filename), f"the folder cannot be listed ({error.strerror})") for error in unlisted]
    return list(runs.values()), problems


def problem(where: str, what: str) -> str:
    """Writes what is wrong with a folder, on one line."""
    return f"{one_line(where)}: {one_line(what.rstrip('.'))}."


def _run_folders(folder: Path, unlisted: list[OSError]) -> Iterator[Path]:
    """Yields folders that hold a run, or what a study left of one; links to folders are not followed."""
    for path, folders, files in walk(folder, unlisted):
        if RECORDS & {*files, *folders} or any(file.startswith(EVENTS) for file in files):
            folders.clear()  # checkpoints and the like
            yield path


def _read_run(path: Path) -> Result:
    """Reads one finished run.

    Raises:
        ValueError: It is not finished or cannot be read; a sentence without its subject.
    """
    result = read_result(path)
    if result is not None:
        return result
    if (path / "hparams.yaml").exists() and not (path / "config.yaml").exists():
        return read_plain_run(path)
    why = ""
    if (path / "failure.json").exists():
        try:
            failure = msgspec.json.decode(read_regular(path / "failure.json", 2**20), type=dict[str, Any])
            why = f": {str(failure.get('reason'))[:300]}"
        except (ValueError, msgspec.MsgspecError, RecursionError):
            why = ", nor can failure.json be read"
    raise ValueError(f"the run is not finished and not counted{why}")

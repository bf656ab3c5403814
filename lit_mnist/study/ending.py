"""How a run ended, as its folder tells: `result.json` from `fit`, or else `failure.json` from the study."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_mnist.record.atomic import write_durably

FINISHED = ("trained", "collapsed", "diverged")  # outcomes that `fit` records
FAILED = "failed"  # no result: `fit` refused, crashed or was killed; tried again by the same study
OUTCOMES = (*FINISHED, FAILED)  # what the results table counts
STOPPED = "stopped"  # the study was asked to stop
BUSY = "busy"  # another process trains this run at the moment


@dataclass(frozen=True)
class Ending:
    """What became of a run, as far as the results table tells it.

    Attributes:
        outcome: One of `FINISHED`, or `FAILED`, `STOPPED`, `BUSY`.
        reason: Why, in a sentence; "" for a trained run.
        train_loss: Mean training loss of the last epoch, nats; None without one.
        train_accuracy, test_accuracy: Fractions in 0..1; None without one.
    """

    outcome: str
    reason: str = ""
    train_loss: float | None = None
    train_accuracy: float | None = None
    test_accuracy: float | None = None


def _number(result: dict[str, Any], key: str) -> float | None:
    value = result[key]
    return None if value is None else float(value)


def read_ending(folder: Path) -> Ending | None:
    """The ending that the run's `result.json` records; None when the run is not finished."""
    file = folder / "result.json"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["outcome"] not in FINISHED:
            raise ValueError(result["outcome"])
        return Ending(
            result["outcome"],
            str(result["reason"]),
            _number(result, "final_train_loss"),
            _number(result, "train_accuracy"),
            _number(result, "test_accuracy"),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Ending(FAILED, f"{file} is no result of fit: delete the folder to run it again.")


def write_failure(folder: Path, reason: str, exit_code: int | None) -> None:
    """Records in the run folder why there is no result yet; no exit code when the worker died."""
    content = json.dumps({"reason": reason, "exit_code": exit_code}, indent=2)
    write_durably(folder / "failure.json", content.encode() + b"\n")

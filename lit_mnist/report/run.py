"""One finished run, as its `result.json` tells it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OUTCOMES = ("trained", "collapsed", "diverged")
FORMAT = 1
LARGEST = sys.float_info.max  # a whole number in JSON may be larger


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Run folder, relative to the reported one, with forward slashes.
        name: Of its configuration.
        outcome: One of `OUTCOMES`; reason: why, if not trained.
        command: The line that runs it again.
        hyperparameters: lr and batch_size are always there; and what `departures` finds in the run's config.yaml.
        train_loss_by_epoch: Nats, mean of each epoch's batch losses; as far as they were finite.
        test_accuracy_by_epoch: Fractions; may be empty.
        final_train_loss, train_accuracy, test_accuracy: Never None if the outcome is "trained".
        diverged: (epoch, SGD step) of the first loss that was not finite, 1-based.
        seconds_by_epoch: Of training alone.
        provenance: What the record says of versions, machine, commit and data.
        started: ISO 8601, UTC.
        loss_by_step: Mean loss of a block of steps by the block's last SGD step; from the event files, maybe empty.
    """

    folder: str
    name: str
    outcome: str
    reason: str
    command: str
    seed: int
    hyperparameters: dict[str, Any]
    steps_per_epoch: int
    train_loss_by_epoch: tuple[float, ...]
    test_accuracy_by_epoch: tuple[float, ...]
    final_train_loss: float | None
    train_accuracy: float | None
    test_accuracy: float | None
    diverged: tuple[int, int] | None
    seconds_by_epoch: tuple[float, ...]
    provenance: dict[str, str]
    started: str
    loss_by_step: dict[int, float] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        return self.outcome == "trained"

    @property
    def lr(self) -> float:
        return float(self.hyperparameters["lr"])

    @property
    def batch_size(self) -> int:
        return int(self.hyperparameters["batch_size"])


def parse_run(folder: str, result: Any) -> Run:
    """The run that a `result.json` holds.

    Raises:
        ValueError: Something else wrote it; the message goes on a sentence that begins with the file's name.
    """
    if not isinstance(result, dict) or "outcome" not in result or "hyperparameters" not in result:
        raise ValueError("is no result of lit_mnist")
    if result.get("format") != FORMAT:
        raise ValueError(f"has format {result.get('format')!r}; this version reads format {FORMAT}")
    hyperparameters, times = _mapping(result, "hyperparameters"), _mapping(result, "times")
    run = Run(
        folder=folder,
        name=_text(result, "name"),
        outcome=_text(result, "outcome"),
        reason=_text(result, "reason"),
        command=_text(result, "command"),
        seed=_whole(result, "seed"),
        hyperparameters=dict(hyperparameters),
        steps_per_epoch=_whole(result, "steps_per_epoch"),
        train_loss_by_epoch=_numbers(result, "train_loss_by_epoch"),
        test_accuracy_by_epoch=_numbers(result, "test_accuracy_by_epoch"),
        final_train_loss=_number(result, "final_train_loss"),
        train_accuracy=_fraction(result, "train_accuracy"),
        test_accuracy=_fraction(result, "test_accuracy"),
        diverged=_place(result),
        seconds_by_epoch=_numbers(times, "train_seconds_by_epoch"),
        provenance=_provenance(result),
        started=_text(times, "started"),
    )
    if run.outcome not in OUTCOMES:
        raise ValueError(f"has the outcome {run.outcome!r}, not one of {', '.join(OUTCOMES)}")
    for key in ("lr", "batch_size"):
        if not _is_number(hyperparameters.get(key)) or hyperparameters[key] <= 0:
            raise ValueError(f"has no usable {key}")
    results = (run.final_train_loss, run.train_accuracy, run.test_accuracy)
    if run.trained and (None in results or not run.train_loss_by_epoch):
        raise ValueError("says trained without a loss or an accuracy")
    return run


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _value(record: Mapping[str, Any], key: str, fits: bool, what: str) -> Any:
    if key not in record:
        raise ValueError(f"has no {key}")
    if not fits:
        raise ValueError(f"has a {key} that is not {what}")
    return record[key]


def _text(record: Mapping[str, Any], key: str) -> str:
    return str(_value(record, key, isinstance(record.get(key), str), "text"))


def _whole(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return int(_value(record, key, isinstance(value, int) and _is_number(value), "a whole number"))


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    _value(record, key, value is None or _is_number(value), "a finite number or null")
    return None if value is None else float(value)


def _fraction(record: Mapping[str, Any], key: str) -> float | None:
    value = _number(record, key)
    _value(record, key, value is None or 0 <= value <= 1, "between 0 and 1")
    return value


def _numbers(record: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = record.get(key)
    fits = isinstance(values, list) and all(_is_number(value) for value in values)
    return tuple(map(float, _value(record, key, fits, "a list of finite numbers")))


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] = _value(record, key, isinstance(record.get(key), dict), "a mapping")
    return value


def _place(record: Mapping[str, Any]) -> tuple[int, int] | None:
    place = record.get("diverged")
    return None if place is None else (_whole(_mapping(record, "diverged"), "epoch"), _whole(place, "step"))


def _provenance(record: Mapping[str, Any]) -> dict[str, str]:
    found = {key: str(record[key]) for key in ("threads", "device", "commit", "data_sha256") if record.get(key) is not None}
    for group in ("versions", "machine"):
        if isinstance(record.get(group), dict):
            found |= {f"{group}: {key}": str(value) for key, value in record[group].items()}
    return found

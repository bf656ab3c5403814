"""The one schema of `result.json`, what a run's outcome means, and the functions that read and write the file.

Reading has bounds: a file of at most 16 MiB, and numbers that a float32 network can produce. Whatever lies outside is refused
with the name of the field; nothing is clipped in silence.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lit_mnist.record.atomic import read_regular, write_atomically

RULE_VERSION = 2  # of `judge`; results of another version are judged again when they are read

Outcome = Literal["trained", "learning", "collapsed", "diverged"]
FAILED_OUTCOMES: tuple[Outcome, ...] = ("collapsed", "diverged")  # two endings of one event

# Parts of `guessing`, the cross-entropy of equal probabilities. In logs/reference, trained runs end at most 0.03 of it above
# their best epoch, the rough ones at learning rate 1 included, and their last epoch is at most 0.014 of it below all others.
RISEN = 0.8  # a mini-batch loss at or above this part of guessing, and there to stay, is that of a run that has failed
NEAR_GUESSING = 0.9  # at or above this part of guessing, nothing usable has been learned
ROSE = 0.25  # given back since the best epoch
FELL = 0.02  # the last epoch's fall below all epochs before it: training was still under way
BARELY_FELL = 0.001  # the same near guessing, where a slow run falls little and a dead network not at all
SEVERAL_EPOCHS = 4  # without leaving guessing: the network is dead, not slow

LARGEST_LOSS = 1e39  # beyond float32, in which losses are computed
SMALLEST_LR, LARGEST_LR = 1e-39, LARGEST_LOSS  # exclusive and inclusive
# Of the hyperparameters that are computed with: above the first, at most the second; then those that may be missing.
BOUNDS = {"lr": (SMALLEST_LR, LARGEST_LR), "batch_size": (0, 2**31), "classes": (1, 2**31)}
BOUNDS |= {"train_size": (-1, 2**31), "max_epochs": (-2, 2**31), "steps_per_epoch": (-1, 2**53)}
OPTIONAL: dict[str, Any] = {"classes": 10, "train_size": 0, "max_epochs": 0, "steps_per_epoch": 0}
LIMITS = ("max_epochs", "max_steps")  # hyperparameters that a resumed run may have raised, but not below where it was
LARGEST_RESULT = 4 * 2**20  # bytes; one of a thousand epochs has half of it
DEEPEST = 8  # of nested lists and mappings in `hyperparameters`

Count = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[float, Meta(ge=-LARGEST_LOSS, le=LARGEST_LOSS)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(max_length=1_000)]
Text = Annotated[str, Meta(max_length=20_000)]


class Place(msgspec.Struct, frozen=True):
    """An SGD step and the epoch it lies in, both counted from 1."""

    epoch: Count
    step: Count


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """When a run trained, in ISO 8601, and for how long, in seconds."""

    started: Word
    finished: Word
    seconds: Number
    train_seconds_by_epoch: list[Number]
    resumed: Count = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known about a finished run.

    Attributes:
        outcome: How the run ended, by version `outcome_rule` of `judge`; reason: why, unless it trained.
        command: The line that runs it again.
        hyperparameters: Flat and plain: lr, batch_size, hidden, image_shape, classes, engine, dataset, train_size, ...
        epochs: Number of epochs whose losses are recorded; steps: SGD steps made.
        train_loss_by_epoch: Mean of each epoch's batch losses, in nats, as long as it was finite.
        test_accuracy_by_epoch: Fractions; empty if it was not measured each epoch.
        val_loss_by_epoch: In nats; None where the epoch was not validated. Likewise val_accuracy_by_epoch.
        train_loss_by_block: Pairs of a block's last SGD step and the mean loss of its steps; a block is about 4,096 images.
        final_train_loss: The last epoch's; None if the run diverged.
        train_accuracy, test_accuracy, test_loss: Measured after the last step; None if the run diverged.
        diverged: Where the loss stopped being finite.
        changes: What differed between the environments of a resumed run's processes, in sentences.
        stopped: Why the run ended before its limits; "" if it did not.
        instruments: "measurements": what was measured at a few moments, each by name, with its epoch and SGD step.
    """

    format: Literal[1, 2] = 2  # 1: written by version 1.0
    name: Word
    outcome: Outcome
    outcome_rule: Count = 1
    reason: Text
    command: Text
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    threads: Count
    device: Word
    hyperparameters: dict[Word, Any]
    epochs: Count
    steps: Count
    steps_per_epoch: Count
    train_loss_by_epoch: list[Number]
    test_accuracy_by_epoch: list[Fraction]
    val_loss_by_epoch: list[Number | None]
    val_accuracy_by_epoch: list[Fraction | None]
    train_loss_by_block: list[tuple[Count, Number]] = []
    final_train_loss: Number | None
    train_accuracy: Fraction | None
    test_accuracy: Fraction | None
    test_loss: Number | None
    diverged: Place | None
    weights_sha256: Word | None
    data_sha256: Word
    versions: dict[Word, Word]
    commit: Word | None
    machine: dict[Word, Word | Count]
    changes: list[Text] = []
    stopped: Text = ""
    times: Times
    instruments: dict[Word, list[dict[Word, Number]]] = {}

    def __post_init__(self) -> None:
        """Checks what types cannot say."""
        if not _is_plain(self.hyperparameters, DEEPEST):
            raise ValueError(
                f"hyperparameters: a value is too large, nested more than {DEEPEST} deep, or of a kind unknown to JSON"
            )
        for key, (low, most) in BOUNDS.items():
            value = self.hyperparameters.get(key, OPTIONAL.get(key, 0))
            if type(value) not in ((int, float) if key == "lr" else (int,)) or not low < value <= most:
                raise ValueError(f"hyperparameters: {key} must be a number above {low} and at most {most:g}, not {value!s:.40}")
        if (self.outcome == "diverged") != (self.diverged is not None):
            raise ValueError("diverged: must be given for the outcome diverged, and only then")
        if self.outcome != "diverged" and (self.final_train_loss is None or not self.train_loss_by_epoch):
            raise ValueError(f"final_train_loss: is missing for the outcome {self.outcome}")

    @property
    def lr(self) -> float:
        """Learning rate."""
        return float(self.hyperparameters["lr"])

    @property
    def batch_size(self) -> int:
        """Images per SGD step."""
        return int(self.hyperparameters["batch_size"])

    @property
    def classes(self) -> int:
        """Number of classes; results of version 1.0, which had no other, do not state their 10."""
        return int(self.hyperparameters.get("classes", 10))

    @property
    def title(self) -> str:
        """One line that names the run, above its figures."""
        return f"{self.name}: batch size {self.batch_size}, learning rate {self.lr:g}, seed {self.seed}"

    @property
    def failed(self) -> bool:
        """True for a run that collapsed or diverged."""
        return self.outcome in FAILED_OUTCOMES


def guessing(classes: int) -> float:
    """Returns the cross-entropy of equal probabilities, in nats: the loss of a network that knows nothing."""
    return math.log(classes)


def judge(train_loss_by_epoch: Sequence[float], classes: int = 10) -> tuple[Outcome, str]:
    """Judges a run whose loss stayed finite: its outcome, and the reason unless it is "trained".

    Judged on the training loss alone, so that nothing is selected on the test set.

    Args:
        train_loss_by_epoch: Mean of the batch losses of each epoch, in nats.
        classes: Number of classes, which sets the loss of guessing; training starts there.
    """
    start = guessing(classes)
    if not train_loss_by_epoch:
        return "learning", "no epoch was completed"
    *before, final = train_loss_by_epoch
    best = min([start, *before])
    if final >= best + ROSE * start:
        return "collapsed", f"the training loss rose from {best:.3f} to {final:.3f}"
    fall = best - final
    if final >= NEAR_GUESSING * start:
        steadily = all(later < earlier for earlier, later in zip(before, train_loss_by_epoch[1:], strict=True))
        exploded = max(train_loss_by_epoch) >= (1 + ROSE) * start
        if (exploded or (len(train_loss_by_epoch) >= SEVERAL_EPOCHS and not steadily)) and fall < BARELY_FELL * start:
            reason = f"the training loss ended at {final:.3f}, no better than guessing ({start:.3f}), and was not falling"
            return "collapsed", reason
        return "learning", f"the training loss had only begun to fall ({final:.3f}; guessing is {start:.3f})"
    if fall > FELL * start:
        return "learning", f"the training loss was still falling, by {fall:.3f} in the last epoch"
    return "trained", ""


def calm_until(train_loss_by_block: Sequence[tuple[int, float]], classes: int = 10) -> int:
    """Finds the last SGD step before the loss rose for good, with a block to spare; near the end if it did not rise.

    Args:
        train_loss_by_block: Pairs of a block's last SGD step and the mean loss of its steps, in nats.
        classes: Number of classes, which sets the loss of guessing.
    """
    calm = len(train_loss_by_block)
    while calm and train_loss_by_block[calm - 1][1] >= RISEN * guessing(classes):
        calm -= 1
    return train_loss_by_block[calm - 2][0] if calm > 1 else 0  # the block before may end in the first high losses


def read_result(folder: Path) -> Result | None:
    """Reads the result of the run in `folder`; judges its outcome again where another version of the rule gave it.

    Returns:
        None if the run is not finished.

    Raises:
        ValueError: `result.json` cannot be read, or names the field that is wrong.
    """
    path = folder / "result.json"
    if not os.path.lexists(path):
        return None
    try:
        result = msgspec.json.decode(read_regular(path, LARGEST_RESULT), type=Result)
    except msgspec.ValidationError as error:
        what, _, field = str(error).partition(" - at `$.")
        if what[:1].isupper():  # msgspec's words; those of `__post_init__` begin with the field
            what = f"{field.rstrip('`') or 'the file'}: {what[:1].lower()}{what[1:]}"
        raise ValueError(f"result.json: {what}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("result.json is not JSON in UTF-8") from None
    if result.outcome == "diverged" or result.outcome_rule == RULE_VERSION:
        return result
    outcome, reason = judge(result.train_loss_by_epoch, result.classes)
    return msgspec.structs.replace(result, outcome=outcome, reason=reason, outcome_rule=RULE_VERSION)


def write_result(path: Path, result: Result) -> None:
    """Writes `result.json`, whole or not at all, and only what `read_result` accepts.

    Raises:
        ValueError: A value is out of its bounds, is not finite, or is text that cannot be encoded.
        OSError: The file cannot be written.
    """
    try:
        content = msgspec.json.encode(result)
        msgspec.json.decode(content, type=Result)  # what is not finite became null
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError) as error:
        raise ValueError(f"The result cannot be recorded: {error}.") from None
    write_atomically(path, msgspec.json.format(content, indent=1) + b"\n")


def _is_plain(value: Any, depth: int) -> bool:
    """Returns True for what JSON can say, with numbers of a sensible size, nested at most `depth` deep."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and _is_plain([*value.values()], depth)
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    return abs(value) <= LARGEST_LOSS if isinstance(value, (int, float)) else value is None or isinstance(value, str)

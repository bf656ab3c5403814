"""What the published analysis said, held against the runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lit_mnist.report.comparison import Comparison
from lit_mnist.report.configuration import Configuration, Ladder
from lit_mnist.report.published import find_published
from lit_mnist.report.quantity import (
    EARLY_LOSS,
    EPOCH_SECONDS,
    EPOCHS_TO_TENTH,
    FINAL_LOSS,
    FIRST_LOSS,
    RISES,
    TEST_ACCURACY,
    Quantity,
)
from lit_mnist.report.statistics import share_interval

MORE, LESS = 1, -1
HIGH, LOW = "high", "low"
HIGH_ACCURACY = 0.9  # the published analysis names no bound
FOR, AGAINST, OPEN = "for it", "against it", "open"


@dataclass(frozen=True)
class Claim:
    """A statement about a published run, against the others of its ladder.

    Attributes:
        text: What was said.
        key: The hyperparameter of the ladder.
        about: The published run.
        end: HIGH or LOW: the rungs that it is held against have a lower or a higher value.
        signs: What shows it (None: the share of failed runs), and whether the run then has MORE or LESS of it than they.
    """

    text: str
    key: str
    about: str
    end: str
    signs: tuple[tuple[Quantity | None, int], ...]


CLAIMS = (
    Claim("A high learning rate descends fast at first", "lr", "lr1", HIGH, ((EARLY_LOSS, LESS), (FIRST_LOSS, LESS))),
    Claim("A high learning rate fluctuates", "lr", "lr1", HIGH, ((RISES, MORE),)),
    Claim("A high learning rate ends worse", "lr", "lr1", HIGH, ((FINAL_LOSS, MORE), (TEST_ACCURACY, LESS))),
    Claim("Training is less stable at a high learning rate", "lr", "lr1", HIGH, ((None, MORE),)),
    Claim("A low learning rate is smooth", "lr", "lr0.01", LOW, ((RISES, LESS),)),
    Claim("A low learning rate is slower", "lr", "lr0.01", LOW, ((FIRST_LOSS, MORE), (EPOCHS_TO_TENTH, MORE))),
    Claim("Small batches are noisier per epoch", "batch_size", "batch8", LOW, ((RISES, MORE),)),
    Claim("Small batches are dearer in time", "batch_size", "batch8", LOW, ((EPOCH_SECONDS, MORE),)),
    Claim("Large batches are smooth", "batch_size", "batch128", HIGH, ((RISES, LESS),)),
    Claim("Large batches are slower per epoch", "batch_size", "batch128", HIGH, ((FIRST_LOSS, MORE), (EPOCHS_TO_TENTH, MORE))),
)


def judge_claims(ladder: Ladder, comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """For each claim about a rung of this ladder whether the runs agree, disagree or do not decide, and by what."""
    rungs = {published.name: rung for rung in ladder.rungs if (published := find_published(rung))}
    judged = []
    for claim in CLAIMS:
        subject = rungs.get(claim.about)
        held = [each for each in comparisons if subject is (each.higher if claim.end == HIGH else each.lower)]
        if claim.key == ladder.key and subject and held:
            judged.append(_judge(claim, subject, held))
    if ladder.key == "lr" and "lr1" in rungs:
        judged.append(_judge_accuracies(rungs["lr1"]))
    return judged


def _judge(claim: Claim, subject: Configuration, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    lines, votes = [], []
    for quantity, more in claim.signs:
        for each in comparisons:
            if each.quantity is not quantity:
                continue
            wanted = more if subject is each.higher else -more
            vote = OPEN if each.direction == 0 else FOR if each.direction == wanted else AGAINST
            votes.append(vote)
            lines.append(f"{each.label}, {each.pair}: {each.effect}: {vote}.")
    return (f"{claim.text} ({subject.name}): {_verdict(votes)}.", *lines)


def _verdict(votes: Sequence[str]) -> str:
    decided = {vote for vote in votes if vote != OPEN}
    if not decided:
        return "these runs do not decide"
    verdict = "the data agree" if decided == {FOR} else "the data disagree"
    if len(decided) > 1:
        verdict = "the data agree in part"
    return f"{verdict}, as far as they decide" if OPEN in votes else verdict


def _judge_accuracies(highest: Configuration) -> tuple[str, ...]:
    """By what the trained runs reach and how many runs reach nothing; a single configuration, so nothing is compared."""
    n, failed = len(highest.runs), len(highest.failed)
    bounds = share_interval(failed, n)
    votes = [AGAINST if failed else FOR]
    lines = [
        f"{failed} of {n} runs failed (95 % interval of the share {100 * bounds.low:.0f} to {100 * bounds.high:.0f} %): "
        f"{votes[0]}."
    ]
    if highest.trained:
        votes.append(FOR if fmean(TEST_ACCURACY.values(highest.trained)) >= HIGH_ACCURACY else AGAINST)
        reached = TEST_ACCURACY.describe(highest.trained)
        lines.append(f"test accuracy of the trained runs {reached} %, with {100 * HIGH_ACCURACY:g} % as high: {votes[1]}.")
    return (f"Accuracies at a high learning rate are still high ({highest.name}): {_verdict(votes)}.", *lines)

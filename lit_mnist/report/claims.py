"""What the published analysis said, held against the runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_mnist.report.comparison import Comparison
from lit_mnist.report.configuration import Ladder
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
FOR, AGAINST, OPEN = "for it", "against it", "open"


@dataclass(frozen=True)
class Claim:
    """A statement about one end of a ladder.

    Attributes:
        text: What was said.
        key: The hyperparameter of the ladder.
        end: 0 for the lowest rung, -1 for the highest.
        signs: What shows it, and whether that end then has MORE or LESS of it than the other rungs.
    """

    text: str
    key: str
    end: int
    signs: tuple[tuple[Quantity, int], ...]


CLAIMS = (
    Claim("A high learning rate descends fast at first", "lr", -1, ((EARLY_LOSS, LESS), (FIRST_LOSS, LESS))),
    Claim("A high learning rate fluctuates", "lr", -1, ((RISES, MORE),)),
    Claim("A high learning rate ends worse", "lr", -1, ((FINAL_LOSS, MORE), (TEST_ACCURACY, LESS))),
    Claim("A low learning rate is smooth", "lr", 0, ((RISES, LESS),)),
    Claim("A low learning rate is slower", "lr", 0, ((FIRST_LOSS, MORE), (EPOCHS_TO_TENTH, MORE))),
    Claim("Small batches are noisier per epoch", "batch_size", 0, ((RISES, MORE),)),
    Claim("Small batches are dearer in time", "batch_size", 0, ((EPOCH_SECONDS, MORE),)),
    Claim("Large batches are smooth", "batch_size", -1, ((RISES, LESS),)),
    Claim("Large batches are slower per epoch", "batch_size", -1, ((FIRST_LOSS, MORE), (EPOCHS_TO_TENTH, MORE))),
)


def judge_claims(ladder: Ladder, comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """For each claim about this kind of ladder whether the runs agree, disagree or do not decide, and by what."""
    judged = [_judge(claim, ladder, comparisons) for claim in CLAIMS if claim.key == ladder.key]
    return [*judged, _judge_stability(ladder)] if ladder.key == "lr" else judged


def _judge(claim: Claim, ladder: Ladder, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    subject = ladder.rungs[claim.end]
    lines, votes = [], []
    for quantity, more in claim.signs:
        for each in comparisons:
            if each.quantity is not quantity or subject not in (each.lower, each.higher):
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


def _judge_stability(ladder: Ladder) -> tuple[str, ...]:
    highest = ladder.rungs[-1]
    n, failed = len(highest.runs), len(highest.failed)
    bounds = share_interval(failed, n)
    verdict = "the data disagree, it depends on the seed" if failed else "the data agree, no run failed"
    lines = [
        f"{failed} of {n} runs failed (95 % interval of the share {100 * bounds.low:.0f} to {100 * bounds.high:.0f} %): "
        f"{AGAINST if failed else FOR}."
    ]
    if highest.trained:
        lines.append(f"test accuracy of the trained runs: {TEST_ACCURACY.describe(highest.trained)} %.")
    return (
        f"Training is less stable at a high learning rate, but accuracies are still high ({highest.name}): {verdict}.",
        *lines,
    )

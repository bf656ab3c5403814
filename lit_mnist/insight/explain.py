"""Plain sentences about what was measured, each said only where its condition holds."""

from statistics import median

from lit_mnist.insight.branches import BranchTest, Effect
from lit_mnist.insight.failure import Failure


def explain(failure: Failure) -> list[str]:
    """Collects the sentences that may be said about a failure."""
    sentences = (
        what_happened(failure),
        what_showed(failure),
        which_image(failure),
        when_decided(failure),
        what_prevents(failure),
    )
    return [sentence for sentence in sentences if sentence]


def what_happened(failure: Failure) -> str | None:
    """Says what became of the loss; None if no step before the failure was measured."""
    if not failure.before:
        return None
    usual, worst = median(step.loss for step in failure.before), max(step.loss for step in failure.steps)
    end = "then stopped being finite" if failure.not_finite else "and did not come back from the loss of guessing"
    return (
        f"Up to step {failure.index} of the replayed window the mini-batch loss had a median of {usual:.2g}; "
        f"it then rose to {worst:.2g} {end}."
    )


def what_showed(failure: Failure) -> str | None:
    """Says what the worst step looked like, if its gradient was at least three times as long as usual."""
    tipping, norms = failure.tipping, [step.gradient_norm for step in failure.before]
    if not norms or tipping.gradient_norm < 3 * median(norms):
        return None
    stability = failure.lr * tipping.curvature / 2
    predicted = failure.lr * tipping.gradient_norm**2 * (stability - 1)
    return (
        f"At step {tipping.index + 1} the gradient was {tipping.gradient_norm / median(norms):.3g} times as long as usual; "
        f"lr x curvature / 2 along it was {stability:.2g} (1 is the edge of stability), which predicts "
        f"a change of the mini-batch loss by {predicted:+.2g}; it changed by {tipping.change:+.2g}."
    )


def which_image(failure: Failure) -> str | None:
    """Names the image whose gradient stood out in the worst step, if it had a quarter of all at least."""
    tipping = failure.tipping
    share = tipping.image_shares.max().item()
    if share < 0.25:
        return None
    return (
        f"One image of {len(tipping.image_shares)} had {share:.0%} of the summed gradient norms of step {tipping.index + 1}; "
        "whether training fails without it was not tried."
    )


def when_decided(failure: Failure) -> str | None:
    """Says how long before the failure small moves of the weights still changed nothing; None without two horizons."""
    if len(failure.twins) < 2:
        return None
    sure = []
    for twins in failure.twins:
        if twins.failed < twins.runs:
            break
        sure.append(twins)
    longest = failure.twins[-1]
    if not sure:
        first = failure.twins[0]
        return (
            f"With the weights moved by 1e-5 of their norm {_steps(first.steps_before)} before, {first.failed} of {first.runs} "
            "reruns failed: the failure hung on rounding until the end."
        )
    decided = (
        f"With the weights moved by 1e-5 of their norm {_steps(sure[-1].steps_before)} before, all {longest.runs} reruns failed"
    )
    if sure[-1] is longest:
        return f"{decided}: it was decided by then, and no rerun began earlier."
    open_ = failure.twins[len(sure)]
    return f"{decided}; {_steps(open_.steps_before)} before, {open_.failed} of {open_.runs} did."


def what_prevents(failure: Failure) -> str:
    """Says whether a cap on the gradient norm or double precision would have changed the outcome."""
    capped, double = failure.capped, failure.double
    precision = "failed too" if double.failed else "did not fail"
    return (
        f"With the gradient norm capped at {failure.max_norm:.2g} from {_steps(capped.steps_before)} before on, the same "
        f"mini-batches {'failed all the same' if capped.failed else 'did not end in failure'}; in float64 from "
        f"{_steps(double.steps_before)} before on, they {precision}{', not finite' if double.not_finite else ''}."
    )


def what_limits(test: BranchTest) -> str:
    """Says what holds a trained network back, with the effects that it is concluded from."""
    orders = len(test.losses["unchanged"])
    effects = "; ".join(f"{name}: {_effect(effect)}" for name, effect in test.effects.items())
    measured = f"training loss after {test.steps} steps, times that of unchanged steps, {orders} orders: {effects}"
    meaning = {
        "noise-limited": "Training is noise-limited: shorter steps and larger batches both lower the loss",
        "step-limited": "Training is step-limited: shorter steps leave the loss higher, longer ones lower it",
        "undecided": "Neither noise nor step length alone limits training",
    }
    return f"{meaning[test.verdict]} ({measured})."


def _effect(effect: Effect) -> str:
    return f"{effect.mean:.2f} ({effect.low:.2f} to {effect.high:.2f})" if effect.mean > 0 else "a branch failed"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"

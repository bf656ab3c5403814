"""Plain sentences about what was measured, each said only where its condition holds."""

import math
from collections.abc import Sequence
from statistics import median

from lit_mnist.insight.branches import BranchTest, Effect
from lit_mnist.insight.failure import Failure, Rerun, Reruns
from lit_mnist.record.result import RISEN, Result

STANDS_OUT = 3  # times the usual gradient norm
BLAMED = 0.25  # of the summed gradient norms of a mini-batch


def failure_sentences(failure: Failure, reruns: Reruns, first_step: int, classes: Sequence[str]) -> list[str]:
    """Collects what may be said about a failure.

    Args:
        failure, reruns: What was measured.
        first_step: SGD steps of the run before the replayed window.
        classes: Names of the classes, by label.
    """
    said = (
        what_happened(failure, first_step),
        what_showed(failure, first_step),
        which_image(failure, reruns, first_step, classes),
        when_decided(reruns),
        what_prevents(failure, reruns),
    )
    return [sentence for sentence in said if sentence]


def what_happened(failure: Failure, first_step: int) -> str:
    """Says what became of the loss."""
    before, at = failure.before, f"step {first_step + failure.index + 1:,}"
    ended = failure.not_finite is not None and f"at step {first_step + failure.not_finite + 1:,} it became infinite or NaN"
    high = f"{RISEN:.0%} of".replace("%", " %") if failure.level == RISEN else "twice"
    rose = f"it was at least {high} the loss of guessing ({failure.chance:.2f})"
    if not before:
        start = rose.replace("it was", "the mini-batch loss was")
        return f"From the first step on, {start}" + (f", and {ended}." if ended else ", for 100 steps and more.")
    typical = _number(median(step.loss for step in before))
    usual = f"In the {_steps(len(before)).removeprefix('1 ')} before {at}, the mini-batch loss had a median of {typical}"
    if failure.not_finite == failure.index:
        return f"{usual}; {ended}."
    return f"{usual}; from then on {rose}" + (f", and {ended}." if ended else ", for 100 steps and more.")


def what_showed(failure: Failure, first_step: int) -> str | None:
    """Says what the most harmful step looked like; None if no step was measured before the failure."""
    tipping, before = failure.tipping, failure.before
    if not before:
        return None
    times = tipping.gradient_norm / max(median(step.gradient_norm for step in before), 1e-30)
    place = f"step {first_step + tipping.index + 1:,}"
    became = f"rose by {_number(tipping.change)}" if math.isfinite(tipping.change) else "became infinite or NaN"
    if times < STANDS_OUT:
        return (
            f"No step stood out by its gradient: that of {place}, which did its own mini-batch the most harm, was "
            f"{_number(times)} times as long as usual, and the loss of that mini-batch {became}."
        )
    stability = failure.lr * tipping.curvature / 2
    predicted = failure.lr * tipping.gradient_norm**2 * (stability - 1)
    return (
        f"At {place} the gradient was {_number(times)} times as long as usual, and lr x curvature / 2 along it was "
        f"{_number(stability)} (above 1, a step overshoots): to second order, the loss of that mini-batch should have "
        f"{'risen' if predicted > 0 else 'fallen'} by {_number(abs(predicted))}; it {became}."
    )


def which_image(failure: Failure, reruns: Reruns, first_step: int, classes: Sequence[str]) -> str | None:
    """Says if an image is to blame for the most harmful step; None for mini-batches of one image."""
    tipping = failure.tipping
    place, count = int(tipping.image_shares.argmax()), len(tipping.labels)
    if count == 1:
        return None
    label, taken = (classes[int(each[place])] for each in (tipping.labels, tipping.predictions))
    kind = f"class {label}, taken for {taken}" if label != taken else f"class {label}, recognised"
    share = f"{tipping.image_shares[place]:.0%} of the summed gradient norms".replace("%", " %")
    stood = "One image stood out" if tipping.image_shares[place] >= BLAMED else "No image stood out"
    verdict = {
        (0, 1): "without that image the run does not fail, and without the one of the smallest gradient it does",
        (0, 0): "without that image the run does not fail, but neither does it without the one of the smallest gradient",
        (1, 1): "the run fails without that image too, as it does without the one of the smallest gradient",
        (1, 0): "the run fails without that image too, but not without the one of the smallest gradient",
    }[reruns.without_largest.failed, reruns.without_smallest.failed]
    return (
        f"{stood} among the {count} of step {first_step + tipping.index + 1:,}: the one with the largest gradient ({kind}) had "
        f"{share}; {verdict}."
    )


def when_decided(reruns: Reruns) -> str:
    """Says how long before the failure small moves of the weights still changed nothing."""
    decided, first = reruns.decided, reruns.twins[0]
    if decided is None:
        return (
            f"With the weights moved by 1e-5 of their norm {_when(first)}, {first.failed} of {first.runs} reruns failed: "
            "the failure hung on rounding until the end."
        )
    fate = f"With the weights moved by 1e-5 of their norm {_when(decided)}, all {decided.runs} reruns failed"
    if decided is reruns.twins[-1]:
        return f"{fate}: the failure did not hang on rounding from there on."
    open_ = reruns.twins[reruns.twins.index(decided) + 1]
    return (
        f"{fate}, and {open_.failed} of {open_.runs} with the weights moved {_when(open_)}: "
        f"the failure ceased to hang on rounding about {_steps(decided.steps_before)} before it showed."
    )


def what_prevents(failure: Failure, reruns: Reruns) -> str:
    """Says if a cap on the gradient norm, or double precision, would have changed the outcome."""
    cap = "fails all the same" if reruns.capped.failed else "does not fail"
    precision = "fails too" if reruns.double.failed else "does not fail"
    end = ", with a loss that becomes infinite or NaN" if reruns.double.not_finite else ""
    doubt = "" if reruns.decided else "; but some reruns with moved weights did not fail from there either"
    start = _when(reruns.capped).removeprefix("at ")
    return (
        f"Rerun from {start}, with the gradient norm capped at {_number(failure.max_norm)} (twice its median), "
        f"training {cap}; rerun in float64, it {precision}{end}{doubt}."
    )


def branch_sentences(test: BranchTest, result: Result) -> list[str]:
    """Collects what a branch test says about a run that did not fail."""
    orders = len(test.losses["unchanged"])
    shorter, longer, quieter = (_effect(test.effects[name], orders) for name in ("lr / 8", "lr x 2", "batch x 8"))
    meaning = {
        "noise-limited": "Training is noise-limited: shorter steps and larger mini-batches both lower the loss.",
        "step-limited": "Training is step-limited: shorter steps leave the loss higher, and longer ones lower it.",
        "undecided": "The test does not decide what limits training, the noise of its steps or their length.",
    }
    return [
        f"After {result.epochs} epochs at learning rate {result.lr:g} and batch size {result.batch_size}, the training loss "
        f"was {result.final_train_loss:.2g}; from there, {orders} orders of the images were tried for {test.steps} steps each.",
        f"At an eighth of the learning rate, the loss over the training images ended {shorter} after unchanged steps.",
        f"At twice the learning rate, it ended {longer} after unchanged steps.",
        f"With mini-batches eight times as large, and so eight times as many images, it ended {quieter} after unchanged steps.",
        meaning[test.verdict],
    ]


def _effect(effect: Effect, orders: int) -> str:
    if not effect.mean > 0:
        failed = sum(not math.isfinite(ratio) for ratio in effect.ratios)
        return f"infinite or NaN in {failed} of {orders} orders, so that it cannot be compared with that"
    return f"{effect.mean:.2f} times (95 % interval {effect.low:.2f} to {effect.high:.2f}) as high as"


def _when(rerun: Rerun) -> str:
    return f"{_steps(rerun.steps_before)} before" if rerun.steps_before else "at the start"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _number(value: float) -> str:
    """Writes two or three digits that count: 0.16, 2.6, 180, 1,100, 2.4e16."""
    if abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{float(f'{value:.2g}'):,.0f}" if abs(value) < 1e6 else f"{value:.1e}".replace("e+", "e")

"""Plain sentences about what was measured, each said only where its condition holds."""

import math
from collections.abc import Sequence
from statistics import median

from lit_mnist.insight.branches import Branch
from lit_mnist.insight.failure import Failure, Rerun, Reruns
from lit_mnist.record.result import RISEN, Result

STANDS_OUT = 3  # times the usual gradient norm
BLAMED = 0.25  # of the summed gradient norms of a mini-batch


def failure_sentences(failure: Failure, reruns: Reruns, classes: Sequence[str]) -> list[str]:
    """Collects what may be said about a failure; `classes` are the names of the classes, by label."""
    said = (
        what_happened(failure),
        what_showed(failure),
        which_image(failure, reruns, classes),
        when_decided(reruns),
        what_prevents(failure, reruns),
    )
    return [sentence for sentence in said if sentence]


def what_happened(failure: Failure) -> str:
    """Says what became of the loss."""
    high = f"{100 * RISEN:.0f} % of" if failure.level == RISEN else "twice"
    rose = f"was at least {high} the loss of guessing ({failure.chance:.2f})"
    ending = ", for 100 steps and more."
    if failure.not_finite is not None:
        ending = f", and at {failure.name(failure.not_finite)} it became infinite or NaN."
    if not failure.before:
        return f"From the first step on, the mini-batch loss {rose}{ending}"
    count, typical = len(failure.before), _number(median(step.loss for step in failure.before))
    steps = "step" if count == 1 else f"{count} steps"
    usual = f"In the {steps} before {failure.name(failure.index)}, the mini-batch loss had a median of {typical}; "
    return usual + (ending.removeprefix(", and ") if failure.not_finite == failure.index else f"from then on it {rose}{ending}")


def what_showed(failure: Failure) -> str:
    """Says what the most harmful step looked like; "" if no step was measured before the failure."""
    if not failure.before:
        return ""
    tipping, lr, place = failure.tipping, failure.window.lr, failure.name(failure.tipping.index)
    times = tipping.gradient_norm / max(median(step.gradient_norm for step in failure.before), 1e-30)
    became = f"rose by {_number(tipping.change)}" if math.isfinite(tipping.change) else "became infinite or NaN"
    if times < STANDS_OUT:
        return (
            f"No step stood out by its gradient: that of {place}, which did its own mini-batch the most harm, was "
            f"{_number(times)} times as long as usual, and the loss of that mini-batch {became}."
        )
    stability = lr * tipping.curvature / 2
    predicted = lr * tipping.gradient_norm**2 * (stability - 1)
    return (
        f"At {place} the gradient was {_number(times)} times as long as usual, and lr x curvature / 2 along it was "
        f"{_number(stability)} (above 1, a step overshoots): to second order, the loss of that mini-batch should have "
        f"{'risen' if predicted > 0 else 'fallen'} by {_number(abs(predicted))}; it {became}."
    )


def which_image(failure: Failure, reruns: Reruns, classes: Sequence[str]) -> str:
    """Says if an image is to blame for the most harmful step; "" for mini-batches of one image."""
    tipping, count = failure.tipping, len(failure.tipping.labels)
    if count == 1:
        return ""
    place = int(tipping.image_shares.argmax())
    label, taken = (classes[int(each[place])] for each in (tipping.labels, tipping.predictions))
    kind = f"class {label}, taken for {taken}" if label != taken else f"class {label}, recognised"
    share = float(tipping.image_shares[place])
    verdict = {
        (0, 1): "without that image the run does not fail, and without the one of the smallest gradient it does",
        (0, 0): "without that image the run does not fail, but neither does it without the one of the smallest gradient",
        (1, 1): "the run fails without that image too, as it does without the one of the smallest gradient",
        (1, 0): "the run fails without that image too, but not without the one of the smallest gradient",
    }[reruns.without_largest.failed, reruns.without_smallest.failed]
    stood = "One image stood out" if share >= BLAMED else "No image stood out"
    return (
        f"{stood} among the {count} of {failure.name(tipping.index)}: the one with the largest gradient ({kind}) had "
        f"{100 * share:.0f} % of the summed gradient norms; {verdict}."
    )


def when_decided(reruns: Reruns) -> str:
    """Says how long before the failure small moves of the weights still changed nothing."""
    decided, first = reruns.decided, reruns.twins[0]
    if decided is None:
        return (
            f"With the weights moved by 1e-5 of their norm {_before(first)}, {first.failed} of {first.runs} reruns failed: "
            "the failure hung on rounding until the end."
        )
    fate = f"With the weights moved by 1e-5 of their norm {_before(decided)}, all {decided.runs} reruns failed"
    if decided is reruns.twins[-1]:
        return f"{fate}: the failure did not hang on rounding from there on."
    open_ = reruns.twins[reruns.twins.index(decided) + 1]
    return (
        f"{fate}, and {open_.failed} of {open_.runs} with the weights moved {_before(open_)}: "
        f"the failure ceased to hang on rounding about {_steps(decided)} before it showed."
    )


def what_prevents(failure: Failure, reruns: Reruns) -> str:
    """Says if a cap on the gradient norm, or double precision, would have changed the outcome."""
    cap = "fails all the same" if reruns.capped.failed else "does not fail"
    precision = "fails too" if reruns.double.failed else "does not fail"
    end = ", with a loss that becomes infinite or NaN" if reruns.double.not_finite else ""
    doubt = "" if reruns.decided else "; but some reruns with moved weights did not fail from there either"
    start = _before(reruns.capped).removeprefix("at ")
    return (
        f"Rerun from {start}, with the gradient norm capped at {_number(failure.max_norm)} (twice its median), "
        f"training {cap}; rerun in float64, it {precision}{end}{doubt}."
    )


def branch_sentences(branches: dict[str, Branch], steps: int, result: Result) -> list[str]:
    """Collects what branches of so many SGD steps say about a run that did not fail."""
    shorter, longer, quieter = (branches[name] for name in ("lr / 8", "lr x 2", "batch x 8"))
    return [
        f"After {result.epochs} epochs at learning rate {result.lr:g} and batch size {result.batch_size}, the training loss "
        f"was {result.final_train_loss:.2g}; from there, {len(shorter.ratios)} orders of the images were tried for "
        f"{steps} steps each.",
        f"At an eighth of the learning rate, the loss over the training images ended {_compare(shorter)} unchanged steps.",
        f"At twice the learning rate, it ended {_compare(longer)} unchanged steps.",
        "With mini-batches eight times as large, and so eight times as many images, it ended "
        f"{_compare(quieter)} unchanged steps.",
        what_limits(branches),
    ]


def what_limits(branches: dict[str, Branch]) -> str:
    """Says what holds training back, where the intervals exclude no effect."""
    shorter, longer, quieter = (branches[name] for name in ("lr / 8", "lr x 2", "batch x 8"))
    if shorter.high < 1 and quieter.high < 1:
        return "Training is noise-limited: shorter steps and larger mini-batches both lower the loss."
    if shorter.low > 1 and longer.high < 1:
        return "Training is step-limited: shorter steps leave the loss higher, and longer ones lower it."
    return "The test does not decide what limits training, the noise of its steps or their length."


def _compare(branch: Branch) -> str:
    if branch.mean > 0:
        return f"{branch.mean:.2f} times (95 % interval {branch.low:.2f} to {branch.high:.2f}) as high as after"
    failed = sum(not math.isfinite(ratio) for ratio in branch.ratios)
    return f"infinite or NaN in {failed} of {len(branch.ratios)} orders, so that it cannot be compared with that after"


def _before(rerun: Rerun) -> str:
    return f"{_steps(rerun)} before" if rerun.steps_before else "at the start"


def _steps(rerun: Rerun) -> str:
    return "1 step" if rerun.steps_before == 1 else f"{rerun.steps_before} steps"


def _number(value: float) -> str:
    """Writes two or three digits that count: 0.16, 2.6, 180, 1,100, 2.4e16."""
    if abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{float(f'{value:.2g}'):,.0f}" if abs(value) < 1e6 else f"{value:.1e}".replace("e+", "e")

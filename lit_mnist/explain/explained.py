"""A run explained: replayed and measured, or tested in branches; the sentences, and the page that shows what they rest on."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lit_mnist.explain import MARK
from lit_mnist.explain.page import branch_page, failure_page
from lit_mnist.explain.recorded import Recorded, cross_entropy, read_run
from lit_mnist.explain.sentences import branch_sentences, failure_sentences
from lit_mnist.insight.branches import branch_test
from lit_mnist.insight.failure import JUDGED_AFTER, explain_failure
from lit_mnist.insight.replay import sgd
from lit_mnist.record.printable import one_line
from lit_mnist.record.provenance import machine
from lit_mnist.record.result import calm_until, guessing
from lit_mnist.report.render import render_html

FIXED = 1000  # training images on which units are counted
MOST_STEPS = 200_000  # of a replay; three epochs of single images
BRANCH_STEPS, BRANCH_IMAGES = 200, 25_600  # of each unchanged branch, at most: 80 seconds of one core


def explain_run(folder: Path) -> tuple[list[str], str]:
    """Explains the run in a folder, which is only read; it takes one thread, and at most two minutes for the default network.

    Returns:
        What is to be printed, and the page as HTML; "" where the replay did not fail, so that there is nothing to show.

    Raises:
        ValueError: The run cannot be explained.
    """
    run = read_run(folder)
    with _one_thread():
        return _explain_failure(run, folder) if run.result.failed else _test_branches(run, folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _explain_failure(run: Recorded, folder: Path) -> tuple[list[str], str]:
    result = run.result
    steps = _last_step(run) - run.step + JUDGED_AFTER
    if steps > MOST_STEPS:
        name = one_line(str(folder))
        raise ValueError(
            f"{name}: it failed {steps:,} steps after its last checkpoint, too many to replay; train the run again."
        )
    window = run.batches(steps)
    losses = sgd(copy.deepcopy(run.network), cross_entropy, window, result.lr)
    fixed = run.loader.images[:FIXED], run.loader.labels[:FIXED]
    failure = explain_failure(run.network, cross_entropy, window, losses, result.lr, guessing(result.classes), fixed)
    replay = describe_replay(run, run.differing_step(losses))
    if failure is None:
        return [f"{replay} It does not fail within {len(losses):,} steps, so that there is nothing to explain here."], ""
    said = failure_sentences(failure, run.step, run.classes)
    page = failure_page(run, failure, folder, said, replay, window[failure.tipping.index][0])
    return [replay, *said], render_html(page, MARK)


def _last_step(run: Recorded) -> int:
    """The end of the epoch in which the loss rose."""
    result, each = run.result, run.result.steps_per_epoch
    calm = calm_until(result.train_loss_by_block, result.classes)
    risen = next((end for end, _ in result.train_loss_by_block if end > calm), 0)
    rose_by = next((end for end, _ in result.train_loss_by_block if end > risen), result.steps)
    return -(-max(rose_by, calm + 1) // each) * each


def describe_replay(run: Recorded, differs: int | None) -> str:
    """Says where the replay begins, and if it has the bits of the run."""
    result = run.result
    start = f"from the end of epoch {run.step // result.steps_per_epoch}" if run.step else "from the initial weights"
    if differs is None:
        return f"Replayed {start}: every recorded block has the run's loss to the last bit."
    reasons = (
        [f"the run's engine was {result.hyperparameters['engine']}"] if result.hyperparameters.get("engine") != "exact" else []
    )
    reasons += [f"the run's machine was {result.machine.get('cpu')}"] if result.machine.get("cpu") != machine()["cpu"] else []
    reasons += [f"the run had {result.threads} threads"] if result.threads != 1 else []
    why = f" ({', '.join(reasons)})" if reasons else ""
    return f"Replayed {start}: the losses differ from the run's by step {differs:,}{why}, so that this is another run like it."


def _test_branches(run: Recorded, folder: Path) -> tuple[list[str], str]:
    result = run.result
    steps = max(1, min(BRANCH_STEPS, BRANCH_IMAGES // result.batch_size))
    test = branch_test(run.network, cross_entropy, run.loader.images, run.loader.labels, result.lr, result.batch_size, steps)
    said = branch_sentences(test, result)
    return said, render_html(branch_page(run, test, folder, said), MARK)

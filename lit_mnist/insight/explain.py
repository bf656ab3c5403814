"""A run explained: replayed and measured, or tested in branches; the sentences, and the page that shows what they rest on."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from lit_mnist.insight import MAKER_OF_PAGE
from lit_mnist.insight.branches import branch_test
from lit_mnist.insight.failure import JUDGED_AFTER, find_failure, rerun_changed
from lit_mnist.insight.page import branch_page, failure_page
from lit_mnist.insight.recorded import Recorded, read_run
from lit_mnist.insight.sentences import branch_sentences, failure_sentences
from lit_mnist.record.printable import one_line
from lit_mnist.record.provenance import machine
from lit_mnist.record.result import calm_until, guessing
from lit_mnist.report.render import render_html

MOST_STEPS = 200_000  # of a replay; three epochs of single images
BRANCH_STEPS, BRANCH_IMAGES = 200, 25_600  # of each unchanged branch, at most: 80 seconds of one core


def explain_run(folder: Path) -> tuple[list[str], str]:
    """Explains the run in a folder, which is only read; it takes one thread, and at most two minutes for the default network.

    Returns:
        What is to be printed, and the page as HTML; "" where the replay did not fail, so that there is nothing to show.

    Raises:
        ValueError: The run cannot be explained.
    """
    run, threads = read_run(folder), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _explain_failure(run) if run.result.failed else _test_branches(run)
    finally:
        torch.set_num_threads(threads)


def _explain_failure(run: Recorded) -> tuple[list[str], str]:
    steps = _last_step(run) - run.step + JUDGED_AFTER
    if steps > MOST_STEPS:
        name = one_line(str(run.folder))
        raise ValueError(
            f"{name}: it failed {steps:,} steps after its last checkpoint, too many to replay; train the run again."
        )
    window = run.window(steps)
    losses = window.train(copy.deepcopy(run.network))
    replay = describe_replay(run, losses)
    failure = find_failure(run.network, window, losses, guessing(run.result.classes))
    if failure is None:
        return [f"{replay} It does not fail within {len(losses):,} steps, so that there is nothing to explain here."], ""
    reruns = rerun_changed(run.network, failure)
    said = failure_sentences(failure, reruns, run.classes)
    return [replay, *said], render_html(failure_page(run, failure, reruns, said, replay), MAKER_OF_PAGE)


def _last_step(run: Recorded) -> int:
    """Returns the last step of the epoch in which the loss rose."""
    ends, each = [end for end, _ in run.result.train_loss_by_block], run.result.steps_per_epoch
    calm = calm_until(run.result.train_loss_by_block, run.result.classes)
    rose_by = [end for end in ends if end > calm][1:2] or [max(1, run.result.steps)]  # the block before may be calm to its end
    return -(-rose_by[0] // each) * each


def describe_replay(run: Recorded, losses: Sequence[float]) -> str:
    """Says where the replay begins, and if its losses have the bits of the run."""
    result, differs = run.result, run.differing_step(losses)
    start = f"from the end of epoch {run.step // result.steps_per_epoch}" if run.step else "from the initial weights"
    if differs is None:
        return f"Replayed {start}: every recorded block has the run's loss to the last bit."
    engine, cpu = result.hyperparameters.get("engine"), result.machine.get("cpu")
    reasons = [f"the run's engine was {engine}"] if engine != "exact" else []
    reasons += [f"the run's machine was {cpu}"] if cpu != machine()["cpu"] else []
    reasons += [f"the run had {result.threads} threads"] if result.threads != 1 else []
    why = f" ({', '.join(reasons)})" if reasons else ""
    return f"Replayed {start}: the losses differ from the run's by step {differs:,}{why}, so that this is another run like it."


def _test_branches(run: Recorded) -> tuple[list[str], str]:
    batch_size = run.result.batch_size
    steps = max(1, min(BRANCH_STEPS, BRANCH_IMAGES // batch_size))
    branches = branch_test(run.network, run.window(0), batch_size, steps)
    said = branch_sentences(branches, steps, run.result)
    return said, render_html(branch_page(run, branches, steps, said), MAKER_OF_PAGE)

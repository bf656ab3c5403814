"""What is tested, what is said of it, and what the published analysis is held against."""

import re
import shutil
from pathlib import Path

import pytest
from invented_runs import write_events, write_run, write_study
from report_text import section

from lit_mnist.report import main
from lit_mnist.report.quantity import EARLY_LOSS
from lit_mnist.report.records import read_runs


def test_equal_runs_show_no_difference(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for lr in (0.1, 0.2):
            write_run(tmp_path / f"{lr} {seed}", f"rate {lr}", seed, [0.5, 0.2 + seed / 100], lr=lr)
    assert main([str(tmp_path)]) == 0
    text = section((tmp_path / "report.md").read_text(), "What the learning rate does")
    assert ": no difference seen." in text
    assert "differs." not in text
    assert "published" not in text


def test_failures_speak_for_instability_and_against_high_accuracies(tmp_path: Path) -> None:
    for seed in range(1, 13):
        losses = [1 / epoch + seed / 100 for epoch in range(1, 21)]
        for lr in (0.01, 0.1):
            write_run(tmp_path / f"{lr} {seed}", f"rate {lr}", seed, losses, lr=lr)
        write_run(tmp_path / f"1 {seed}", "rate 1", seed, [2.3] * 20, "collapsed", lr=1.0, test_accuracy=0.1)
    assert main([str(tmp_path)]) == 0
    text = section((tmp_path / "report.md").read_text(), "What the learning rate does")
    assert "Training is less stable at a high learning rate (rate 1): the data agree." in text
    assert "share of failed runs, rate 1 against rate 0.1: 12 of 12 against 0 of 12: for it." in text
    assert "Accuracies at a high learning rate are still high (rate 1): the data disagree." in text


def test_what_was_said_of_a_published_run_is_not_held_against_another(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=2)
    for name in ("lr1", "lr0.01", "batch8"):
        shutil.rmtree(tmp_path / name)
    for seed in (1, 2):
        losses = [3.0 / epoch + seed / 1000 for epoch in range(1, 21)]
        write_run(tmp_path / f"lr3/{seed}", "lr3", seed, losses, lr=3.0)
        write_run(tmp_path / f"batch512/{seed}", "batch512", seed, losses, batch_size=512)
    assert main([str(tmp_path)]) == 0
    assert "What the published analysis said" not in section(
        (tmp_path / "report.md").read_text(), "What the learning rate does"
    )
    text = section((tmp_path / "report.md").read_text(), "What the batch size does")
    assert "Small batches" not in text
    assert "Large batches are smooth (batch128): " in text
    assert ", batch128 against lr0.1: " in text.split("### What the published analysis said")[1]
    assert "batch512" not in text.split("### What the published analysis said")[1]


def test_what_does_not_scatter_is_not_tested_and_counts_for_no_correction(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for lr in (0.1, 0.2):
            write_run(tmp_path / f"{lr} {seed}", f"rate {lr}", seed, [0.5, 0.2 + seed / 100 + lr / seed], lr=lr, events=False)
    assert main([str(tmp_path)]) == 1  # no event files
    text = section((tmp_path / "report.md").read_text(), "What the learning rate does")
    assert "rate 0.2 against rate 0.1: 0.0000 nats (no scatter): not tested." in text  # rises of the loss
    assert "rate 0.2 against rate 0.1: 1.00 times (no scatter): not tested." in text  # seconds
    assert "| rate 0.2 against rate 0.1 | 0.0000 nats<br>(no scatter) | – | – | – | – | not tested |" in text
    tests = text.count("paired t<br>")
    assert tests == 4  # final loss, rises in number, test accuracy and its gap, in whole images
    assert f"for the {tests} tests of this section" in text
    assert "uncorrected" in text
    assert "geometric means" in text


def test_runs_that_do_not_reach_a_loss_are_not_left_out_of_a_test_of_how_soon_it_is_reached(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", "slow", seed, [0.5, 0.3, 0.09 if seed < 3 else 0.11], lr=0.01)
        write_run(tmp_path / f"b{seed}", "fast", seed, [0.3, 0.09, 0.05], lr=0.1)
    assert main([str(tmp_path)]) == 0
    text = section((tmp_path / "report.md").read_text(), "What the learning rate does")
    assert "Epochs to training loss 0.1: 3.0 ± 0.0 in 2 of 3 runs (slow), 2.0 ± 0.0 (fast)." in text
    assert "  - fast against slow: not all runs have a value: not tested." in text
    assert "| training loss 0.1 | epoch 3.0 (3–3)<br>5,625 steps<br>12.0 s<br>2 of 3 trained runs |" in text


def test_the_power_is_that_of_the_paired_tests_which_there_are(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=6)  # two of lr1's runs are trained: too few to have the seeds of the others
    for seed in range(7, 12):
        losses = [2.0 / epoch + seed / 1000 for epoch in range(1, 21)]
        write_run(tmp_path / f"lr1/seed_{seed}", "lr1", seed, losses, lr=1.0)
    assert main([str(tmp_path)]) == 0
    text = section((tmp_path / "report.md").read_text(), "What the learning rate does")
    assert "Welch t<br>n = 7 and 6" in text
    assert re.findall(r"sd with (\d+) pairs", text) == ["6"]


@pytest.mark.parametrize(
    ("block", "every", "known"), [(32, 1, True), (128, 1, True), (128, 100, True), (96, 1, False), (32, 64, False)]
)
def test_the_early_loss_is_that_of_the_first_4096_images_or_none(block: int, every: int, known: bool, tmp_path: Path) -> None:
    write_run(tmp_path / "run", events=False, trainer={"log_every_n_steps": every}, data={"steps_per_block": block})
    logged = [end for end in range(block, 1876, block) if end // every != (end - block) // every]
    write_events(
        tmp_path / "run",
        {"train/loss": [(1, 0.5), (2, 0.2), (3, 0.1)], "train/loss_step": [(end, 3 - end / 200) for end in logged]},
    )
    (run,), _ = read_runs(tmp_path)
    inside = [3 - end / 200 for end in range(block, 129, block)]
    assert EARLY_LOSS.of(run) == (pytest.approx(sum(inside) / len(inside)) if known else None)
    assert EARLY_LOSS.label == "training loss of the first 4,096 images"


def test_a_straight_line_through_two_points_has_no_misfit_to_tell(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=2)
    assert main([str(tmp_path)]) == 0
    assert "(largest misfit" in (tmp_path / "report.md").read_text()
    shutil.rmtree(tmp_path / "batch8")
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "Least squares" in text
    assert "misfit" not in text

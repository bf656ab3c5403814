"""Sentences of the report: there if the runs support them, absent if they do not."""

from pathlib import Path

import numpy as np
import pytest
from invented_runs import write_run, write_runs, write_study
from report_text import first_screen
from scipy import stats

from lit_mnist.report import write_report
from lit_mnist.report.experiments import find_sweeps, group_runs
from lit_mnist.report.findings import answers, lead_sentences, section_sentences
from lit_mnist.report.load import read_folders


def sentences(folder: Path, axis: str = "lr") -> tuple[str, str]:
    """Those of the first screen, and those of the section."""
    configurations, _ = group_runs(read_folders([folder])[0])
    sweep = find_sweeps(configurations, axis)[0]  # type: ignore[arg-type]
    return " ".join(lead_sentences(sweep)), " ".join(section_sentences(sweep))


def test_what_differs_is_said_with_its_direction_and_interval_with_three_seeds_too(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.1, 0.11, 0.09], lr=0.01, accuracies=[0.95, 0.951, 0.949])
    write_runs(tmp_path, "high", [0.01, 0.011, 0.009], lr=0.1, accuracies=[0.98, 0.981, 0.979])
    lead, section = sentences(tmp_path)
    assert "Final training loss is lowest at 0.1: 0.0100. It is 10.0 times as high at 0.01 (7.9" in lead
    assert "Test accuracy is highest at 0.1: 98.00 %. It is 3.00 points lower at 0.01 (2.77 to 3.23)." in lead
    assert "Final training loss falls by a factor of 10.0 (7.9" in section
    assert "Test accuracy rises by 3.00 points (2.77 to 3.23) from 0.01 to 0.1" in section
    assert "no clear difference" not in lead


def test_a_ratio_has_the_interval_of_welch_of_the_logarithms_and_a_loss_of_0_has_one(tmp_path: Path) -> None:
    finals = {0.01: [0.1, 0.13, 0.09], 0.1: [0.01, 0.011, 0.009]}
    for lr, losses in finals.items():
        write_runs(tmp_path / "a", f"lr{lr}", losses, lr=lr)
    low, high = np.exp(stats.ttest_ind(*map(np.log, finals.values()), equal_var=False).confidence_interval())
    assert f"times as high at 0.01 ({low:.2f} to {high:.1f})" in sentences(tmp_path / "a")[0]
    write_runs(tmp_path / "b", "perfect", [0.0, 0.0], lr=0.1)
    write_runs(tmp_path / "b", "slow", [0.1, 0.1], lr=0.01)
    assert "lowest at 0.1: 0. It is 1.0e+11 times as high at 0.01" in sentences(tmp_path / "b")[0]


def test_the_answers_are_the_sentences_of_the_first_screen(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    write_report([tmp_path / "study"])
    screen = first_screen((tmp_path / "study" / "report.html").read_text())
    found = answers({run.path: run.result for run in read_folders([tmp_path / "study"])[0]})
    assert len(found) >= 5
    assert all(sentence in screen for sentence in found)
    write_run(tmp_path / "one")
    assert answers({run.path: run.result for run in read_folders([tmp_path / "one"])[0]}) == ["No run failed (0 of 1)."]


def test_a_level_that_ties_with_the_best_is_said_to_tie(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.1, 0.11, 0.09], lr=0.01)
    write_runs(tmp_path, "middle", [0.01, 0.011, 0.009], lr=0.1)
    write_runs(tmp_path, "high", [0.0105, 0.011, 0.009], lr=0.2)
    lead, _ = sentences(tmp_path)
    assert "lowest at 0.1 (0.0100) or at 0.2 (0.0105; 0.81 to 1.28 times). It is 10.0 times as high at 0.01 (" in lead
    assert ") as at 0.1." in lead


def test_of_two_statistics_the_one_that_is_compared_chooses_the_best(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.1, 0.1, 1e-9], lr=0.01)  # its mean logarithm is the lowest, its median is not
    write_runs(tmp_path, "high", [0.09, 0.09, 0.09], lr=0.1)
    assert "lowest at 0.01 (0.100) or at 0.1 (0.0900; " in sentences(tmp_path)[0]


def test_changes_in_one_direction_are_told_together(tmp_path: Path) -> None:
    for lr, loss in ((0.01, 0.4), (0.1, 0.2), (0.2, 0.1), (0.4, 0.3)):
        write_runs(tmp_path, f"lr{lr}", [loss, 1.01 * loss, 0.99 * loss], lr=lr)
    _, section = sentences(tmp_path)
    falls, rises = "falls by a factor of 4.00 (3.9", "rises by a factor of 3.00 (2.9"
    assert f"Final training loss {falls}" in section
    assert ") from 0.01 to 0.2 and " + rises in section


def test_a_change_without_an_interval_is_told_apart_from_one_that_is_not_seen(tmp_path: Path) -> None:
    for lr, losses in ((0.1, [0.1, 0.11, 0.12]), (0.2, [0.1, 0.11, 0.12]), (0.4, [0.5])):
        write_runs(tmp_path, f"lr{lr}", losses, lr=lr)
    _, section = sentences(tmp_path)
    assert "does not change beyond its uncertainty from 0.1 to 0.2 (" in section
    assert "goes from 0.110 to 0.500 from 0.2 to 0.4 (too few runs for an interval)" in section


def test_levels_with_the_same_share_of_failures_are_counted_together(tmp_path: Path) -> None:
    for lr, fails in ((0.01, 0), (0.1, 0), (1.0, 8)):
        write_runs(tmp_path, f"lr{lr}", [0.1 + 0.001 * index for index in range(10 - fails)], fails, lr=lr)
    lead, _ = sentences(tmp_path)
    assert "More runs fail as the learning rate increases: 0 of 20 from 0.01 to 0.1 and 8 of 10 at 1 (" in lead
    assert "trend p < 0.001." in lead


def test_the_direction_turns_round_with_the_runs(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.01, 0.011, 0.009], lr=0.01)
    write_runs(tmp_path, "high", [0.1, 0.11, 0.09], lr=0.1)
    lead, section = sentences(tmp_path)
    assert "Final training loss is lowest at 0.01" in lead
    assert "Final training loss rises by a factor of 10.0" in section


def test_what_does_not_differ_is_said_not_to(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.1, 0.12, 0.09], lr=0.01, accuracies=[0.95, 0.96, 0.97])
    write_runs(tmp_path, "high", [0.11, 0.1, 0.09], lr=0.1, accuracies=[0.96, 0.95, 0.975])
    lead, section = sentences(tmp_path)
    assert "lowest at 0.1 (0.100) or at 0.01 (0.100; 0.76 to 1.39 times): too close to tell." in lead
    assert "does not change beyond its uncertainty from 0.01 to 0.1 (" in section
    for word in ("falls", "rises", "as high", "lower at"):
        assert word not in lead + section


@pytest.mark.parametrize(("failed", "n"), [((0, 9), (10, 20)), ((1, 9), (20, 20))])
def test_a_share_of_failures_that_rises_is_stated(tmp_path: Path, failed: tuple[int, int], n: tuple[int, int]) -> None:
    for lr, fails, runs in zip((0.1, 1.0), failed, n, strict=True):
        write_runs(tmp_path, f"lr{lr}", [0.1 + 0.001 * index for index in range(runs - fails)], fails, lr=lr)
    lead, _ = sentences(tmp_path)
    assert f"More runs fail as the learning rate increases: {failed[0]} of {n[0]} at 0.1" in lead
    assert "9 of 20 at 1 (26 to 66 %); trend p = 0.0" in lead
    assert "; 11 of 20 runs" in lead  # nothing is said of survivors without their number


def test_a_share_of_failures_that_falls_is_stated(tmp_path: Path) -> None:
    write_runs(tmp_path, "small", [0.1, 0.11], 10, batch_size=8)
    write_runs(tmp_path, "large", [0.1 + 0.01 * index for index in range(12)], batch_size=128)
    assert (
        "Fewer runs fail as the batch size increases: 10 of 12 at 8 (55 to 95 %) and 0 of 12 at 128"
        in sentences(tmp_path, "batch_size")[0]
    )


def test_too_few_runs_are_said_to_be_too_few_and_many_are_not(tmp_path: Path) -> None:
    for name, n, fails in (("few", 3, 2), ("many", 12, 4)):
        write_runs(tmp_path / name, "low", [0.1] * (n - 1), 1, lr=0.01)
        write_runs(tmp_path / name, "high", [0.1] * (n - fails), fails, lr=0.1)
    few, many = (sentences(tmp_path / name)[0] for name in ("few", "many"))
    assert "too few runs to tell whether the learning rate matters" in few
    assert "no steady trend" in many
    assert "too few" not in many
    assert "More runs" not in few + many


def test_no_failure_and_nothing_but_failures_are_both_said(tmp_path: Path) -> None:
    write_runs(tmp_path / "none", "low", [0.1, 0.1], lr=0.01)
    write_runs(tmp_path / "none", "high", [0.1, 0.1], lr=0.1)
    assert "No run failed at any learning rate (0 of 4)." in sentences(tmp_path / "none")[1]
    write_runs(tmp_path / "all", "low", [], 2, lr=0.01)
    write_runs(tmp_path / "all", "high", [], 2, lr=0.1)
    lead, section = sentences(tmp_path / "all")
    assert "All 4 runs failed, whatever the learning rate." in lead
    assert "Final training loss" not in lead + section


def test_per_image_and_per_step_are_told_apart(tmp_path: Path) -> None:
    for batch_size, first in ((8, 0.2), (128, 0.6)):
        for seed in (1, 2, 3):
            losses = [first * (1 + 0.01 * seed), 0.1, 0.05, 0.04]
            write_run(tmp_path / f"{batch_size}" / f"{seed}", f"batch{batch_size}", seed, losses, batch_size=batch_size)
    lead, _ = sentences(tmp_path, "batch_size")
    assert "After one epoch (equal images), the training loss is 3.00 times as high at 128 as at 8 (" in lead
    assert "After 1,876 SGD steps, it is " in lead
    assert " times as high at 8 as at 128 (" in lead


def test_without_block_losses_nothing_is_said_of_equal_steps(tmp_path: Path) -> None:
    for batch_size in (8, 128):
        write_runs(tmp_path, f"batch{batch_size}", [0.1, 0.11 + batch_size / 1000], batch_size=batch_size, blocks=[])
    lead, _ = sentences(tmp_path, "batch_size")
    assert "SGD steps" not in lead
    assert "equal images" not in lead  # a difference within its interval


def test_single_runs_get_values_and_no_intervals(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=1)
    lead, section = sentences(tmp_path)
    assert "too few runs for an interval" in lead
    assert "(too few runs for an interval)" in section
    for word in ("no clear", "falls", "rises", "trend", " to 0."):
        assert word not in lead


def test_a_learning_run_counts_among_the_medians(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "slow" / f"{seed}", "slow", seed, [2.29, 2.25, 2.2], lr=0.001, test_accuracy=0.5)
        write_run(tmp_path / "fast" / f"{seed}", "fast", seed, [0.5, 0.4, 0.39 + seed / 1000], lr=0.1, test_accuracy=0.9)
    write_report([tmp_path])
    page = (tmp_path / "report.html").read_text()
    assert "2 still learning when they ended, none failed" in first_screen(page)
    assert "2.20" in page
    assert "No run failed" in page


def test_configurations_that_form_no_sweep_are_compared_without_one(tmp_path: Path) -> None:
    write_runs(tmp_path, "small", [0.1, 0.11, 0.12], hidden=[32])
    write_runs(tmp_path, "wide", [0.01, 0.011, 0.012], 1, hidden=[512, 256])
    write_report([tmp_path])
    screen = first_screen((tmp_path / "report.html").read_text())
    assert "Final training loss is lowest with wide: 0.0110; 3 of 4 runs. It is 10.0 times as high with small (" in screen
    assert "1 of 7 runs failed." in screen

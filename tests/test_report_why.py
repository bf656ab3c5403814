"""Section "Why": each sentence is there if the runs support it, and absent if they do not."""

import json
from pathlib import Path

import msgspec
import pytest
from invented_runs import write_run, write_runs
from report_text import prose, section
from scipy import stats

from lit_mnist.report import write_report
from lit_mnist.report.load import read_folders
from lit_mnist.report.why import readings

EPOCHS = [0.5, 1.0, 2.0, 4.0]


def measured(batch: float, active: float = 50.0, dead: float = 1.0) -> list[dict[str, float]]:
    """Measurements that say so from epoch 2 on, and 100 times as much before."""
    moments = []
    for epoch in EPOCHS:
        early = 1.0 if epoch >= 2 else 100.0
        moment = {
            "epoch": epoch,
            "step": 1875 * epoch,
            "lr_batch_sharpness_half": early * batch,
            "lr_sharpness_half": batch / 4,
        }
        shares = {
            "active_units_1": active / 100,
            "active_units_2": active / 100,
            "dead_units_1": 0.0,
            "dead_units_2": dead / 50,
        }
        moments.append(moment | shares)
    return moments


def write_measured(folder: Path, name: str, values: list[float], lr: float, active: float = 50.0, dead: float = 1.0) -> None:
    for seed, value in enumerate(values, 1):
        measurements = measured(value, active + seed, dead + 0.1 * seed)
        write_run(folder / name / f"seed_{seed}", name, seed, lr=lr, measurements=measurements)


def why(folder: Path) -> str:
    """The section as text; "" if there is none."""
    write_report([folder])
    markdown = (folder / "report.md").read_text()
    return section(markdown, "Why") if "## Why\n" in markdown else ""


def test_without_measurements_and_failures_there_is_no_such_section(tmp_path: Path) -> None:
    write_runs(tmp_path, "low", [0.1, 0.11, 0.09], lr=0.01)
    write_runs(tmp_path, "high", [0.2, 0.21, 0.19], lr=0.1)
    assert why(tmp_path) == ""
    assert "Hessian" not in (tmp_path / "report.md").read_text()


def test_the_place_relative_to_the_edge_is_the_median_of_three_runs_from_epoch_2_on(tmp_path: Path) -> None:
    write_measured(tmp_path, "low", [0.4, 0.5, 0.9], lr=0.01)
    write_measured(tmp_path, "few", [0.7, 0.7], lr=0.03)
    write_measured(tmp_path, "high", [0.8, 1.2, 1.3, 1.4], lr=0.1)
    write_run(
        tmp_path / "high" / "seed_9", "high", 9, [0.5, 0.4], diverged=True, max_epochs=4, lr=0.1, measurements=measured(50)
    )
    text = why(tmp_path)
    assert (
        "the median of learning rate × batch sharpness / 2 is below 1 with low (0.500; 0.400 to 0.900 in 3 runs), and on both "
        "sides of 1 with high (1.30; 0.800 to 50.0 in 5 runs, 1 failed)." in text
    )
    assert "With the sharpness of the whole training loss, it is 0.125 with low and 0.325 with high." in text
    assert "few" not in text.partition("From epoch")[2].partition("\n")[0]
    assert "with batch" not in text
    assert "mean over mini-batches of g'Hg / g'g" in prose((tmp_path / "report.html").read_text())


def test_what_was_measured_after_a_failure_does_not_count(tmp_path: Path) -> None:
    for seed, epoch in ((1, 1), (2, 1), (3, 3)):
        losses = [0.5] * epoch
        write_run(tmp_path / f"{seed}", "a", seed, losses, diverged=True, max_epochs=4, measurements=measured(0.8))
    assert "From epoch 2 on" not in why(tmp_path)  # one run lived that long


def test_what_was_measured_at_the_end_of_the_epoch_of_a_collapse_does_not_count(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", losses=[0.5, 0.3, 2.31, 2.31], measurements=[{"epoch": epoch, "loss": 1.0} for epoch in (2.0, 3.0, 4.0)]
    )
    (run,), _ = read_folders([tmp_path])
    assert readings(run, "loss") == [(2.0, 1.0)]


def test_the_fewest_and_most_active_and_dead_units_are_named_where_ranges_are_disjoint(tmp_path: Path) -> None:
    write_measured(tmp_path, "low", [0.4, 0.5, 0.9], lr=0.01, active=60)
    write_measured(tmp_path, "high", [0.4, 0.5, 0.9], lr=0.1, active=20, dead=1.15)
    text = why(tmp_path)
    expected = "21.0 to 23.0 % of the hidden units are active on an average image at learning rate 0.1 (3 runs), but 61.0 to"
    assert f"When last measured, {expected} 63.0 % at 0.01 (3 runs)." in text
    assert "are dead" not in text  # 1.1 to 1.3 % and 1.25 to 1.45 %


def write_failures(folder: Path, epochs: list[int], alive: int, length: int = 20) -> None:
    """Runs that diverge after so many whole epochs, and others that train on."""
    for seed, epoch in enumerate([*epochs, *[length] * alive], 1):
        fails = seed <= len(epochs)
        write_run(folder / f"{seed}", "lr1", seed, [0.5] * (epoch - 1) + [0.45], diverged=fails, max_epochs=length)


def test_a_constant_risk_has_the_exact_interval_of_a_poisson_rate(tmp_path: Path) -> None:
    write_failures(tmp_path, [2, 5, 9, 13, 16, 19], alive=14)
    epochs = sum([2, 5, 9, 13, 16, 19]) + 6 * 7 / 1875 + 14 * 20
    low, high = stats.chi2.ppf(0.025, 12) / 2 / epochs, stats.chi2.ppf(0.975, 14) / 2 / epochs
    counted = f"({100 * low:.1f} to {100 * high:.1f} %; 6 of 20 runs failed in {epochs:.0f} epochs)"
    assert f"The risk of failure per epoch is {600 / epochs:.1f} % with lr1 {counted}." in why(tmp_path)


@pytest.mark.parametrize("epochs", [[1, 1, 1, 1, 2, 2], [18, 19, 19, 19, 18, 19], [9, 10, 9, 10, 9, 10], [2, 8, 14, 18]],
                         ids=["early", "late", "at once", "four"])  # fmt: skip
def test_a_risk_that_changes_or_rests_on_four_failures_is_not_stated(epochs: list[int], tmp_path: Path) -> None:
    write_failures(tmp_path, epochs, alive=12)
    assert "risk" not in why(tmp_path)


@pytest.mark.parametrize(("apart", "said"), [(0.0005, True), (0.004, False)])
def test_equal_accuracy_at_equal_training_loss_is_an_equivalence(apart: float, said: bool, tmp_path: Path) -> None:
    for name, lr, shift in (("low", 0.01, 0.0), ("high", 0.1, apart)):
        for seed in (1, 2, 3):
            losses = [0.6, 0.3, 0.15, 0.07, 0.03]
            write_run(tmp_path / name / str(seed), name, seed, losses, test_accuracy=0.97 + shift + seed * 1e-5, lr=lr,
                      measurements=measured(0.5, active=50 + seed))  # fmt: skip
    text = why(tmp_path)
    same = "At equal training loss, test accuracy at learning rate 0.01 and 0.1 is the same to within 0.3 points (+0.0"
    assert (same in text) == said
    assert ("at equal training loss" in text.lower()) == said


def test_equal_accuracy_at_one_loss_is_not_enough(tmp_path: Path) -> None:
    for name, lr, last in (("low", 0.01, 0.98), ("high", 0.1, 0.95)):
        for seed in (1, 2, 3):
            result = write_run(tmp_path / name / str(seed), name, seed, [0.6, 0.3, 0.15, 0.07, 0.03], lr=lr)
            accuracies = [0.90, 0.93, 0.95, 0.96, last + seed * 1e-5]
            path = tmp_path / name / str(seed) / "result.json"
            path.write_bytes(msgspec.json.encode(msgspec.structs.replace(result, test_accuracy_by_epoch=accuracies)))
    assert "equal training loss" not in why(tmp_path)  # the same at 0.5, 0.2 and 0.1 nats, and 1.5 points apart at 0.05


def test_batch_sizes_are_drawn_by_images_and_by_sgd_steps(tmp_path: Path) -> None:
    write_runs(tmp_path, "small", [0.1, 0.11, 0.09], batch_size=8)
    write_runs(tmp_path, "large", [0.2, 0.21, 0.19], 1, batch_size=128)
    assert "figures/loss_by_images-light.svg" in why(tmp_path)
    for amount, most in (("images", "100,000"), ("steps", "10,000")):
        svg = (tmp_path / "figures" / f"loss_by_{amount}-light.svg").read_text()
        assert f">{most}</text>" in svg
        assert (">1,000</text>" in svg) == (amount == "steps")
    assert "figures/active" not in why(tmp_path)  # nothing was measured


def test_what_no_training_can_give_is_left_out(tmp_path: Path) -> None:
    impossible = [
        {"epoch": 2.0, "lr_batch_sharpness_half": -1.0, "active_units_1": 1e39},
        {"epoch": 1e30, "lr_batch_sharpness_half": 1.0, "active_units_1": 0.5},
        {"epoch": -1.0, "lr_batch_sharpness_half": 1.0},
        {"lr_batch_sharpness_half": 1.0},
        {},
    ]
    possible = {"epoch": 4.0, "lr_batch_sharpness_half": 1e39, "active_units_1": 0.0}
    write_run(tmp_path / "odd", measurements=[*impossible, possible])
    (run,), _ = read_folders([tmp_path])
    assert readings(run, "lr_batch_sharpness_half") == [(4.0, 1e39)]
    assert readings(run, "active") == [(4.0, 0.0)]
    write_report([tmp_path])


def test_forged_measurements_are_a_named_problem_and_the_others_are_reported(tmp_path: Path) -> None:
    write_measured(tmp_path, "low", [0.4, 0.5, 0.9], lr=0.01)
    forgeries = [{"measurements": [{"epoch": "2"}]}, {"measurements": {"epoch": 2}}, {"measurements": [{"epoch": 1e300}]}, [1]]
    for seed, forged in enumerate(forgeries):
        write_run(tmp_path / "forged" / f"{seed}", "forged", seed)
        path = tmp_path / "forged" / f"{seed}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"instruments": forged}))
    _, problems = write_report([tmp_path])
    assert len(problems) == 4
    assert all("result.json: instruments" in each for each in problems)

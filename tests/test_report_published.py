"""Which runs are the same experiment, as each other and as a published one, and how far apart they lie."""

from pathlib import Path

import pytest
from invented_runs import write_run
from report_text import section

from lit_mnist.report import main, results_table


@pytest.mark.parametrize(
    ("trainer", "data", "told"),
    [
        ({"precision": "bf16-mixed"}, {}, "precision bf16-mixed"),
        ({"max_steps": 100}, {}, "max_steps 100"),
        ({"limit_train_batches": 1}, {}, "limit_train_batches 1"),
        ({"limit_train_batches": 1}, {"steps_per_block": 16}, "steps per block 16"),
        ({"devices": 2}, {"split_batch": False}, "devices, each with its own batch 2"),
    ],
)
def test_settings_that_make_another_experiment_make_another_configuration(
    trainer: dict[str, object], data: dict[str, object], told: str, tmp_path: Path
) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", "lr0.1", seed, [0.5] * 20)
        write_run(tmp_path / f"b{seed}", "lr0.1", seed, [0.5] * 20, trainer=trainer, data=data)
    assert main([str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "are shown as 2 configurations" in section(text, "Problems")
    assert "alone is counted" not in text
    (row,) = [row for row in results_table(tmp_path).splitlines() if told in row]
    assert "published" not in row
    assert results_table(tmp_path).count("published 98.33") == 1


def test_settings_that_say_what_is_so_anyway_or_only_round_otherwise_make_no_other_configuration(tmp_path: Path) -> None:
    write_run(tmp_path / "1", "lr0.1", 1, [0.5] * 20)
    same = {"precision": "32-true", "max_steps": None, "limit_train_batches": 1.0, "devices": 2}
    write_run(tmp_path / "2", "lr0.1", 2, [0.5] * 20, trainer=same)
    assert main([str(tmp_path)]) == 0
    assert "published 98.33" in results_table(tmp_path)


def test_a_run_whose_epochs_are_not_all_the_images_is_not_compared_with_a_published_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"{seed}", "lr0.1", seed, [0.5] * 20, config=False)
        file = tmp_path / f"{seed}/result.json"
        file.write_text(file.read_text().replace('"steps_per_epoch": 1875', '"steps_per_epoch": 938'))
    assert "published" not in results_table(tmp_path)


def test_a_published_value_is_in_range_if_a_number_that_rounds_to_it_is(tmp_path: Path) -> None:
    # published: 0.0005 after 20 epochs
    for seed, final in enumerate((0.000461, 0.000463), 1):
        write_run(tmp_path / f"{seed}", "mine", seed, [0.1] * 19 + [final], lr=0.1)
    assert "published 0.0005<br>in range" in results_table(tmp_path)  # it may be 0.00045: 0.000011 is no distance in sd of 1e-6
    (tmp_path / "2" / "result.json").unlink()
    write_run(tmp_path / "3", "mine", 3, [0.1] * 19 + [0.000449], lr=0.1)
    assert "in range" in results_table(tmp_path)

"""Validation at any cadence: each epoch's values stand where they belong, whatever is killed, and resumed."""

from pathlib import Path
from typing import Any

import pytest
from remains import points_of, result_of
from victim import Moment, Victim

OPTIONS = (
    *("fit", "--config", "lr0.1", "--run_dir", "run", "--threads", "1", "--model.hidden", "[64,32]"),
    *("--data.train_size", "1500", "--data.val_size", "500", "--steps_per_block", "8"),
)
# Validated after every second epoch; three times in an epoch, of which the last is the epoch's.
CADENCES = {
    "every second epoch": ("--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"),
    "within an epoch": ("--trainer.max_epochs", "2", "--trainer.val_check_interval", "15"),
}
MOMENTS = {
    "every second epoch": Moment("recorder", "on_validation_end", 2),
    "within an epoch": Moment("recorder", "on_validation_end", 5),
}


def run(folder: Path, *options: str) -> dict[str, Any]:
    victim = Victim(*OPTIONS, *options, folder=folder)
    assert victim.wait() == 0, victim.stderr
    return result_of(folder / "run")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {cadence: tmp_path_factory.mktemp("undisturbed") for cadence in CADENCES}
    for cadence, folder in folders.items():
        run(folder, *CADENCES[cadence])
    return folders


def test_an_epoch_without_a_validation_has_none(undisturbed: dict[str, Path]) -> None:
    accuracies = result_of(undisturbed["every second epoch"] / "run")["val_accuracy_by_epoch"]
    assert [accuracy is None for accuracy in accuracies] == [True, False, True, False]
    assert accuracies[1] != accuracies[3]


def test_an_interval_counts_sgd_steps_and_the_last_validation_of_an_epoch_is_the_epochs(undisturbed: dict[str, Path]) -> None:
    folder = undisturbed["within an epoch"] / "run"
    assert "val_check_interval" in (folder.parent / "stdout").read_text()  # it steps singly then, and says so
    losses = result_of(folder)["val_loss_by_epoch"]
    shown = sorted((step, value) for tag, step, value in points_of(folder).elements() if tag == "val/loss")
    assert [step for step, _ in shown] == [1, 2]
    assert losses == pytest.approx([value for _, value in shown], rel=1e-6)


@pytest.mark.parametrize("cadence", CADENCES)
def test_killed_there_and_started_again_every_validation_is_in_the_record(
    cadence: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    assert Victim(*OPTIONS, *CADENCES[cadence], folder=tmp_path, moment=MOMENTS[cadence]).wait() == -9
    assert run(tmp_path, *CADENCES[cadence]) == result_of(undisturbed[cadence] / "run")
    assert points_of(tmp_path / "run") == points_of(undisturbed[cadence] / "run")

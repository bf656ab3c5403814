"""A loss that becomes infinite or NaN ends a run at once, recorded as what it is; a loss that is merely bad does not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from plain_loop import plain_loop
from remains import points_of, result_of
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.record.checkpoint import load_network
from lit_mnist.record.folder import RunFolder
from lit_mnist.record.result import read_result

IMAGES, BATCH, EPOCHS, BLOCK = 400, 8, 4, 16
STEPS = IMAGES // BATCH  # per epoch
OPTIONS = (
    *("fit", "--config", "batch8", "--run_dir", "run"),
    *("--data.train_size", str(IMAGES), "--steps_per_block", str(BLOCK), "--trainer.max_epochs", str(EPOCHS)),
)
LATE = "1.2"  # learning rate at which some seeds diverge after the first epoch


def run(folder: Path, *options: str, code: int) -> dict[str, Any]:
    victim = Victim(*OPTIONS, *options, folder=folder)
    assert victim.wait() == code, victim.stderr
    assert victim.stderr == ""
    result: dict[str, Any] = json.loads((folder / "run" / "result.json").read_text())
    return result


def loss_history(lr: float, seed: int = 1, hidden: tuple[int, ...] = (512, 256)) -> list[float]:
    return plain_loop(IMAGES, BATCH, EPOCHS, lr, seed, hidden)[0]


@pytest.fixture(scope="module")
def late() -> tuple[str, list[float]]:
    """A seed with which a run diverges after its first epoch, and its batch losses."""
    for seed in range(1, 60):
        losses = loss_history(float(LATE), seed)
        if len(losses) > STEPS + BLOCK and not math.isfinite(losses[-1]):
            return str(seed), losses
    raise AssertionError("no seed diverges late here: choose another learning rate")


@pytest.fixture(scope="module")
def late_run(late: tuple[str, list[float]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which that seed has diverged."""
    folder = tmp_path_factory.mktemp("late")
    run(folder, "--model.lr", LATE, "--seed_everything", late[0], code=3)
    return folder / "run"


def check_record(folder: Path, result: dict[str, Any], losses: list[float]) -> None:
    """Compares what is recorded of a diverged run with the batch losses of the ordinary loop."""
    epochs = (len(losses) - 1) // STEPS
    assert result["outcome"] == "diverged"
    assert result["diverged"] == {"epoch": epochs + 1, "step": len(losses)}
    assert (result["steps"], result["epochs"]) == (len(losses), epochs)
    means = [sum(losses[epoch * STEPS : (epoch + 1) * STEPS]) / STEPS for epoch in range(epochs)]
    assert result["train_loss_by_epoch"] == pytest.approx(means, rel=1e-9)
    for name in ("final_train_loss", "train_accuracy", "test_accuracy", "test_loss", "weights_sha256"):
        assert result[name] is None
    assert all(math.isfinite(value) for _, _, value in points_of(folder / "run"))


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_a_loss_that_is_nan_from_the_second_step_on_ends_the_run_with_code_3(engine: str, tmp_path: Path) -> None:
    losses = loss_history(1e20)
    assert len(losses) == 2
    check_record(tmp_path, run(tmp_path, "--model.lr", "1e20", "--engine", engine, code=3), losses)
    assert RunFolder(tmp_path / "run").checkpoints == []


def test_a_late_divergence_keeps_the_last_good_checkpoint_and_names_the_step_at_which_a_plain_loop_diverges(
    late: tuple[str, list[float]], late_run: Path
) -> None:
    losses = late[1]
    check_record(late_run.parent, json.loads((late_run / "result.json").read_text()), losses)
    kept = int(RunFolder(late_run).checkpoints[0].stem[5:])
    assert kept == (len(losses) - 1) // STEPS * STEPS  # the end of the last whole epoch
    assert all(weight.isfinite().all() for weight in load_network(late_run).mlp.parameters())


def test_a_diverging_run_that_was_killed_diverges_at_the_same_step(
    late: tuple[str, list[float]], late_run: Path, tmp_path: Path
) -> None:
    options = ("--model.lr", LATE, "--seed_everything", late[0])
    for moment in (Moment("recorder", "_check_finite", 6), Moment("finish", "finish")):
        assert Victim(*OPTIONS, *options, folder=tmp_path, moment=moment).wait() == -9
    run(tmp_path, *options, code=3)
    assert result_of(tmp_path / "run") == result_of(late_run)
    assert points_of(tmp_path / "run") == points_of(late_run)


def test_a_loss_that_is_not_finite_after_the_very_last_step_counts_as_diverged(tmp_path: Path) -> None:
    result = run(tmp_path, "--model.lr", "1e30", "--trainer.max_steps", "1", "--data.val_size", "100", code=3)
    assert result["diverged"] == {"epoch": 1, "step": 1}


def test_a_validation_loss_that_is_not_finite_is_recorded_as_null(tmp_path: Path) -> None:
    options = ("--model.lr", "1e30", "--data.train_size", "8", "--data.val_size", "100")
    result = run(tmp_path, *options, code=3)
    assert result["val_loss_by_epoch"] == [None]
    assert result["diverged"] == {"epoch": 2, "step": 2}


def test_a_run_that_only_collapses_is_trained_to_its_end(tmp_path: Path) -> None:
    losses = loss_history(3.0, hidden=(64, 32))
    assert math.isfinite(losses[-1]), "diverges: choose another learning rate"
    result = run(tmp_path, "--model.lr", "3", "--model.hidden", "[64,32]", code=0)
    assert result["outcome"] == "collapsed"
    assert (result["epochs"], result["steps"]) == (EPOCHS, len(losses))


def test_a_collapsed_run_stops_early_where_asked_to_and_counts_as_failed_and_one_that_trains_does_not(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("trainer:\n  max_epochs: 8\n  callbacks:\n  - class_path: lit_mnist.training.collapse.StopCollapsed\n")
    small = ["--model.hidden", "64,32", "--data.train_size", "2000", "--threads", "1", "--test_every_epoch", "false"]
    for lr, epochs, outcome in (("2.5", 2, "collapsed"), ("0.1", 8, "trained")):
        folder = tmp_path / lr
        code = main(["fit", "--config", "lr0.1", "--config", str(own), "--model.lr", lr, "--run_dir", str(folder), *small])
        result = read_result(folder)
        assert result is not None
        assert (code, result.outcome, result.epochs) == (0, outcome, epochs)
        assert result.stopped.startswith("the run has collapsed: ") == (outcome == "collapsed")

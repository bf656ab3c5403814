"""Runs killed at any moment and continued by the same command end exactly as if nothing had happened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from kills import Experiment, difference, run_experiments
from remains import points_of, result_of, without_steps
from victim import Moment, Victim

from lit_mnist.record.checkpoint import find_checkpoint, read_checkpoint

EXPERIMENT = Experiment(batch_size=32, val_size=500)
# In the order in which one run comes to them; each line is the end of another process.
MOMENTS = {
    "within the first epoch": Moment("lit_mlp", "training_step", 3),
    "in a save": Moment("durable", "_write", 2, c_call=12),
    "after the epoch's last batch": Moment("lit_mlp", "on_train_epoch_end"),
    "in the validation": Moment("lit_mlp", "validation_step"),
    "in the test evaluation": Moment("lit_mlp", "evaluate"),
    "before the epoch's checkpoint": Moment("progress", "epoch_line"),
    "between two epochs": Moment("lit_mlp", "on_train_epoch_start"),
    "at the beginning of the second epoch": Moment("lit_mlp", "training_step"),
    "in the last evaluation": Moment("result", "_measure"),
    "after the last points": Moment("result", "_draw"),
    "before the result": Moment("run_folder", "write_result"),
    "while the result is written": Moment("run_folder", "write_result", c_call=18),
}


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    EXPERIMENT.undisturbed(folder)
    return folder / "run"


@pytest.fixture
def interrupted(root: Path, tmp_path: Path) -> Path:
    """A folder in which a run was killed in its second epoch."""
    assert Victim(*EXPERIMENT.options, folder=tmp_path, moment=Moment("lit_mlp", "training_step", 18)).wait() == -9
    return tmp_path


def finish(folder: Path, *options: str) -> Victim:
    victim = Victim(*EXPERIMENT.options, *options, folder=folder)
    assert victim.wait() == 0, victim.stderr
    return victim


def alter(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites the newest checkpoint, and leaves no other to fall back to."""
    newest = find_checkpoint(run)
    checkpoint = read_checkpoint(newest)
    change(checkpoint)
    for path in newest.parent.iterdir():
        path.unlink()
    torch.save(checkpoint, newest)


@pytest.mark.slow
def test_24_kills_at_random_moments_change_no_bit_and_no_point(root: Path, tmp_path: Path) -> None:
    runs, differences = run_experiments((8, 32, 128), kills=24, seed=1, folder=tmp_path, at_once=2)
    assert runs >= 6
    assert differences == []


@pytest.mark.slow
def test_a_run_killed_at_twelve_moments_one_after_the_other_ends_as_if_undisturbed(undisturbed: Path, tmp_path: Path) -> None:
    for name, moment in MOMENTS.items():
        victim = Victim(*EXPERIMENT.options, folder=tmp_path, moment=moment)
        assert victim.wait() == -9, f"not killed {name}: {victim.stdout}{victim.stderr}"
        assert not (tmp_path / "run" / "result.json").exists(), name
    finish(tmp_path)
    assert difference(undisturbed, tmp_path / "run") == ""
    assert not list((tmp_path / "run").rglob(".*.part"))


def test_blocks_of_another_size_after_a_kill_change_nothing_but_the_points_per_block(
    undisturbed: Path, interrupted: Path
) -> None:
    finish(interrupted, "--data.steps_per_block", "5")
    ours, theirs = result_of(interrupted / "run"), result_of(undisturbed)
    assert ours.pop("command") != theirs.pop("command")
    assert ours == theirs
    assert without_steps(points_of(interrupted / "run")) == without_steps(points_of(undisturbed))


def test_a_run_begun_with_the_exact_engine_may_go_on_with_the_fast_one(undisturbed: Path, interrupted: Path) -> None:
    finish(interrupted, "--model.engine", "fast")
    ours, theirs = result_of(interrupted / "run"), result_of(undisturbed)
    assert ours["final_train_loss"] == pytest.approx(theirs["final_train_loss"], rel=1e-3)
    assert ours["hyperparameters"]["engine"] == "fast"


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    undisturbed: Path, interrupted: Path
) -> None:
    newest, older = sorted((interrupted / "run" / "checkpoints").glob("step=*.ckpt"), reverse=True)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    victim = finish(interrupted)
    assert f"{newest.name} is damaged" in victim.stderr
    assert f"after {int(older.stem.removeprefix('step='))} SGD steps" in victim.stdout
    assert difference(undisturbed, interrupted / "run") == ""


def test_the_comparison_sees_another_seed(undisturbed: Path, tmp_path: Path) -> None:
    finish(tmp_path, "--seed_everything", "2")
    found = difference(undisturbed, tmp_path / "run")
    assert "weights_sha256" in found
    assert "missing points" in found


def test_the_comparison_sees_one_weight_changed_by_one_unit_in_the_last_place(undisturbed: Path, interrupted: Path) -> None:
    def nudge(checkpoint: dict[str, Any]) -> None:
        bias = checkpoint["state_dict"]["mlp.layers.2.bias"]
        bias[0] = bias[0].nextafter(torch.tensor(9.0))

    alter(interrupted / "run", nudge)
    finish(interrupted)
    assert "weights_sha256" in difference(undisturbed, interrupted / "run")


def test_the_comparison_sees_a_batch_loss_forgotten(undisturbed: Path, interrupted: Path) -> None:
    alter(interrupted / "run", lambda checkpoint: checkpoint["lit_mnist"]["batch_losses"].zero_())
    finish(interrupted)
    found = difference(undisturbed, interrupted / "run")
    assert "train_loss_by_epoch" in found
    assert "weights_sha256" not in found


ENDINGS = {
    "by a callback": (
        *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss"),
        *("--trainer.callbacks.mode=max", "--trainer.callbacks.stopping_threshold=0.1"),
    ),
    "by a limit": ("--trainer.limit_train_batches", "3"),
    "by a number of steps": ("--trainer.max_steps", "100"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_was_killed_after_its_last_step_has_nothing_left_to_train(ending: str, root: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(undisturbed, *ENDINGS[ending])
    assert Victim(*EXPERIMENT.options, *ENDINGS[ending], folder=killed, moment=Moment("result", "_measure")).wait() == -9
    finish(killed, *ENDINGS[ending])
    assert difference(undisturbed / "run", killed / "run") == ""
    assert result_of(killed / "run")["epochs"] < 4


class Late(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step > 200:
            raise ValueError("this callback has enough")


def test_a_resumed_run_that_a_mistake_ends_late_keeps_its_points(undisturbed: Path, interrupted: Path) -> None:
    victim = Victim(*EXPERIMENT.options, "--trainer.callbacks+=test_resume.Late", folder=interrupted)
    assert victim.wait() == 2
    assert victim.stderr == "lit_mnist: this callback has enough\n"
    finish(interrupted)
    assert difference(undisturbed, interrupted / "run") == ""


def test_a_checkout_without_git_is_no_reason_to_lose_a_result(root: Path, tmp_path: Path) -> None:
    victim = Victim(*EXPERIMENT.options, folder=tmp_path, environment={"PATH": str(tmp_path)})
    assert victim.wait() == 0, victim.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["commit"] is None


@pytest.mark.parametrize("change", ["dropped", "altered"])
def test_a_checkpoint_without_its_place_in_the_epoch_is_refused(change: str, interrupted: Path) -> None:
    def misplace(checkpoint: dict[str, Any]) -> None:
        fit_loop = checkpoint["loops"]["fit_loop"]
        if change == "dropped":
            del fit_loop["state_dict"]["combined_loader"]
        else:
            fit_loop["state_dict"]["combined_loader"][0]["step"] += 1

    alter(interrupted / "run", misplace)
    victim = Victim(*EXPERIMENT.options, folder=interrupted)
    assert victim.wait() == 2
    assert "contradicts itself" in victim.stderr
    assert victim.stderr.count("\n") == 1

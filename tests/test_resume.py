"""Runs killed at any moment and resumed by the same command end exactly as if nothing had happened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from kills import Experiment, difference, kill_many, kinds
from remains import points_of, result_of
from victim import Moment, Victim

from lit_mnist.record.checkpoint import find_checkpoint, read_checkpoint
from lit_mnist.record.folder import RunFolder

EXPERIMENT = Experiment(batch_size=32, val_size=500)
# In the order in which one run comes to them; each line is the end of another process.
MOMENTS = {
    "in a save": Moment("atomic", "_write_synced", 2, c_call=3),
    "while older checkpoints are removed": Moment("resume", "save_checkpoint", 2),
    "in the last evaluation": Moment("finish", "_measure"),
    "before the result": Moment("result", "write_result"),
    "while the result is written": Moment("atomic", "write_together", 3, c_call=6),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (victim,) = EXPERIMENT.start(folder)
    assert victim.wait() == 0, victim.stderr
    return folder / "run"


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A folder in which a run was killed in its third epoch."""
    moment = Moment("blocks", "training_step", 3)
    assert Victim(*EXPERIMENT.options, folder=tmp_path, moment=moment).wait() == -9
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


def test_6_kills_at_random_moments_change_no_bit_and_no_point(tmp_path: Path) -> None:
    chosen = {kind: start for kind, start in kinds().items() if "batch size 128" in kind or "500, fast" in kind}
    runs, differences = kill_many(chosen, kills=6, seed=1, folder=tmp_path, at_once=2)
    assert runs >= 2
    assert differences == []


def test_a_run_killed_at_many_moments_one_after_the_other_ends_as_if_undisturbed(undisturbed: Path, tmp_path: Path) -> None:
    for name, moment in MOMENTS.items():
        victim = Victim(*EXPERIMENT.options, folder=tmp_path, moment=moment)
        assert victim.wait() == -9, f"not killed {name}: {victim.stdout}{victim.stderr}"
        assert not (tmp_path / "run" / "result.json").exists(), name
    finish(tmp_path)
    assert difference(undisturbed, tmp_path / "run") == ""
    assert not list((tmp_path / "run").rglob(".*.part"))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    undisturbed: Path, interrupted: Path
) -> None:
    newest, _ = RunFolder(interrupted / "run").checkpoints
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    victim = finish(interrupted, "--steps_per_block", "7")  # which changes the speed only
    assert f"{newest.name} is damaged" in victim.stderr
    assert "after epoch 1\n" in victim.stdout
    command = {"command": ""}  # where they do differ
    assert result_of(interrupted / "run") | command == result_of(undisturbed) | command
    assert points_of(interrupted / "run") == points_of(undisturbed)


def test_a_run_begun_with_the_exact_engine_may_go_on_with_the_fast_one(undisturbed: Path, interrupted: Path) -> None:
    finish(interrupted, "--engine", "fast")
    ours, theirs = result_of(interrupted / "run"), result_of(undisturbed)
    assert ours["final_train_loss"] == pytest.approx(theirs["final_train_loss"], rel=1e-3)
    assert ours["hyperparameters"]["engine"] == "fast"
    assert ours["changes"] == ["engine is fast, but the run was begun with exact"]


def test_the_comparison_sees_one_weight_changed_by_one_unit_in_the_last_place(undisturbed: Path, interrupted: Path) -> None:
    def nudge(checkpoint: dict[str, Any]) -> None:
        bias = checkpoint["state_dict"]["mlp.layers.2.bias"]
        bias[0] = bias[0].nextafter(torch.tensor(9.0))

    alter(interrupted / "run", nudge)
    finish(interrupted)
    assert "weights_sha256" in difference(undisturbed, interrupted / "run")


EARLY_STOPPING = (
    "--trainer.callbacks+=EarlyStopping",
    "--trainer.callbacks.monitor=train/loss",
    "--trainer.callbacks.mode=max",
)
# how a run ends before its last epoch, and the epochs that are trained again after a kill
ENDINGS = {
    "by a number of steps": (("--trainer.max_steps", "100"), 0),
    "by a callback, of short epochs": (
        (*EARLY_STOPPING, "--trainer.callbacks.patience=1", "--trainer.limit_train_batches", "3"),
        1,
    ),
    "by a callback, after the first epoch": ((*EARLY_STOPPING, "--trainer.callbacks.stopping_threshold=0.1"), 1),
    "by a callback, collapsed": (
        (
            *("--trainer.callbacks+=lit_mnist.training.collapse.StopCollapsed", "--model.lr=2.5"),
            *("--data.train_size=2000", "--data.val_size=0"),
        ),
        1,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_was_killed_after_its_last_step_ends_as_if_undisturbed(ending: str, tmp_path: Path) -> None:
    """No file ends a run: a callback decides again, after the last epoch was trained again."""
    options, epochs_again = ENDINGS[ending]
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    finish(folders[0], *options)
    killed = Victim(*EXPERIMENT.options, *options, folder=folders[1], moment=Moment("finish", "_measure"))
    assert killed.wait() == -9
    again = finish(folders[1], *options)
    assert again.stdout.count("test accuracy ") - 1 == epochs_again, again.stdout  # a line of the table of results has one, too
    assert difference(folders[0] / "run", folders[1] / "run") == ""
    assert result_of(folders[1] / "run")["epochs"] < 3


def test_a_run_limited_by_steps_goes_on_from_the_end_of_an_epoch(tmp_path: Path) -> None:
    limit = ("--trainer.max_epochs", "-1", "--trainer.max_steps", "250")
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    finish(folders[0], *limit)
    moment = Moment("blocks", "training_step", 3)
    assert Victim(*EXPERIMENT.options, *limit, folder=folders[1], moment=moment).wait() == -9
    assert "after epoch 2" in finish(folders[1], *limit).stdout
    assert difference(folders[0] / "run", folders[1] / "run") == ""


class Late(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.current_epoch == 2:
            raise ValueError("this callback has enough")


def test_a_resumed_run_that_a_mistake_ends_late_keeps_its_points(undisturbed: Path, interrupted: Path) -> None:
    victim = Victim(*EXPERIMENT.options, "--trainer.callbacks+=test_resume.Late", folder=interrupted)
    assert victim.wait() == 2
    assert "callbacks is ['test_resume.Late'], but the run to resume was trained with []" in victim.stderr
    finish(interrupted)
    assert difference(undisturbed, interrupted / "run") == ""


def test_a_checkout_without_git_is_no_reason_to_lose_a_result(tmp_path: Path) -> None:
    victim = Victim(*Experiment(32, epochs=1).options, folder=tmp_path, environment={"PATH": str(tmp_path)})
    assert victim.wait() == 0, victim.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["commit"] is None

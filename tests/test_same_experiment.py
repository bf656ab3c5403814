"""A resume that would change the experiment is refused with both values, before anything on the disk has changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Experiment, difference
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.record.checkpoint import find_checkpoint, read_checkpoint

EXPERIMENT = Experiment(batch_size=32, val_size=500)

# what is typed after the options of the run, and what the sentence must say
CHANGES = {
    "learning rate": (["--model.lr", "0.5"], "lr is 0.5, but the run to continue was trained with 0.1."),
    "batch size": (["--data.batch_size", "64"], "batch_size is 64, but the run to continue was trained with 32."),
    "seed": (["--seed_everything", "7"], "seed is 7, but the run to continue was trained with 1."),
    "width": (["--model.hidden", "[64,33]"], "hidden is [64, 33], but the run to continue was trained with [64, 32]."),
    "training images": (
        ["--data.train_size", "2999"],
        "train_size is 2999, but the run to continue was trained with 3000.",
    ),
    "validation images": (
        ["--data.val_size", "501"],
        "val_size is 501, but the run to continue was trained with 500.",
    ),
    "precision": (
        ["--trainer.precision", "bf16-mixed"],
        "precision is bf16-mixed, but the run to continue was trained with 32-true.",
    ),
    "measurements": (
        ["--test_every_epoch", "false"],
        "test_every_epoch is False, but the run to continue was trained with True.",
    ),
    "shorter epochs": (
        ["--trainer.limit_train_batches", "3"],
        "limit_train_batches is 3 (blocks of 8 SGD steps), but the run to continue was trained with None.",
    ),
    "fewer epochs": (["--trainer.max_epochs", "1"], "max_epochs is 1, but the run to continue has already come to"),
    "fewer steps": (["--trainer.max_steps", "100"], "max_steps is 100, but the run to continue has already come to"),
}


@pytest.fixture(scope="module")
def interrupted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    assert Victim(*EXPERIMENT.options, folder=folder, moment=Moment("lit_mlp", "training_step", 20)).wait() == -9
    return folder


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file but the lock."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("change", CHANGES)
def test_another_experiment_is_refused_with_both_values_and_nothing_changes(
    change: str, interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(interrupted)
    options, sentence = CHANGES[change]
    before = files(interrupted)
    assert main([*EXPERIMENT.options, *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"lit_mnist: {sentence}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert files(interrupted) == before


@pytest.mark.parametrize("change", ["learning rate", "batch size"])
def test_a_run_of_another_experiment_is_not_begun_from_a_checkpoint_given_by_name(
    change: str, interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = CHANGES[change]
    given = ["--ckpt_path", str(find_checkpoint(interrupted / "run"))]
    assert main([*EXPERIMENT.options, "--run_dir", "other", *options, *given]) == 2
    assert capsys.readouterr().err.startswith(f"lit_mnist: {sentence}")
    assert list(workplace.iterdir()) == []


def altered(interrupted: Path, workplace: Path, *keys: str, value: Any) -> list[str]:
    """Options that go on from a copy of the checkpoint in which one entry is another."""
    checkpoint = inner = read_checkpoint(find_checkpoint(interrupted / "run"))
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    torch.save(checkpoint, workplace / "altered.ckpt")
    return [*EXPERIMENT.options, "--run_dir", "other", "--ckpt_path", "altered.ckpt"]


def test_other_data_are_refused_with_both_checksums(
    interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = altered(interrupted, workplace, "MNISTDataModule", "data_sha256", value="0" * 64)
    assert main(options) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("lit_mnist: data_sha256 is ")
    assert complaint.endswith(f", but the run to continue was trained with {'0' * 64}.\n")
    assert not (workplace / "other").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("callbacks",), {}), (("MNISTDataModule",), {}), (("callbacks", "RunRecord"), None), (("global_step",), None)],
)
def test_a_checkpoint_that_no_run_saved_is_refused(
    keys: tuple[str, ...], value: Any, interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(altered(interrupted, workplace, *keys, value=value)) == 2
    sentence = "altered.ckpt was not saved by the command fit: there is no run to go on with."
    assert capsys.readouterr().err == f"lit_mnist: {sentence}\n"
    assert not (workplace / "other").exists()


@pytest.mark.parametrize(
    ("keys", "value", "name"),
    [
        (("environment", "threads"), 7, "threads is 1, but the run was begun with 7"),
        (("environment", "torch"), "1.0", "with 1.0"),
    ],
)
def test_other_threads_or_versions_are_said_and_the_run_goes_on(
    keys: tuple[str, ...],
    value: Any,
    name: str,
    interrupted: Path,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = altered(interrupted, workplace, "callbacks", "RunRecord", *keys, value=value)
    assert main(options) == 0
    complaint = capsys.readouterr().err
    assert name in complaint
    assert complaint.endswith(": its bits may differ from those of an uninterrupted run.\n")
    assert complaint.count("\n") == 1
    assert (workplace / "other" / "result.json").exists()


def test_a_change_of_what_may_change_bits_is_in_the_record(interrupted: Path, workplace: Path) -> None:
    assert main(altered(interrupted, workplace, "callbacks", "RunRecord", "environment", "engine", value="fast")) == 0
    changes = json.loads((workplace / "other" / "result.json").read_text())["changes"]
    assert changes == ["engine is exact, but the run was begun with fast"]


def test_a_checkpoint_saved_before_its_epoch_was_recorded_is_refused(
    interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = altered(interrupted, workplace, "callbacks", "RunRecord", "history", "train_loss_by_epoch", value=[])
    assert main(options) == 2
    assert "was saved after 1 epochs, 0 of which are in its record" in capsys.readouterr().err
    assert not (workplace / "other").exists()


def test_what_the_trainer_refuses_late_leaves_the_unfinished_run_as_it_was(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(interrupted, tmp_path / "copy"))
    before = files(Path("run"))
    assert main([*EXPERIMENT.options, "--trainer.val_check_interval", "1000"]) == 2
    assert "val_check_interval" in capsys.readouterr().err
    assert {name: content for name, (content, _) in files(Path("run")).items()} == {
        name: content for name, (content, _) in before.items()
    }


def test_one_batch_is_another_limit_than_all(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(interrupted)
    before = files(interrupted)
    assert main([*EXPERIMENT.options, "--trainer.limit_train_batches", "1"]) == 2
    assert files(interrupted) == before


def test_the_same_folder_spelt_otherwise_is_the_same_folder(interrupted: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(interrupted, tmp_path / name)) for name in ("relative", "absolute")]
    for folder in folders:
        file = find_checkpoint(folder / "run")
        spelt = file if folder.name == "absolute" else file.relative_to(folder)
        victim = Victim(*EXPERIMENT.options, "--ckpt_path", str(spelt), folder=folder)
        assert victim.wait() == 0, victim.stderr
        assert victim.stderr == ""
    assert difference(folders[0] / "run", folders[1] / "run") == ""

"""A resume that would change the experiment is refused with both values, before anything on the disk has changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forgeries import altered
from kills import Experiment, difference
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.record.checkpoint import find_checkpoint, read_checkpoint

EXPERIMENT = Experiment(batch_size=32, val_size=500)

# what is typed after the options of the run, and what the sentence must say
CHANGES = {
    "learning rate": (["--model.lr", "0.5"], "lr is 0.5, but the run to resume was trained with 0.1;"),
    "batch size": (["--data.batch_size", "64"], "batch_size is 64, but the run to resume was trained with 32;"),
    "seed": (["--seed_everything", "7"], "seed is 7, but the run to resume was trained with 1;"),
    "width": (["--model.hidden", "[64,33]"], "hidden is [64, 33], but the run to resume was trained with [64, 32];"),
    "training images": (["--data.train_size", "2999"], "train_size is 2999, but the run to resume was trained with 3000;"),
    "validation images": (["--data.val_size", "501"], "val_size is 501, but the run to resume was trained with 500;"),
    "precision": (
        ["--trainer.precision", "bf16-mixed"],
        "precision is bf16-mixed, but the run to resume was trained with 32-true;",
    ),
    "shorter epochs": (
        ["--trainer.limit_train_batches", "3"],
        "steps_per_epoch is 3, but the run to resume was trained with 94;",
    ),
    "fewer epochs": (["--trainer.max_epochs", "1"], "max_epochs is 1, but the run to resume has already reached 2."),
    "fewer steps": (["--trainer.max_steps", "100"], "max_steps is 100, but the run to resume has already reached 188."),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    assert Victim(*EXPERIMENT.options, folder=folder, moment=Moment("blocks", "training_step", 3)).wait() == -9
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Victim(*EXPERIMENT.options, folder=folder).wait() == 0
    return folder / "run"


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file but the lock."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("change", CHANGES)
def test_another_experiment_is_refused_with_both_values_and_nothing_is_trained(
    change: str, interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(interrupted)
    options, sentence = CHANGES[change]
    before = files(interrupted / "run" / "checkpoints"), (interrupted / "run" / "config.yaml").read_bytes()
    assert main([*EXPERIMENT.options, *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"lit_mnist: {sentence}")
    assert printed.err.count("\n") == 1
    assert "epoch " not in printed.out
    assert (files(interrupted / "run" / "checkpoints"), (interrupted / "run" / "config.yaml").read_bytes()) == before


@pytest.mark.parametrize("change", ["learning rate", "batch size"])
def test_a_run_of_another_experiment_does_not_begin_from_a_checkpoint_given_by_name(
    change: str, interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = CHANGES[change]
    given = ["--ckpt_path", str(find_checkpoint(interrupted / "run"))]
    assert main([*EXPERIMENT.options, "--run_dir", "other", *options, *given]) == 2
    assert capsys.readouterr().err.startswith(f"lit_mnist: {sentence}")
    assert list(workplace.iterdir()) == []


RECORD = ("callbacks", "Recorder")
HISTORY = (*RECORD, "history")
# entries of a checkpoint, what somebody wrote there, and what the sentence says
TAMPERED: dict[tuple[str, ...], list[tuple[Any, str]]] = {
    ("global_step",): [
        (94, "after 94 SGD steps, but the 2 epochs"),
        *((odd, "not saved by fit") for odd in (None, "x", torch.inf)),
    ],
    ("callbacks",): [({}, "was not saved by fit"), ([], "was not saved by fit")],
    RECORD: [(None, "was not saved by fit"), ([1], "was not saved by fit")],
    (*RECORD, "format"): [(3, "has format 3, not 2"), ([], "has format")],
    (*RECORD, "environment"): [([], "was not saved by fit"), ({"torch": torch.ones(3)}, "was not saved by fit")],
    (*RECORD, "random_state"): [({"cpu": torch.ones(3)}, "the random state"), ({}, "the random state"), (1, "not saved")],
    (*RECORD, "experiment", "lr"): [(0.2, "lr is 0.1, but the run to resume was trained with 0.2"), ({}, "not saved by fit")],
    (*RECORD, "experiment", "data_sha256"): [("0" * 64, "data_sha256 is ")],
    (*RECORD, "experiment", "hidden"): [([64.5, 32], "hidden is [64, 32], but the run to resume was trained with [64.5, 32]")],
    (*HISTORY, "train_loss_by_epoch"): [([1.0], "after 188 SGD steps, but the 1 epochs"), ("x", "was not saved by fit")],
    (*HISTORY, "train_seconds_by_epoch"): [([], "has 0 epochs in its train_seconds_by_epoch, but 2")],
    (*HISTORY, "val_loss_by_epoch"): [([1.0, 1.0, 1.0], "has 3 epochs in its val_loss_by_epoch, but 2")],
    (*HISTORY, "test_accuracy_by_epoch"): [([2.0, 1.0], "was not saved by fit")],
    (*HISTORY, "train_loss_by_block"): [(odd, "losses of other steps") for odd in ([], [[94, 1.0]], [[188, 1.0], [188, 1.0]])],
    (*HISTORY, "stopped"): [("by a callback", "was saved as a callback ended the run"), (1, "was not saved by fit")],
    ("state_dict", "mlp.layers.0.weight"): [(torch.ones(64, 783), "a network other"), ([], "a network other")],
    ("state_dict", "mlp.layers.0.bias"): [
        (torch.full((64,), torch.inf), "not finite"),
        (torch.ones(64, dtype=torch.int64), "not finite"),
    ],
    ("hyper_parameters",): [([], "is not a checkpoint")],
}


@pytest.mark.parametrize("keys", TAMPERED, ids=".".join)
def test_a_checkpoint_with_an_altered_entry_is_refused(
    keys: tuple[str, ...], interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(find_checkpoint(interrupted / "run"))
    for value, sentence in TAMPERED[keys]:
        torch.save(altered(checkpoint, *keys, value=value), "altered.ckpt")
        assert main([*EXPERIMENT.options, "--run_dir", "other", "--ckpt_path", "altered.ckpt"]) == 2, value
        complaint = capsys.readouterr().err
        assert any(part in complaint for part in sentence.split("|")), (value, complaint)
        assert complaint.startswith("lit_mnist: ")
        assert complaint.count("\n") == 1
        assert not (workplace / "other").exists()


@pytest.mark.parametrize("reason", ["by a callback", "\x1b[31mred", 1])
def test_no_checkpoint_ends_a_run(reason: Any, undisturbed: Path, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "copy"))
    path = find_checkpoint(folder / "run")
    torch.save(altered(read_checkpoint(path), *HISTORY, "stopped", value=reason), path)
    victim = Victim(*EXPERIMENT.options, folder=folder)
    assert victim.wait() == 0, victim.stderr
    assert "after epoch 1\n" in victim.stdout  # the one before it
    assert difference(undisturbed, folder / "run") == ""


def test_nothing_else_in_a_checkpoint_decides_how_the_run_goes_on(undisturbed: Path, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "copy"))
    path = find_checkpoint(folder / "run")
    checkpoint = read_checkpoint(path)
    loops = checkpoint["loops"]["fit_loop"]
    loops["epoch_progress"]["current"] = {"ready": 0, "completed": 0, "started": 0, "processed": 0}
    loops["epoch_loop.batch_progress"]["current"]["ready"] = 7
    loops["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"] = 1
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    group.update(lr=0.7, momentum=0.9, weight_decay=0.1, maximize=True)
    checkpoint |= {"epoch": 9, "lr_schedulers": [{"x": 1}], "pytorch-lightning_version": "0.1", "MixedPrecision": {"scale": 2}}
    checkpoint["MNISTDataModule"] |= {"batches_into_epoch": 5, "seed": 3, "batch_size": "a"}
    checkpoint["hyper_parameters"] |= {"lr": 9.0, "seed": 4}
    checkpoint["event_sizes"] = {"../../victim.py": 0}
    for old in path.parent.iterdir():
        old.unlink()
    torch.save(checkpoint, path)
    victim = Victim(*EXPERIMENT.options, folder=folder)
    assert victim.wait() == 0, victim.stderr
    assert victim.stderr == ""
    assert difference(undisturbed, folder / "run") == ""


def test_a_callbacks_state_can_neither_remove_a_file_elsewhere_nor_end_or_break_a_resume(tmp_path: Path) -> None:
    keeps_one = (
        *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss", "--trainer.callbacks.mode=max"),
        *("--trainer.callbacks.patience=9", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=train/loss"),
    )
    folder, precious = tmp_path / "work", tmp_path / "precious.ckpt"
    precious.touch()
    moment = Moment("blocks", "training_step", 3)
    assert Victim(*EXPERIMENT.options, *keeps_one, folder=folder, moment=moment).wait() == -9
    path = find_checkpoint(folder / "run")
    checkpoint = read_checkpoint(path)
    (key,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    state = checkpoint["callbacks"][key]
    state |= {"best_model_path": str(precious), "kth_best_model_path": str(precious), "last_model_path": str(precious)}
    state["best_k_models"] = {str(precious): state["best_model_score"]}
    (stopping,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("EarlyStopping"))
    stopping["patience"] = 1
    torch.save(checkpoint, path)
    victim = Victim(*EXPERIMENT.options, *keeps_one, folder=folder)
    assert victim.wait() == 0, victim.stderr
    assert precious.exists()
    assert json.loads((folder / "run" / "result.json").read_text())["stopped"] == ""
    checkpoint["callbacks"][key] = {"dirpath": 3}
    (folder / "altered").mkdir()
    torch.save(checkpoint, folder / "altered.ckpt")
    victim = Victim(*EXPERIMENT.options, *keeps_one, "--run_dir=b", "--ckpt_path=altered.ckpt", folder=folder)
    assert victim.wait() == 2
    assert "what it says of ModelCheckpoint cannot be used" in victim.stderr


def test_other_threads_or_versions_are_said_and_recorded_and_the_run_goes_on(
    interrupted: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(find_checkpoint(interrupted / "run"))
    checkpoint = altered(checkpoint, *RECORD, "environment", "threads", value=7)
    torch.save(altered(checkpoint, *RECORD, "environment", "torch", value="1.0\x1b[31m"), "altered.ckpt")
    assert main([*EXPERIMENT.options, "--run_dir", "other", "--ckpt_path", "altered.ckpt"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("lit_mnist: threads is 1, but the run was begun with 7: its bits may differ")
    assert r"1.0\x1b[31m" in second
    changes = json.loads((workplace / "other" / "result.json").read_text())["changes"]
    assert changes[0] == "threads is 1, but the run was begun with 7"


def test_what_the_trainer_refuses_late_leaves_the_unfinished_run_as_it_was(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(interrupted, tmp_path / "copy"))
    before = {name: content for name, (content, _) in files(Path("run")).items() if "tfevents" not in name}
    assert main([*EXPERIMENT.options, "--trainer.val_check_interval", "1000"]) == 2
    assert "val_check_interval" in capsys.readouterr().err
    assert {name: content for name, (content, _) in files(Path("run")).items() if "tfevents" not in name} == before


def test_the_same_folder_spelt_otherwise_is_the_same_folder(undisturbed: Path, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "copy"))
    victim = Victim(*EXPERIMENT.options, "--ckpt_path", str(find_checkpoint(folder / "run")), folder=folder)
    assert victim.wait() == 0, victim.stderr
    assert victim.stderr == ""
    assert difference(undisturbed, folder / "run") == ""

"""Whatever a user can mistype: exit code 2, one sentence that names the culprit, no traceback, nothing left behind."""

import shutil
from pathlib import Path

import pytest

from lit_mnist.cli.main import main

CONFIG = ["--config", "lr0.1"]

# what is typed after `fit`, and what the sentence must name
MISTYPED = {
    "unknown option": ([*CONFIG, "--nonsense", "1"], "--nonsense"),
    "unknown model option": ([*CONFIG, "--model.lrr", "1"], "--model.lrr"),
    "option without value": (["--model.lr"], "--model.lr"),
    "stray word": ([*CONFIG, "now"], "now"),
    "no such config": (["--config", "lr7"], "lr7"),
    "config is a folder": (["--config", "folder"], "folder"),
    "config with an unknown key": (["--config", "unknown.yaml"], "modell"),
    "config that is not YAML": (["--config", "broken.yaml"], "broken.yaml is not YAML, line 3"),
    "config that is a list": (["--config", "list.yaml"], "list.yaml holds no options"),
    "config that is a picture": (["--config", "picture.png"], "picture.png is not YAML"),
    "config that is a text": (["--config", "file.txt"], "file.txt holds no options"),
    "config that is empty": (["--config", "empty.yaml"], "empty.yaml holds no options"),
    "name that is a path": ([*CONFIG, "--name", "../elsewhere"], "--name ../elsewhere"),
    "config with a word for a number": (["--config", "word.yaml"], "--model.lr"),
    "lr zero": ([*CONFIG, "--model.lr", "0"], "lr must be above 0"),
    "lr negative": ([*CONFIG, "--model.lr", "-0.1"], "lr must be above 0"),
    "lr infinite": ([*CONFIG, "--model.lr", ".inf"], "lr must be above 0"),
    "lr beyond float32": ([*CONFIG, "--model.lr", "1e50"], "lr must be above 0"),
    "lr not a number": ([*CONFIG, "--model.lr", ".nan"], "lr must be above 0"),
    "lr a word": ([*CONFIG, "--model.lr", "fast"], "--model.lr"),
    "batch size zero": ([*CONFIG, "--data.batch_size", "0"], "batch_size"),
    "batch size negative": ([*CONFIG, "--data.batch_size", "-8"], "batch_size"),
    "batch size a fraction": ([*CONFIG, "--data.batch_size", "3.5"], "--data.batch_size"),
    "batch size beyond the data": ([*CONFIG, "--data.batch_size", "60001"], "60001"),
    "val_size negative": ([*CONFIG, "--data.val_size", "-1"], "val_size"),
    "val_size all images": ([*CONFIG, "--data.val_size", "60000"], "val_size"),
    "train_size beyond the data": ([*CONFIG, "--data.train_size", "70000"], "train_size"),
    "no neurons": ([*CONFIG, "--model.hidden", "[512,0]"], "hidden"),
    "unknown engine": ([*CONFIG, "--engine", "warp"], "--engine"),
    "unknown data set": ([*CONFIG, "--data.dataset", "CIFAR10"], "CIFAR10"),
    "root is a file": ([*CONFIG, "--data.root", "file.txt"], "file.txt"),
    "seed negative": ([*CONFIG, "--seed_everything", "-1"], "seed_everything"),
    "seed a word": ([*CONFIG, "--seed_everything", "lucky"], "--seed_everything"),
    "threads negative": ([*CONFIG, "--threads", "-2"], "--threads"),
    "no epochs": ([*CONFIG, "--trainer.max_epochs", "0"], "--trainer.max_epochs"),
    "epochs below minus one": ([*CONFIG, "--trainer.max_epochs", "-5"], "max_epochs"),
    "unknown accelerator": ([*CONFIG, "--trainer.accelerator", "abacus"], "abacus"),
    "gradient clipping": ([*CONFIG, "--trainer.gradient_clip_val", "1"], "gradient_clip_val"),
    "gradient accumulation": ([*CONFIG, "--trainer.accumulate_grad_batches", "2"], "accumulate_grad_batches"),
    "time limit": ([*CONFIG, "--trainer.max_time", "00:00:00:10"], "max_time"),
    "validation by the clock": ([*CONFIG, "--trainer.val_check_interval", "00:00:00:10"], "val_check_interval"),
    "averaged weights": (
        [*CONFIG, "--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.5"],
        "StochasticWeightAveraging",
    ),
    "a clock": ([*CONFIG, "--trainer.callbacks", "Timer"], "Timer: the result of a run must not depend on the clock"),
    "layers frozen": ([*CONFIG, "--trainer.callbacks", "BackboneFinetuning"], "BackboneFinetuning: training is plain SGD"),
    "layers frozen by nobody": ([*CONFIG, "--trainer.callbacks", "BaseFinetuning"], "BaseFinetuning: training is plain SGD"),
    "checkpoint of an exception": (
        [*CONFIG, "--trainer.callbacks", "OnExceptionCheckpoint", "--trainer.callbacks.dirpath", "x"],
        "OnExceptionCheckpoint: a checkpoint is saved at the end of every epoch",
    ),
    "learning rate searched": ([*CONFIG, "--trainer.callbacks+=LearningRateFinder"], "LearningRateFinder"),
    "overfitting": ([*CONFIG, "--trainer.overfit_batches", "1"], "overfit_batches"),
    "loaders made again": ([*CONFIG, "--trainer.reload_dataloaders_every_n_epochs", "1"], "reload_dataloaders_every_n_epochs"),
    "run folder is a file": ([*CONFIG, "--run_dir", "file.txt"], "file.txt"),
    "finished run": ([*CONFIG, "--run_dir", "finished"], "finished"),
    "no such checkpoint": ([*CONFIG, "--ckpt_path", "none.ckpt"], "none.ckpt"),
    "checkpoint that is a text": ([*CONFIG, "--ckpt_path", "file.txt"], "file.txt"),
    "nothing to resume": ([*CONFIG, "--ckpt_path", "last"], "last"),
    "block of negative steps": ([*CONFIG, "--steps_per_block", "-1"], "steps_per_block"),
    "dropped option": ([*CONFIG, "--checkpoint_seconds", "5"], "checkpoint_seconds"),
}


# what a newcomer types, and the next step that the sentence must name
NEXT_STEPS = {
    "train --config lr0.1": "did you mean fit?",
    "eval logs/lr0.1": "did you mean test?",
    "--config lr0.1": "lit_mnist fit --config lr0.1",
    "fit lr0.1": "did you mean --config lr0.1?",
    "fit -config lr0.1": "two hyphens, --config",
    "fit \u2014config lr0.1": "two hyphens, --config",
    "fit --config lr0.1,lr1": "lr0.1 lr1",
    "fit --config folder": "folder/config.yaml",
    "fit --lr 0.5": "did you mean --model.lr?",
    "fit --epochs 5": "did you mean --trainer.max_epochs?",
    "fit --seed 3": "did you mean --seed_everything?",
    "fit --trainer.gpus 1": "did you mean --trainer.devices?",
    "fit --optimizer Adam": "override configure_optimizers",
    "fit --data.num_workers 4": "leave it out",
    "fit --model.lr 0,1": "a number (default: 0.1), not 0,1; for several values, use study --grid model.lr=0,1",
    "fit --model.lr 0.1 0.01": "use study --grid",
    "fit --model.lr=": "a number (default: 0.1), not nothing",
    "fit --data.val_size 0.1": "a whole number (default: 0)",
    "fit --data.download": "--data.download false",
    "fit --model.hidden 512x256": "512,256",
    "fit --engine warp": "'exact', 'fast'",
    "fit --trainer.logger wandb": "CSVLogger",
    "fit --trainer.callbacks Timer --trainer.callbacks.duration 5": "Timer: `Timer(duration='5')` is not a valid duration.",
    "fit --trainer.callbacks Timer --trainer.callbacks.verbose 5": "callbacks.verbose: expected true or false, not 5.",
    "fit --trainer.callbacks Timer --trainer.callbacks.hours 5": "see --trainer.callbacks.help CLASS for those of a class.",
    "fit --trainer.callbacks EarlyStopping": "EarlyStopping needs options of its own; add --trainer.callbacks.monitor.",
    "fit --trainer.callbacks [EarlyStopping]": "EarlyStopping needs options of its own; add --trainer.callbacks.monitor.",
    "fit --trainer.callbacks ModelCheckpoint --trainer.callbacks.save_top_k -3": "ModelCheckpoint: Invalid value",
    "fit --trainer.callbacks ModelCheckpoint --trainer.callbacks.save_top_k 1,2": "a whole number, not 1,2; for several",
    "fit --trainer.callbacks LearningRateMonitor --trainer.callbacks.logging_interval day": "'step', 'epoch' or null, not day.",
    "fit --config callback.yaml": "--trainer.callbacks.patience: expected a whole number, not long.",
    "fit --trainer.logger CSVLogger": "CSVLogger needs options of its own; add --trainer.logger.save_dir.",
    "fit --trainer.plugins HalfPrecision --trainer.plugins.precision 8": "expected 'bf16-true', '16-true', not 8.",
    "fit --resume logs/lr0.1": "did you mean --ckpt_path?",
    "test lr0.1": "name a run folder",
    "test file.txt": "name a run folder",
    "test --images file.txt": "lit_mnist predict RUN --images",
    "predict finished file.txt": "write --images before",
    "study --configs lr0.1,lr1 --dry-run": "lr0.1 lr1",
}


@pytest.fixture
def desk(workplace: Path) -> Path:
    (workplace / "folder").mkdir()
    (workplace / "finished").mkdir()
    (workplace / "finished" / "result.json").write_text("{}")
    (workplace / "file.txt").write_text("not a folder")
    (workplace / "unknown.yaml").write_text("modell:\n  lr: 0.1\n")
    (workplace / "broken.yaml").write_text("model:\n  lr: [\n")
    (workplace / "empty.yaml").touch()
    (workplace / "picture.png").write_bytes(b"\x89PNG\r\n")
    (workplace / "list.yaml").write_text("- 1\n- 2\n")
    (workplace / "callback.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitor: val/loss, patience: long}\n"
    )
    (workplace / "word.yaml").write_text("model:\n  lr: fast\n")
    return workplace


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", MISTYPED)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    mistake: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, culprit = MISTYPED[mistake]
    before = files(desk)
    assert main(["fit", *options]) == 2
    printed = capsys.readouterr()
    assert "epoch " not in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("lit_mnist: ")
    assert culprit in line
    assert files(desk) == before


@pytest.mark.parametrize("typed", NEXT_STEPS)
def test_a_sentence_says_what_to_do_next(typed: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(desk)
    assert main(typed.split()) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert NEXT_STEPS[typed] in sentence
    assert len(sentence) < 300
    assert files(desk) == before


def test_what_is_to_be_looked_at_is_named_at_once(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "lr0.1", "--run_dir", "my runs/a", "--model.lr", "0"]) == 2
    assert "its record goes into my runs/a (look at it: tensorboard --logdir 'my runs/a')" in capsys.readouterr().out


def test_an_unreadable_root_is_named(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = desk / "data"
    (root / "MNIST" / "raw").mkdir(parents=True)
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte").mkdir()
    assert main(["fit", *CONFIG, "--data.root", str(root)]) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
    assert not (desk / "logs").exists()
    shutil.rmtree(root)


@pytest.mark.parametrize("command", ["fly", "--model.lr"])
def test_an_unknown_command_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    assert command in capsys.readouterr().err

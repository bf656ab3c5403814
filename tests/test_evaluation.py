"""The commands validate and test measure what the run measured, on every image, in its precision."""

import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from remains import result_of

from lit_mnist import LitMLP
from lit_mnist.cli.main import main
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.recorder import evaluate

SMALL = ("--model.hidden", "[64,32]", "--data.train_size", "640", "--data.val_size", "500", "--trainer.max_epochs", "2")


@pytest.fixture(scope="module", params=["32-true", "64-true", "bf16-true", "bf16-mixed"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    options = ["--threads", "1", "--trainer.precision", request.param, "--run_dir", str(folder)]
    assert main(["fit", "--config", "lr0.1", *SMALL, *options]) == 0
    return folder


def test_test_prints_the_accuracy_of_the_run_and_draws_its_mistakes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path", str(run)]) == 0
    printed = capsys.readouterr()
    assert f"test/accuracy  {100 * result_of(run)['test_accuracy']:.2f} %" in printed.out
    assert (run / "confusion.png").exists()
    assert (run / "mistakes.png").exists()


def test_validate_prints_the_runs_last_validation_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--ckpt_path", str(run)]) == 0
    result = result_of(run)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["val/loss", f"{result['val_loss_by_epoch'][-1]:.4f}"],
        ["val/accuracy", f"{100 * result['val_accuracy_by_epoch'][-1]:.2f}", "%"],
    ]


@pytest.mark.parametrize("run", ["32-true"], indirect=True)
@pytest.mark.parametrize(("command", "limit"), [("test", "0.1"), ("test", "0"), ("validate", "1")])
def test_a_part_of_the_images_is_not_measured(command: str, limit: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = {"test": "--trainer.limit_test_batches", "validate": "--trainer.limit_val_batches"}[command]
    assert main([command, "--ckpt_path", str(run), option, limit]) == 2
    assert "every image" in capsys.readouterr().err


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.parametrize("run", ["32-true"], indirect=True)
def test_only_the_finished_network_on_its_own_data_is_drawn_into_the_record(run: Path, workplace: Path) -> None:
    assert main(["test", "--ckpt_path", str(run)]) == 0
    drawn = pictures(run)
    assert {"confusion.png", "mistakes.png"} <= set(drawn)
    for name in drawn:
        (run / name).write_bytes(b"kept")
    older = RunFolder(run).checkpoints[1]
    assert main(["test", "--ckpt_path", str(older)]) == 0
    assert set(pictures(run).values()) == {b"kept"}


@pytest.mark.parametrize("run", ["32-true"], indirect=True)
def test_a_checkpoint_far_from_its_run_is_tested_and_what_lies_there_is_left_alone(run: Path, workplace: Path) -> None:
    (workplace / "project" / "models").mkdir(parents=True)
    shutil.copy(RunFolder(run).checkpoints[0], workplace / "project" / "models" / "net.ckpt")
    for name in ("config.yaml", "result.json", "important.test"):
        (workplace / "project" / name).write_text("server:\n  port: 8080\n")
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    assert main(["test", "--ckpt_path", str(workplace / "project" / "models" / "net.ckpt")]) == 0
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("run", ["32-true"], indirect=True)
def test_a_checkpoint_alone_is_measured_on_the_data_that_it_was_trained_for(
    run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(RunFolder(run).checkpoints[0], workplace / "net.ckpt")
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", str(run)]) == 0
        of_the_run = capsys.readouterr().out.splitlines()[:2]
        assert main([command, "--ckpt_path", "nothing.ckpt", "--ckpt_path", "net.ckpt"]) == 0  # the last one counts
        assert capsys.readouterr().out.splitlines() == of_the_run


@pytest.mark.parametrize("run", ["32-true"], indirect=True)
@pytest.mark.parametrize("option", [("--data.val_size", "1000"), ("--seed_everything", "2")])
def test_images_that_were_trained_on_are_not_validated_on(
    option: tuple[str, str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--ckpt_path", str(run), *option]) == 2
    assert "may have seen these images" in capsys.readouterr().err


def test_evaluation_keeps_nothing_for_a_backward_pass() -> None:
    kept, module = [], LitMLP(hidden=(8,))
    module.mlp.register_forward_hook(lambda *_: kept.append(torch.is_grad_enabled()))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    evaluate(trainer, module, [(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64))])
    assert kept == [False]

"""What CSVLogger and Weights & Biases get of a run: losses, accuracies, seconds, the epoch, SGD steps, the batch size."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from remains import result_of

from lit_mnist import LitMLP, MNISTDataModule, in_blocks
from lit_mnist.cli.main import main

STEPS, EPOCHS = 30, 2  # SGD steps per epoch: 950 images, 32 at a time
Rows = list[dict[str, str]]


def rows_of(folder: Path) -> Rows:
    with next(folder.rglob("metrics.csv")).open() as file:
        return list(csv.DictReader(file))


def column(rows: Rows, name: str) -> dict[tuple[int, int], float]:
    """(epoch, step) -> value of a metric."""
    return {(int(float(row["epoch"])), int(row["step"])): float(row[name]) for row in rows if row.get(name)}


@pytest.fixture(scope="module", params=["blocks", "single steps"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `fit`, with a CSVLogger."""
    folder = tmp_path_factory.mktemp("logged")
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "csv")}}
    (folder / "own.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger, "max_epochs": EPOCHS}}))
    options = ["--config", "lr0.1", "--config", str(folder / "own.yaml"), "--run_dir", str(folder / "run")]
    options += ["--data.train_size", "950", "--data.val_size", "100", "--model.hidden", "16", "--threads", "1"]
    if request.param == "single steps":
        options += ["--trainer.val_check_interval", "0.5"]
    assert main(["fit", *options]) == 0
    return folder


def test_a_logger_of_fit_gets_the_whole_record(run: Path) -> None:
    rows, result = rows_of(run / "csv"), result_of(run / "run")
    for row in rows:  # where it steps singly, Lightning counts from 0
        row["step"] = str(int(row["step"]) + ((int(row["step"]) + 1) % STEPS == 0))
    ends = [(epoch, (epoch + 1) * STEPS) for epoch in range(EPOCHS)]
    for name in ("train/loss", "test/accuracy", "val/loss", "val/accuracy", "train/seconds"):
        assert set(ends) <= set(column(rows, name)), name
    for name, values in (("train/loss", result["train_loss_by_epoch"]), ("test/accuracy", result["test_accuracy_by_epoch"])):
        assert [column(rows, name)[end] for end in ends] == pytest.approx(values, rel=1e-5)
    assert column(rows, "train/accuracy") == {ends[-1]: pytest.approx(result["train_accuracy"])}
    assert column(rows, "test/accuracy")[ends[-1]] == pytest.approx(result["test_accuracy"])
    for row in rows:
        assert row["epoch"]
        assert int(row["step"]) <= EPOCHS * STEPS


def test_the_hyperparameters_have_those_of_the_data(run: Path) -> None:
    logged = yaml.safe_load(next((run / "csv").rglob("hparams.yaml")).read_text())
    expected = {"lr": 0.1, "batch_size": 32, "hidden": [16], "train_size": 950, "val_size": 100, "seed": 1, "dataset": "MNIST"}
    assert {name: logged[name] for name in expected} == expected


@pytest.mark.parametrize("how", ["plain", "blocks"])
def test_a_logger_of_anybodys_trainer_gets_losses_accuracies_and_the_batch_size(how: str, tmp_path: Path) -> None:
    logger, quiet = pl.loggers.CSVLogger(tmp_path), {"enable_progress_bar": False, "enable_model_summary": False}
    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": EPOCHS, "enable_checkpointing": False, **quiet}
    trainer = pl.Trainer(logger=logger, log_every_n_steps=10, **options)
    model, module = LitMLP(hidden=(16,), seed=1), MNISTDataModule(32, train_size=950, val_size=100, seed=1)
    trainer.fit(in_blocks(model, steps_per_block=5) if how == "blocks" else model, datamodule=module)
    trainer.test(model, module, verbose=False)
    rows = rows_of(tmp_path)
    tens = [step - (how == "plain") for step in range(10, EPOCHS * STEPS + 1, 10)]  # Lightning counts from 0, blocks from 1
    assert [step for _, step in column(rows, "train/loss_step")] == tens
    for name in ("train/loss", "val/loss", "val/accuracy"):
        assert [epoch for epoch, _ in column(rows, name)] == list(range(EPOCHS))
    assert {row["step"] for row in rows if row.get("test/accuracy")} == {str(EPOCHS * STEPS)}
    hyperparameters = yaml.safe_load(next(tmp_path.rglob("hparams.yaml")).read_text())
    assert (hyperparameters["batch_size"], hyperparameters["lr"]) == (32, 0.1)


def records(content: bytes) -> Iterator[bytes]:
    """Reads LevelDB's log format: a header of 7 bytes, then chunks (checksum 4, length 2, kind 1, data) in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only chunk of a record, or its last
            yield whole
            whole = b""


def test_weights_and_biases_offline_gets_the_whole_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined] # made when it is imported

    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(name, value)
    init = {"save_dir": str(tmp_path), "project": "digits"}
    logger = {"class_path": "WandbLogger", "init_args": init}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger, "max_epochs": EPOCHS}}))
    options = ["--data.train_size", "950", "--data.val_size", "100", "--model.hidden", "16", "--threads", "1"]
    assert main(["fit", "--config", "lr0.1", "--config", "own.yaml", "--run_dir", "run", *options]) == 0
    import wandb

    wandb.teardown()  # waits until the file is whole
    history, config = [], set()
    for data in records(next(Path().rglob("*.wandb")).read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            history.append({each.key or "/".join(each.nested_key): each.value_json for each in record.history.item})
        config |= {(each.key, each.value_json) for each in (*record.run.config.update, *record.config.update)}
    logged = set().union(*history)
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy", "train/accuracy", "train/seconds", "epoch"} <= logged
    assert {int(float(row["trainer/global_step"])) for row in history if "train/loss" in row} == {STEPS, 2 * STEPS}
    assert all("epoch" in row for row in history)
    assert ("batch_size", "32") in config

"""Checkpoints of LitMLP in other people's programs: going on from them, plain and in blocks, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_lit_mlp import QUIET, data, fitted, network, weights

from lit_mnist import LitMLP, MNISTDataModule, in_blocks

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # val_size 0
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]
STEPS = 21  # per epoch: 650 images, 32 at a time


def stepping(how: str) -> LitMLP:
    return network() if how == "plain" else in_blocks(network(), steps_per_block=4)


@pytest.fixture(scope="module")
def whole() -> dict[int, str]:
    """Weights after one, two and three epochs of a run that was never stopped."""
    return {epochs: weights(fitted_model(max_epochs=epochs)) for epochs in (1, 2, 3)}


def fitted_model(**options: Any) -> LitMLP:
    fitted(model := network(), **options)
    return model


@pytest.mark.parametrize("second", ["plain", "blocks"])
@pytest.mark.parametrize("first", ["plain", "blocks"])
def test_resumed_from_the_end_of_an_epoch_by_either_equals_never_stopped(
    first: str, second: str, whole: dict[int, str], tmp_path: Path
) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}-{step}")
    fitted(stepping(first), callbacks=[keep], enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch=0-step={STEPS}.ckpt", f"epoch=1-step={2 * STEPS}.ckpt"]
    for name, epochs in ((f"epoch=0-step={STEPS}.ckpt", 2), (f"epoch=1-step={2 * STEPS}.ckpt", 3)):
        model = stepping(second)
        trainer = fitted(model, ckpt_path=tmp_path / name, max_epochs=epochs)
        assert weights(model) == whole[epochs]
        assert trainer.global_step == epochs * STEPS


@pytest.mark.parametrize("saved", ["by the last step of an epoch", "after the fit", "after a validation"])
def test_every_checkpoint_at_the_end_of_an_epoch_may_be_resumed_from(saved: str, whole: dict[int, str], tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if saved == "by the last step of an epoch":
        keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=STEPS, filename="end")
        options = {"callbacks": [keep], "enable_checkpointing": True}
    if saved == "after a validation":
        keep = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss", filename="end", save_on_train_epoch_end=False)
        options = {"callbacks": [keep], "enable_checkpointing": True}
    trainer = fitted(network(), max_epochs=1, **options)
    if saved == "after the fit":
        trainer.save_checkpoint(tmp_path / "end.ckpt")
    model = network()
    assert fitted(model, ckpt_path=tmp_path / "end.ckpt").global_step == 2 * STEPS
    assert weights(model) == whole[2]


@pytest.mark.parametrize("how", ["plain", "blocks"])
def test_a_checkpoint_within_an_epoch_is_measured_but_not_resumed_from(how: str, tmp_path: Path) -> None:
    model = stepping(how)
    trainer = fitted(model, max_steps=STEPS + 6)  # within a block, too
    trainer.save_checkpoint(tmp_path / "within.ckpt")
    assert trainer.global_step == STEPS + 6
    for resumed in ("plain", "blocks"):
        with pytest.raises(ValueError, match="taken within an epoch"):
            fitted(stepping(resumed), ckpt_path=tmp_path / "within.ckpt")
    measured = trainer.test(model, data(), verbose=False)
    assert pl.Trainer(**QUIET).test(network(), data(), ckpt_path=tmp_path / "within.ckpt", verbose=False) == measured
    assert weights(LitMLP.load_from_checkpoint(tmp_path / "within.ckpt")) == weights(model)


class Interrupted(Exception):
    pass


class Interrupt(LitMLP):
    def batch_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.countdown = getattr(self, "countdown", 10) - 1
        if self.countdown < 0:
            raise Interrupted
        return super().batch_loss(images, labels)


@pytest.mark.filterwarnings("ignore:.*ckpt_path")  # the callback looks for a file of its own to go on with
@pytest.mark.parametrize("how", ["plain", "blocks"])
def test_what_is_saved_because_of_an_exception_is_not_trained_on_in_silence(how: str, tmp_path: Path) -> None:
    model = network(Interrupt) if how == "plain" else in_blocks(network(Interrupt), steps_per_block=4)
    with pytest.raises(Interrupted):
        fitted(model, callbacks=[pl.callbacks.OnExceptionCheckpoint(tmp_path)], enable_checkpointing=True)
    (file,) = tmp_path.glob("*.ckpt")
    with pytest.raises(ValueError, match="taken within an epoch"):
        fitted(network(), ckpt_path=file)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 16), ("train_size", 600), ("val_size", 60), ("seed", 4)])
def test_a_checkpoint_is_not_resumed_on_other_data(name: str, value: int, tmp_path: Path) -> None:
    trainer = fitted(network(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(ValueError, match=f"{name} is {value}, but the run to resume was trained with"):
        fitted(network(), data(**({"batch_size": 32} | {name: value})), ckpt_path=tmp_path / "end.ckpt")


def test_without_a_seed_the_data_module_takes_over_that_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(11)
    fitted(whole := network(), data(seed=None))
    torch.manual_seed(11)
    fitted(network(), data(seed=None), max_epochs=1).save_checkpoint(tmp_path / "end.ckpt")
    torch.manual_seed(12)
    fitted(model := network(), data(seed=None), ckpt_path=tmp_path / "end.ckpt")
    assert weights(model) == weights(whole)


def test_a_model_and_a_trainer_may_be_used_again() -> None:
    trainer, model = pl.Trainer(**QUIET, max_epochs=1), network()
    trainer.fit(model, datamodule=data(64, val_size=0))
    assert trainer.global_step == 11
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, datamodule=data())
    assert trainer.global_step == 11 + STEPS
    assert "val/loss" in trainer.callback_metrics  # the module before, which held no images out, left no limit behind


class Failing(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise Interrupted


def test_a_trainer_that_met_an_exception_validates_the_next_time() -> None:
    trainer: Any = pl.Trainer(**QUIET, max_epochs=1)
    trainer.callbacks.append(failing := Failing())
    with pytest.raises(Interrupted):
        trainer.fit(network(), datamodule=data(val_size=0))
    trainer.callbacks.remove(failing)
    trainer.fit(network(), datamodule=data())
    assert "val/loss" in trainer.callback_metrics


class Peek(pl.Callback):
    """Looks at a batch, as many a callback does that logs some images."""

    works_in_blocks = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        next(iter(trainer.train_dataloader))  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        next(iter(trainer.train_dataloader))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["plain", "blocks"])
def test_a_callback_that_looks_at_a_batch_changes_no_bit(how: str, whole: dict[int, str]) -> None:
    fitted(model := stepping(how), callbacks=[Peek()])
    assert weights(model) == whole[2]


def test_a_trained_network_is_tested_and_applied_to_any_data(tmp_path: Path) -> None:
    fitted(network(), precision="64-true").save_checkpoint(tmp_path / "trained.ckpt")
    trainer, others = pl.Trainer(**QUIET), MNISTDataModule(128, val_size=1000)
    (measured,) = trainer.test(network(), others, ckpt_path=tmp_path / "trained.ckpt", verbose=False, weights_only=True)
    probabilities: Any = trainer.predict(LitMLP.load_from_checkpoint(tmp_path / "trained.ckpt"), others.test_dataloader())
    right = torch.cat(probabilities).argmax(1) == others.data.test[1]
    assert measured["test/accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-7)
    assert measured["test/accuracy"] > 0.4


def test_a_logger_goes_on_where_it_was_in_sgd_steps_after_a_resume_of_a_checkpoint_of_blocks(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="end")
    fitted(stepping("blocks"), max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    logger = pl.loggers.CSVLogger(tmp_path)
    fitted(network(), ckpt_path=tmp_path / "end.ckpt", logger=logger, log_every_n_steps=1)
    (table,) = tmp_path.rglob("metrics.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    steps = [int(line[lines[0].index("step")]) for line in lines[1:]]
    assert (min(steps), max(steps)) == (STEPS, 2 * STEPS - 1)  # Lightning counts from 0

"""The classes in other people's programs: their own Trainer, callbacks, checkpoints, numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from remains import points_of
from torch import Tensor

from lit_mnist import LitMLP, MNISTDataModule
from lit_mnist.engines.blocks import Batch
from lit_mnist.record.events import EventLog
from lit_mnist.record.provenance import weights_sha256

pytestmark = pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
STEPS = 94  # per epoch


def fitted(
    model: LitMLP, *callbacks: pl.Callback, ckpt_path: Path | None = None, val_size: int = 0, **options: Any
) -> pl.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    quiet |= {"logger": False, "enable_checkpointing": any(isinstance(one, pl.callbacks.Checkpoint) for one in callbacks)}
    quiet |= {"accelerator": "cpu", "log_every_n_steps": 1}
    trainer = pl.Trainer(callbacks=list(callbacks), **(quiet | options))
    trainer.fit(model, datamodule=data(val_size=val_size), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def data(batch_size: int = 32, val_size: int = 0) -> MNISTDataModule:
    return MNISTDataModule(batch_size, train_size=3000, val_size=val_size, steps_per_block=8)


def network(**options: Any) -> LitMLP:
    defaults: dict[str, Any] = {"hidden": (64, 32), "seed": 1}
    return LitMLP(**(defaults | options))


def weights(model: LitMLP) -> str:
    return weights_sha256(model.mlp.state_dict())


class Peek(pl.Callback):
    """Looks at a batch, as many a callback does that logs some images."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        next(iter(trainer.train_dataloader))  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        next(iter(trainer.train_dataloader))  # type: ignore[arg-type]


def test_a_callback_that_looks_at_a_batch_changes_no_bit_of_a_run_that_goes_on(root: Path, tmp_path: Path) -> None:
    whole = network()
    fitted(whole, max_epochs=2)
    for callbacks in ([], [Peek()]):
        first, second, file = network(), network(), tmp_path / f"{len(callbacks)}.ckpt"
        fitted(first, *callbacks, max_steps=20).save_checkpoint(file)
        fitted(second, *callbacks, ckpt_path=file, max_epochs=2)
        assert weights(second) == weights(whole)


class Interrupted(Exception):
    pass


class Interrupt(LitMLP):
    """Stops within a block, after so many SGD steps."""

    def batch_loss(self, batch: Batch) -> Tensor:
        if self.trainer.global_step == 16:
            self.countdown = getattr(self, "countdown", 3) - 1
            if self.countdown < 0:
                raise Interrupted
        return super().batch_loss(batch)


@pytest.mark.filterwarnings("ignore:.*ckpt_path")  # the callback looks for a file of its own to go on with
def test_a_checkpoint_saved_because_of_an_exception_counts_the_steps_that_its_weights_have_made(
    root: Path, tmp_path: Path
) -> None:
    whole, stopped, rest = network(), Interrupt(hidden=(64, 32), seed=1), network()
    fitted(whole, max_epochs=1)
    rescue = pl.callbacks.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(Interrupted):
        fitted(stopped, rescue, max_epochs=1)
    (file,) = tmp_path.glob("*.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 16 + 3
    fitted(rest, ckpt_path=file, max_epochs=1)
    assert weights(rest) == weights(whole)


def test_numpys_numbers_are_saved_as_plain_ones(root: Path, tmp_path: Path) -> None:
    model = LitMLP(lr=np.float64(0.1), hidden=list(np.array([16, 8])), seed=np.int64(3))  # type: ignore[arg-type]
    module = MNISTDataModule(np.int64(32), train_size=np.int64(320), val_size=np.int64(64))  # type: ignore[arg-type]
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.fit(model, datamodule=module)
    trainer.save_checkpoint(tmp_path / "numbers.ckpt")
    loaded = LitMLP.load_from_checkpoint(tmp_path / "numbers.ckpt")
    assert (loaded.lr, loaded.mlp.hidden, loaded.seed) == (0.1, (16, 8), 3)


def test_the_trainers_own_checkpoint_is_named_after_the_sgd_step(root: Path, tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path)
    fitted(network(), keep, max_epochs=1, val_size=500)
    assert [path.name for path in tmp_path.iterdir()] == [f"epoch=0-step={STEPS}.ckpt"]


def test_validate_and_test_return_what_they_measured(root: Path) -> None:
    model = network()
    trainer = fitted(model, max_epochs=1, val_size=500)
    (validated,) = trainer.validate(model, datamodule=data(val_size=500), verbose=False)
    (tested,) = trainer.test(model, datamodule=data(), verbose=False)
    assert (set(validated), set(tested)) == ({"val/loss", "val/accuracy"}, {"test/loss", "test/accuracy"})


def test_a_model_and_a_trainer_may_be_used_again(root: Path, tmp_path: Path) -> None:
    model, file = network(), tmp_path / "first.ckpt"
    fitted(model, max_steps=20).save_checkpoint(file)
    fitted(model, ckpt_path=file, max_steps=40)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(model, datamodule=data(batch_size=64))
    assert trainer.global_step == 47
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, datamodule=data(batch_size=32, val_size=500))
    assert trainer.global_step == 47 + STEPS
    assert "val/loss" in trainer.callback_metrics  # the module before, which held no images out, left no limit behind


def test_a_run_that_stopped_within_a_block_logs_the_points_of_one_that_did_not(root: Path, tmp_path: Path) -> None:
    seldom: dict[str, Any] = {"log_every_n_steps": 10, "max_epochs": 1}  # after steps 16, 24, 32, 40, 56: ends of blocks of 8
    fitted(network(), logger=EventLog(tmp_path / "whole"), **seldom)
    fitted(network(), logger=EventLog(tmp_path / "parts"), max_steps=12, **seldom).save_checkpoint(tmp_path / "12.ckpt")
    fitted(network(), logger=EventLog(tmp_path / "parts"), ckpt_path=tmp_path / "12.ckpt", **seldom)
    whole, parts = ({point for point in points_of(tmp_path / name) if "step" in point[0]} for name in ("whole", "parts"))
    assert parts == whole


def test_a_trained_network_is_tested_and_applied_to_any_data_in_any_precision(root: Path, tmp_path: Path) -> None:
    model, others = network(), MNISTDataModule(128, val_size=1000)
    fitted(model, max_epochs=1, precision="64-true").save_checkpoint(tmp_path / "trained.ckpt")
    loaded = LitMLP.load_from_checkpoint(tmp_path / "trained.ckpt")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (measured,) = trainer.test(network(), others, ckpt_path=tmp_path / "trained.ckpt", verbose=False, weights_only=True)
    probabilities = trainer.predict(loaded, others.test_dataloader())
    assert probabilities is not None
    right = torch.cat(probabilities).argmax(1) == others._splits["test"][1]  # type: ignore[arg-type] # a list of tensors here
    assert measured["test/accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-7)
    assert measured["test/accuracy"] > 0.5


def test_what_is_wrong_with_the_arguments_of_load_from_checkpoint_is_said(root: Path, tmp_path: Path) -> None:
    fitted(network(), max_steps=1).save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match="lr must be above 0"):
        LitMLP.load_from_checkpoint(tmp_path / "one.ckpt", lr=-1.0)


class Failing(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise Interrupted


def test_a_trainer_that_met_an_exception_validates_the_next_time(root: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.callbacks.append(failing := Failing())  # type: ignore[attr-defined] # set by a connector
    with pytest.raises(Interrupted):
        trainer.fit(network(), datamodule=data())
    trainer.callbacks.remove(failing)  # type: ignore[attr-defined]
    trainer.fit(network(), datamodule=data(val_size=500))
    assert "val/loss" in trainer.callback_metrics


def test_the_seed_gives_the_same_weights_wherever_tensors_are_made_and_reseeds_nothing() -> None:
    state, cuda_calls = torch.get_rng_state(), len(torch.cuda._queued_calls)
    with torch.device("meta"):
        elsewhere = network()
    assert weights(elsewhere) == weights(network())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.cuda._queued_calls) == cuda_calls  # a seed for the GPU would wait here until there is one

"""LitMLP in a plain Trainer, plain and in blocks: the bits of the plain PyTorch loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from control import read_once
from plain_loop import plain_loop
from torch import Tensor

from lit_mnist import LitMLP, MNISTDataModule, in_blocks
from lit_mnist.datasets.loaders import EpochLoader, StoredLoader
from lit_mnist.record.provenance import weights_sha256

IMAGES, SEED, HIDDEN = 650, 3, (16,)
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def network(kind: type[LitMLP] = LitMLP, **options: Any) -> LitMLP:
    chosen: dict[str, Any] = {"hidden": HIDDEN, "seed": SEED}
    return kind(**(chosen | options))


def data(batch_size: int = 32, **options: Any) -> MNISTDataModule:
    return read_once(MNISTDataModule(batch_size, **({"train_size": IMAGES, "val_size": 50, "seed": SEED} | options)))


def fitted(model: LitMLP, module: MNISTDataModule | None = None, ckpt_path: Path | None = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(**(QUIET | {"max_epochs": 2} | options))
    trainer.fit(model, datamodule=module or data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights(model: LitMLP) -> str:
    return weights_sha256(model.mlp.state_dict())


def first_images(batch_size: int) -> MNISTDataModule:
    """The first images of MNIST, none held out: what the plain loop trains on."""
    module = data(batch_size, val_size=1)
    module.setup()
    images, labels = module.data.train
    module._splits["train"] = images[:IMAGES].unsqueeze(1).float() / 255, labels[:IMAGES]
    return module


@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_plain_and_in_blocks_of_any_size_train_the_bits_of_the_plain_loop(batch_size: int) -> None:
    losses, mlp = plain_loop(IMAGES, batch_size, 2, 0.1, SEED, HIDDEN)
    assert IMAGES % batch_size  # the last mini-batch is smaller
    epoch_loss = sum(losses[len(losses) // 2 :]) / (len(losses) // 2)
    for steps_per_block in (None, 1, 7, 0):
        model = network() if steps_per_block is None else in_blocks(network(), steps_per_block=steps_per_block)
        trainer = fitted(model, first_images(batch_size))
        assert weights(model) == weights_sha256(mlp.state_dict())
        assert trainer.global_step == len(losses)
        assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(epoch_loss, rel=1e-6)
        assert model.epoch_loss == float(trainer.callback_metrics["train/loss"])


class Smoothed(LitMLP):
    def batch_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels, label_smoothing=0.1)


def test_another_loss_is_one_method_plain_and_in_blocks() -> None:
    _, mlp = plain_loop(IMAGES, 32, 2, 0.1, SEED, HIDDEN, label_smoothing=0.1)
    for model in (network(Smoothed), in_blocks(network(Smoothed))):
        fitted(model, first_images(32))
        assert weights(model) == weights_sha256(mlp.state_dict())


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = EpochLoader(torch.zeros(100, 1), torch.arange(100), 8, seed)
        loader.set_epoch(epoch)
        torch.rand(17)
        return [int(label) for _, labels in loader for label in labels]

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == list(range(100))
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_validation_a_logger_and_checkpoints_change_no_bit(tmp_path: Path) -> None:
    hashes: set[str] = set()
    for options in (
        {"limit_val_batches": 0},
        {"val_check_interval": 5, "logger": pl.loggers.CSVLogger(tmp_path), "log_every_n_steps": 1},
        {"callbacks": [pl.callbacks.ModelCheckpoint(tmp_path / "own", every_n_train_steps=7)], "enable_checkpointing": True},
    ):
        torch.manual_seed(len(hashes))
        fitted(model := network(), **options)
        hashes.add(weights(model))
    assert len(hashes) == 1


def test_evaluation_counts_every_image_once_in_eval_mode_whatever_the_batches() -> None:
    model, module = network(), data()
    module.setup()
    images, labels = module._splits["test"]
    with torch.inference_mode():
        logits = model(images)
    loss, accuracy = F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
    ragged = StoredLoader(images, labels)
    ragged.batches = [(images[:9000], labels[:9000]), (images[9000:], labels[9000:])]
    trainer = pl.Trainer(**QUIET)
    for loaders in ({"datamodule": module}, {"dataloaders": ragged}):
        (tested,) = trainer.test(model, **loaders, verbose=False)
        assert tested["test/accuracy"] == pytest.approx(accuracy, abs=1e-7)
        assert tested["test/loss"] == pytest.approx(loss, rel=1e-5)


def test_digits_are_learnt_and_random_labels_are_not() -> None:
    accuracies = []
    for shuffled in (False, True):
        module = data(16, train_size=3000, val_size=500)
        module.setup()
        images, labels = module._splits["train"]
        if shuffled:
            module._splits["train"] = images, labels[torch.randperm(3000, generator=torch.Generator().manual_seed(0))]
        trainer = fitted(in_blocks(network(hidden=(32,))), module, max_epochs=3)
        accuracies.append(float(trainer.callback_metrics["val/accuracy"]))
    assert accuracies[0] > 0.85
    assert accuracies[1] < 0.3


@pytest.mark.parametrize("lr", [0, -1, float("nan"), float("inf")])
def test_a_learning_rate_out_of_range_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be above 0 and finite"):
        LitMLP(lr=lr)


def test_a_checkpoint_holds_plain_values_only_and_builds_the_same_module(tmp_path: Path) -> None:
    model = LitMLP(lr=np.float64(0.2), hidden=list(np.array([16, 8])), seed=np.int64(3))  # type: ignore[arg-type]
    module = MNISTDataModule(np.int64(32), train_size=np.int64(320), val_size=np.int64(64))  # type: ignore[arg-type]
    fitted(model, module, max_steps=3).save_checkpoint(tmp_path / "own.ckpt")
    loaded = LitMLP.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert (loaded.lr, loaded.mlp.hidden, loaded.hparams["seed"]) == (0.2, (16, 8), 3)
    assert weights(loaded) == weights(model)
    with pytest.raises(ValueError, match="lr must be above 0"):
        LitMLP.load_from_checkpoint(tmp_path / "own.ckpt", lr=-1.0)


def test_the_seed_gives_the_same_weights_wherever_tensors_are_made_and_reseeds_nothing() -> None:
    state, cuda_calls = torch.get_rng_state(), len(torch.cuda._queued_calls)
    with torch.device("meta"):
        elsewhere = network()
    assert weights(elsewhere) == weights(network())
    assert weights(elsewhere) != weights(network(seed=SEED + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.cuda._queued_calls) == cuda_calls  # a seed for the GPU would wait here until there is one

"""LitMLP under a real Trainer on the real MNIST."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_mnist import MLP, Diverged, LitMLP, MNISTDataModule
from lit_mnist.engines.blocks import Batch, EpochOrder
from lit_mnist.record.provenance import weights_sha256

STEPS = 200


def trainer(**options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(defaults | options))


def plain_loop(
    data: MNISTDataModule, seed: int, lr: float, epochs: int, max_steps: int = -1, label_smoothing: float = 0.0
) -> MLP:
    """The 20-line PyTorch loop that the Trainer must equal, bit for bit."""
    torch.manual_seed(seed)
    mlp = MLP()
    optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
    images, labels = data._splits["train"]
    order, step = EpochOrder(len(labels), seed), 0
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for indices in order.permutation().split(data.batch_size):
            if step == max_steps:
                return mlp
            optimizer.zero_grad()
            F.cross_entropy(mlp(images[indices]), labels[indices], label_smoothing=label_smoothing).backward()
            optimizer.step()
            step += 1
    return mlp


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("batch_size", [8, 32, 128])
def test_200_steps_equal_the_plain_loop_bit_for_bit(root: Path, batch_size: int) -> None:
    data = MNISTDataModule(batch_size, val_size=0, seed=3)
    model = LitMLP(lr=0.1, seed=3)
    trainer(max_steps=STEPS).fit(model, datamodule=data)
    assert torch.equal(flat(model.mlp), flat(plain_loop(data, 3, 0.1, 1, STEPS)))


@pytest.mark.parametrize("steps_per_block", [1, 7, 64])
def test_the_block_size_changes_no_bit_of_two_epochs_with_a_ragged_last_batch(root: Path, steps_per_block: int) -> None:
    data = MNISTDataModule(32, val_size=0, train_size=1003, seed=1, steps_per_block=steps_per_block)
    model = LitMLP(lr=0.1, seed=1)
    fitter = trainer(max_epochs=2)
    fitter.fit(model, datamodule=data)
    assert fitter.global_step == 2 * 32
    assert torch.equal(flat(model.mlp), flat(plain_loop(data, 1, 0.1, 2)))


def test_the_fast_engine_makes_the_same_steps_to_rounding_and_counts_them(root: Path) -> None:
    models = {}
    for engine in ("exact", "fast"):
        models[engine] = LitMLP(lr=0.1, seed=1, engine=engine)
        # in float32 a neuron within rounding of 0 may be on in one run and off in the other, which no tolerance bounds
        fitter = trainer(max_steps=STEPS, precision="64-true")
        fitter.fit(models[engine], datamodule=MNISTDataModule(32, val_size=0))
        assert fitter.global_step == STEPS
    exact, fast = flat(models["exact"].mlp), flat(models["fast"].mlp)
    assert not torch.equal(exact, fast)
    assert exact.dtype == torch.float64
    assert (exact - fast).abs().max() < 1e-13


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_validation_a_logger_and_a_checkpoint_callback_change_no_bit(root: Path, tmp_path: Path) -> None:
    hashes = []
    for options in (
        {"limit_val_batches": 0},
        {"val_check_interval": 5, "logger": pl.loggers.CSVLogger(tmp_path / "csv"), "enable_checkpointing": True},
        {"callbacks": [pl.callbacks.ModelCheckpoint(tmp_path / "own", every_n_train_steps=20)], "enable_checkpointing": True},
    ):
        torch.manual_seed(7)
        model = LitMLP(seed=1)
        fitter = trainer(max_epochs=2, default_root_dir=tmp_path / "root", **options)
        fitter.fit(model, datamodule=MNISTDataModule(8, train_size=1000, val_size=500, steps_per_block=10))
        hashes.append(weights_sha256(model.mlp.state_dict()))
    assert len(set(hashes)) == 1


def test_another_seed_gives_other_weights_and_another_order(root: Path) -> None:
    first, second = EpochOrder(100, 1), EpochOrder(100, 2)
    assert not torch.equal(first.permutation(), second.permutation())
    assert not torch.equal(flat(LitMLP(seed=1)), flat(LitMLP(seed=2)))
    second_epoch = EpochOrder(100, 1)
    second_epoch.set_epoch(1)
    assert not torch.equal(first.permutation(), second_epoch.permutation())


def test_the_order_does_not_depend_on_the_global_random_state(root: Path) -> None:
    torch.manual_seed(0)
    before = EpochOrder(1000, 5).permutation()
    torch.rand(17)
    assert torch.equal(before, EpochOrder(1000, 5).permutation())


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_anybodys_dataloader_of_images_and_labels_trains_the_same_steps(root: Path) -> None:
    data = MNISTDataModule(32, val_size=0, train_size=1003)
    data.setup()
    images, labels = data._splits["train"]
    ordered = DataLoader(TensorDataset(images, labels), batch_size=32, num_workers=0)
    model = LitMLP(lr=0.1, seed=1)
    trainer(limit_val_batches=0).fit(model, ordered)
    torch.manual_seed(1)
    mlp = MLP()
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    for batch, answers in ordered:
        optimizer.zero_grad()
        F.cross_entropy(mlp(batch), answers).backward()
        optimizer.step()
    assert torch.equal(flat(model.mlp), flat(mlp))


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
def test_a_module_that_knows_no_blocks_gets_ordinary_batches(root: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Linear(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(784, 10)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            images, labels = batch
            seen.append(tuple(images.shape))
            return F.cross_entropy(self.layer(images.flatten(1)), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer(limit_val_batches=0).fit(Linear(), datamodule=MNISTDataModule(32, train_size=100, val_size=0))
    assert seen == [(32, 1, 28, 28)] * 3 + [(4, 1, 28, 28)]


def test_the_epoch_loss_is_the_mean_of_its_batch_losses(root: Path) -> None:
    data = MNISTDataModule(32, val_size=0, train_size=1003)
    model = LitMLP(lr=0.1, seed=1)
    fitter = trainer()
    fitter.fit(model, datamodule=data)
    torch.manual_seed(1)
    mlp = MLP().double()
    images, labels = data._splits["train"]
    losses = []
    for indices in EpochOrder(1003, 1).permutation().split(32):
        loss = F.cross_entropy(mlp(images[indices].double()), labels[indices])
        gradients = torch.autograd.grad(loss, list(mlp.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(mlp.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        losses.append(loss.item())
    assert model.epoch_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert fitter.callback_metrics["train/loss"].item() == pytest.approx(model.epoch_loss, rel=1e-6)


def test_evaluation_counts_every_image_once_in_eval_mode(root: Path) -> None:
    model = LitMLP(seed=1)
    data = MNISTDataModule(val_size=0, train_size=1003)
    data.setup()
    images, labels = data._splits["test"]
    wrong_batches = [(images[:9000], labels[:9000]), (images[9000:], labels[9000:])]
    right = int((model(images).argmax(1) == labels).sum())
    assert model.evaluate(wrong_batches)["accuracy"] == right / 10_000
    assert model.evaluate(data.test_dataloader())["accuracy"] == right / 10_000
    assert model.training
    (tested,) = trainer().test(model, datamodule=data, verbose=False)
    assert tested["test/accuracy"] == pytest.approx(right / 10_000)


def test_the_loss_goes_down_but_random_labels_are_not_learnt(root: Path) -> None:
    data = MNISTDataModule(32, val_size=1000, train_size=5000)
    model = LitMLP(lr=0.05, seed=1)
    trainer(max_epochs=3).fit(model, datamodule=data)
    assert model.evaluate(data.val_dataloader())["accuracy"] > 0.85
    images, labels = data._splits["train"]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    data._splits["train"] = images, shuffled
    model = LitMLP(lr=0.05, seed=1)
    trainer(max_epochs=3).fit(model, datamodule=data)
    assert model.evaluate(data.val_dataloader())["accuracy"] < 0.3


def test_divergence_names_the_first_batch_whose_loss_is_not_finite(root: Path) -> None:
    data = MNISTDataModule(32, val_size=0, train_size=2000, steps_per_block=7)
    with pytest.raises(Diverged) as caught:
        trainer().fit(LitMLP(lr=1e20, seed=1), datamodule=data)
    torch.manual_seed(1)
    mlp = MLP()
    optimizer = torch.optim.SGD(mlp.parameters(), lr=1e20)
    images, labels = data._splits["train"]
    step = 0
    for indices in EpochOrder(2000, 1).permutation().split(32):
        step += 1
        optimizer.zero_grad()
        loss = F.cross_entropy(mlp(images[indices]), labels[indices])
        if not loss.isfinite():
            break
        loss.backward()
        optimizer.step()
    assert (caught.value.epoch, caught.value.step) == (1, step)


@pytest.mark.parametrize("lr", [0, -1, float("nan"), float("inf")])
def test_a_learning_rate_out_of_range_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be above 0 and finite"):
        LitMLP(lr=lr)


def test_a_checkpoint_of_the_trainers_own_loads_with_weights_only(root: Path, tmp_path: Path) -> None:
    model = LitMLP(lr=0.2, hidden=(30,), seed=1)
    fitter = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    fitter.fit(model, datamodule=MNISTDataModule(32, train_size=320, val_size=0))
    path = tmp_path / "own.ckpt"
    fitter.save_checkpoint(path)
    loaded = LitMLP.load_from_checkpoint(path, weights_only=True)
    assert (loaded.lr, loaded.mlp.hidden) == (0.2, (30,))
    assert torch.equal(flat(loaded), flat(model))


def test_the_fast_engine_refuses_a_model_with_another_optimizer(root: Path) -> None:
    class WithMomentum(LitMLP):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    with pytest.raises(ValueError, match="another optimizer"):
        trainer().fit(WithMomentum(engine="fast"), datamodule=MNISTDataModule(32, train_size=320, val_size=0))


class Smoothed(LitMLP):
    def batch_loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch.images), batch.labels, label_smoothing=0.1)


def test_another_loss_is_one_method(root: Path) -> None:
    data, model = MNISTDataModule(32, train_size=1003, val_size=0), Smoothed(seed=1)
    trainer().fit(model, datamodule=data)
    assert torch.equal(flat(model.mlp), flat(plain_loop(data, 1, 0.1, 1, label_smoothing=0.1)))


def test_the_fast_engine_refuses_a_model_with_another_loss(root: Path) -> None:
    with pytest.raises(ValueError, match="another batch_loss"):
        trainer().fit(Smoothed(engine="fast"), datamodule=MNISTDataModule(32, train_size=320, val_size=0))

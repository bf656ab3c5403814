"""The callback Instruments in Trainers: it changes nothing, and says what it cannot measure."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_mnist.data import MNISTDataModule
from lit_mnist.datasets.files import load
from lit_mnist.engines.blocks import EngineName, in_blocks
from lit_mnist.insight.instruments import Instruments
from lit_mnist.lit_mlp import LitMLP

Batch = tuple[Tensor, Tensor]


def cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


class Classifier(pl.LightningModule):
    """Somebody's module: dropout, layers of any kind, plain SGD unless told otherwise."""

    def __init__(self, *layers: nn.Module, optimizer: Any = torch.optim.SGD) -> None:
        super().__init__()
        self.layers, self.optimizer = nn.Sequential(*layers), optimizer

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return cross_entropy(self, *batch)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=0.1)


def perceptron(**options: Any) -> Classifier:
    torch.manual_seed(1)
    return Classifier(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10), **options)


def convolutional(*extra: nn.Module) -> Classifier:
    torch.manual_seed(1)
    return Classifier(nn.Conv2d(1, 4, 5, stride=3), *extra, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    images, labels = load("MNIST").train
    return TensorDataset(images[:640].unsqueeze(1).float() / 255, labels[:640])


def fit(
    module: pl.LightningModule,
    data: Any,
    folder: Path,
    *callbacks: pl.Callback,
    epochs: int = 2,
    logger: Any = False,
    **options: Any,
) -> pl.Trainer:
    """Trains 20 batches of 32 an epoch, shuffled by the global random state."""
    torch.manual_seed(2)
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data, batch_size=32, shuffle=True) if isinstance(data, TensorDataset) else data
    trainer.fit(module, loader, **options)
    return trainer


def bits(module: nn.Module) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in module.parameters()]


class Watch(pl.Callback):
    """Sees what the callback after it leaves behind."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert pl_module.training
        assert pl_module.layers[3].training
        assert not pl_module.layers[0].training  # as its owner wants it
        assert all(parameter.grad is not None for parameter in pl_module.parameters())  # of the step before

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.layers[0].eval()


def test_a_run_has_the_same_bits_with_and_without_instruments(data: TensorDataset, tmp_path: Path) -> None:
    plain, measured = perceptron(), perceptron()
    fit(plain, data, tmp_path)
    after_plain = torch.get_rng_state()
    instruments = Instruments(epochs=(0.05, 0.5, 1, 2), images=100, loss=cross_entropy)
    fit(measured, data, tmp_path, instruments, Watch())
    assert torch.equal(after_plain, torch.get_rng_state())  # dropout and the order of the images hang on it
    assert bits(plain) == bits(measured)
    assert [(values["epoch"], values["step"]) for values in instruments.measurements] == [
        (0.05, 1),
        (0.5, 10),
        (1, 20),
        (2, 40),
    ]


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_block_stepping_has_the_same_bits_with_and_without_instruments(engine: EngineName, tmp_path: Path) -> None:
    runs = []
    instruments = Instruments(epochs=(0.5, 1), images=50)
    for callbacks in ([], [instruments]):
        module = in_blocks(LitMLP(hidden=(32,), seed=1), engine)
        fit(module, MNISTDataModule(train_size=8192, val_size=500, seed=1), tmp_path, *callbacks, epochs=1)
        runs.append(bits(module))
    assert runs[0] == runs[1]
    assert [values["step"] for values in instruments.measurements] == [128, 256]
    assert all(values["batch_size"] == 32 and values["lr"] == 0.1 for values in instruments.measurements)


def test_measurements_are_logged_against_the_step_they_belong_to(data: TensorDataset, tmp_path: Path) -> None:
    instruments = Instruments(epochs=(0.5, 1), images=100, loss=cross_entropy)
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    fit(perceptron(), data, tmp_path, instruments, epochs=1, logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    first, second = instruments.measurements
    assert {
        "loss", "gradient_norm", "sharpness", "lr_sharpness_half", "batch_sharpness", "batch_sharpness_ratio_of_means",
        "lr_batch_sharpness_half", "gradient_noise_scale", "active_units_1", "dead_units_1", "lr", "batch_size",
        "weight_norm/layers.1.weight", "weight_norm/layers.4.weight", "epoch", "step",
    } == first.keys() == second.keys()  # fmt: skip
    for name in first.keys() - {"epoch", "step"}:
        logged = [(event.step, event.value) for event in events.Scalars(f"instruments/{name}")]
        assert logged == [(10, pytest.approx(first[name])), (20, pytest.approx(second[name]))]
    assert first["batch_size"] == 32
    assert first["lr_batch_sharpness_half"] == pytest.approx(0.1 * first["batch_sharpness"] / 2)
    assert first["gradient_noise_scale"] > 1
    assert second["loss"] < first["loss"] < 2.3


def test_a_module_is_measured_in_eval_mode_and_left_in_its_own(data: TensorDataset) -> None:
    module, (images, labels) = perceptron(), (tensor[:100] for tensor in data.tensors)
    values = Instruments(loss=cross_entropy).measure(module, images, labels, batch_size=32)
    assert all(part.training for part in module.modules())
    module.eval()
    assert values["loss"] == pytest.approx(cross_entropy(module, images, labels).item(), rel=1e-6)


def test_the_images_are_the_same_in_every_run_and_hang_on_the_seed(data: TensorDataset, tmp_path: Path) -> None:
    losses = []
    for seed in (0, 0, 1):
        instruments = Instruments(epochs=(0.05,), images=50, seed=seed, loss=cross_entropy)
        fit(perceptron(), data, tmp_path, instruments, epochs=1)
        losses.append(instruments.measurements[0])
    assert losses[0] == losses[1]
    assert losses[0]["loss"] != losses[2]["loss"]


def test_a_resumed_run_has_the_measurements_of_one_that_was_never_stopped(data: TensorDataset, tmp_path: Path) -> None:
    def order() -> DataLoader[Any]:
        return DataLoader(data, batch_size=32)

    whole = Instruments(epochs=(0.5, 1, 2), images=50, loss=cross_entropy)
    trainer = fit(convolutional(), order(), tmp_path, whole)
    stopped = Instruments(epochs=(0.5, 1, 2), images=50, loss=cross_entropy)
    trainer = fit(convolutional(), order(), tmp_path, stopped, epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert len(stopped.measurements) == 2
    resumed = Instruments(epochs=(0.5, 1, 2), images=50, loss=cross_entropy)
    fit(convolutional(), order(), tmp_path, resumed, ckpt_path=tmp_path / "end.ckpt")
    assert resumed.measurements == whole.measurements


def test_a_convolutional_module_of_somebody_else_is_measured_whole(data: TensorDataset, tmp_path: Path) -> None:
    instruments = Instruments(epochs=(1,), images=100, loss=cross_entropy)
    fit(convolutional(), data, tmp_path, instruments, epochs=1)
    assert not instruments.not_measured
    (values,) = instruments.measurements
    assert {"sharpness", "batch_sharpness", "gradient_noise_scale", "active_units_1"} <= values.keys()


def test_what_cannot_be_measured_is_refused_in_a_sentence(
    data: TensorDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instruments = Instruments(epochs=(0.5, 1), images=100, loss=cross_entropy)
    fit(convolutional(nn.BatchNorm2d(4)), data, tmp_path, instruments, epochs=1)
    assert instruments.not_measured.keys() == {"sharpness", "batch_sharpness", "gradient_noise_scale"}
    assert "batch normalisation" in instruments.not_measured["sharpness"]
    assert caplog.text.count("sharpness is not measured: with batch normalisation") == 2  # each said once
    assert "active_units_1" in instruments.measurements[0]


def test_learning_rates_that_are_not_plain_sgd_are_not_compared_with_the_edge(data: TensorDataset, tmp_path: Path) -> None:
    instruments = Instruments(epochs=(1,), images=100, loss=cross_entropy)
    fit(perceptron(optimizer=torch.optim.Adam), data, tmp_path, instruments, epochs=1)
    (values,) = instruments.measurements
    assert "batch_sharpness" in values
    assert not {"lr", "lr_sharpness_half", "lr_batch_sharpness_half"} & values.keys()


def test_a_network_that_overflowed_is_reported_without_numbers_that_are_none(data: TensorDataset, tmp_path: Path) -> None:
    broken = perceptron()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    instruments = Instruments(epochs=(1,), images=100, loss=cross_entropy)
    fit(broken, data, tmp_path, instruments, epochs=1)
    (values,) = instruments.measurements
    assert values["step"] == 20
    assert not {"loss", "sharpness", "batch_sharpness", "gradient_noise_scale"} & values.keys()


def test_wrong_uses_are_refused_before_the_first_step(data: TensorDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not know the loss of Classifier: pass Instruments\(loss=\.\.\.\)"):
        fit(perceptron(), data, tmp_path, Instruments())
    with pytest.raises(ValueError, match="pairs: an image and its label"):
        fit(perceptron(), TensorDataset(data.tensors[0]), tmp_path, Instruments(loss=cross_entropy))
    with pytest.raises(ValueError, match="above 0 and finite, not 0"):
        Instruments(epochs=(0,))
    with pytest.raises(ValueError, match="at least 2, not 1"):
        Instruments(images=1)

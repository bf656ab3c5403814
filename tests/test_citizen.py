"""LitMLP beside a plain LightningModule: equal calls, equal numbers, whatever is hung on the Trainer or overridden."""

import copy
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import pytorch_lightning as pl
import torch
from control import Control, read_once
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import callbacks as cb
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.tuner.tuning import Tuner
from remains import result_of
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from victim import Victim

from lit_mnist import LitMLP, MNISTDataModule, in_blocks
from lit_mnist.cli.fit import run_options
from lit_mnist.cli.main import main
from lit_mnist.cli.mistakes import REFUSED
from lit_mnist.cli.options import option_parser

IMAGES, BATCH, EPOCHS = 310, 32, 2
STEPS = 10  # per epoch
SEED = 1
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": EPOCHS,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
Module = LitMLP | Control


def first_weight(model: Any) -> Tensor:
    return cast(Tensor, model.mlp.layers[0].weight)


def data(**options: Any) -> MNISTDataModule:
    return read_once(MNISTDataModule(**({"batch_size": BATCH, "train_size": IMAGES, "val_size": 100, "seed": SEED} | options)))


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    saves = any(isinstance(callback, cb.Checkpoint) for callback in options.get("callbacks", []))
    return pl.Trainer(**(QUIET | {"default_root_dir": folder, "enable_checkpointing": saves} | options))


class Seen(cb.Callback):
    """Writes down, after each epoch, what a callback sees of it."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.batches: list[tuple[int, ...]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.epochs.append({"train/loss": float(trainer.callback_metrics["train/loss"]), "lr": rate})


def fitted(model: Any, folder: Path, *, datamodule: Any = None, **options: Any) -> dict[str, Any]:
    """Trains and returns everything that must be equal."""
    seen, module = Seen(), datamodule or data()
    fitter = trainer(folder, **(options | {"callbacks": [seen, *options.get("callbacks", [])]}))
    fitter.fit(model, datamodule=module)
    metrics = {
        name: float(fitter.callback_metrics[name])
        for name in ("train/loss", "val/loss", "val/accuracy")
        if name in fitter.callback_metrics
    }
    return {
        "weights": [value.double().sum().item() for value in model.mlp.state_dict().values()],
        "steps": fitter.global_step,
        "epochs": seen.epochs,
        "metrics": metrics,
        "lr": model.lr,
        "batch_size": module.batch_size,
        "files": sorted(path.name for path in folder.rglob("*.ckpt")),
    }


class EndEachEpoch(cb.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def halve_gradients(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    for parameter in pl_module.parameters():
        cast(Tensor, parameter.grad).mul_(0.5)


TRAINERS: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    # what is given to the Trainer, and why blocks refuse it; "": they train the same
    "nothing": (lambda _: {}, ""),
    "clipping": (lambda _: {"gradient_clip_val": 0.1}, "gradient clipping is not supported"),
    "clipping by value": (lambda _: {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, "not supported"),
    "accumulation": (lambda _: {"accumulate_grad_batches": 3}, "gradient accumulation is not supported"),
    "overfit": (lambda _: {"overfit_batches": 4}, "overfit_batches counts"),
    "trial": (lambda _: {"fast_dev_run": True}, "fast_dev_run counts"),
    "trial of three": (lambda _: {"fast_dev_run": 3}, "fast_dev_run counts"),
    "five batches": (lambda _: {"limit_train_batches": 5}, "limit_train_batches counts"),
    "half the batches": (lambda _: {"limit_train_batches": 0.5}, "limit_train_batches counts"),
    "one batch to validate": (lambda _: {"limit_val_batches": 1}, ""),
    "validation every 4 steps": (lambda _: {"val_check_interval": 4}, "val_check_interval counts"),
    "validation at half": (lambda _: {"val_check_interval": 0.5}, "val_check_interval counts"),
    "every second epoch": (lambda _: {"check_val_every_n_epoch": 2}, ""),
    "steps end within an epoch": (lambda _: {"max_steps": 13}, ""),
    "a least number of steps": (lambda _: {"min_steps": 15, "callbacks": [EndEachEpoch()]}, "min_steps counts"),
    "a function after each gradient": (
        lambda _: {"callbacks": [cb.LambdaCallback(on_after_backward=halve_gradients)]},
        "LambdaCallback.on_after_backward is called at every SGD step",
    ),
    "double": (lambda _: {"precision": "64-true"}, ""),
    "bfloat16": (lambda _: {"precision": "bf16-true"}, ""),
    "mixed bfloat16": (lambda _: {"precision": "bf16-mixed"}, ""),
    "half": (lambda _: {"precision": "16-true"}, ""),
    "mixed half": (lambda _: {"precision": "16-mixed"}, ""),
    "anomalies": (lambda _: {"detect_anomaly": True}, ""),
    "early stopping": (lambda _: {"callbacks": [cb.EarlyStopping("train/loss", min_delta=9.0, patience=1)]}, ""),
    "averaging": (lambda _: {"callbacks": [cb.StochasticWeightAveraging(0.05, 1)]}, "StochasticWeightAveraging changes"),
    "moving average": (lambda _: {"callbacks": [cb.EMAWeightAveraging()]}, "EMAWeightAveraging.on_train_batch_end"),
    "accumulation by epoch": (lambda _: {"callbacks": [cb.GradientAccumulationScheduler({0: 2, 1: 3})]}, "changes single"),
    "pruning": (lambda _: {"callbacks": [cb.ModelPruning("l1_unstructured", amount=0.5)]}, ""),
    "a timer": (lambda _: {"max_time": "00:01:00:00"}, "Timer.on_train_batch_end"),
    "checkpoint every 3 steps": (
        lambda folder: {"callbacks": [cb.ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)]},
        "ModelCheckpoint.on_train_batch_end",
    ),
    "best checkpoint": (lambda folder: {"callbacks": [cb.ModelCheckpoint(folder, monitor="val/loss", save_last=True)]}, ""),
    "finding a rate": (lambda _: {"callbacks": [cb.LearningRateFinder(num_training_steps=9)]}, "no learning-rate scheduler"),
    "finding a batch size": (lambda _: {"callbacks": [cb.BatchSizeFinder(max_trials=3)]}, ""),
    "rates": (
        lambda folder: {
            "callbacks": [cb.LearningRateMonitor()],
            "logger": pl.loggers.CSVLogger(folder),
            "log_every_n_steps": 1,
        },
        "LearningRateMonitor.on_train_batch_start",
    ),
}


@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU")
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled val dataloader shuffling")
@pytest.mark.parametrize("name", TRAINERS)
def test_what_is_given_to_the_trainer_does_what_it_does_to_a_plain_module(name: str, tmp_path: Path) -> None:
    options, refusal = TRAINERS[name]
    expected = fitted(Control(seed=SEED), tmp_path / "c", **options(tmp_path / "c"))
    assert fitted(LitMLP(hidden=(16,), seed=SEED), tmp_path / "l", **options(tmp_path / "l")) == expected
    blocks = in_blocks(LitMLP(hidden=(16,), seed=SEED), steps_per_block=3)
    if refusal:
        with pytest.raises((ValueError, MisconfigurationException), match=refusal):
            fitted(blocks, tmp_path / "b", **options(tmp_path / "b"))
    else:
        found = fitted(blocks, tmp_path / "b", **options(tmp_path / "b"))
        for each in (found, expected):  # a mean is summed in another order
            each["epochs"] = (
                [pytest.approx(epoch, rel=1e-6) for epoch in each["epochs"]] if each is expected else each["epochs"]
            )
            each["metrics"] = pytest.approx(each["metrics"], rel=1e-6) if each is expected else each["metrics"]
        assert found == expected


SCHEDULES: dict[str, Callable[[Any, torch.optim.Optimizer], Any]] = {
    "a step per epoch": lambda _, optimizer: lr_scheduler.StepLR(optimizer, 1, 0.1),
    "a step per mini-batch": lambda _, optimizer: {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"},
    "every third mini-batch": lambda _, optimizer: {
        "scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9),
        "interval": "step",
        "frequency": 3,
    },
    "on a plateau of the validation": lambda _, optimizer: {
        "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9.0),
        "monitor": "val/loss",
    },
    "on a plateau of the training": lambda _, optimizer: {
        "scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9.0),
        "monitor": "train/loss",
    },
    "one cycle of all steps": lambda module, optimizer: {
        "scheduler": lr_scheduler.OneCycleLR(optimizer, 0.5, int(module.trainer.estimated_stepping_batches)),
        "interval": "step",
    },
    "two in sequence": lambda _, optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1, 1), lr_scheduler.ExponentialLR(optimizer, 0.5)], [1]
    ),
}


def scheduled(kind: Any, schedule: str) -> Any:
    class Scheduled(kind):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [SCHEDULES[schedule](self, optimizer)]

    return Scheduled(hidden=(16,), seed=SEED)


@pytest.mark.filterwarnings("ignore:The lr scheduler dict contains the key")  # in blocks, before their refusal
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_schedules_are_followed(schedule: str, tmp_path: Path) -> None:
    expected = fitted(scheduled(Control, schedule), tmp_path / "c")
    assert len({epoch["lr"] for epoch in expected["epochs"]} | {0.1}) > 1
    assert fitted(scheduled(LitMLP, schedule), tmp_path / "l") == expected
    with pytest.raises(ValueError, match="no learning-rate scheduler; train without in_blocks"):
        fitted(in_blocks(scheduled(LitMLP, schedule)), tmp_path / "b")


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_another_optimizer_is_one_method(optimizer: str, tmp_path: Path) -> None:
    def made(kind: Any) -> Any:
        class Other(kind):  # type: ignore[misc]
            def configure_optimizers(self) -> Any:
                return OPTIMIZERS[optimizer](self.parameters())

        return Other(hidden=(16,), seed=SEED)

    expected = fitted(made(Control), tmp_path / "c")
    assert fitted(made(LitMLP), tmp_path / "l") == expected
    assert fitted(in_blocks(made(LitMLP), steps_per_block=4), tmp_path / "b")["weights"] == expected["weights"]
    with pytest.raises(ValueError, match="plain SGD only"):
        fitted(in_blocks(made(LitMLP), "fast"), tmp_path / "f")


def test_a_network_with_dropout_trains_as_in_a_plain_module_and_the_fast_engine_refuses_it(tmp_path: Path) -> None:
    def made(kind: Any) -> Any:
        class Dropping(kind):  # type: ignore[misc]
            def forward(self, images: Tensor) -> Tensor:
                return cast(Tensor, super().forward(torch.nn.functional.dropout(images, 0.2, self.training)))

        model = Dropping(hidden=(16,), seed=SEED)
        torch.manual_seed(0)  # of the dropout
        return model

    expected = fitted(made(Control), tmp_path / "c")
    assert fitted(made(LitMLP), tmp_path / "l") == expected
    assert fitted(in_blocks(made(LitMLP)), tmp_path / "b")["weights"] == expected["weights"]
    with pytest.raises(ValueError, match="cross-entropy only"):
        fitted(in_blocks(made(LitMLP), "fast"), tmp_path / "f")


def edited_forward(self: Any, images: Tensor) -> Tensor:
    return self.layers[-1](self.layers[0](images.flatten(1)).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("edit", ["forward", "one layer's optimizer", "frozen layer"])
def test_the_fast_engine_refuses_a_network_that_it_would_train_otherwise(
    edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")

    class LastLayer(LitMLP):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.mlp.layers[-1].parameters(), lr=self.lr)

    model = (LastLayer if edit == "one layer's optimizer" else LitMLP)(hidden=(16,), seed=SEED)
    if edit == "forward":
        monkeypatch.setattr(type(model.mlp), "forward", edited_forward)
    if edit == "frozen layer":
        model.mlp.layers[0].requires_grad_(False)
    with pytest.raises(ValueError, match="engine fast"):
        fitted(in_blocks(model, "fast"), tmp_path)


HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step", "optimizer_step")


def counting(kind: Any) -> Any:
    class Counting(kind):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.calls: Counter[str] = Counter()

    def hook(name: str) -> Any:
        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            self.calls[name] += 1
            return getattr(super(Counting, self), name)(*arguments, **keywords)

        return call

    for name in HOOKS:
        setattr(Counting, name, hook(name))
    return Counting(hidden=(16,), seed=SEED)


class GradientNorm(cb.Callback):
    def __init__(self) -> None:
        self.norms: list[float] = []
        self.shapes: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.shapes.append((*images.shape, len(labels)))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.norms.append(sum(parameter.grad.norm().item() for parameter in pl_module.parameters()))  # type: ignore[union-attr]


def test_the_five_hooks_are_called_at_every_step_in_module_and_callback(tmp_path: Path) -> None:
    models, loggers = (counting(Control), counting(LitMLP)), (GradientNorm(), GradientNorm())
    for model, logger in zip(models, loggers, strict=True):
        fitted(model, tmp_path, callbacks=[logger])
    assert models[1].calls == models[0].calls == dict.fromkeys(HOOKS, EPOCHS * STEPS)
    assert loggers[1].norms == loggers[0].norms
    assert len(loggers[1].norms) == EPOCHS * STEPS
    assert loggers[1].shapes == loggers[0].shapes == ([(32, 1, 28, 28, 32)] * 9 + [(22, 1, 28, 28, 22)]) * EPOCHS
    with pytest.raises(ValueError, match="is called at every SGD step; train the module without in_blocks"):
        fitted(in_blocks(counting(LitMLP)), tmp_path)
    with pytest.raises(ValueError, match=r"GradientNorm.on_train_batch_start is called at every SGD step"):
        fitted(in_blocks(LitMLP(hidden=(16,))), tmp_path, callbacks=[GradientNorm()])


def test_blocks_refuse_a_data_module_that_changes_each_batch_and_a_training_step_of_a_subclass(tmp_path: Path) -> None:
    class Inverted(MNISTDataModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return 1 - batch[0], batch[1]

    class Stepping(LitMLP):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"Inverted.on_after_batch_transfer is called at every SGD step"):
        fitted(in_blocks(LitMLP(hidden=(16,))), tmp_path, datamodule=Inverted(BATCH, train_size=IMAGES, val_size=100))
    with pytest.raises(ValueError, match=r"Stepping.training_step is called at every SGD step"):
        fitted(in_blocks(Stepping(hidden=(16,))), tmp_path)
    with pytest.raises(ValueError, match="takes a LitMLP or a subclass, not Control"):
        in_blocks(Control())  # type: ignore[type-var]


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_a_callback_that_sets_the_rate_at_an_epochs_start_is_heeded_in_blocks(engine: Any, tmp_path: Path) -> None:
    if engine == "fast":
        pytest.importorskip("numba")

    class Halve(cb.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / (1 + trainer.current_epoch)

    expected = fitted(Control(seed=SEED), tmp_path, callbacks=[Halve()])
    found = fitted(in_blocks(LitMLP(hidden=(16,), seed=SEED), engine), tmp_path, callbacks=[Halve()])
    assert found["weights"] == (expected["weights"] if engine == "exact" else pytest.approx(expected["weights"], abs=1e-4))


@pytest.mark.filterwarnings("ignore:The '(train|predict|test)_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_bytes_train_as_the_same_images_in_floats(precision: Any, tmp_path: Path) -> None:
    module = data()
    module.setup()
    images, labels = module.data.train
    results = []
    for given in (images[:IMAGES], images[:IMAGES].unsqueeze(1).float() / 255):
        model = LitMLP(hidden=(16,), seed=SEED)
        fitter = trainer(tmp_path, precision=precision)
        fitter.fit(model, DataLoader(TensorDataset(given, labels[:IMAGES]), BATCH))
        results.append([*model.mlp.state_dict().values(), fitter.callback_metrics["train/loss"]])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    with pytest.raises(ValueError, match="must be floating point in"):
        model.cpu()(images[:2].long())


@pytest.mark.parametrize("kind", [Control, LitMLP])
def test_seed_everything_decides_weights_and_order(kind: Any, tmp_path: Path) -> None:
    found = []
    for seed in (5, 5, 6):
        pl.seed_everything(seed, verbose=False)
        model, module = kind(hidden=(16,)), MNISTDataModule(BATCH, train_size=IMAGES)
        before = first_weight(model).sum().item()
        labels = next(iter(module.train_dataloader()))[1].tolist()
        found.append((before, labels))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] != found[2][1]


def test_an_own_command_line_of_lightnings_decides_both_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(tmp_path)
    found = []
    for seed in ("5", "5", "6"):
        options = ["--seed_everything", seed, "--model.hidden", "[16]", f"--data.train_size={IMAGES}", "--data.val_size=100"]
        monkeypatch.setattr("sys.argv", ["own.py", *options])
        cli = LightningCLI(
            LitMLP,
            MNISTDataModule,
            run=False,
            trainer_defaults=QUIET | {"enable_checkpointing": False},
            save_config_callback=None,
        )
        start = first_weight(cli.model).sum().item()
        cli.trainer.fit(cli.model, cli.datamodule)
        labels = next(iter(cli.datamodule.train_dataloader()))[1].tolist()
        found.append((start, labels, float(cli.trainer.callback_metrics["train/loss"])))
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


def test_tuners_find_what_they_find_for_a_plain_module_and_the_fit_after_them_is_the_same(tmp_path: Path) -> None:
    found = []
    for model in (Control(seed=SEED), LitMLP(hidden=(16,), seed=SEED)):
        module, fitter = data(), trainer(tmp_path, max_epochs=1)
        size = Tuner(fitter).scale_batch_size(model, datamodule=module, max_trials=3, init_val=8)
        finder: Any = Tuner(fitter).lr_find(model, datamodule=module, num_training=30, update_attr=True)
        fitter.fit(model, datamodule=module)
        rounded = first_weight(model).double().sum().item()
        found.append((size, module.batch_size, *finder.results["loss"], model.lr, fitter.global_step, rounded))
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[0][:2] == (32, 32)


class Ordinary(pl.LightningDataModule):
    """A data module as others write it."""

    batch_size = BATCH

    def train_dataloader(self) -> Any:
        images = torch.zeros(IMAGES, 784), torch.zeros(IMAGES, dtype=torch.long)
        return DataLoader(TensorDataset(*images), self.batch_size)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers")
def test_the_search_for_a_batch_size_ends_at_the_number_of_images_as_with_an_ordinary_data_module(tmp_path: Path) -> None:
    sizes = []
    for module in (Ordinary(), data()):
        fitter = trainer(tmp_path, max_epochs=1)
        sizes.append(Tuner(fitter).scale_batch_size(LitMLP(hidden=(16,)), datamodule=module, init_val=128))
    assert sizes[0] == sizes[1]


class WithMomentum(LitMLP):
    def __init__(self, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.hparams["momentum"])


def test_hyperparameters_of_a_subclass_are_saved_and_loaded(tmp_path: Path) -> None:
    model = WithMomentum(momentum=0.5, lr=0.2, hidden=[16], seed=SEED)
    fitter = trainer(tmp_path, max_epochs=1)
    fitter.fit(model, datamodule=data())
    fitter.save_checkpoint(tmp_path / "own.ckpt")
    loaded = WithMomentum.load_from_checkpoint(tmp_path / "own.ckpt")
    assert (loaded.hparams["momentum"], loaded.lr, loaded.mlp.hidden, loaded.hparams["seed"]) == (0.5, 0.2, (16,), SEED)
    assert torch.equal(first_weight(loaded), first_weight(model))
    assert WithMomentum.load_from_checkpoint(tmp_path / "own.ckpt", momentum=0.1).hparams["momentum"] == 0.1


def test_predict_validate_and_test_with_the_data_module(tmp_path: Path) -> None:
    found: list[Any] = []
    for model in (Control(seed=SEED), LitMLP(hidden=(16,), seed=SEED)):
        module, fitter = data(), trainer(tmp_path)
        fitter.fit(model, datamodule=module)
        predicted: Any = fitter.predict(model, datamodule=module)
        measured = fitter.validate(model, datamodule=module, verbose=False) + fitter.test(model, module, verbose=False)
        found.append((torch.cat(predicted), measured))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].shape == (10_000, 10)
    assert found[0][1] == found[1][1]
    module = data()
    module.setup()
    right = (found[1][0].argmax(1) == module.data.test[1]).double().mean().item()
    assert found[1][1][1]["test/accuracy"] == pytest.approx(right, abs=1e-7)


@pytest.mark.parametrize("stepping", [lambda model: model, in_blocks], ids=["plain", "blocks"])
def test_a_module_may_be_copied_pickled_and_trained_by_another_trainer(stepping: Any, tmp_path: Path) -> None:
    model = stepping(LitMLP(hidden=(16,), seed=SEED))
    fitted(model, tmp_path)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model]
    results = [fitted(each, tmp_path) for each in copies]
    assert results[0] == results[1] == results[2]
    assert results[0]["weights"] != fitted(LitMLP(hidden=(16,), seed=SEED), tmp_path)["weights"]
    module = data()
    fitted(LitMLP(hidden=(16,)), tmp_path, datamodule=module)
    again = pickle.loads(pickle.dumps(MNISTDataModule(BATCH, train_size=IMAGES, val_size=100, seed=SEED)))
    assert fitted(LitMLP(hidden=(16,), seed=SEED), tmp_path, datamodule=again)["steps"] == EPOCHS * STEPS


def test_blocks_may_be_asked_for_twice() -> None:
    model = in_blocks(in_blocks(LitMLP(hidden=(16,))), steps_per_block=5)
    assert type(model).__name__ == "LitMLP"
    assert model.steps_per_block(32) == 5  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_loaders_of_the_data_module_may_be_given_to_a_trainer_themselves(tmp_path: Path) -> None:
    module, results = data(), []
    for model in (Control(seed=SEED), LitMLP(hidden=(16,), seed=SEED), in_blocks(LitMLP(hidden=(16,), seed=SEED))):
        fitter = trainer(tmp_path)
        fitter.fit(model, module.train_dataloader(), module.val_dataloader())
        fitter.fit_loop.max_epochs = 3
        fitter.fit(model, module.train_dataloader())
        results.append((first_weight(model).double().sum().item(), fitter.global_step))
    assert results[0] == results[1] == results[2]
    assert results[0][1] == 3 * STEPS
    module.setup()
    module.setup("fit")
    other = data(seed=SEED + 1)
    assert fitted(LitMLP(hidden=(16,)), tmp_path, datamodule=other)["steps"] == EPOCHS * STEPS
    assert next(iter(module.train_dataloader()))[1].tolist() != next(iter(other.train_dataloader()))[1].tolist()


class OwnSeeds(MNISTDataModule):
    """As two processes have it that draw a seed each."""

    def setup(self, stage: str | None = None) -> None:
        if not self._splits:
            self.seed += cast(pl.Trainer, self.trainer).global_rank
        super().setup(stage)


def on_two_devices() -> int:
    """Trains, in two processes that are forked here, a plain module and LitMLP; each process writes what it saw."""
    torch.set_num_threads(1)
    results = {}
    for name, model in (("control", counting(Control)), ("ours", counting(LitMLP))):
        fitter = trainer(Path(), devices=2, strategy="ddp_fork", callbacks=[keep := Keep(name)])
        fitter.fit(model, datamodule=OwnSeeds(BATCH, train_size=320, val_size=100))
        results[name] = keep
    try:
        module = data(train_size=320)
        trainer(Path(), devices=2, strategy="ddp_fork").fit(LitMLP(hidden=(16,)), module.train_dataloader())
    except torch.multiprocessing.ProcessRaisedException as refusal:  # type: ignore[attr-defined]
        Path("refusal").write_text(str(refusal))
    return 0


class Keep(cb.Callback):
    """Writes down, in each process, what was called and which images it saw."""

    def __init__(self, name: str) -> None:
        self.name, self.labels = name, 0
        self.images: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.images += [hash(image.numpy().tobytes()) for image in batch[0]]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        seen = {
            "calls": dict(module.calls),
            "steps": trainer.global_step,
            "images": self.images,
            "train/loss": float(trainer.callback_metrics["train/loss"]),
            "val/accuracy": float(trainer.callback_metrics["val/accuracy"]),
        }
        Path(f"{self.name}{trainer.global_rank}.json").write_text(json.dumps(seen))


def test_on_two_devices_the_hooks_are_called_as_often_as_on_one_and_no_image_is_seen_twice(tmp_path: Path) -> None:
    victim = Victim(folder=tmp_path, act=on_two_devices, environment={"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"})
    assert victim.wait() == 0, victim.stderr
    for name in ("control", "ours"):
        first, second = (json.loads((tmp_path / f"{name}{rank}.json").read_text()) for rank in (0, 1))
        for seen in (first, second):
            assert seen["calls"] == dict.fromkeys(HOOKS, EPOCHS * STEPS)
            assert seen["steps"] == EPOCHS * STEPS
        assert first["train/loss"] == second["train/loss"]
        assert first["val/accuracy"] == second["val/accuracy"]
        halves = [set(seen["images"][:160]) for seen in (first, second)]  # of the first epoch
        assert len(halves[0] | halves[1]) == 320
    assert "would hand the same images to all 2" in (tmp_path / "refusal").read_text()


@pytest.mark.filterwarnings("default")  # those that the compiler meets in Lightning
@pytest.mark.parametrize("stepping", [lambda model: model, in_blocks], ids=["plain", "blocks"])
def test_a_compiled_module_trains(stepping: Any, tmp_path: Path) -> None:
    fitter = trainer(tmp_path)
    compiled: Any = torch.compile(stepping(model := LitMLP(hidden=(16,), seed=SEED)), backend="eager")
    fitter.fit(compiled, datamodule=data())
    assert fitter.global_step == EPOCHS * STEPS
    fitted(expected := LitMLP(hidden=(16,), seed=SEED), tmp_path)
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-6) for one, other in pairs)


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_fit_refuses_is_not_in_its_help_and_typing_it_gives_the_reason(option: str) -> None:
    assert f"--trainer.{option}" not in option_parser("fit").format_help()
    with pytest.raises(ValueError, match=f"--trainer.{option}: {re.escape(REFUSED[option])}"):
        run_options(["--config", "lr0.1", f"--trainer.{option}", "1"])


class NormOfFit(GradientNorm):
    made: ClassVar[list[GradientNorm]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)


@pytest.mark.parametrize(
    ("options", "steps", "reason"),
    [
        (["limit_train_batches", "7"], 14, "limit_train_batches counts single mini-batches"),
        (["limit_train_batches", "0.5"], 10, "limit_train_batches counts single mini-batches"),
        (["val_check_interval", "4"], 20, "val_check_interval counts single mini-batches"),
        (["callbacks", f"{__name__}.NormOfFit"], 20, "NormOfFit.on_train_batch_start is called at every SGD step"),
    ],
)
def test_in_fit_what_counts_or_watches_steps_has_single_steps_and_fit_says_so(
    options: list[str], steps: int, reason: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--config", "lr0.1", "--data.train_size", str(IMAGES), "--data.val_size", "100", "--model.hidden", "16"]
    run = [*small, "--run_dir", "run", "--trainer.max_epochs", str(EPOCHS), "--threads", "1"]
    NormOfFit.made.clear()
    assert main(["fit", *run, f"--trainer.{options[0]}", options[1]]) == 0
    assert result_of(workplace / "run")["steps"] == steps
    assert f"{reason}: the Trainer makes each step by itself" in capsys.readouterr().out
    assert [len(callback.norms) for callback in NormOfFit.made if callback.norms] == [steps] * (options[0] == "callbacks")

"""What makes an SGD step fit for any device, and the precisions; on the GPU too where there is one."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from remains import result_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_mnist import LitMLP, MNISTDataModule, in_blocks
from lit_mnist.cli.main import main
from lit_mnist.datasets.loaders import EpochLoader
from lit_mnist.engines import ExactEngine

GPU = torch.accelerator.current_accelerator(check_available=True)
ACCELERATORS = ["cpu", *(["gpu"] if GPU else [])]
STEPS = 40
# What makes the host wait until the device is done: a number is asked for, or a size that depends on values.
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}


class Watch(TorchDispatchMode):
    """Sees every operation on tensors, the backward pass's included, down to what each device is asked to do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: Counter[str] = Counter()
        self.devices: set[torch.device] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.called[function.overloadpacket.__name__] += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        self.devices.update(tensor.device for tensor in tensors)
        return result


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_step_never_waits_for_the_device_and_never_leaves_it(accelerator: str) -> None:
    device = torch.device("cpu") if accelerator == "cpu" else torch.device(str(GPU))
    model, watch = LitMLP(seed=1).to(device), Watch()
    engine = ExactEngine(model, torch.optim.SGD(model.parameters(), lr=0.1, fused=True))
    images, labels = torch.rand(STEPS * 32, 1, 28, 28, device=device), torch.zeros(STEPS * 32, dtype=torch.long, device=device)
    # a tensor that is made without being told its device would be on another than all others, and be seen there
    with torch.device("meta"), watch:
        engine.steps(images, labels, 32)
    assert watch.called["addmm"] == 3 * STEPS  # it did watch: three layers in each step's forward pass,
    assert watch.called["mm"] == 5 * STEPS  # and in its backward pass, where the images need no gradient
    assert {name for name in WAITING if watch.called[name]} == set()
    assert watch.devices == {device}


@pytest.mark.parametrize("accelerator", ["auto", *ACCELERATORS])
def test_data_and_weights_are_on_the_trainers_device(accelerator: str) -> None:
    seen: list[torch.device] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            loader = trainer.train_dataloader
            assert isinstance(loader, EpochLoader)
            tensors = [loader.images, loader.labels, *module.parameters()]
            seen.extend(tensor.device for tensor in tensors)

    trainer = pl.Trainer(
        max_epochs=1,
        accelerator=accelerator,
        devices=1,
        logger=False,
        callbacks=[Look()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(in_blocks(LitMLP(hidden=(16,))), datamodule=MNISTDataModule(train_size=640, val_size=100))
    assert set(seen) == {trainer.strategy.root_device}
    if accelerator == "auto":
        assert trainer.strategy.root_device.type == (GPU.type if GPU else "cpu")


def run(folder: Path, *options: str) -> dict[str, Any]:
    arguments = ["--config", "lr0.1", "--run_dir", str(folder), "--threads", "1", "--data.train_size", "1003"]
    arguments += ["--trainer.max_epochs", "2", "--test_every_epoch", "false"]
    assert main(["fit", *arguments, *options]) == 0
    return result_of(folder)


@pytest.fixture(scope="module", params=ACCELERATORS)
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run in float32."""
    return run(tmp_path_factory.mktemp("single") / "run", "--trainer.accelerator", request.param)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_each_precision_trains_the_same_bits_whatever_makes_a_block(
    single: dict[str, Any], tmp_path: Path, precision: str
) -> None:
    options = ("--trainer.precision", precision, "--trainer.accelerator", single["device"])
    by_step = run(tmp_path / "by_step", *options, "--steps_per_block", "1")
    by_block = run(tmp_path / "by_block", *options, "--steps_per_block", "16")
    for same in ("weights_sha256", "train_loss_by_epoch", "train_accuracy", "test_accuracy"):
        assert by_step[same] == by_block[same]
    assert by_step["weights_sha256"] != single["weights_sha256"]  # the precision was not ignored
    # 1.58 nats; bfloat16 has 8 significant bits
    tolerance = 1e-4 if precision == "64-true" else 0.02
    assert by_step["final_train_loss"] == pytest.approx(single["final_train_loss"], rel=tolerance)


def test_the_fast_engine_is_refused_in_half_precision(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.train_size", "640", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", "lr0.1", "--engine", "fast", "--trainer.precision", "bf16-true", *small]) == 2
    assert "float32 or float64" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []

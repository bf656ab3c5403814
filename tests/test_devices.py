"""What makes an SGD step fit for any device, and the precisions; on the GPU too where there is one."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from remains import result_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_mnist import LitMLP, MNISTDataModule
from lit_mnist.cli.main import main
from lit_mnist.engines.blocks import Block, BlockLoader

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
        name = function.overloadpacket.__name__
        self.called[name] += 1
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.devices.update(tensor.device for tensor in (*given, *made))
        return result


class WatchedMLP(LitMLP):
    """Watched while it makes SGD steps, but not between blocks, where the Trainer and the logger may ask for numbers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.watch = Watch()

    def _sgd_steps(self, block: Block, steps_left: int) -> Iterator[Tensor]:
        steps = super()._sgd_steps(block, steps_left)
        while True:
            # a tensor that is made without being told its device would be on another than all others, and be seen there
            with torch.device("meta"), self.watch:
                loss = next(steps, None)
            if loss is None:
                return
            yield loss


class BlockWatch(pl.Callback):
    """Counts what the host waits for from one block's beginning to its end."""

    def __init__(self) -> None:
        self.waits: list[int] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._watch = Watch()
        self._watch.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.waits.append(sum(self._watch.called[name] for name in WAITING))


def fitted(model: LitMLP, accelerator: str, steps_per_block: int, *callbacks: pl.Callback) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator=accelerator,
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=MNISTDataModule(val_size=0, seed=1, steps_per_block=steps_per_block))
    return trainer


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_step_never_waits_for_the_device_and_never_leaves_it(root: Path, accelerator: str) -> None:
    model = WatchedMLP(seed=1)
    watch = model.watch
    trainer = fitted(model, accelerator, 20)
    assert watch.called["addmm"] == 3 * STEPS  # it did watch: three layers in each step's forward pass,
    assert watch.called["mm"] == 5 * STEPS  # and in its backward pass, where the images need no gradient
    assert {name for name in WAITING if watch.called[name]} == set()
    assert watch.devices == {trainer.strategy.root_device}


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_the_host_waits_per_block_and_not_per_step(root: Path, accelerator: str) -> None:
    waits = {}
    for steps_per_block in (1, 20):
        watch = BlockWatch()
        fitted(LitMLP(seed=1), accelerator, steps_per_block, watch)
        assert len(watch.waits) == STEPS // steps_per_block
        waits[steps_per_block] = set(watch.waits)
    assert waits[1] == waits[20]
    assert max(waits[20]) <= 2  # whether a loss is infinite, and the mean loss for the curve


@pytest.mark.parametrize("accelerator", ["auto", *ACCELERATORS])
def test_data_and_weights_are_on_the_trainers_device(root: Path, accelerator: str) -> None:
    seen: list[torch.device] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *arguments: Any) -> None:
            loader = trainer.train_dataloader
            assert isinstance(loader, BlockLoader)
            tensors = [loader.images, loader.labels, *module.parameters()]
            tensors += [arguments[0].images, arguments[0].labels]
            seen.extend(tensor.device for tensor in tensors)

    trainer = fitted(LitMLP(seed=1), accelerator, 20, Look())
    assert set(seen) == {trainer.strategy.root_device}
    if accelerator == "auto":
        assert trainer.strategy.root_device.type == (GPU.type if GPU else "cpu")


def run(folder: Path, *options: str) -> dict[str, Any]:
    arguments = ["--config", "lr0.1", "--run_dir", str(folder), "--threads", "1", "--data.train_size", "1003"]
    arguments += ["--trainer.max_epochs", "2", "--test_every_epoch", "false"]
    assert main(["fit", *arguments, *options]) == 0
    return result_of(folder)


@pytest.fixture(scope="module", params=ACCELERATORS)
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """A run in float32."""
    return run(tmp_path_factory.mktemp("single") / "run", "--trainer.accelerator", request.param)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_each_precision_trains_the_same_bits_whatever_makes_a_block(
    single: dict[str, Any], tmp_path: Path, precision: str
) -> None:
    options = ("--trainer.precision", precision, "--trainer.accelerator", single["device"])
    by_step = run(tmp_path / "by_step", *options, "--data.steps_per_block", "1")
    by_block = run(tmp_path / "by_block", *options, "--data.steps_per_block", "16")
    assert by_step["outcome"] == "trained"
    for same in ("weights_sha256", "train_loss_by_epoch", "train_accuracy", "test_accuracy"):
        assert by_step[same] == by_block[same]
    assert by_step["weights_sha256"] != single["weights_sha256"]  # the precision was not ignored
    # 1.58 nats; bfloat16 has 8 significant bits
    tolerance = 1e-4 if precision == "64-true" else 0.02
    assert by_step["final_train_loss"] == pytest.approx(single["final_train_loss"], rel=tolerance)


def test_the_fast_engine_is_refused_in_half_precision(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "lr0.1", "--model.engine", "fast", "--trainer.precision", "bf16-mixed"]) == 2
    assert "not bf16-mixed" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []

"""Hooks of torch, and those of a plugin, are called at every SGD step, or refused in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
from control import Control
from pytorch_lightning import callbacks as cb
from pytorch_lightning.plugins.precision import Precision
from test_citizen import EPOCHS, SEED, STEPS, fitted

from lit_mnist import LitMLP, in_blocks
from lit_mnist.cli.main import main

# Each registers `call` on a module or on what belongs to it.
REGISTERED: dict[str, Callable[[Any, Callable[..., None]], Any]] = {
    "gradient of a parameter": lambda model, call: model.mlp.layers[0].weight.register_hook(call),
    "parameter whose gradient is complete": lambda model, call: model.mlp.layers[1].bias.register_post_accumulate_grad_hook(
        call
    ),
    "before a layer": lambda model, call: model.mlp.layers[0].register_forward_pre_hook(call),
    "after a layer": lambda model, call: model.mlp.layers[1].register_forward_hook(call),
    "after the network": lambda model, call: model.mlp.register_forward_hook(call),
    "after the module": lambda model, call: model.register_forward_hook(call),
    "before a layer's gradient": lambda model, call: model.mlp.layers[1].register_full_backward_pre_hook(call),
    "after a layer's gradient": lambda model, call: model.mlp.layers[1].register_full_backward_hook(call),
    "before the optimizer": lambda model, call: model.optimizers().register_step_pre_hook(call),
    "after the optimizer": lambda model, call: model.trainer.optimizers[0].register_step_post_hook(call),
}


class Register(cb.Callback):
    """Registers as training starts, and writes down at which steps it is called in training."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def call(*_: Any) -> None:
            if trainer.training:
                self.steps.append(trainer.global_step)

        REGISTERED[self.name](pl_module, call)


@pytest.mark.parametrize("name", REGISTERED)
def test_a_hook_of_torch_is_called_at_each_step_with_its_number_and_the_fast_engine_refuses_it(
    name: str, tmp_path: Path
) -> None:
    found = {}
    models = {"control": Control(seed=SEED), "ours": LitMLP(hidden=(16,), seed=SEED)}
    models["blocks"] = in_blocks(LitMLP(hidden=(16,), seed=SEED), steps_per_block=3)
    for kind, model in models.items():
        fitted(model, tmp_path, callbacks=[register := Register(name)])
        found[kind] = register.steps
    assert found["blocks"] == found["ours"] == found["control"]
    assert len(found["control"]) == EPOCHS * STEPS
    pytest.importorskip("numba")
    with pytest.raises(ValueError, match=r"^engine fast: the hook .* on this \w+ would not be called; use --engine exact\.$"):
        fitted(in_blocks(LitMLP(hidden=(16,), seed=SEED), "fast"), tmp_path, callbacks=[Register(name)])


@pytest.mark.parametrize("name", ["batch_loss", "forward"])
def test_the_fast_engine_refuses_a_method_that_was_replaced_on_the_module_itself(name: str, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    model = in_blocks(LitMLP(hidden=(16,), seed=SEED), "fast")
    before = getattr(model, name)
    setattr(model, name, lambda *batch: before(*batch) * 0.5)
    with pytest.raises(ValueError, match=f"engine fast .* this module has another {name}"):
        fitted(model, tmp_path)


class HalvedSteps(Precision):
    def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **options: Any) -> Any:  # type: ignore[override] # as Precision itself does
        def halved() -> Any:
            loss = closure()
            for parameter in model.parameters():
                parameter.grad.mul_(0.5)
            return loss

        return super().optimizer_step(optimizer, model, halved, **options)


def test_what_a_plugin_does_at_each_step_is_done_and_blocks_refuse_it(tmp_path: Path) -> None:
    expected = fitted(Control(seed=SEED), tmp_path, plugins=[HalvedSteps()])
    assert expected["weights"] != fitted(Control(seed=SEED), tmp_path)["weights"]
    assert fitted(LitMLP(hidden=(16,), seed=SEED), tmp_path, plugins=[HalvedSteps()]) == expected
    with pytest.raises(ValueError, match=r"HalvedSteps.optimizer_step is called at every SGD step; train the module without"):
        fitted(in_blocks(LitMLP(hidden=(16,))), tmp_path, plugins=[HalvedSteps()])


class Watch(Register):
    """As loggers watch gradients."""

    made: ClassVar[list[Register]] = []

    def __init__(self) -> None:
        super().__init__("gradient of a parameter")
        self.made.append(self)


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_in_fit_a_callback_that_watches_gradients_sees_each_step(
    engine: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--config", "lr0.1", "--data.train_size", "320", "--model.hidden", "16", "--trainer.max_epochs", str(EPOCHS)]
    Watch.made.clear()
    code = main(["fit", *small, "--engine", engine, "--trainer.callbacks", f"{__name__}.Watch"])
    if engine == "exact":
        assert code == 0
        assert [watch.steps for watch in Watch.made if watch.steps] == [list(range(EPOCHS * STEPS))]
    else:
        pytest.importorskip("numba")
        assert code == 2
        assert capsys.readouterr().err.splitlines() == [
            "lit_mnist: engine fast: the hook that is registered on this Parameter would not be called; use --engine exact."
        ]
        assert not (workplace / "logs" / "lr0.1").exists() or not any((workplace / "logs" / "lr0.1").iterdir())

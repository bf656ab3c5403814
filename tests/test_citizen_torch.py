"""Tools that take a network, and what a checkpoint holds: with ours they do what they do with a plain one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from test_citizen import SEED, data, first_weight, trainer
from torch import Tensor, nn

from lit_mnist import LitMLP, MNISTDataModule

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Plain(pl.LightningModule):
    """The same network of torch's own parts."""

    def __init__(self, model: LitMLP) -> None:
        super().__init__()
        first, second = model.mlp.layers
        self.mlp = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)

    def forward(self, images: Tensor) -> Any:
        return self.mlp(images)


def exported(model: Any) -> Any:
    return torch.export.export(model, (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)).module()


TOOLS: dict[str, Callable[[Any], Any]] = {
    "script": lambda model: model.to_torchscript(),
    "script of the network": lambda model: torch.jit.script(model.mlp),
    "trace": lambda model: model.to_torchscript(method="trace", example_inputs=IMAGES[:2]),
    "symbolic trace": lambda model: torch.fx.symbolic_trace(model.mlp),
    "quantization": lambda model: torch.ao.quantization.quantize_dynamic(model.mlp, {nn.Linear}),
    "export": exported,
    "average": lambda model: torch.optim.swa_utils.AveragedModel(model.mlp),
    "one image at a time": lambda model: torch.func.vmap(lambda image: model(image[None])[0]),
}


@pytest.mark.filterwarnings("ignore")  # those of torch that its tools are old, and of torchmetrics when it is scripted
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_of_torch_makes_of_the_network_what_it_makes_of_a_plain_one(tool: str) -> None:
    model = LitMLP(hidden=(16,), seed=SEED).eval()
    plain = Plain(model).eval()
    with torch.no_grad():
        assert torch.equal(TOOLS[tool](model)(IMAGES), TOOLS[tool](plain)(IMAGES))


@pytest.mark.filterwarnings("ignore")  # of the tracer, and of torchmetrics when it is traced
def test_a_logger_draws_the_graph_of_the_network_before_anything_was_logged(tmp_path: Path) -> None:
    model = LitMLP(hidden=(16,), seed=SEED)
    model.example_input_array = IMAGES
    trainer(tmp_path, max_epochs=1, logger=TensorBoardLogger(tmp_path, log_graph=True)).fit(model, datamodule=data())
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert b"aten::linear" in events.read_bytes()


def test_a_data_module_is_loaded_from_a_checkpoint_with_its_seed(tmp_path: Path) -> None:
    module, fitter = data(batch_size=16), trainer(tmp_path, max_epochs=1)
    fitter.fit(model := LitMLP(hidden=(16,), seed=SEED), datamodule=module)
    fitter.save_checkpoint(tmp_path / "own.ckpt")
    loaded = MNISTDataModule.load_from_checkpoint(tmp_path / "own.ckpt")
    again = data(batch_size=16)
    assert next(iter(loaded.train_dataloader()))[1].tolist() == next(iter(again.train_dataloader()))[1].tolist()
    assert (loaded.batch_size, loaded.train_size, loaded.val_size) == (16, module.train_size, 100)
    fitter = trainer(tmp_path, max_epochs=1)
    fitter.fit(continued := LitMLP(hidden=(16,), seed=SEED), datamodule=loaded)
    assert torch.equal(first_weight(continued), first_weight(model))

"""A multilayer perceptron on MNIST with PyTorch Lightning, and what the learning rate and the batch size do to it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_mnist.data import MNISTDataModule
    from lit_mnist.engines.blocks import in_blocks
    from lit_mnist.lit_mlp import LitMLP
    from lit_mnist.mlp import MLP
    from lit_mnist.predict.predict import predict_images
    from lit_mnist.runs import Run, Runs, fit, read_runs, run_study

__version__ = "2.0.0"

_HOMES = {
    "LitMLP": "lit_mnist.lit_mlp",
    "MLP": "lit_mnist.mlp",
    "MNISTDataModule": "lit_mnist.data",
    "Run": "lit_mnist.runs",
    "Runs": "lit_mnist.runs",
    "fit": "lit_mnist.runs",
    "in_blocks": "lit_mnist.engines.blocks",
    "predict_images": "lit_mnist.predict.predict",
    "read_runs": "lit_mnist.runs",
    "run_study": "lit_mnist.runs",
}

__all__ = [
    "MLP",
    "LitMLP",
    "MNISTDataModule",
    "Run",
    "Runs",
    "__version__",
    "fit",
    "in_blocks",
    "predict_images",
    "read_runs",
    "run_study",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch and Lightning take seconds that `--version` need not."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

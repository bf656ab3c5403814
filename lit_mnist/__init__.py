"""A multilayer perceptron on MNIST with PyTorch Lightning, and what the learning rate and the batch size do to it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_mnist.data import MNISTDataModule
    from lit_mnist.engines.blocks import in_blocks
    from lit_mnist.lit_mlp import LitMLP
    from lit_mnist.mlp import MLP
    from lit_mnist.predict.predict import predict_images

__version__ = "2.0.0"

_HOMES = {
    "LitMLP": "lit_mnist.lit_mlp",
    "MLP": "lit_mnist.mlp",
    "MNISTDataModule": "lit_mnist.data",
    "in_blocks": "lit_mnist.engines.blocks",
    "predict_images": "lit_mnist.predict.predict",
}

__all__ = ["MLP", "LitMLP", "MNISTDataModule", "__version__", "in_blocks", "predict_images"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch and Lightning take seconds that `--version` need not."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

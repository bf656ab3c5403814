"""The network: a multilayer perceptron for 28x28 grey-scale images, in plain PyTorch."""

from collections.abc import Sequence
from itertools import pairwise
from operator import index

import torch
from torch import Tensor, nn

IMAGE_PIXELS = 28 * 28
CLASSES = 10


class MLP(nn.Module):
    """Fully connected network 784 - hidden - 10 with ReLU between the layers and logits out.

    Weights and biases start as `torch.nn.Linear` draws them (uniform in +-1/sqrt(fan_in)) from the global random state.

    Args:
        hidden: Width of each hidden layer, in neurons, input side first; each at least 1. The published study used 512, 256.

    Raises:
        ValueError: A width is below 1.
    """

    def __init__(self, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        for width in hidden:
            if width < 1:
                raise ValueError(f"hidden: a layer needs at least 1 neuron, not {width}.")
        self.hidden = tuple(index(width) for width in hidden)
        widths = (IMAGE_PIXELS, *self.hidden, CLASSES)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and so of the images to give."""
        return next(self.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) or (N, 784), floating point in [0, 1] -> logits (N, 10), unnormalised log-probabilities."""
        activation = images.flatten(1)
        for layer in self.layers[:-1]:
            activation = layer(activation).relu()
        logits: Tensor = self.layers[-1](activation)
        return logits

"""The network: a multilayer perceptron for grey-scale images, in plain PyTorch."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from operator import index
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A fully connected network with ReLU between its layers; its outputs are logits.

    Weights and biases start as `torch.nn.Linear` draws them (uniform in +-1/sqrt(fan_in)) from the global random state.

    Args:
        image_shape: Height and width of an image in pixels, (28, 28) for MNIST.
        classes: Number of classes, 10 for MNIST.
        hidden: Width of each hidden layer in units, input side first; each at least 1.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(self, image_shape: Sequence[int], classes: int, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        self.image_shape = tuple(index(side) for side in image_shape)
        self.classes = index(classes)
        self.hidden = tuple(index(width) for width in hidden)
        widths = (prod(self.image_shape), *self.hidden, self.classes)
        for width in widths:
            if width < 1:
                raise ValueError(f"a layer needs at least 1 unit, not {width} (image_shape, hidden and classes: {widths}).")
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values, from which the same network can be built."""
        return {"image_shape": list(self.image_shape), "classes": self.classes, "hidden": list(self.hidden)}

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters, in which the network computes."""
        return next(self.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (N, classes), unnormalised log-probabilities.

        Args:
            images: (N, 1, height, width), (N, height, width) or (N, pixels): floating point in [0, 1], or bytes (uint8), which
                are divided by 255.

        Raises:
            ValueError: The images are integers other than bytes.
        """
        if images.dtype == torch.uint8:
            images = images.float() / 255  # in float32, as the data module does, whatever the network computes in
        elif not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1] or uint8, not {images.dtype}.")
        activation = images.to(self.dtype).flatten(1)
        for layer in self.layers[:-1]:
            activation = layer(activation).relu()
        logits: Tensor = self.layers[-1](activation)
        return logits

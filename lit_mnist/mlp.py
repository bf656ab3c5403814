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
        weight = self.layers[0].weight
        return weight.dtype if isinstance(weight, Tensor) else torch.float32  # a method, once torch has quantized the layer

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (N, classes), unnormalised log-probabilities.

        Args:
            images: (N, 1, height, width), (N, height, width) or (N, pixels): floating point in [0, 1], or bytes (uint8), which
                are divided by 255.

        Raises:
            ValueError: The images are integers other than bytes.
        """
        activation = _in_unit_range(images).to(self.dtype).flatten(1)
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            activation = layer(activation) if depth == last else layer(activation).relu()
        return activation


@torch.fx.wrap  # a call in the graph that `symbolic_trace` makes, which could not follow what depends on a dtype
def _in_unit_range(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.float() / 255  # in float32, as the data module does, whatever the network computes in
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1] or uint8, not {images.dtype}.")
    return images

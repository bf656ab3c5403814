"""Plain SGD for the MLP with the backward pass written out by hand: no autograd, no optimizer object, no temporaries."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lit_mnist.mlp import MLP


class FastEngine:
    """Trains an `MLP` in place by plain SGD on the mean cross-entropy, as autograd and `torch.optim.SGD` would.

    The arithmetic is that of the ordinary loop, the order of the sums is not: weights agree to rounding (about 1e-6
    relative after 200 steps in float32), not bit for bit. The same inputs give the same bits.

    Args:
        mlp: The network, trained in place; its parameters are looked up again at each `train`, so it may be moved or reloaded.
        lr: Learning rate, at least 0.

    Raises:
        ValueError: The network is not one whose gradient is written out here; the sentence says why.
    """

    def __init__(self, mlp: nn.Module, lr: float) -> None:
        refusal = _why_not(mlp)
        if refusal:
            raise ValueError(f"engine fast: {refusal}; use the exact engine.")
        assert isinstance(mlp, MLP)
        self.mlp = mlp
        self.lr = lr

    def train(self, images: Tensor, labels: Tensor, batch_size: int) -> Iterator[Tensor]:
        """One SGD step on each run of `batch_size` consecutive images, and one on what is left over at the end.

        Stop by not asking for more: at every yield the parameters hold all steps whose losses were yielded, and no others.

        Args:
            images: (N, 784) contiguous, in [0, 1], of the parameters' dtype and on their device.
            labels: (N,) int64 in 0..9.
            batch_size: Images per step, at least 1.

        Yields:
            (steps,) mean cross-entropy, in nats, of each batch before its step, for the next one or more steps.
        """
        # Detached views share the parameters' storage and need no autograd bookkeeping.
        weights = [layer.weight.detach() for layer in self._layers()]
        biases = [layer.bias.detach() for layer in self._layers()]
        hidden = [images.new_empty(batch_size, bias.numel()) for bias in biases[:-1]]
        gradients = [images.new_empty(batch_size, bias.numel()) for bias in biases]
        ones = images.new_ones(batch_size)
        targets = nn.functional.one_hot(labels, biases[-1].numel()).to(images.dtype)
        logits = images.new_empty(batch_size, biases[-1].numel())

        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            target = targets[rows]
            size = len(target)
            if size < batch_size:
                hidden = [buffer[:size] for buffer in hidden]
                gradients = [buffer[:size] for buffer in gradients]
                ones, logits = ones[:size], logits[:size]
            inputs = [images[rows], *hidden]
            outputs = [*hidden, logits]
            for weight, bias, a, z in zip(weights, biases, inputs, outputs, strict=True):
                torch.addmm(bias, a, weight.t(), out=z)
                if z is not logits:
                    z.relu_()
            torch.softmax(logits, 1, out=gradients[-1])
            loss = nn.functional.cross_entropy(logits, labels[rows])

            # From here on a gradient is that of the batch's summed loss with respect to a layer's output before ReLU.
            gradients[-1].sub_(target)
            for index in reversed(range(len(weights))):
                gradient = gradients[index]
                if index:  # before the update: the gradient flows through the weights that made the loss
                    torch.mm(gradient, weights[index], out=gradients[index - 1])
                    gradients[index - 1].mul_(inputs[index] > 0)
                weights[index].addmm_(gradient.t(), inputs[index], alpha=-self.lr / size)
                biases[index].addmv_(gradient.t(), ones, alpha=-self.lr / size)
            yield loss.view(1)

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.mlp.layers if isinstance(layer, nn.Linear)]


def _why_not(mlp: nn.Module) -> str:
    """What keeps a network from being trained by `FastEngine`; empty if nothing does."""
    if type(mlp) is not MLP:
        return f"it knows the gradient of MLP only, not of {type(mlp).__name__}"
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in mlp.layers):
        return "a layer of the network was replaced by something other than a Linear with bias"
    parameters = list(mlp.parameters())
    if len(parameters) != 2 * len(mlp.layers) or not all(parameter.requires_grad for parameter in parameters):
        return "some parameters of the network are frozen, shared or pruned"
    if len({(parameter.dtype, parameter.device) for parameter in parameters}) > 1:
        return "the parameters differ in dtype or device"
    if parameters[0].dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, not {parameters[0].dtype}"
    return ""

"""Plain SGD for the MLP with the backward pass written out: no autograd, no optimizer object, no temporaries.

Two identities make it cheaper than the products of the ordinary loop; neither changes the algorithm.

- The images do not depend on the weights, so the first layer of several successive steps can be done at once.
  If its weight is `W` at the first of them and step i adds `delta_i.T @ x_i` to it, then step j needs
  `x_j @ (W + sum of delta_i.T @ x_i).T = x_j @ W.T + sum of (x_j @ x_i.T) @ delta_i`, summed over i < j.
- A pixel that is black in every image adds nothing to a product, and its weights get no gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_mnist.mlp import CLASSES, MLP

# Images whose first layer is done at once. More rows make no product faster; overlaps grow with their square.
CHUNK_IMAGES = 128
# Images whose black pixels are looked for at once. Leaving them out costs as much as training on 20 images;
# more images share fewer of them: of the 784 pixels of MNIST 255 in 128 images, 175 in 1024, 67 in all.
SPAN_IMAGES = 1024

_mask_by_relu = torch.ops.aten.threshold_backward.grad_input


class FastEngine:
    """Trains an `MLP` in place by plain SGD on the mean cross-entropy, like autograd and `torch.optim.SGD`.

    The sums are those of the ordinary loop in another order: weights agree to rounding, not bit for bit. The
    same calls with the same inputs give the same bits; a block of images split over two calls may round
    differently. Keep an engine for a whole run: it owns the scratch memory of its products.

    Args:
        mlp: The network, trained in place; it may be moved or reloaded between calls of `train`.
        lr: Learning rate, at least 0.

    Raises:
        ValueError: The network is not one whose gradient is written out here; the sentence says why.
    """

    def __init__(self, mlp: nn.Module, lr: float) -> None:
        refusal = _why_not(mlp)
        if refusal:
            raise ValueError(f"engine fast: {refusal}; use the exact engine.")
        assert isinstance(mlp, MLP)
        self.layers = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
        self.lr = lr
        self._buffers: dict[str, Tensor] = {}

    def train(self, images: Tensor, labels: Tensor, batch_size: int) -> Iterator[Tensor]:
        """One SGD step on each run of `batch_size` consecutive images, and one on what is left over.

        To stop, stop asking: at every yield the parameters hold the steps whose losses were yielded.

        Args:
            images: (N, 784), N at least 1, of the parameters' dtype and on their device.
            labels: (N,) int64 in 0..9.
            batch_size: Images per step, at least 1.

        Yields:
            (steps,) mean cross-entropy in nats of each batch before its step, for the next about 1024 images.
        """
        chunk = max(1, CHUNK_IMAGES // batch_size) * batch_size
        span = max(1, SPAN_IMAGES // chunk) * chunk
        for x, y in zip(torch.split(images, span), torch.split(labels, span), strict=True):
            loss_by_image = self._train_span(x, y, batch_size, chunk)
            ragged = len(x) % batch_size
            losses = loss_by_image[: len(x) - ragged].view(-1, batch_size).mean(1)
            if ragged:
                losses = torch.cat([losses, loss_by_image[-ragged:].mean(0, keepdim=True)])
            yield losses

    def _train_span(self, images: Tensor, labels: Tensor, batch_size: int, chunk: int) -> Tensor:
        """Trains without the pixels that are black in all of the images; returns each image's loss, (N,)."""
        lit = images.amax(0).logical_or(images.amin(0)).nonzero().squeeze(1)
        pixels = self._buffer("pixels", images, len(images), len(lit))
        torch.index_select(images, 1, lit, out=pixels)
        # Detached tensors share the parameters' storage and need no bookkeeping by autograd.
        weights = [layer.weight.detach() for layer in self.layers]
        biases = [layer.bias.detach() for layer in self.layers]
        weight_by_pixel = weights[0].t()
        lit_weight = self._buffer("lit_weight", images, len(lit), len(biases[0]))
        torch.index_select(weight_by_pixel, 0, lit, out=lit_weight)
        weights[0] = lit_weight.t()
        targets = self._buffer("targets", images, len(images), CLASSES).zero_().scatter_(1, labels[:, None], 1)

        losses = []
        parts = (torch.split(tensor, chunk) for tensor in (pixels, targets, labels))
        for x, target, y in zip(*parts, strict=True):
            logits = self._train_chunk(weights, biases, x, target, batch_size)
            losses.append(F.cross_entropy(logits, y, reduction="none"))
        weight_by_pixel.index_copy_(0, lit, lit_weight)
        return torch.cat(losses)

    def _train_chunk(
        self, weights: list[Tensor], biases: list[Tensor], images: Tensor, targets: Tensor, batch_size: int
    ) -> Tensor:
        """Takes a few steps, the first layer's weight moving after the last; returns the logits (N, 10)."""
        count = len(images)
        # ReLU turns outputs into activations in place. A delta is -lr times the gradient by an output.
        outputs = [self._buffer(f"output{i}", images, count, len(bias)) for i, bias in enumerate(biases)]
        deltas = [self._buffer(f"delta{i}", images, count, len(bias)) for i, bias in enumerate(biases)]
        ones = self._buffer("ones", images, count, 1).fill_(1).squeeze(1)
        overlaps = self._buffer("overlaps", images, count, count)
        if count > batch_size:
            torch.mm(images, images.t(), out=overlaps).add_(1)  # 1 for the bias, an input that is always lit
        torch.addmm(biases[0], images, weights[0].t(), out=outputs[0])
        outputs_by_step = zip(*(torch.split(output, batch_size) for output in outputs), strict=True)
        deltas_by_step = zip(*(torch.split(delta, batch_size) for delta in deltas), strict=True)
        targets_by_step = torch.split(targets, batch_size)
        first = 0
        for output, delta, target in zip(outputs_by_step, deltas_by_step, targets_by_step, strict=True):
            size = len(target)
            if first:
                output[0].addmm_(overlaps[first : first + size, :first], deltas[0][:first])
            for i in range(1, len(weights)):
                torch.addmm(biases[i], output[i - 1].relu_(), weights[i].t(), out=output[i])
            torch.softmax(output[-1], 1, out=delta[-1]).sub_(target).mul_(-self.lr / size)
            for i in range(len(weights) - 1, 0, -1):
                torch.mm(delta[i], weights[i], out=delta[i - 1])
                _mask_by_relu(delta[i - 1], output[i - 1], 0, grad_input=delta[i - 1])
                transposed = delta[i].t()
                weights[i].addmm_(transposed, output[i - 1])
                biases[i].addmv_(transposed, ones[:size])
            first += size
        weights[0].addmm_(deltas[0].t(), images)
        biases[0].addmv_(deltas[0].t(), ones)
        return outputs[-1]

    def _buffer(self, name: str, like: Tensor, rows: int, columns: int) -> Tensor:
        """Memory kept between calls: fresh pages can cost more than the product that fills them."""
        buffer = self._buffers.get(name, like.new_empty(0))
        kind = (buffer.dtype, buffer.device)
        if buffer.numel() < rows * columns or kind != (like.dtype, like.device):
            buffer = self._buffers[name] = like.new_empty(rows * columns)
        return buffer[: rows * columns].view(rows, columns)


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

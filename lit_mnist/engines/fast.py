"""Plain SGD for the MLP with the backward pass written out: no autograd, no optimizer object, no temporaries.

Two identities make it cheaper than the products of the ordinary loop; neither changes the algorithm. Which library does
the products is decided by `products_for`.

- The images do not depend on the weights, so the first layer of several successive steps can be done at once.
  If its weight is `W` at the first of them and step i adds `delta_i.T @ x_i` to it, then step j needs
  `x_j @ (W + sum of delta_i.T @ x_i).T = x_j @ W.T + sum of (x_j @ x_i.T) @ delta_i`, summed over i < j.
- A pixel that is black in every image adds nothing to a product, and its weights get no gradient.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_mnist.engines.products import products_for
from lit_mnist.mlp import CLASSES, MLP

# Images whose first layer is done at once. More rows make products hardly faster; overlaps grow with their square.
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

    @torch.inference_mode()  # with 8 images per step it saves a fifteenth of the time: there are many small operations
    def _train_span(self, images: Tensor, labels: Tensor, batch_size: int, chunk: int) -> Tensor:
        """Trains without the pixels that are black in all of the images; returns each image's loss, (N,)."""
        lit = images.amax(0).logical_or(images.amin(0)).nonzero().squeeze(1)
        pixels = self._buffer("pixels", images, len(images), len(lit))
        torch.index_select(images, 1, lit, out=pixels)
        parameters = [layer.weight for layer in self.layers]
        biases: list[Tensor] = [layer.bias for layer in self.layers]
        weight_by_pixel = parameters[0].t()
        lit_weight = self._buffer("lit_weight", images, len(lit), len(biases[0]))
        torch.index_select(weight_by_pixel, 0, lit, out=lit_weight)
        weights = [lit_weight.t(), *map(_by_input, parameters[1:-1]), *parameters[1:][-1:]]
        targets = images.new_zeros(len(images), CLASSES).scatter_(1, labels[:, None], 1)

        losses = []
        parts = (torch.split(tensor, chunk) for tensor in (pixels, targets, labels))
        for x, target, y in zip(*parts, strict=True):
            logits = self._train_chunk(weights, biases, x, target, batch_size)
            losses.append(F.cross_entropy(logits, y, reduction="none"))
        weight_by_pixel.index_copy_(0, lit, weights[0].t())
        for parameter, weight in zip(parameters[1:], weights[1:], strict=True):
            parameter.copy_(weight)
        return torch.cat(losses)

    def _train_chunk(
        self, weights: list[Tensor], biases: list[Tensor], images: Tensor, targets: Tensor, batch_size: int
    ) -> Tensor:
        """Takes a few steps, the first layer's weight moving after the last; returns the logits (N, 10).

        Args:
            weights: By layer, (outputs, inputs); replaced in the list or changed in place.
            biases: By layer, (outputs,); changed in place.
            images: (N, lit pixels).
            targets: (N, 10), 1 at the label and 0 elsewhere.
            batch_size: Images per step.
        """
        products, count = products_for(images), len(images)
        ones = images.new_ones(count)
        # A delta is -lr times the gradient by an output; those of the first layer are kept until the weight moves.
        first_deltas = self._buffer("first_deltas", images, count, len(biases[0]))
        first_outputs = products.forward(images, weights[0], biases[0])
        earlier = (count - 1) // batch_size * batch_size
        if earlier:  # of each image with those of earlier steps, + 1 for the bias, an input that is always lit
            overlaps = products.forward(images[batch_size:], images[:earlier], ones[:earlier])
        all_logits = []
        first = 0
        parts = (torch.split(tensor, batch_size) for tensor in (first_outputs, first_deltas, targets))
        for output, first_delta, target in zip(*parts, strict=True):
            size = len(target)
            if first:
                output.addmm_(overlaps[first - batch_size :][:size, :first], first_deltas[:first])
            outputs = [output]  # ReLU turns outputs into activations in place
            for weight, bias in zip(weights[1:], biases[1:], strict=True):
                outputs.append(products.forward(outputs[-1].relu_(), weight, bias))
            logits = outputs.pop()
            all_logits.append(logits)
            delta = torch.sub(target, torch.softmax(logits, 1)).mul_(self.lr / size)
            for i in range(len(outputs), 0, -1):
                below = products.backward(delta, weights[i])
                weights[i] = products.update(weights[i], delta, outputs[i - 1])
                biases[i].addmv_(delta.t(), ones[:size])
                delta = _mask_by_relu(below, outputs[i - 1], 0, grad_input=below)
            first_delta.copy_(delta)
            first += size
        weights[0] = products.update(weights[0], first_deltas, images)
        biases[0].addmv_(first_deltas.t(), ones)
        return torch.cat(all_logits)

    def _buffer(self, name: str, like: Tensor, rows: int, columns: int) -> Tensor:
        """Memory kept between calls: fresh pages can cost more than the product that fills them."""
        buffer = self._buffers.get(name, like.new_empty(0))
        kind = (buffer.dtype, buffer.device)
        if buffer.numel() < rows * columns or kind != (like.dtype, like.device):
            buffer = self._buffers[name] = like.new_empty(rows * columns)
        return buffer[: rows * columns].view(rows, columns)


def _by_input(weight: Tensor) -> Tensor:
    """A copy whose memory has one row per input: with 8 images a product with it is up to a fifth faster."""
    return weight.t().clone(memory_format=torch.contiguous_format).t()


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

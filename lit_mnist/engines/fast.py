"""Plain SGD for the MLP on CPUs, compiled by numba: the backward pass written out, products with zeros left out.

Four of five pixels of a digit are black, and many hidden units are off: a ReLU made them 0. Every large sum of a step is
one of two loops, each for four images (or for four rows of a weight) at a time:

- `_add_rows` adds multiples of the rows of a matrix. Forward, `inputs @ weight` adds a row of the weight per input; an
  input that is 0 in all four images is left out. The gradient of a weight, `inputs.T @ deltas`, adds a row of the deltas
  per image; an image in which all four inputs are 0 is left out.
- `_dot_rows` takes dot products with rows. Backward, the delta of a unit is the dot product of the deltas above it with
  its row of the weight; units that are off in all four images are left out, for their deltas are 0.

What is left out is read from the numbers themselves (`_choose`): of dense images, nothing.

The first weight, the largest, moves once per chunk of several small mini-batches. If it is `W` before the chunk and step
i adds `x_i.T @ delta_i` to it, step j needs `x_j @ (W + sum of x_i.T @ delta_i) = x_j @ W + sum of (x_j @ x_i.T) @ delta_i`,
summed over i < j. A delta is here -lr times the gradient by an output of a layer, before its ReLU.

In memory a weight has a row per input, then the bias (the row of an input that is always 1), then rows of 0. Rows are
padded with 0 to whole vectors, mini-batches with rows of 0 to whole groups of four.
"""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_mnist.mlp import MLP

try:
    import numba
except ImportError:
    numba = None

Array = npt.NDArray[Any]

VECTOR = 16  # float32 in a vector of AVX-512
CHUNK_IMAGES = 48  # between two moves of the first weight; the cost of overlaps grows with the square
# Sums may be reordered and multiply-adds fused, as BLAS does. NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "reassoc"}, "error_model": "numpy", "nogil": True}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks an inner loop for compilation on its first call."""
    compiled: Callable[..., Any] = numba.njit(**OPTIONS)(function) if numba else function
    return compiled


@_compiled
def _columns(width: int) -> int:
    """Columns that hold `width` numbers in whole vectors."""
    return (width + VECTOR - 1) // VECTOR * VECTOR


@_compiled
def _padded(width: int) -> int:
    """Columns of a layer's values: the units, the 1 that multiplies the bias, and at least one 0."""
    return _columns(width + 2)


@_compiled
def _weight(weights: Array, widths: Array, layer: int) -> Array:
    """The weight of a layer and its bias, (padded inputs, padded outputs), in the memory of all weights."""
    start = 0
    for below in range(layer):
        start += _padded(widths[below]) * _padded(widths[below + 1])
    rows, columns = _padded(widths[layer]), _padded(widths[layer + 1])
    return weights[start : start + rows * columns].reshape(rows, columns)


@_compiled
def _choose(values: Array, i: int, first: int, last: int, spare: int, chosen: Array) -> int:
    """Lists the columns first..last-1 of `values` that are not 0 in all of the rows i..i+3, and how many there are.

    The list is filled up to a multiple of eight with `spare`, a column of 0.
    """
    count = 0
    for k in range(first, last):
        chosen[count] = k
        count += (values[i, k] != 0) | (values[i + 1, k] != 0) | (values[i + 2, k] != 0) | (values[i + 3, k] != 0)
    while count % 8:
        chosen[count] = spare
        count += 1
    return count


@_compiled
def _eight(values: Array, k: Array) -> tuple[Any, ...]:
    return values[k[0]], values[k[1]], values[k[2]], values[k[3]], values[k[4]], values[k[5]], values[k[6]], values[k[7]]


@_compiled
def _dot8(a: tuple[Any, ...], b: tuple[Any, ...]) -> Any:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + (a[4] * b[4] + a[5] * b[5] + a[6] * b[6] + a[7] * b[7])


@_compiled
def _add_rows(sums: Array, i: int, factors: Array, chosen: Array, count: int, table: Array, columns: int) -> None:
    """Adds `factors[i + j, k] * table[k]` to `sums[i + j]`, for j in 0..3 and each k of `chosen[:count]`."""
    sum0, sum1, sum2, sum3 = sums[i], sums[i + 1], sums[i + 2], sums[i + 3]
    for first in range(0, count, 8):  # eight rows per reading and writing of the sums
        k = chosen[first : first + 8]
        a, b, c, d = _eight(factors[i], k), _eight(factors[i + 1], k), _eight(factors[i + 2], k), _eight(factors[i + 3], k)
        row0, row1, row2, row3 = table[k[0]], table[k[1]], table[k[2]], table[k[3]]
        row4, row5, row6, row7 = table[k[4]], table[k[5]], table[k[6]], table[k[7]]
        for x in range(columns):
            rows = row0[x], row1[x], row2[x], row3[x], row4[x], row5[x], row6[x], row7[x]
            sum0[x] += _dot8(a, rows)
            sum1[x] += _dot8(b, rows)
            sum2[x] += _dot8(c, rows)
            sum3[x] += _dot8(d, rows)


@_compiled
def _dot_rows(out: Array, i: int, vectors: Array, chosen: Array, count: int, table: Array, columns: int) -> None:
    """Sets `out[i + j, k]` to the dot product of `vectors[i + j]` and `table[k]`, for j in 0..3 and each k chosen."""
    v0, v1, v2, v3 = vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]
    zero = vectors.dtype.type(0)
    for first in range(0, count, 2):
        p, q = chosen[first], chosen[first + 1]
        row_p, row_q = table[p], table[q]
        p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
        for x in range(columns):
            p0 += v0[x] * row_p[x]
            p1 += v1[x] * row_p[x]
            p2 += v2[x] * row_p[x]
            p3 += v3[x] * row_p[x]
            q0 += v0[x] * row_q[x]
            q1 += v1[x] * row_q[x]
            q2 += v2[x] * row_q[x]
            q3 += v3[x] * row_q[x]
        out[i, p], out[i + 1, p], out[i + 2, p], out[i + 3, p] = p0, p1, p2, p3
        out[i, q], out[i + 1, q], out[i + 2, q], out[i + 3, q] = q0, q1, q2, q3


@_compiled
def _delta_of_logits(logits: Array, label: int, rate: float, delta: Array) -> float:
    """Sets delta to rate * (one-hot label - softmax(logits)), all (classes,); returns the cross-entropy in nats."""
    top, total = logits[0], 0.0
    for logit in logits:
        top = max(top, logit)
    for k in range(len(logits)):
        delta[k] = np.exp(logits[k] - top)
        total += delta[k]
    for k in range(len(logits)):
        delta[k] *= -rate / total
    delta[label] += rate
    return np.log(total) + top - logits[label]


@_compiled
def _load(x: Array, images: Array, batch_size: int, stride: int) -> None:
    """Copies mini-batches of images to the rows 0, stride, 2 * stride, ... of x, with a 1 for the bias; others are 0."""
    pixels = images.shape[1]
    x[:] = 0
    for n in range(len(images)):
        row = x[n // batch_size * stride + n % batch_size]
        row[:pixels] = images[n]
        row[pixels] = 1


@_compiled
def _first_outputs(i: int, x: Array, weight: Array, width: int, pixels: int, outputs: Array) -> None:
    """Outputs of the first layer for the images i..i+3, by its weight as it was before the chunk."""
    chosen = np.empty(pixels + 10, np.int32)
    count = _choose(x, i, 0, pixels + 1, pixels + 1, chosen)
    outputs[i : i + 4] = 0
    _add_rows(outputs, i, x, chosen, count, weight, _columns(width))


@_compiled
def _add_earlier(sums, i, start, vectors, deltas, overlaps, length, columns):  # type: ignore[no-untyped-def]
    """Adds what the moves of a chunk's earlier steps (rows up to `start`) would have added to the sums i..i+3."""
    earlier = np.arange((start + 7) // 8 * 8)
    earlier[start:] = len(vectors) - 1
    _dot_rows(overlaps, i, vectors, earlier, len(earlier), vectors, length)
    _add_rows(sums, i, overlaps, earlier, len(earlier), deltas, columns)


@_compiled
def _group(i, start, size, x, weights, widths, outputs, deltas, overlaps, labels, rate, losses):  # type: ignore[no-untyped-def]
    """Forward and backward pass of the images i..i+3 of the mini-batch whose rows begin at `start`."""
    last = len(widths) - 2
    zero = outputs.dtype.type(0)
    chosen = np.empty((last + 1, outputs.shape[2] + 8), np.int32)
    counts = np.empty(last + 1, np.int64)
    if start:
        _add_earlier(outputs[0], i, start, x, deltas[0], overlaps, _columns(widths[0] + 1), _columns(widths[1]))
    for layer in range(1, last + 1):
        inputs, width, columns = outputs[layer - 1], widths[layer], _columns(widths[layer + 1])
        for j in range(i, i + 4):
            row = inputs[j]
            for k in range(width):
                row[k] = zero if row[k] < zero else row[k]
            row[width] = 1
        counts[layer] = _choose(inputs, i, 0, width + 1, width + 1, chosen[layer])
        outputs[layer, i : i + 4] = 0
        _add_rows(outputs[layer], i, inputs, chosen[layer], counts[layer], _weight(weights, widths, layer), columns)
        if start:
            _add_earlier(outputs[layer], i, start, inputs, deltas[layer], overlaps, _columns(width + 1), columns)
    classes = widths[-1]
    deltas[last, i : i + 4] = 0
    for j in range(i, min(i + 4, start + size)):
        n = j - start
        losses[n] = _delta_of_logits(outputs[last, j, :classes], labels[n], rate / size, deltas[last, j, :classes])
    for layer in range(last, 0, -1):
        above, below, width, columns = deltas[layer], deltas[layer - 1], widths[layer], _columns(widths[layer + 1])
        _dot_rows(below, i, above, chosen[layer], counts[layer], _weight(weights, widths, layer), columns)
        if start:
            _add_earlier(below, i, start, above, outputs[layer - 1], overlaps, columns, _columns(width))
        for j in range(i, i + 4):
            delta, active = below[j], outputs[layer - 1, j]
            for k in range(width):
                delta[k] = delta[k] if active[k] > zero else zero
            delta[width : width + 2] = 0


@_compiled
def _move(weight: Array, u: int, inputs: Array, last: int, deltas: Array, width: int) -> None:
    """Adds inputs.T @ deltas of the images before `last` to the rows u..u+3 of a weight."""
    chosen = np.empty(last + 8, np.int32)
    count = _choose(inputs.T, u, 0, last, len(inputs) - 1, chosen)
    _add_rows(weight, u, inputs.T, chosen, count, deltas, _columns(width))


@functools.cache
def _trainer(parallel: bool) -> Callable[..., None]:
    """The compiled loop over mini-batches. Its `turns` is range, or numba's range whose turns threads share out."""
    turns = numba.prange if parallel else range

    def train(weights, widths, images, labels, batch_size, rate, losses):  # type: ignore[no-untyped-def]
        stride = (batch_size + 3) // 4 * 4
        batches = max(1, CHUNK_IMAGES // stride)
        rows, pixels, layers = batches * stride, widths[0], len(widths) - 1
        x = np.zeros((rows + 1, _padded(pixels)), images.dtype)  # the last row stays 0, here and below
        outputs = np.zeros((layers, rows + 1, _padded(widths[1:].max())), images.dtype)
        deltas, overlaps, row_losses = np.zeros_like(outputs), np.zeros((rows + 1, rows + 1), images.dtype), np.zeros(rows)
        for chunk in range(0, len(images), batches * batch_size):
            end = min(chunk + batches * batch_size, len(images))
            _load(x, images[chunk:end], batch_size, stride)
            for group in turns(rows // 4):
                _first_outputs(4 * group, x, _weight(weights, widths, 0), widths[1], pixels, outputs[0])
            used = 0
            for first in range(chunk, end, batch_size):
                start, size = used, min(batch_size, end - first)
                used += (size + 3) // 4 * 4
                y = labels[first : first + size]
                for group in turns((size + 3) // 4):
                    _group(start + 4 * group, start, size, x, weights, widths, outputs, deltas, overlaps, y, rate, row_losses)
                losses[first // batch_size] = row_losses[start : start + size].mean()
            for layer in range(layers):
                weight, inputs = _weight(weights, widths, layer), x if layer == 0 else outputs[layer - 1]
                for four in turns(widths[layer] // 4 + 1):
                    _move(weight, 4 * four, inputs, used, deltas[layer], widths[layer + 1])

    compile_it = functools.partial(numba.njit, parallel=parallel, **OPTIONS)
    try:
        return compile_it(cache=True)(train)
    except RuntimeError:  # no folder to keep compiled code in can be written
        return compile_it()(train)


class FastEngine:
    """Trains an `MLP` on a CPU in place by plain SGD on the mean cross-entropy, like autograd and `torch.optim.SGD`.

    Sums are added in another order: weights agree with those of the exact engine to rounding, not bit for bit. The same
    calls give the same bits with any number of threads; a block of images split over two calls may round differently.

    Args:
        mlp: The network; it may be reloaded between calls of `steps`.
        lr: Learning rate, at least 0.
        threads: Threads that share the images of a mini-batch and the rows of a weight.

    Raises:
        ValueError: numba is missing, or the network is not one whose gradient is written out here.
    """

    def __init__(self, mlp: nn.Module, lr: float, threads: int = 1) -> None:
        if numba is None:
            raise ValueError(
                "engine fast: it halves the time of training and needs numba: pip install 'lit_mnist[fast]', "
                "or use --engine exact."
            )
        self.mlp, self.lr, self.threads = mlp, lr, threads
        self._is_checked = False
        self._linear_layers()

    @torch.no_grad()
    def steps(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """One SGD step on each run of `batch_size` consecutive images, and one on what is left over.

        Args:
            images: (N, ...) on the CPU, N at least 1, of the parameters' dtype.
            labels: (N,) int64 in 0..classes-1.
            batch_size: Images per step, at least 1.

        Returns:
            (steps,) mean cross-entropy in nats of each mini-batch before its step. The last is NaN if the steps left a
            weight that is not finite: exact products with it would be NaN, which leaving zeros out could hide.

        Raises:
            ValueError: The network does not compute what its layers and ReLU between them do; it was not changed.
        """
        layers = self._linear_layers()
        pixels = images.flatten(1)
        widths = [pixels.shape[1], *(layer.out_features for layer in layers)]
        sizes = [(_space(inputs), _space(outputs)) for inputs, outputs in pairwise(widths)]
        memory = pixels.new_zeros(sum(rows * columns for rows, columns in sizes))
        weights = [part.view(size) for part, size in zip(memory.split([r * c for r, c in sizes]), sizes, strict=True)]
        for weight, layer in zip(weights, layers, strict=True):
            weight[: layer.in_features, : layer.out_features].copy_(layer.weight.t())
            weight[layer.in_features, : layer.out_features].copy_(layer.bias)
        losses = np.zeros(-(-len(pixels) // batch_size))
        if self.threads > 1:
            numba.set_num_threads(min(self.threads, numba.config.NUMBA_NUM_THREADS))
        train = _trainer(self.threads > 1)
        train(memory.numpy(), np.array(widths), pixels.contiguous().numpy(), labels.numpy(), batch_size, self.lr, losses)
        self._check(images[:batch_size], labels[:batch_size], losses[0])
        if not memory.isfinite().all():
            losses[-1] = np.nan
        for weight, layer in zip(weights, layers, strict=True):
            layer.weight.copy_(weight[: layer.in_features, : layer.out_features].t())
            layer.bias.copy_(weight[layer.in_features, : layer.out_features])
        return torch.from_numpy(losses).to(pixels.dtype)

    def _linear_layers(self) -> list[nn.Linear]:
        """The layers, if this engine knows their gradient."""
        refusal = _why_not(self.mlp)
        if refusal:
            raise ValueError(f"engine fast: {refusal}; use --engine exact.")
        return [layer for layer in self.mlp.layers if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]

    def _check(self, images: Tensor, labels: Tensor, loss: float) -> None:
        """Compares the loss of the first mini-batch with that of the network itself, once."""
        if self._is_checked:
            return
        expected = F.cross_entropy(self.mlp(images), labels).item()
        if np.isfinite(expected) and not np.isclose(loss, expected, rtol=1e-3, atol=1e-4):
            raise ValueError("engine fast: the network computes something else than its layers with ReLU; use --engine exact.")
        self._is_checked = True


def _space(width: int) -> int:
    return (width + 2 + VECTOR - 1) // VECTOR * VECTOR


def _why_not(mlp: nn.Module) -> str:
    """What keeps a network from being trained by `FastEngine`; empty if nothing does."""
    if type(mlp) is not MLP:
        return f"it knows the gradient of MLP only, not of {type(mlp).__name__}"
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in mlp.layers):
        return "a layer of the network is not a plain Linear with bias"
    trained = {parameter for parameter in mlp.parameters() if parameter.requires_grad}
    if trained != {parameter for layer in mlp.layers for parameter in (layer.weight, layer.bias)}:
        return "parameters of the network are frozen, pruned or more than those of its layers"
    if len(trained) != 2 * len(mlp.layers):
        return "layers of the network share parameters"
    if any(parameter.device.type != "cpu" for parameter in trained):
        return "it is for CPUs, and the network is on another device"
    dtypes = {parameter.dtype for parameter in trained}
    if dtypes not in ({torch.float32}, {torch.float64}):
        return f"it computes in float32 or float64, not in {' and '.join(sorted(map(str, dtypes)))}"
    return ""

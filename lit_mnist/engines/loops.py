"""SGD steps of the fast engine, compiled by numba: the backward pass written out, products with zeros left out.

Four of five pixels of a digit are black, and many hidden units are off: a ReLU made them 0. Every large sum of a step is
one of two loops, each for four images (or for four rows of a weight) at a time:

- `_add_rows` adds multiples of the rows of a matrix. Forward, `inputs @ weight` adds a row of the weight per input; an
  input that is 0 in all four images is left out. The gradient of a weight, `inputs.T @ deltas`, adds a row of the deltas
  per image; an image in which all four inputs are 0 is left out.
- `_dot_rows` takes dot products with rows. Backward, the delta of a unit is the dot product of the deltas above it with
  its row of the weight; units that are off in all four images are left out, for their deltas are 0.

What is left out is read from the numbers themselves (`_choose`): of dense images, nothing.

Weights move once per chunk of several small mini-batches. If a weight is `W` before the chunk and step i adds
`x_i.T @ d_i` to it, the outputs of step j are `x_j @ (W + sum of x_i.T @ d_i) = x_j @ W + sum of (x_j @ x_i.T) @ d_i` over
i < j, and the deltas below it get, likewise, `d_j @ W.T + sum of (d_j @ d_i.T) @ x_i` (`_add_earlier`).

A delta, d, is -lr times the gradient by an output of a layer before its ReLU. In memory a weight has a row per input, the
bias (a row for an input that is always 1), and rows of 0; rows are filled up with 0 to whole vectors, mini-batches with
black images to whole fours. The last row of all values of images is 0: an image to fill lists with.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

try:
    import numba
except ImportError:  # FastEngine says so
    numba = None
HAS_NUMBA = numba is not None

Array = npt.NDArray[Any]
Loop = Callable[..., Any]

VECTOR = 16  # float32 in a vector of AVX-512
CHUNK_IMAGES = 48  # between two moves of the weights; what `_add_earlier` does grows with the square
# Sums may be reordered and multiply-adds fused, as BLAS does. NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "reassoc"}, "error_model": "numpy", "nogil": True}


# Inner loops are called by compiled code alone, and need no wrappers.
_compiled: Callable[[Loop], Loop] = (
    numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS) if numba else lambda loop: loop
)


@_compiled
def _choose(values: Array, i: int, last: int, spare: int, chosen: Array) -> int:
    """Lists the columns before `last` that are not 0 in all of the rows i..i+3 of `values`; returns their number.

    The list is filled up to whole fours with `spare`, a column of 0.
    """
    count = 0
    for k in range(last):
        chosen[count] = k
        count += (values[i, k] != 0) | (values[i + 1, k] != 0) | (values[i + 2, k] != 0) | (values[i + 3, k] != 0)
    while count % 4:
        chosen[count] = spare
        count += 1
    return count


@_compiled
def _add_rows(sums: Array, i: int, factors: Array, chosen: Array, count: int, table: Array, columns: int) -> None:
    """Adds `factors[i + j, k] * table[k]` to `sums[i + j]`, for j in 0..3 and each k of `chosen[:count]`."""
    sum0, sum1, sum2, sum3 = sums[i], sums[i + 1], sums[i + 2], sums[i + 3]
    for first in range(0, count, 4):  # four rows per reading and writing of the sums
        p, q, r, s = chosen[first], chosen[first + 1], chosen[first + 2], chosen[first + 3]
        row_p, row_q, row_r, row_s = table[p], table[q], table[r], table[s]
        a, b, c, d = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        a0, a1, a2, a3 = a[p], a[q], a[r], a[s]
        b0, b1, b2, b3 = b[p], b[q], b[r], b[s]
        c0, c1, c2, c3 = c[p], c[q], c[r], c[s]
        d0, d1, d2, d3 = d[p], d[q], d[r], d[s]
        for x in range(columns):
            wp, wq, wr, ws = row_p[x], row_q[x], row_r[x], row_s[x]
            sum0[x] += a0 * wp + a1 * wq + a2 * wr + a3 * ws
            sum1[x] += b0 * wp + b1 * wq + b2 * wr + b3 * ws
            sum2[x] += c0 * wp + c1 * wq + c2 * wr + c3 * ws
            sum3[x] += d0 * wp + d1 * wq + d2 * wr + d3 * ws


@_compiled
def _dot_rows(out: Array, i: int, vectors: Array, chosen: Array, count: int, table: Array, columns: int) -> None:
    """Sets `out[i + j, k]` to the dot product of `vectors[i + j]` and `table[k]`, for j in 0..3 and each k chosen."""
    v0, v1, v2, v3 = vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]
    for first in range(0, count, 2):
        p, q = chosen[first], chosen[first + 1]
        row_p, row_q = table[p], table[q]
        p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = vectors.dtype.type(0)
        for x in range(columns):
            a, b = row_p[x], row_q[x]
            p0, p1, p2, p3 = p0 + v0[x] * a, p1 + v1[x] * a, p2 + v2[x] * a, p3 + v3[x] * a
            q0, q1, q2, q3 = q0 + v0[x] * b, q1 + v1[x] * b, q2 + v2[x] * b, q3 + v3[x] * b
        out[i, p], out[i + 1, p], out[i + 2, p], out[i + 3, p] = p0, p1, p2, p3
        out[i, q], out[i + 1, q], out[i + 2, q], out[i + 3, q] = q0, q1, q2, q3


@_compiled
def _add_earlier(sums, i, start, vectors, deltas, overlaps, length, columns):  # type: ignore[no-untyped-def]
    """Adds what the chunk's earlier steps, of the rows before `start`, would have done to the sums i..i+3 by moving."""
    earlier = np.arange(start, dtype=np.int32)
    _dot_rows(overlaps, i, vectors, earlier, len(earlier), vectors, length)
    _add_rows(sums, i, overlaps, earlier, len(earlier), deltas, columns)


@_compiled
def _weight(memory: Array, shapes: Array, layer: int) -> Array:
    """The weight of a layer and its bias, (rows, columns)."""
    start, rows, columns = shapes[layer, 0], shapes[layer, 1], shapes[layer, 2]
    return memory[start : start + rows * columns].reshape(rows, columns)


@_compiled
def _delta_of_logits(logits: Array, label: int, rate: float, delta: Array) -> float:
    """Sets delta to rate * (one-hot label - softmax(logits)), all (classes,); returns the cross-entropy in nats."""
    top = logits.max()
    delta[:] = np.exp(logits - top)
    total = delta.astype(np.float64).sum()
    delta *= -rate / total
    delta[label] += rate
    return float(np.log(total) + (top - logits[label]))


@_compiled
def _load(x: Array, images: Array, batch_size: int, stride: int) -> None:
    """Copies mini-batches of images to the rows from 0, stride, 2 * stride, ... of x, each with a 1 for the bias."""
    pixels = images.shape[1]
    x[:] = 0
    for n in range(len(images)):
        row = x[n // batch_size * stride + n % batch_size]
        row[:pixels] = images[n]
        row[pixels] = 1


@_compiled
def _forward(i: int, inputs: Array, width: int, weight: Array, outputs: Array, chosen: Array) -> int:
    """Outputs of a layer for the images i..i+3; lists the inputs that are not 0, and returns their number."""
    count: int = _choose(inputs, i, width + 1, width + 1, chosen)
    outputs[i : i + 4] = 0
    _add_rows(outputs, i, inputs, chosen, count, weight, weight.shape[1])
    return count


@_compiled
def _relu(rows: Array, width: int) -> None:
    """Turns outputs of a layer into inputs of the next: NaN stays NaN, and the input of the bias is 1."""
    zero = rows.dtype.type(0)
    for row in rows:
        for k in range(width):
            row[k] = zero if row[k] < zero else row[k]
        row[width] = 1


@_compiled
def _mask(deltas: Array, values: Array, width: int) -> None:
    """Sets the deltas of units that are off to 0, and those of what is no unit."""
    zero = deltas.dtype.type(0)
    for j in range(len(deltas)):
        for k in range(width):
            deltas[j, k] = zero if values[j, k] <= zero else deltas[j, k]
        deltas[j, width:] = 0


@_compiled
def _pass(i, start, x, memory, shapes, widths, outputs, deltas, overlaps, labels, rate, losses):  # type: ignore[no-untyped-def]
    """Forward pass, after the first weight, and backward pass of the images i..i+3 of the mini-batch from row `start` on."""
    layers, classes = len(shapes), widths[-1]
    chosen, counts = np.empty((layers, outputs.shape[2] + 4), np.int32), np.empty(layers, np.int64)
    for layer in range(layers):
        inputs = x if layer == 0 else outputs[layer - 1]
        weight = _weight(memory, shapes, layer)
        if layer:
            _relu(inputs[i : i + 4], widths[layer])
            counts[layer] = _forward(i, inputs, widths[layer], weight, outputs[layer], chosen[layer])
        if start:
            _add_earlier(outputs[layer], i, start, inputs, deltas[layer], overlaps, weight.shape[0], weight.shape[1])
    deltas[-1, i : i + 4] = 0
    for j in range(i, min(i + 4, start + len(labels))):
        delta, label = deltas[-1, j, :classes], labels[j - start]
        losses[j] = _delta_of_logits(outputs[-1, j, :classes], label, rate / len(labels), delta)
    for layer in range(layers - 1, 0, -1):
        below, values, weight = deltas[layer - 1], outputs[layer - 1], _weight(memory, shapes, layer)
        _dot_rows(below, i, deltas[layer], chosen[layer], counts[layer], weight, weight.shape[1])
        if start:
            _add_earlier(below, i, start, deltas[layer], values, overlaps, weight.shape[1], weight.shape[0])
        _mask(below[i : i + 4], values[i : i + 4], widths[layer])


@_compiled
def _move(weight: Array, u: int, inputs: Array, images: int, deltas: Array) -> None:
    """Adds inputs.T @ deltas of the first `images` rows to the rows u..u+3 of a weight."""
    chosen = np.empty(images + 4, np.int32)
    count = _choose(inputs.T, u, images, len(inputs) - 1, chosen)
    _add_rows(weight, u, inputs.T, chosen, count, deltas, weight.shape[1])


def compiled_steps(threads: int) -> Loop:
    """Returns the loop over mini-batches, `train`, that this many threads share: compiled on its first call.

    It performs one SGD step per mini-batch, and takes, in this order:
        memory: Weights and biases of all layers, one after the other; changed in place.
        shapes: (layers, 3): where a layer begins in `memory`, its rows and its columns.
        widths: (layers + 1,): pixels, units of each hidden layer, classes.
        images, labels: (N, pixels), and (N,) in 0..classes-1.
        batch_size, rate: Images per step, and learning rate.
        losses: (steps,), set to the mean cross-entropy of each mini-batch before its step.
    """
    if threads > 1:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # numba makes that many: one per core
    return cast(Loop, _compiled_steps(threads > 1))


@functools.cache
def _compiled_steps(parallel: bool) -> Any:
    turns = numba.prange if parallel else range

    def train(memory, shapes, widths, images, labels, batch_size, rate, losses):  # type: ignore[no-untyped-def]
        layers, stride = len(shapes), (batch_size + 3) // 4 * 4
        batches = max(1, CHUNK_IMAGES // stride)
        rows = batches * stride
        x = np.zeros((rows + 1, shapes[0, 1]), images.dtype)
        outputs = np.zeros((layers, rows + 1, shapes[:, 1:].max()), images.dtype)
        deltas, overlaps, row_losses = np.zeros_like(outputs), np.zeros((rows + 1, rows + 1), images.dtype), np.zeros(rows)
        for chunk in range(0, len(images), batches * batch_size):
            end = min(chunk + batches * batch_size, len(images))
            _load(x, images[chunk:end], batch_size, stride)
            for four in turns(rows // 4):
                lit = np.empty(shapes[0, 1] + 4, np.int32)
                _forward(4 * four, x, widths[0], _weight(memory, shapes, 0), outputs[0], lit)
            for first in range(chunk, end, batch_size):
                start, y = (first - chunk) // batch_size * stride, labels[first : min(first + batch_size, end)]
                used = start + (len(y) + 3) // 4 * 4
                for four in turns((used - start) // 4):
                    i = start + 4 * four
                    _pass(i, start, x, memory, shapes, widths, outputs, deltas, overlaps, y, rate, row_losses)
                losses[first // batch_size] = row_losses[start : start + len(y)].mean()
            for layer in range(layers):
                weight, inputs = _weight(memory, shapes, layer), x if layer == 0 else outputs[layer - 1]
                for four in turns(widths[layer] // 4 + 1):
                    _move(weight, 4 * four, inputs, used, deltas[layer])

    try:
        return numba.njit(parallel=parallel, cache=True, **OPTIONS)(train)
    except RuntimeError:  # no folder for compiled code can be written
        return numba.njit(parallel=parallel, **OPTIONS)(train)

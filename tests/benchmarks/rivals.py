"""JAX and Keras, where installed (`pip install lit_mnist[bench]`): the same network, the same SGD."""

import importlib
import itertools
import os
from typing import Any

from contenders import LR, Epoch, timed
from torch import Tensor

WIDTHS = (784, 512, 256, 10)


def jax_scan(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """A whole epoch as one compiled `lax.scan` over the batches, parameters updated in place (donated)."""
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    data, classes = jnp.asarray(images.numpy()), jnp.asarray(labels.numpy())
    steps = len(images) // batch_size

    def initial(key: Any) -> list[tuple[Any, Any]]:
        layers = []
        for inputs, outputs in itertools.pairwise(WIDTHS):
            key, for_weight, for_bias = jax.random.split(key, 3)
            bound = inputs**-0.5
            weight = jax.random.uniform(for_weight, (inputs, outputs), minval=-bound, maxval=bound)
            layers.append((weight, jax.random.uniform(for_bias, (outputs,), minval=-bound, maxval=bound)))
        return layers

    def mean_loss(layers: Any, x: Any, y: Any) -> Any:
        for weight, bias in layers[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        log_probabilities = jax.nn.log_softmax(x @ layers[-1][0] + layers[-1][1])
        return -jnp.take_along_axis(log_probabilities, y[:, None], 1).mean()

    def step(layers: Any, rows: Any) -> tuple[Any, Any]:
        loss, gradients = jax.value_and_grad(mean_loss)(layers, data[rows], classes[rows])
        return jax.tree.map(lambda weight, gradient: weight - LR * gradient, layers, gradients), loss

    def whole_epoch(layers: Any, key: Any) -> tuple[Any, Any]:
        order = jax.random.permutation(key, len(images))[: steps * batch_size]
        layers, losses = jax.lax.scan(step, layers, order.reshape(steps, batch_size))
        return layers, losses

    compiled = jax.jit(whole_epoch, donate_argnums=0)
    state: dict[str, Any] = {"layers": initial(jax.random.key(1)), "epoch": 0}

    def run() -> None:
        state["epoch"] += 1
        state["layers"], losses = compiled(state["layers"], jax.random.key(state["epoch"]))
        losses.block_until_ready()

    return timed(run)


def keras_fit(images: Tensor, labels: Tensor, batch_size: int) -> Epoch:
    """`Model.fit` on the JAX backend, otherwise as Keras sets it."""
    os.environ["KERAS_BACKEND"] = "jax"
    keras: Any = importlib.import_module("keras")
    layers = [keras.layers.Dense(width, activation="relu") for width in WIDTHS[1:-1]]
    model = keras.Sequential([keras.Input((WIDTHS[0],)), *layers, keras.layers.Dense(WIDTHS[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(LR), loss, metrics=["accuracy"])
    x, y = images.numpy(), labels.numpy()
    return timed(lambda: model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0))

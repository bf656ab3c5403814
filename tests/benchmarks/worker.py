"""One contender at one thread count in a process of its own: no other library's threads are in its way.

`python worker.py CONTENDER THREADS IMAGES` reads a batch size per line on standard input, trains for an epoch, and
answers each with a line of JSON. THREADS 0 leaves the libraries their own defaults.
"""

import json
import os
import sys
import time


def pin(process: int, threads: int) -> None:
    """Confines a process (0: this one) to as many cores as threads; XLA starts one for each core it has."""
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(process))[-threads:])


def main(contender: str, threads: int, count: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    pin(0, threads)

    import torch
    from contenders import TORCH
    from rivals import jax_scan, keras_fit

    from lit_mnist.datasets.files import load

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    pictures, labels = load("MNIST").train
    images, labels = pictures[:count].flatten(1).float() / 255, labels[:count]
    contenders = {**TORCH, "JAX": jax_scan, "Keras": keras_fit}
    epochs = {}
    for line in sys.stdin:
        batch_size = int(line)
        answer = {}
        if batch_size not in epochs:
            start = time.perf_counter()
            epochs[batch_size] = contenders[contender](images, labels, batch_size)
            epochs[batch_size]()
            answer["warm_up_seconds"] = time.perf_counter() - start
        answer["seconds"] = epochs[batch_size]()
        answer["threads"] = torch.get_num_threads()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

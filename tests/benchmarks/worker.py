"""One contender on chosen cores in a process of its own: no other library's threads are in its way.

`python worker.py CONTENDER CORES IMAGES` reads a batch size per line on standard input, trains for an epoch, and
answers each with its seconds. CORES is a list like 0,1: as many threads, and pinned to these where the system can.
"""

import os
import sys


def main(contender: str, cores: str, count: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))  # XLA starts a thread for each core it has

    import torch
    from contenders import CONTENDERS, pictures_and_labels

    torch.set_num_threads(len(cores.split(",")))
    torch.manual_seed(1)
    images, labels = pictures_and_labels(count)
    epochs = {}
    for line in sys.stdin:
        batch_size = int(line)
        if batch_size not in epochs:
            epochs[batch_size] = CONTENDERS[contender](images, labels, batch_size)
            epochs[batch_size]()  # compiles
        print(epochs[batch_size](), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

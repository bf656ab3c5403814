"""`lit_mnist` with one line more of output: the time at which the first SGD step begins."""

import sys
import time
from typing import Any

from lit_mnist import LitMLP, cli

MARK = "first SGD step at"

_training_step = LitMLP.training_step


def _first_step(self: LitMLP, *args: Any) -> Any:
    print(f"\n{MARK} {time.time()}", flush=True)
    setattr(LitMLP, "training_step", _training_step)  # noqa: B010
    return _training_step(self, *args)


if __name__ == "__main__":
    setattr(LitMLP, "training_step", _first_step)  # noqa: B010
    sys.exit(cli.main(sys.argv[1:]))

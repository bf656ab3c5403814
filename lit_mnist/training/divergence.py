"""A run whose loss is no number any more."""

from torch import Tensor


class Diverged(FloatingPointError):
    """The training loss became infinite or NaN.

    Attributes:
        epoch: 1-based epoch of the first batch whose loss is not finite.
        step: 1-based SGD step of it, counted over the run.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the training loss is not finite any more at step {step}, in epoch {epoch}.")
        self.epoch = epoch
        self.step = step


def check_finite(losses: Tensor, epoch: int, first_step: int) -> None:
    """Makes sure that losses (n,) of successive SGD steps are numbers.

    Args:
        losses: Of the steps from `first_step` on.
        epoch: 1-based, of all of them.
        first_step: 1-based, counted over the run.

    Raises:
        Diverged: One is infinite or NaN.
    """
    finite = losses.isfinite()
    if not finite.all():
        raise Diverged(epoch, first_step + int(finite.int().argmin()))

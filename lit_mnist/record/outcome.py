"""How a run ended, in one word: the only definition of it, used by everything that counts runs."""

import math
from collections.abc import Sequence
from typing import Literal

Outcome = Literal["trained", "collapsed", "diverged"]

GUESSING = math.log(10)  # nats: the cross-entropy of ten equal probabilities
# Within a tenth of guessing nothing usable has been learnt, whatever was learnt before.
NO_BETTER_THAN = 0.9 * GUESSING
# A quarter of all there is to know about a label (0.58 nats), given back since the best epoch. In the trained runs of
# logs/reference, the rough ones at learning rate 1 included, an epoch rises by at most a quarter of that (0.15 nats), and the
# last one ends at most a ninth (0.06 nats) above the best.
FAR_WORSE_BY = 0.25 * GUESSING


def judge(train_loss_by_epoch: Sequence[float]) -> tuple[Outcome, str]:
    """The outcome of a run that stayed finite, and the reason if it is not "trained".

    Judged on the training loss alone, so that nothing is selected on the test set.

    Args:
        train_loss_by_epoch: Mean of the batch losses of each epoch, in nats; at least one.
    """
    final, best = train_loss_by_epoch[-1], min(train_loss_by_epoch)
    if final >= NO_BETTER_THAN:
        return "collapsed", f"final training loss {final:.3f} is no better than {NO_BETTER_THAN:.3f}, 0.9 of guessing"
    if final >= best + FAR_WORSE_BY:
        return "collapsed", f"final training loss {final:.3f} is {final - best:.3f} above the best epoch's {best:.3f}"
    return "trained", ""

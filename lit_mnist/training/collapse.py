"""The callback that ends a run which has collapsed, for sweeps in which many runs fail."""

from typing import Any

import pytorch_lightning as pl

from lit_mnist.record.result import judge


class StopCollapsed(pl.Callback):
    """Ends training when the training losses have been those of a collapsed run at the ends of two epochs in a row.

    One bad epoch is not enough, because a run may come back from it. The run counts as failed: `judge` decides again when it
    is finished.
    """

    works_in_blocks = True

    def __init__(self) -> None:
        self.losses: list[float] = []  # of the epochs, in nats
        self.stopping_reason_message = ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        classes = pl_module.hparams["classes"]
        outcome, reason = judge(self.losses, classes)
        if outcome == judge(self.losses[:-1], classes)[0] == "collapsed":
            self.stopping_reason_message, trainer.should_stop = f"the run has collapsed: {reason}", True

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = list(state_dict["losses"])

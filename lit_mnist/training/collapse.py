"""The callback that ends a run which has collapsed, for sweeps in which many runs fail."""

from typing import Any

import pytorch_lightning as pl

from lit_mnist.record.result import judge


class StopCollapsed(pl.Callback):
    """Ends training at the end of an epoch if the training losses so far are those of a collapsed run.

    The record is that of a run that failed: `judge` gives the same outcome again when the run is finished.
    """

    works_in_blocks = True

    def __init__(self) -> None:
        self.losses: list[float] = []  # of the epochs, in nats
        self.stopping_reason_message = ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        outcome, reason = judge(self.losses, pl_module.hparams["classes"])
        if outcome == "collapsed":
            self.stopping_reason_message, trainer.should_stop = f"the run has collapsed: {reason}", True

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = list(state_dict["losses"])

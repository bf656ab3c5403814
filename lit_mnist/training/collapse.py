"""The callback that ends a run which has collapsed, for sweeps in which many runs fail."""

import pytorch_lightning as pl

from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.result import judge


class StopCollapsed(pl.Callback):
    """Ends a run of `fit` when its training losses have been those of a collapsed run at the ends of two epochs in a row.

    One bad epoch is not enough, because a run may come back from it. The run counts as failed: `judge` decides again when it
    is finished.
    """

    works_in_blocks = True
    stopping_reason_message = ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LitMLP)
        (recorder,) = (each for each in trainer.checkpoint_callbacks if each.state_key == "Recorder")
        before, classes = recorder.history.train_loss_by_epoch, pl_module.hparams["classes"]  # type: ignore[attr-defined]
        outcome, reason = judge([*before, float(trainer.callback_metrics["train/loss"])], classes)
        if outcome == judge(before, classes)[0] == "collapsed":
            self.stopping_reason_message, trainer.should_stop = f"the run has collapsed: {reason}", True

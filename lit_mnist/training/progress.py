"""What a person sees while a run trains: a bar on a terminal, a line per epoch anywhere else."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

SECONDS_BETWEEN_DRAWINGS = 0.25


class EpochProgress(ProgressBar):
    """One line per epoch with its loss, accuracies and seconds; on a terminal a bar until the epoch is over."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True

    def disable(self) -> None:
        """Called by the Trainer on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        # not at the epoch's start, which a run that goes on within an epoch does not come to
        if self._bar is None and self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=int(self.total_train_batches),
                desc=_epoch(trainer),
                leave=False,
                mininterval=SECONDS_BETWEEN_DRAWINGS,
                bar_format="{desc} {bar:30} {percentage:3.0f} % {remaining} left{postfix}",
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.n = batch_idx  # after a restart the bar begins within the epoch
            loss = trainer.progress_bar_metrics.get("loss")
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def epoch_line(self, trainer: pl.Trainer, measured: dict[str, float], seconds: float) -> None:
        """Prints what an epoch came to.

        Args:
            trainer: In the epoch that ends.
            measured: Loss in nats, accuracies as fractions, by name.
            seconds: Of training.
        """
        self.close()
        if self._enabled:
            values = "  ".join(f"{name} {_shown(name, value)}" for name, value in measured.items())
            print(f"{_epoch(trainer)}  {values}  {seconds:.1f} s", flush=True)

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.close()


def _epoch(trainer: pl.Trainer) -> str:
    limit = f"/{trainer.max_epochs}" if trainer.max_epochs != -1 else ""  # the number of steps decides then
    return f"epoch {trainer.current_epoch + 1:>3}{limit}"


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"

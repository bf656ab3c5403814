"""What a person sees while a run trains: a bar on a terminal, and a line per epoch."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

SECONDS_BETWEEN_DRAWINGS = 0.25


class EpochProgress(ProgressBar):
    """Prints a line per epoch with its loss, accuracies and seconds; on a terminal, draws a bar until the epoch is over."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True

    def disable(self) -> None:
        """Silences the bar; the Trainer calls it in all processes but the first."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and sys.stderr is not None and sys.stderr.isatty():
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
        if self._bar is not None and self._bar.update():  # True where it was drawn; reading the loss costs a little
            self._bar.set_postfix_str(f"loss {float(outputs['loss']):.4f}", refresh=False)

    def epoch_line(self, trainer: pl.Trainer, measured: dict[str, float], seconds: float) -> None:
        """Prints the results of the epoch that ends.

        Args:
            trainer: In that epoch.
            measured: Losses in nats and accuracies as fractions, by name.
            seconds: Time spent training.
        """
        self.close()
        if self._enabled:
            values = "  ".join(f"{name} {format_metric(name, value)}" for name, value in measured.items())
            print(f"{_epoch(trainer)}  {values}  {seconds:.1f} s", flush=True)

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()


def _epoch(trainer: pl.Trainer) -> str:
    limit = f"/{trainer.max_epochs}" if trainer.max_epochs != -1 else ""  # the number of steps decides then
    return f"epoch {trainer.current_epoch + 1:>3}{limit}"


def format_metric(name: str, value: float) -> str:
    """Formats an accuracy (fraction) as a percentage, and a loss (nats) with four decimals."""
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"

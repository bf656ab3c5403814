"""What one run is made of."""

from dataclasses import dataclass

import pytorch_lightning as pl

from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.folder import Config
from lit_mnist.training.recorder import RunRecord


@dataclass
class Run:
    """What a run is made of.

    Attributes:
        name: Of its configuration.
        model, data, trainer: Made from the configuration, not yet used.
        record: Among the trainer's callbacks.
        config: Resolved configuration, as plain values.
        command: A command line that does the run again.
        run_dir: The folder asked for; empty: one below `logs/`.
        ckpt_path: What to go on with: a run folder, a checkpoint file, or "last"; None: what the folder holds.
        logs_events: Write TensorBoard event files.
        arguments: Of `python -m lit_mnist`, to start another process of this run.
    """

    name: str
    model: LitMLP
    data: MNISTDataModule
    trainer: pl.Trainer
    record: RunRecord
    config: Config
    command: str
    run_dir: str
    ckpt_path: str | None
    logs_events: bool
    arguments: list[str]

"""The commands around the Trainer: fit, validate and test."""

import sys

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.cli.command import DIVERGED, DONE
from lit_mnist.cli.command_line import CommandLine
from lit_mnist.cli.evaluate import evaluate_run
from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.training.divergence import Diverged
from lit_mnist.training.processes import RefusedError
from lit_mnist.training.run import Run
from lit_mnist.training.signals import Stopped
from lit_mnist.training.train import train


def fit(options: list[str]) -> int:
    """The command `fit`: trains a run, or goes on with it, and finishes its record. Exit code 3 if the loss diverged."""
    command_line = CommandLine("fit", options)
    chosen = command_line.chosen
    model, data, trainer = command_line.model, command_line.datamodule, command_line.trainer
    assert isinstance(model, LitMLP)
    assert isinstance(data, MNISTDataModule)
    if chosen.trainer.fast_dev_run:
        return _try_out(model, data, trainer)
    run = Run(
        name=chosen.name,
        model=model,
        data=data,
        trainer=trainer,
        record=command_line.record,
        config=command_line.resolved,
        command=command_line.command,
        run_dir=chosen.run_dir,
        ckpt_path=chosen.ckpt_path,
        logs_events=chosen.trainer.logger is not False,
        arguments=command_line.typed,
    )
    try:
        outcome = train(run)["outcome"]
    except (Stopped, RefusedError):
        if trainer.is_global_zero:
            raise
        return DONE
    return DIVERGED if outcome == "diverged" and trainer.is_global_zero else DONE  # the first process speaks for all


def _try_out(model: LitMLP, data: MNISTDataModule, trainer: pl.Trainer) -> int:
    """A few blocks of training and validation, of which nothing stays."""
    try:
        trainer.fit(model, datamodule=data)
    except Diverged as diverged:
        print(f"lit_mnist: {diverged}", file=sys.stderr)
        return DIVERGED
    except MisconfigurationException as mistake:
        raise ValueError(" ".join(str(mistake).split())) from None
    return DONE


def validate(options: list[str]) -> int:
    """The command `validate`: loss and accuracy on the images that the run held out of training."""
    evaluate_run("validate", options)
    return DONE


def test(options: list[str]) -> int:
    """The command `test`: loss and accuracy on the 10,000 test images, and pictures of the mistakes."""
    evaluate_run("test", options)
    return DONE

"""The options of fit, validate and test: one Lightning CLI for the three."""

import logging
import os
import shlex
import warnings
from pathlib import Path
from types import NoneType
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger

from lit_mnist.cli.options import OptionParser, with_configs_found, without
from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.checkpoint import DurableCheckpointIO
from lit_mnist.training.progress import EpochProgress
from lit_mnist.training.recorder import SECONDS_BETWEEN_CHECKPOINTS, RunRecord

TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "devices": 1,  # more would change nothing but the rounding, see MNISTDataModule's split_batch
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,  # of the blocks: see LitMLP
    "enable_model_summary": False,
}
DEFAULT_SEED = 1
# Two threads gain a third at batch 128, little at batch 32, and lose at batch 8 (README, "Speed").
ONE_THREAD_BELOW = 64  # images per batch
# jsonargparse complains of calls that Lightning's own CLI makes; an environment variable is the only way to stop it
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
# What the libraries below us have to say of each other is not for our users; what concerns the run, we say.
warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
for quiet in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(quiet).setLevel(logging.WARNING)  # it advertises at INFO
logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # where a profiler reports
NOT_PLAIN_SGD = (
    pl.callbacks.BatchSizeFinder,
    pl.callbacks.GradientAccumulationScheduler,
    pl.callbacks.LearningRateFinder,
    pl.callbacks.ModelPruning,
    pl.callbacks.StochasticWeightAveraging,
    pl.callbacks.WeightAveraging,
)
NOT_PART_OF_THE_EXPERIMENT = ("config", "ckpt_path", "run_dir")


class CommandLine(LightningCLI):
    """Parses fit, validate and test and makes the objects they name; what is done with them is in `lit_mnist.training.train`.

    Args:
        command: fit, validate or test.
        options: What follows it on the command line.
    """

    def __init__(self, command: str, options: list[str]) -> None:
        self.typed = [command, *options]
        with warnings.catch_warnings():  # ours are given as arguments even where the process has some, a test runner say
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            super().__init__(
                LitMLP,
                MNISTDataModule,
                save_config_callback=None,
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=DEFAULT_SEED,
                parser_class=OptionParser,
                parser_kwargs={"prog": "lit_mnist"},
                args=[command, *with_configs_found(options)],
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, each with those of the Trainer method's parameters that are not options."""
        ours = {"model", "datamodule", "weights_only", "verbose", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {"fit": ours, "validate": ours, "test": ours}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Ours first: the Trainer's forty options fill the help's second screen."""
        parser.add_lightning_class_args(LitMLP, "model")
        parser.add_lightning_class_args(MNISTDataModule, "data")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=int, default=DEFAULT_SEED, help="Seed of initial weights, order and split."
        )
        parser.add_argument(
            "--threads",
            type=int,
            default=0,
            help="CPU threads; another number gives other bits. 0: 1 below batch size 64, else 2.",
        )
        parser.add_argument("--name", type=str, default="", help="Name of the configuration. Default: its file's stem.")
        parser.add_argument(
            "--run_dir", type=str, default="", help="Run folder. Default: logs/NAME/version_N, the next free N."
        )
        parser.add_argument("--test_every_epoch", type=bool, default=True, help="Measure test accuracy after every epoch.")
        parser.add_argument(
            "--checkpoint_seconds",
            type=float,
            default=SECONDS_BETWEEN_CHECKPOINTS,
            help="Training time between checkpoints within an epoch; one is saved after every epoch anyway.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.seed")

    def _parse_ckpt_path(self) -> None:
        """Not as Lightning does it: there the checkpoint's hyperparameters silently replace those given."""

    def _set_seed(self) -> None:
        """Checks and completes what was parsed, before anything is made of it."""
        config = self.chosen
        if not 0 <= config.seed_everything < 2**32:
            raise ValueError(f"--seed_everything must be 0..{2**32 - 1}, not {config.seed_everything}.")
        if config.threads < 0:
            raise ValueError(f"--threads must be at least 1, or 0 for the default, not {config.threads}.")
        if config.name in (".", "..") or Path(config.name).name != config.name:
            raise ValueError(f"--name {config.name}: it is the name of a folder in logs, not a path.")
        if not config.checkpoint_seconds >= 0:
            raise ValueError(f"--checkpoint_seconds must be at least 0, not {config.checkpoint_seconds}.")
        config.threads = config.threads or (1 if config.data.batch_size < ONE_THREAD_BELOW else 2)
        config.name = config.name or (Path(str(config.config[-1])).stem if config.config else "unnamed")
        if self.subcommand == "fit":
            _check_trainer_options(config.trainer)
        torch.set_num_threads(config.threads)
        super()._set_seed()

    @property
    def chosen(self) -> Namespace:
        """The options of the command that was given."""
        chosen: Namespace = self.config[self.config.subcommand]
        return chosen

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration as plain values, defaults included: what makes two runs the same experiment."""
        parser = self._parser(self.subcommand)
        text = parser.dump(self.chosen, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        return {key: value for key, value in config.items() if key not in NOT_PART_OF_THE_EXPERIMENT}

    @property
    def command(self) -> str:
        """A line that does this run again, in a folder of its own."""
        kept = without(self.typed, "--run_dir", "--ckpt_path")
        return shlex.join(["python", "-m", "lit_mnist", *kept])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The Trainer as configured, with what keeps the run's record, and durable checkpoints."""
        configured = self.config_init[self.subcommand].trainer
        callbacks = _as_list(configured.callbacks)
        for callback in callbacks:
            if isinstance(callback, NOT_PLAIN_SGD):
                name = type(callback).__name__
                raise ValueError(f"--trainer.callbacks {name}: training is plain SGD, nothing changes its steps.")
        if self.subcommand != "fit":
            kwargs["enable_progress_bar"] = False  # it is done in a second
        elif not configured.fast_dev_run:
            progress = EpochProgress() if configured.enable_progress_bar is not False else None
            self.record = RunRecord(progress, self.chosen.test_every_epoch, self.chosen.checkpoint_seconds)
            callbacks += [self.record, *([progress] if progress else [])]
        try:
            return super().instantiate_trainer(
                callbacks=callbacks,
                # the run's own event files are added when its folder is known
                logger=[logger for logger in _as_list(configured.logger) if isinstance(logger, Logger)] or False,
                plugins=[*_as_list(configured.plugins), DurableCheckpointIO()],
                **kwargs,
            )
        except (MisconfigurationException, TypeError, RuntimeError, ImportError) as mistake:
            raise ValueError(f"the Trainer refuses: {' '.join(str(mistake).split())}") from None

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing yet: the commands go on with what was made."""


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _check_trainer_options(trainer: Namespace) -> None:
    """Refuses what would make plain SGD something else, let the clock decide, or leave nothing to train."""
    for name, plain, reason in (
        ("gradient_clip_val", (None, 0), "training is plain SGD, nothing changes its steps"),
        ("accumulate_grad_batches", (1,), "training is plain SGD, nothing changes its steps"),
        ("reload_dataloaders_every_n_epochs", (0,), "the images are in memory and each epoch has an order of its own"),
        ("overfit_batches", (0,), "use --data.train_size to train on a few images"),
        ("max_time", (None,), "what a run comes to must not depend on the clock"),
    ):
        if trainer[name] not in plain:
            raise ValueError(f"--trainer.{name} {trainer[name]}: {reason}.")
    if not isinstance(trainer.val_check_interval, (int, float, NoneType)):
        raise ValueError(f"--trainer.val_check_interval {trainer.val_check_interval}: validation must not depend on the clock.")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] in (0, 0.0):
            raise ValueError(f"--trainer.{name} is 0: there would be nothing to train.")

"""The options of fit, validate and test: parsed from signatures and YAML, checked, and turned into objects."""

import copy
import shlex
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined] # not in its __all__
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger

from lit_mnist.cli.mistakes import PLAIN_SGD, REFUSED, one_sentence
from lit_mnist.cli.typed import completed, without
from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.blocks import EngineName
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.training.train import RunOptions

TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "devices": 1,  # more would change nothing but the rounding
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,  # of the blocks
    "enable_model_summary": False,
}
DEFAULT_SEED = 1
# Two threads of the exact engine gain a third at batch 128, little at batch 32, and lose at batch 8. Those of the fast one
# meet so often that they lose wherever other processes want their cores.
ONE_THREAD_BELOW = 64  # images per mini-batch
NOT_PLAIN_SGD = (
    pl.callbacks.BaseFinetuning,
    pl.callbacks.BatchSizeFinder,
    pl.callbacks.GradientAccumulationScheduler,
    pl.callbacks.LearningRateFinder,
    pl.callbacks.ModelPruning,
    pl.callbacks.StochasticWeightAveraging,
    pl.callbacks.WeightAveraging,
)
REFUSED_CALLBACKS = dict.fromkeys(NOT_PLAIN_SGD, PLAIN_SGD) | {
    pl.callbacks.OnExceptionCheckpoint: REFUSED["enable_checkpointing"],  # and another run would go on from its file
    pl.callbacks.Timer: REFUSED["max_time"],
}
NOT_PART_OF_THE_EXPERIMENT = ("config", "ckpt_path", "run_dir")


class OptionParser(LightningArgumentParser):
    """Reports a mistake as one sentence instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(message)


def option_parser(command: str) -> OptionParser:
    """Makes the parser of a command: fit, validate or test."""
    parser = OptionParser(prog=f"lit_mnist {command}", description=DESCRIPTIONS[command], allow_abbrev=False)
    add = parser.add_argument
    add("-c", "--config", action=ActionConfigFile, help="Shipped configuration, or YAML file of options.")
    add("--seed_everything", type=int, default=DEFAULT_SEED, help="Seed of weights, order and split.")
    threads = "CPU threads; results are bit-identical only for the same number. 0: 2 for engine exact from batch 64 on, else 1."
    add("--threads", type=int, default=0, help=threads)
    if command == "fit":
        add("--name", type=str, default="", help="Name of the configuration. Default: its file's stem.")
        add("--run_dir", type=str, default="", help="Run folder. Default: logs/NAME/version_N, the next free N.")
        add("--test_every_epoch", type=bool, default=True, help="Measure test accuracy after every epoch.")
        engines = "exact: the same bits as a plain PyTorch loop. fast: the same SGD, rounded differently, on a CPU."
        add("--engine", type=EngineName, default="exact", help=engines)
        blocks = "SGD steps per call of the Trainer's training_step; changes the speed only. 0: as many as 4,096 images hold."
        add("--steps_per_block", type=int, default=0, help=blocks)
        insight = "Measure curvature, gradient noise and active units at eight moments; the run's bits stay the same."
        add("--instruments", type=bool, nargs="?", const=True, default=False, help=insight)
    if command == "test":
        add("--out", type=str, default="", help="Folder for the pictures. Default: that of a finished run.")
    checkpoints = 'Run folder or checkpoint file; with fit, to resume from ("last": the newest unfinished run).'
    add("--ckpt_path", type=str | None, default=None, help=checkpoints)
    parser.add_lightning_class_args(LitMLP, "model")
    parser.add_lightning_class_args(MNISTDataModule, "data")
    parser.add_class_arguments(
        pl.Trainer, "trainer", skip=set(REFUSED), fail_untyped=False, instantiate=False, sub_configs=True
    )
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    parser.link_arguments("seed_everything", "data.seed")
    parser.link_arguments("seed_everything", "model.seed")
    return parser


DESCRIPTIONS = {
    "fit": "Trains a network and records the run, or resumes a run that was stopped.",
    "validate": "Measures a trained network on the images held out of training.",
    "test": "Measures a trained network on the test images, and draws its mistakes.",
}


def parse(command: str, options: list[str]) -> Namespace:
    """Parses and checks the options of fit, validate or test.

    Returns:
        Every option with its value, defaults included.

    Raises:
        ValueError: An option does not exist, or its value is out of range.
    """
    parser = option_parser(command)
    try:
        config = parser.parse_args(completed(command, options))
    except ValueError as mistake:
        raise ValueError(one_sentence(str(mistake), dict(parser.get_defaults(skip_validation=True).items()))) from None
    if not 0 <= config.seed_everything < 2**32:
        raise ValueError(f"--seed_everything must be 0..{2**32 - 1}, not {config.seed_everything}.")
    if config.threads < 0:
        raise ValueError(f"--threads must be at least 1, or 0 for the default, not {config.threads}.")
    takes_one = config.get("engine") == "fast" or config.data.batch_size < ONE_THREAD_BELOW
    config.threads = config.threads or (1 if takes_one else 2)
    if command == "fit":
        if config.name in (".", "..") or Path(config.name).name != config.name:
            raise ValueError(f"--name {config.name}: write the name of a folder in logs, not a path.")
        config.name = config.name or (Path(str(config.config[-1])).stem if config.config else "unnamed")
        for name in ("max_epochs", "max_steps", "limit_train_batches"):
            if config.trainer[name] in (0, 0.0):
                raise ValueError(f"--trainer.{name} is 0: there would be nothing to train.")
        if isinstance(config.trainer.val_check_interval, (str, dict)):
            raise ValueError("--trainer.val_check_interval: validation must not depend on the clock; give a number.")
        if config.trainer.max_epochs == -1 and config.trainer.max_steps == -1:
            raise ValueError("--trainer.max_epochs -1: such a run never ends; give --trainer.max_steps.")
    return config


def run_options(options: list[str]) -> RunOptions:
    """Turns the options of `fit` into what a run is made of.

    Raises:
        ValueError: As `parse`; or a callback would make the training something other than plain SGD.
    """
    parser, config = option_parser("fit"), parse("fit", options)
    pl.seed_everything(config.seed_everything, verbose=False)
    try:
        init = parser.instantiate_classes(copy.deepcopy(config))
    except ValueError as mistake:
        raise ValueError(one_sentence(str(mistake), {})) from None
    for callback in _as_list(init.trainer.callbacks):
        for kind, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise ValueError(f"--trainer.callbacks {type(callback).__name__}: {reason}.")

    def make_model(image_shape: tuple[int, ...], classes: int) -> LitMLP:
        return LitMLP(**{**config.model.as_dict(), "image_shape": image_shape, "classes": classes})

    plain: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_none=False, format="yaml"))
    return RunOptions(
        name=config.name,
        config={name: value for name, value in plain.items() if name not in NOT_PART_OF_THE_EXPERIMENT},
        command=shlex.join(["python", "-m", "lit_mnist", "fit", *without(options, "--run_dir", "--ckpt_path")]),
        data=init.data,
        make_model=make_model,
        make_trainer=lambda **more: make_trainer(init.trainer, **more),
        run_dir=config.run_dir,
        ckpt_path=config.ckpt_path,
        threads=config.threads,
        engine=config.engine,
        steps_per_block=config.steps_per_block,
        test_every_epoch=config.test_every_epoch,
        instruments=config.instruments,
    )


def make_trainer(configured: Namespace, **more: Any) -> pl.Trainer:
    """Makes the Trainer as configured, its callbacks and plugins followed by those in `more`."""
    values = {**configured.as_dict(), **more}
    for name in ("callbacks", "plugins"):
        values[name] = [*_as_list(configured[name]), *more.get(name, [])]
    # the run's own event files are not written by a logger of Lightning's
    values["logger"] = [logger for logger in _as_list(configured.logger) if isinstance(logger, Logger)] or False
    for logger in values["logger"] or ():
        _check_logger(logger)
    values["enable_checkpointing"] = bool(more.get("callbacks")) or any(
        isinstance(callback, pl.callbacks.Checkpoint) for callback in values["callbacks"]
    )
    return pl.Trainer(**values)


def _check_logger(logger: Logger) -> None:
    """Opens what a logger writes to, so that one that cannot is refused before a run has begun."""
    try:
        _ = getattr(logger, "experiment", None)
    except Exception as refusal:  # wandb, MLflow, Comet, ... each raise errors of their own
        raise ValueError(f"--trainer.logger {type(logger).__name__}: {' '.join(str(refusal).split())}") from None


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]

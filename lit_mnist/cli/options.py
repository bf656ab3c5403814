"""The options of fit, validate and test: parsed from signatures and YAML, checked, and turned into objects."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger

from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.blocks import EngineName
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.configs import find_config, read_config
from lit_mnist.training.train import RunOptions

TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "devices": 1,  # more would change nothing but the rounding
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,  # of the blocks
    "enable_model_summary": False,
}
DEFAULT_SEED = 1
# Two threads gain a third at batch 128, little at batch 32, and lose at batch 8 (README, "Speed").
ONE_THREAD_BELOW = 64  # images per mini-batch
PLAIN_SGD = "training is plain SGD, and nothing changes its steps; use LitMLP with your own Trainer for that"
# Options of the Trainer that `fit` refuses, each with the reason.
REFUSED = {
    "gradient_clip_val": PLAIN_SGD,
    "gradient_clip_algorithm": PLAIN_SGD,
    "accumulate_grad_batches": PLAIN_SGD,
    "reload_dataloaders_every_n_epochs": "the images are in memory, and each epoch has an order of its own",
    "overfit_batches": "use --data.train_size to train on a few images",
    "max_time": "the result of a run must not depend on the clock; use --trainer.max_epochs",
    "default_root_dir": "use --run_dir",
    "enable_checkpointing": "a checkpoint is saved at the end of every epoch",
    "barebones": "the record of a run is kept",
}
NOT_PLAIN_SGD = (
    pl.callbacks.BatchSizeFinder,
    pl.callbacks.GradientAccumulationScheduler,
    pl.callbacks.LearningRateFinder,
    pl.callbacks.ModelPruning,
    pl.callbacks.StochasticWeightAveraging,
    pl.callbacks.WeightAveraging,
)
NOT_PART_OF_THE_EXPERIMENT = ("config", "ckpt_path", "run_dir")


class OptionParser(LightningArgumentParser):
    """Reports a mistake as one sentence instead of a usage text.

    Args:
        command: fit, validate or test.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"lit_mnist {command}", description=DESCRIPTIONS[command])
        self.add_argument("--seed_everything", type=int, default=DEFAULT_SEED, help="Seed of weights, order and split.")
        self.add_argument(
            "--threads",
            type=int,
            default=0,
            help="CPU threads; results are bit-identical only for the same number. 0: 1 below batch size 64, else 2.",
        )
        if command == "fit":
            self.add_argument("--name", type=str, default="", help="Name of the configuration. Default: its file's stem.")
            self.add_argument("--run_dir", type=str, default="", help="Run folder. Default: logs/NAME/version_N, the next free N.")
            self.add_argument("--test_every_epoch", type=bool, default=True, help="Measure test accuracy after every epoch.")
            self.add_argument(
                "--engine",
                type=EngineName,
                default="exact",
                help="exact: the same bits as a plain PyTorch loop. fast: the same SGD, rounded differently, on a CPU.",
            )
            self.add_argument(
                "--steps_per_block",
                type=int,
                default=0,
                help="SGD steps per call of the Trainer's training_step; changes the speed only. 0: as many as 4,096 images hold.",
            )
        self.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help='Run folder or checkpoint file; with fit, to resume from ("last": the newest unfinished run).',
        )
        self.add_lightning_class_args(LitMLP, "model")
        self.add_lightning_class_args(MNISTDataModule, "data")
        self.add_class_arguments(
            pl.Trainer, "trainer", skip=set(REFUSED), fail_untyped=False, instantiate=False, sub_configs=True
        )
        self.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        self.link_arguments("seed_everything", "data.seed")
        self.link_arguments("seed_everything", "model.seed")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(_one_sentence(message))


DESCRIPTIONS = {
    "fit": "Trains a network and records the run, or resumes a run that was stopped.",
    "validate": "Measures a trained network on the images held out of training.",
    "test": "Measures a trained network on the test images, and draws its mistakes.",
}


def _one_sentence(message: str) -> str:
    """Shortens what jsonargparse says over many lines: the option, what it takes, what it got."""
    text = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).split())
    text = text.replace("typing.", "").replace("NoneType", "null")
    for name, reason in REFUSED.items():
        if re.search(rf"\btrainer\.{name}\b", text):
            return f"--trainer.{name}: {reason}."
    option = re.match(r'Parser key "([^"]+)": ?', text)
    name, text = (f"--{option[1]}: ", text[option.end() :]) if option else ("", text)
    expected = list(dict.fromkeys(re.findall(r"[Ee]xpected an? ([\w\[\]', ]+?)(?:\.| - | Given|$)", text)))
    value = re.search(r"(?:Given|Got) value: (.*)$", text)
    if expected and value:
        text = f"expected {' or '.join(expected)}, not {value[1]}."
    return (name + text).rstrip(".") + "."


def parse(command: str, options: list[str]) -> Namespace:
    """Parses and checks the options of fit, validate or test.

    Returns:
        Every option with its value, defaults included.

    Raises:
        ValueError: An option does not exist, or its value is out of range.
    """
    config = OptionParser(command).parse_args(_with_configs_found(options))
    if not 0 <= config.seed_everything < 2**32:
        raise ValueError(f"--seed_everything must be 0..{2**32 - 1}, not {config.seed_everything}.")
    if config.threads < 0:
        raise ValueError(f"--threads must be at least 1, or 0 for the default, not {config.threads}.")
    config.threads = config.threads or (1 if config.data.batch_size < ONE_THREAD_BELOW else 2)
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


def _with_configs_found(options: list[str]) -> list[str]:
    """Replaces the names of shipped configurations by their files, and checks that each file holds options."""
    found, is_config = [], False
    for option in options:
        name, equals, value = option.partition("=")
        if is_config:
            option = _found(option)
        elif equals and name in ("--config", "-c"):
            option = f"{name}={_found(value)}"
        is_config = option in ("--config", "-c")
        found.append(option)
    return found


def _found(config: str) -> str:
    path = find_config(config)
    read_config(path)
    return str(path)


def resolved(command: str, config: Namespace) -> dict[str, Any]:
    """Returns the configuration as plain values, defaults included, without what is not part of the experiment."""
    plain: dict[str, Any] = yaml.safe_load(OptionParser(command).dump(config, skip_none=False, format="yaml"))
    return {key: value for key, value in plain.items() if key not in NOT_PART_OF_THE_EXPERIMENT}


def run_options(options: list[str]) -> RunOptions:
    """Turns the options of `fit` into what a run is made of.

    Raises:
        ValueError: As `parse`; or a callback would make the training something other than plain SGD.
    """
    config = parse("fit", options)
    pl.seed_everything(config.seed_everything, verbose=False)
    init = OptionParser("fit").instantiate_classes(copy.deepcopy(config))
    for callback in _as_list(init.trainer.callbacks):
        if isinstance(callback, NOT_PLAIN_SGD):
            raise ValueError(f"--trainer.callbacks {type(callback).__name__}: {PLAIN_SGD}.")

    def make_model(image_shape: tuple[int, ...], classes: int) -> LitMLP:
        return LitMLP(**{**config.model.as_dict(), "image_shape": image_shape, "classes": classes})

    return RunOptions(
        name=config.name,
        config=resolved("fit", config),
        command=shlex.join(["python", "-m", "lit_mnist", "fit", *_without(options, "--run_dir", "--ckpt_path")]),
        data=init.data,
        make_model=make_model,
        make_trainer=lambda **more: make_trainer(init.trainer, **more),
        run_dir=config.run_dir,
        ckpt_path=config.ckpt_path,
        threads=config.threads,
        engine=config.engine,
        steps_per_block=config.steps_per_block,
        test_every_epoch=config.test_every_epoch,
        writes_events=config.trainer.logger is not False,
        shows_progress=config.trainer.enable_progress_bar is not False,
        devices=config.trainer.devices,
        trains_for_real=not config.trainer.fast_dev_run,
    )


def make_trainer(configured: Namespace, **more: Any) -> pl.Trainer:
    """Makes the Trainer as configured, its callbacks and plugins followed by those in `more`."""
    values = {**configured.as_dict(), **more}
    for name in ("callbacks", "plugins"):
        values[name] = [*_as_list(configured[name]), *more.get(name, [])]
    # the run's own event files are not written by a logger of Lightning's
    values["logger"] = [logger for logger in _as_list(configured.logger) if isinstance(logger, Logger)] or False
    values["enable_checkpointing"] = bool(more.get("callbacks")) or any(
        isinstance(callback, pl.callbacks.Checkpoint) for callback in values["callbacks"]
    )
    return pl.Trainer(**values)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _without(options: list[str], *names: str) -> list[str]:
    """Returns the options without those named and their values."""
    kept, skip = [], False
    for option in options:
        if not skip and option.split("=")[0] not in names:
            kept.append(option)
        skip = not skip and option in names
    return kept

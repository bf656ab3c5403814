"""The options of fit, validate and test, parsed from signatures and YAML."""

import re
from typing import NoReturn

import pytorch_lightning as pl
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined] # not in its __all__
from pytorch_lightning.cli import LightningArgumentParser

from lit_mnist.cli.mistakes import REFUSED, one_sentence
from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.blocks import EngineName
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.configs import find_config, read_config

DESCRIPTIONS = {
    "fit": "Trains a network and records the run, or resumes a run that was stopped.",
    "validate": "Measures a trained network on the images held out of training.",
    "test": "Measures a trained network on the test images, and draws its mistakes.",
}
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


def parse(command: str, options: list[str]) -> Namespace:
    """Parses and checks the options of fit, validate or test.

    Returns:
        Every option with its value, defaults included.

    Raises:
        ValueError: An option does not exist, or its value is out of range.
    """
    parser = option_parser(command)
    try:
        config = parser.parse_args(_written_out(options))
    except ValueError as mistake:
        raise ValueError(one_sentence(str(mistake), dict(parser.get_defaults(skip_validation=True).items()))) from None
    if not 0 <= config.seed_everything < 2**32:
        raise ValueError(f"--seed_everything must be 0..{2**32 - 1}, not {config.seed_everything}.")
    if config.threads < 0:
        raise ValueError(f"--threads must be at least 1, or 0 for the default, not {config.threads}.")
    takes_one = config.get("engine") == "fast" or config.data.batch_size < ONE_THREAD_BELOW
    config.threads = config.threads or (1 if takes_one else 2)
    return config


def _written_out(options: list[str]) -> list[str]:
    """Replaces the names of shipped configurations by their files, and shorthand values by what the parser takes."""
    written, name = [], ""
    for option in options:
        if not name and (hyphens := re.match(r"(-(?=[a-zA-Z]{2})|[\u2013\u2014]-?)(\w+)", option)):
            raise ValueError(f"{option}: an option begins with two hyphens, --{hyphens[2]}.")
        if option.startswith("--") or option == "-c":
            name, equals, value = option.partition("=")
            if equals:
                option, name = f"{name}={_value(name, value)}", ""
        else:
            option, name = _value(name, option), ""
        written.append(option)
    return written


def _value(name: str, value: str) -> str:
    if name in ("--config", "-c"):
        path = find_config(value)
        read_config(path)  # says in a sentence what is wrong with it
        return str(path)
    is_shorthand = name == "--model.hidden" and re.fullmatch(r"\d+(,\d+)*,?", value)  # 128 or 128,64
    return f"[{value}]" if is_shorthand else value

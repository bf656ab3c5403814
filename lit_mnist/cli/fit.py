"""The command fit: from its options to a run."""

import copy
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace

from lit_mnist.cli import DIVERGED, DONE, FAILED, as_typed
from lit_mnist.cli.mistakes import PLAIN_SGD, REFUSED, one_sentence
from lit_mnist.cli.options import option_parser, parse
from lit_mnist.record.checkpoint import find_checkpoint, mapping_in
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.processes import RefusedByFirst, is_first
from lit_mnist.training.signals import Stopped
from lit_mnist.training.train import RunOptions, as_list, train

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
# Taken over from the run that --ckpt_path names, beside those of model and data.
TAKEN_OVER = (
    *("seed_everything", "threads", "name", "test_every_epoch", "engine", "trainer.max_epochs", "trainer.max_steps"),
    *("trainer.precision", "trainer.devices", "trainer.limit_train_batches"),
    *("trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
)
GROUPS = ("model.", "data.", "trainer.")
LINKED = ("model.seed", "data.seed", "model.image_shape", "model.classes")  # which follow from others


def main(options: list[str]) -> int:
    """Trains a run, or resumes it, and finishes its record. Returns the exit code: 3 if the loss diverged.

    Raises:
        ValueError: The options cannot be used.
        Stopped: By a signal.
    """
    try:
        trained = train(run_options(options))
    except Stopped:
        if is_first():  # the first process speaks for all
            print("lit_mnist: stopped; the same command resumes from the end of the last whole epoch.", file=sys.stderr)
            raise
        return DONE
    except (RefusedByFirst, ConnectionError):
        if is_first():
            raise
        return FAILED
    return DIVERGED if trained is not None and trained[1].outcome == "diverged" else DONE


def run_options(options: list[str]) -> RunOptions:
    """Turns the options of `fit` into what a run is made of.

    Raises:
        ValueError: An option does not exist or is out of range, or would make the training something other than plain SGD.
    """
    parser, config = option_parser("fit"), parse("fit", [*_options_of_run(options), *options])
    _check(config)
    pl.seed_everything(config.seed_everything, verbose=False)
    try:
        init = parser.instantiate_classes(copy.deepcopy(config))
    except ValueError as mistake:
        raise ValueError(one_sentence(str(mistake), {})) from None
    for callback in as_list(init.trainer.callbacks):
        for kind, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise ValueError(f"--trainer.callbacks {type(callback).__name__}: {reason}.")
    plain: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_none=False, format="yaml"))
    return RunOptions(
        config={name: value for name, value in plain.items() if name not in NOT_PART_OF_THE_EXPERIMENT},
        command=shlex.join(["python", "-m", "lit_mnist", "fit", *_without(options, "--run_dir", "--ckpt_path")]),
        data=init.data,
        trainer=init.trainer.as_dict(),
        run_dir=config.run_dir,
        ckpt_path=config.ckpt_path,
    )


def _check(config: Namespace) -> None:
    """Names the configuration, and refuses a name that is a path and limits that no run can have."""
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


def _options_of_run(options: list[str]) -> list[str]:
    """Returns the settings of the run that `--ckpt_path` names without a `--config`, so that it is resumed without typing them.

    Only plain values are taken from its config.yaml.

    Raises:
        ValueError: The run has settings that name code, which must be typed.
    """
    typed = as_typed(options)
    path = typed.get("--ckpt_path", "")
    if path in ("last", "") or {"--config", "-c"} & typed.keys():
        return []
    config = RunFolder(find_checkpoint(Path(path)).parent.parent).config or {}
    for name in ("callbacks", "plugins"):
        if mapping_in(config, "trainer").get(name):
            raise ValueError(f"{path} was trained with --trainer.{name}, which names code; give it and --config again.")
    flat = config | {f"{group}{name}": value for group in GROUPS for name, value in mapping_in(config, group[:-1]).items()}
    # in one word each, so that a value that begins with a dash is not an option
    words = {name: json.dumps(value).strip('"') for name, value in flat.items() if value is not None}
    taken = [name for name in words if name in TAKEN_OVER or (name.startswith(GROUPS[:2]) and name not in LINKED)]
    return [f"--{name}={words[name]}" for name in taken]


def _without(options: list[str], *names: str) -> list[str]:
    """Returns the options without those named and their values."""
    kept, skip = [], False
    for option in options:
        if not skip and option.split("=")[0] not in names:
            kept.append(option)
        skip = not skip and option in names
    return kept

"""One run from its options to its result: claim a folder, train or resume, measure, finish the record."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import Logger

import lit_mnist
from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.blocks import in_blocks, why_single_steps
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.folder import Config, RunFolder
from lit_mnist.record.result import Result
from lit_mnist.training.claim import claim
from lit_mnist.training.experiment import describe_environment, describe_experiment
from lit_mnist.training.finish import finish
from lit_mnist.training.processes import check_strategy, in_first, is_first, leave_group
from lit_mnist.training.recorder import Diverged, Recorder
from lit_mnist.training.resume import RunCheckpointIO, read_start


@dataclass(frozen=True)
class RunOptions:
    """What a run is made of, as the command line or Python gives it.

    Attributes:
        config: Resolved configuration, as plain values.
        command: A command line that does the run again.
        data: Not yet set up.
        trainer: Keywords of the Trainer; callbacks, loggers and plugins are objects.
        run_dir: Run folder asked for; empty: one below `logs/`.
        ckpt_path: What to resume from: a run folder, a checkpoint file, or "last"; None: what the folder holds.
    """

    config: Config
    command: str
    data: MNISTDataModule
    trainer: Mapping[str, Any]
    run_dir: str
    ckpt_path: str | None


def train(options: RunOptions) -> tuple[Path, Result] | None:
    """Trains the run, or resumes it, and writes its record.

    Returns:
        The run folder and the result; None in the other processes of a run, and for a trial run that keeps no record.

    Raises:
        ValueError: The run cannot be what was asked for; nothing is left behind that was not there before.
    """
    config, data = options.config, options.data
    data.prepare_data()
    data.setup()
    known = {"image_shape": data.data.image_shape, "classes": len(data.data.classes), "seed": config["seed_everything"]}
    model = LitMLP(**config["model"] | known)
    with ExitStack() as leaving, _threads(config["threads"]):
        if config["trainer"]["fast_dev_run"]:
            with _as_value_error():
                make_trainer(options.trainer).fit(model, datamodule=data)
            return None
        leaving.callback(leave_group)
        path, start = in_first(
            lambda: claim(config, options.run_dir, options.ckpt_path, leaving), devices=config["trainer"]["devices"]
        )
        result = _run(options, model, RunFolder(Path(path)), start and Path(start))
        return (Path(path), result) if result is not None else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(options: RunOptions, model: LitMLP, folder: RunFolder, start: Path | None) -> Result | None:
    """Trains in a folder that is claimed, from a checkpoint or from the beginning."""
    config, recorder, checkpoint_io = options.config, Recorder(folder, options.config), RunCheckpointIO(folder)
    with _as_value_error():
        callbacks: list[pl.Callback] = [recorder, recorder.progress] if recorder.progress else [recorder]
        if config["instruments"]:
            callbacks.insert(0, lit_mnist.Instruments())
        trainer = make_trainer(options.trainer, callbacks, plugins=[checkpoint_io], default_root_dir=folder.path)
    check_strategy(trainer)
    _choose_steps(config, model, trainer)
    recorder.experiment = describe_experiment(model, options.data, trainer, config["trainer"]["callbacks"])
    recorder.environment = describe_environment(trainer, config["threads"], config["engine"])
    checkpoints_before, config_before = folder.checkpoints, folder.config
    try:
        if start is not None:
            checkpoint_io.start = read_start(start, trainer, model, recorder)
        if is_first():
            folder.write_config(config)
            print(f"the record of this run: {folder.path}", flush=True)
        diverged = _fit(trainer, model, options.data, start)
        if is_first():
            folder.check_in_place()
        return finish(options.command, trainer, model, options.data, recorder, diverged)
    except ValueError as mistake:
        if is_first() and set(folder.checkpoints) <= set(checkpoints_before):  # it got nowhere: leave nothing behind
            folder.clear(config_before)
        raise ValueError(" ".join(str(mistake).split())) from None
    except RuntimeError as failure:
        if trainer.world_size == 1 or "onnection" not in str(failure):
            raise
        sentence = "another process of this run has ended; the same command resumes from the end of the last whole epoch"
        raise ConnectionError(sentence) from None
    finally:
        if recorder.events:
            recorder.events.close()


def make_trainer(configured: Mapping[str, Any], callbacks: Sequence[pl.Callback] = (), **more: Any) -> pl.Trainer:
    """Makes the Trainer as configured, its callbacks and plugins followed by those given.

    Args:
        configured: Keywords of the Trainer.
        callbacks: Callbacks to add.
        more: Keywords that take the place of configured ones; plugins are added.
    """
    values = {**configured, **more}
    values["callbacks"] = [*as_list(configured["callbacks"]), *callbacks]
    values["plugins"] = [*as_list(configured["plugins"]), *more.get("plugins", [])]
    # the run's own event files are not written by a logger of Lightning's
    values["logger"] = [logger for logger in as_list(configured["logger"]) if isinstance(logger, Logger)] or False
    for logger in values["logger"] or ():
        try:
            _ = getattr(logger, "experiment", None)  # one that cannot write is refused before a run has begun
        except Exception as refusal:  # wandb, MLflow, Comet, ... each raise errors of their own
            raise ValueError(f"--trainer.logger {type(logger).__name__}: {' '.join(str(refusal).split())}") from None
    values["enable_checkpointing"] = any(isinstance(each, pl.callbacks.Checkpoint) for each in values["callbacks"])
    return pl.Trainer(**values)


def as_list(value: Any) -> list[Any]:
    """Returns the values of an option of the Trainer that may be one, several or None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _choose_steps(config: Config, model: LitMLP, trainer: pl.Trainer) -> None:
    """Makes the model step in blocks, unless something that was asked for needs single steps."""
    reason, engine = why_single_steps(model, trainer), config["engine"]
    if not reason:
        in_blocks(model, engine, config["steps_per_block"])
    elif engine != "exact":
        raise ValueError(f"{reason}, so that --engine {engine} cannot be used; use --engine exact.")
    elif is_first() and trainer.world_size == 1:
        print(f"{reason}: the Trainer makes each step by itself, which takes two to five times as long.", flush=True)


def _fit(trainer: pl.Trainer, model: LitMLP, data: MNISTDataModule, start: Path | None) -> Diverged | None:
    """Trains to the end; returns where the loss diverged, if it did."""
    try:
        with _as_value_error():
            trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
    except Diverged as diverged:
        return diverged
    return None


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Turns what the Trainer says of a user's mistake into a ValueError of one sentence."""
    try:
        yield
    except (MisconfigurationException, ImportError, TypeError) as mistake:
        refusal = " ".join(str(mistake).split()).rstrip(".!")
        hint = "; leave out --trainer.accelerator to train on the CPU" if "backend found" in refusal else ""
        if "no logger" in refusal or "logger=False" in refusal:
            hint = "; add --trainer.logger CSVLogger, because the run's own TensorBoard curves are none of Lightning's loggers"
        raise ValueError(f"the Trainer refuses: {refusal}{hint}.") from None
    except AttributeError as mistake:
        if not isinstance(mistake.obj, LitMLP):
            raise
        callers = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(mistake.__traceback__))
        caller = next((type(one).__name__ for one in callers if isinstance(one, pl.Callback)), "a plugin")
        raise ValueError(
            f"{caller} needs an attribute `{mistake.name}` of the module, which LitMLP does not have; leave it out, "
            "or use it in your own Trainer with a subclass of LitMLP that has one."
        ) from None
    except RuntimeError as mistake:
        if "conditioned on metric" not in str(mistake):  # what EarlyStopping says of a metric that nobody logs
            raise
        raise ValueError(str(mistake)) from None

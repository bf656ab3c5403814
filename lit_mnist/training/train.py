"""One run from its options to its result: claim a folder, train or resume, measure, finish the record."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.data import MNISTDataModule
from lit_mnist.engines.blocks import EngineName, in_blocks, why_single_steps
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.folder import Config, RunFolder
from lit_mnist.record.result import Result
from lit_mnist.training.claim import claim
from lit_mnist.training.experiment import describe_environment, describe_experiment
from lit_mnist.training.finish import finish
from lit_mnist.training.processes import check_strategy, in_first, is_first, leave_group
from lit_mnist.training.progress import EpochProgress
from lit_mnist.training.recorder import Diverged, Recorder
from lit_mnist.training.resume import RunCheckpointIO, read_start


@dataclass(frozen=True)
class RunOptions:
    """What a run is made of, as the command line or Python gives it.

    Attributes:
        name: Name of the configuration.
        config: Resolved configuration, as plain values.
        command: A command line that does the run again.
        data: Not yet set up.
        make_model: Makes the module for images of a shape and a number of classes.
        make_trainer: Makes the Trainer; its keywords are added to the configured ones, lists to lists.
        run_dir: Run folder asked for; empty: one below `logs/`.
        ckpt_path: What to resume from: a run folder, a checkpoint file, or "last"; None: what the folder holds.
    """

    name: str
    config: Config
    command: str
    data: MNISTDataModule
    make_model: Callable[[tuple[int, ...], int], LitMLP]
    make_trainer: Callable[..., pl.Trainer]
    run_dir: str
    ckpt_path: str | None
    threads: int
    engine: EngineName
    steps_per_block: int
    test_every_epoch: bool
    instruments: bool


def train(options: RunOptions) -> tuple[Path, Result] | None:
    """Trains the run, or resumes it, and writes its record.

    Returns:
        The run folder and the result; None in the other processes of a run, and for a trial run that keeps no record.

    Raises:
        ValueError: The run cannot be what was asked for; nothing is left behind that was not there before.
    """
    options.data.prepare_data()
    options.data.setup()
    model = options.make_model(options.data.data.image_shape, len(options.data.data.classes))
    with ExitStack() as leaving, _threads(options.threads):
        if options.config["trainer"]["fast_dev_run"]:
            with _as_value_error():
                options.make_trainer().fit(model, datamodule=options.data)
            return None
        leaving.callback(leave_group)
        asked = options.name, options.config, options.run_dir, options.ckpt_path
        path, start = in_first(lambda: claim(*asked, leaving), options.config["trainer"]["devices"])
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
    first, recorder, checkpoint_io = is_first(), _recorder(options, folder), RunCheckpointIO(folder)
    trainer = _trainer(options, recorder, checkpoint_io)
    _choose_steps(options, model, trainer)
    recorder.experiment = describe_experiment(model, options.data, trainer, options.config["trainer"]["callbacks"])
    recorder.environment = describe_environment(trainer, options.threads, options.engine)
    checkpoints_before, config_before = folder.checkpoints, folder.config
    try:
        if start is not None:
            checkpoint_io.start = read_start(start, trainer, model, recorder)
        if first:
            folder.write_config(options.config)
            print(f"the record of this run: {folder.path}", flush=True)
        diverged = _fit(trainer, model, options.data, start)
        if first:
            folder.check_in_place()
        return finish(options.name, options.command, trainer, model, options.data, recorder, diverged)
    except ValueError as mistake:
        if first and set(folder.checkpoints) <= set(checkpoints_before):  # it got nowhere: leave nothing behind
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


def _recorder(options: RunOptions, folder: RunFolder) -> Recorder:
    instruments = None
    if options.instruments:
        from lit_mnist import Instruments

        instruments = Instruments()
    progress = EpochProgress() if options.config["trainer"]["enable_progress_bar"] is not False else None
    writes_events = options.config["trainer"]["logger"] is not False
    return Recorder(folder, options.threads, options.test_every_epoch, writes_events, progress, instruments)


def _trainer(options: RunOptions, recorder: Recorder, checkpoint_io: RunCheckpointIO) -> pl.Trainer:
    callbacks = [callback for callback in (recorder.instruments, recorder, recorder.progress) if callback]
    with _as_value_error():
        trainer = options.make_trainer(callbacks=callbacks, plugins=[checkpoint_io], default_root_dir=recorder.folder.path)
    check_strategy(trainer)
    return trainer


def _choose_steps(options: RunOptions, model: LitMLP, trainer: pl.Trainer) -> None:
    """Makes the model step in blocks, unless something that was asked for needs single steps."""
    reason = why_single_steps(model, trainer)
    if not reason:
        in_blocks(model, options.engine, options.steps_per_block)
    elif options.engine != "exact":
        raise ValueError(f"{reason}, so that --engine {options.engine} cannot be used; use --engine exact.")
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

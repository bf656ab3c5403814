"""One run from its options to its result: claim a folder, train or resume, measure, finish the record."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.data import EXPERIMENT, MNISTDataModule
from lit_mnist.engines.blocks import EngineName, in_blocks, why_single_steps
from lit_mnist.insight.instruments import Instruments
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.folder import Config, RunFolder
from lit_mnist.record.provenance import machine, versions
from lit_mnist.record.result import Result
from lit_mnist.training.claim import claim
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
    writes_events: bool
    shows_progress: bool
    devices: int
    trains_for_real: bool  # false: fast_dev_run, of which nothing is kept


def train(options: RunOptions) -> tuple[Path, Result] | None:
    """Trains the run, or resumes it, and writes its record.

    Returns:
        The run folder and the result; None in the other processes of a run, and for a trial run that keeps no record.

    Raises:
        ValueError: The run cannot be what was asked for; nothing is left behind that was not there before.
    """
    options.data.prepare_data()
    options.data.setup()
    with ExitStack() as leaving, _threads(options.threads):
        if not options.trains_for_real:
            _try_out(options)
            return None
        leaving.callback(leave_group)
        asked = options.name, options.config, options.run_dir, options.ckpt_path
        path, start = in_first(lambda: claim(*asked, leaving), options.devices)
        result = _run(options, RunFolder(Path(path)), start and Path(start))
        return (Path(path), result) if result is not None else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _try_out(options: RunOptions) -> None:
    """Trains and validates on a few mini-batches, and keeps nothing of it."""
    with _as_value_error():
        data = options.data.data
        options.make_trainer().fit(options.make_model(data.image_shape, len(data.classes)), datamodule=options.data)


def _run(options: RunOptions, folder: RunFolder, start: Path | None) -> Result | None:
    data, first = options.data, is_first()
    model = options.make_model(data.data.image_shape, len(data.data.classes))
    progress = EpochProgress() if options.shows_progress else None
    instruments = Instruments() if options.instruments else None
    recorder = Recorder(folder, {}, {}, options.threads, options.test_every_epoch, options.writes_events, progress, instruments)
    checkpoints = RunCheckpointIO(folder)
    with _as_value_error():
        trainer = options.make_trainer(
            callbacks=[callback for callback in (instruments, recorder, progress) if callback],
            plugins=[checkpoints],
            default_root_dir=folder.path,
        )
    check_strategy(trainer)
    if reason := why_single_steps(model, trainer):
        if options.engine != "exact":
            raise ValueError(f"{reason}, so that --engine {options.engine} cannot be used; use --engine exact.")
        if first and trainer.world_size == 1:
            print(f"{reason}: the Trainer makes each step by itself, which takes two to five times as long.", flush=True)
    else:
        in_blocks(model, options.engine, options.steps_per_block)
    recorder.experiment.update(describe_experiment(model, data, trainer, options))
    recorder.environment.update(describe_environment(trainer, options))
    before = list(folder.checkpoints)
    saved = folder.config_path.read_bytes() if first and folder.config_path.exists() else None
    try:
        if start is not None:
            checkpoints.start = read_start(start, trainer, model, recorder)
        if first:
            folder.write_config(options.config)
            print(f"the record of this run: {folder.path}", flush=True)
        diverged = _fit(trainer, model, data, start)
        if first:
            folder.check_in_place()
        return finish(options.name, options.command, trainer, model, data, recorder, diverged)
    except (ValueError, MisconfigurationException) as mistake:
        if first and set(folder.checkpoints) <= set(before):  # it got nowhere: leave nothing behind
            folder.clear()
            if saved is not None:
                write_atomically(folder.config_path, saved)
        raise ValueError(" ".join(str(mistake).split())) from None
    except RuntimeError as failure:
        if trainer.world_size == 1 or "onnection" not in str(failure):
            raise
        sentence = "another process of this run has ended; the same command resumes from the end of the last whole epoch"
        raise ConnectionError(sentence) from None
    finally:
        if recorder.events:
            recorder.events.close()


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
        raise ValueError(f"the Trainer refuses: {refusal}{hint}.") from None
    except RuntimeError as mistake:
        if "conditioned on metric" not in str(mistake):  # what EarlyStopping says of a metric that nobody logs
            raise
        raise ValueError(" ".join(str(mistake).split())) from None


def describe_experiment(model: LitMLP, data: MNISTDataModule, trainer: pl.Trainer, options: RunOptions) -> dict[str, Any]:
    """Returns everything that makes the result, as one flat mapping of plain values."""
    # LitMLP's own seed is the run's; its other hyperparameters are those of the network and the optimizer
    network = {name: value for name, value in dict(model.hparams).items() if name != "seed"}
    data_state = {name: value for name, value in data.state_dict().items() if name in EXPERIMENT}
    batches = -(-data.train_size // (data.batch_size * (1 if data.split_batch else trainer.world_size)))
    limit: int | float = trainer.limit_train_batches
    steps_per_epoch = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return {
        **network,
        **data_state,
        "devices_with_own_batches": 1 if data.split_batch else trainer.world_size,
        "precision": str(trainer.precision),
        "steps_per_epoch": steps_per_epoch,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "callbacks": [callback["class_path"] for callback in _listed(options.config["trainer"]["callbacks"])],
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def describe_environment(trainer: pl.Trainer, options: RunOptions) -> dict[str, Any]:
    """Returns what may change the last bits of the result, but not its meaning."""
    device = trainer.strategy.root_device.type
    where = {"threads": options.threads, "device": device, "devices": trainer.world_size, "processor": machine()["cpu"]}
    return {"engine": options.engine, **where, **versions()}

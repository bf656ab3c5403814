"""One run from its options to its result: claim a folder, train or resume, measure, finish the record."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.data import EXPERIMENT, MNISTDataModule
from lit_mnist.engines.blocks import EngineName, in_blocks, why_single_steps
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.checkpoint import build_mlp, find_checkpoint, read_checkpoint
from lit_mnist.record.experiment import environment_changes, refuse_other_experiment
from lit_mnist.record.folder import Config, RunFolder, claim_run_folder
from lit_mnist.record.provenance import machine, versions
from lit_mnist.record.result import Result
from lit_mnist.training.finish import finish
from lit_mnist.training.processes import check_strategy, in_first, is_first
from lit_mnist.training.progress import EpochProgress
from lit_mnist.training.recorder import CHECKPOINT_FORMAT, Diverged, History, Recorder

LOGS = Path("logs")
KEPT = 2  # checkpoints: the newest, and the one before it in case the newest is damaged later


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
        path, start = in_first(lambda: _claim(options, leaving), options.devices)
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


def _claim(options: RunOptions, leaving: ExitStack) -> list[str | None]:
    """Locks the folder to work in until `leaving`, and finds the checkpoint to begin with."""
    given = None if options.ckpt_path in (None, "last") else find_checkpoint(Path(str(options.ckpt_path)))
    named = options.run_dir or _folder_to_resume(options.ckpt_path, LOGS / options.name)
    folder = _lock(options, named)
    leaving.callback(folder.unlock)
    start = given
    elsewhere = given is None or given.parent.parent.resolve() != folder.path.resolve()
    if elsewhere and folder.checkpoints:  # the same command resumes from where it has got to, not from where it began
        start = find_checkpoint(folder.path)
    return [str(folder.path), str(start) if start else None]


def _lock(options: RunOptions, named: str | None) -> RunFolder:
    if not named:
        return claim_run_folder(LOGS / options.name, options.config)
    folder = RunFolder(Path(named))
    _refuse_finished(folder)
    if not folder.lock():
        raise ValueError(f"{named}: another process is training there; wait for it, or choose another --run_dir.")
    try:
        _refuse_finished(folder)  # it may have been finished since
        if folder.is_foreign:
            raise ValueError(f"{named} holds the files of something else; choose another --run_dir.")
    except ValueError:
        folder.unlock()
        raise
    return folder


def _refuse_finished(folder: RunFolder) -> None:
    if folder.is_finished:
        raise ValueError(f"{folder.path} holds a finished run; choose another --run_dir, or remove the folder.")


def _folder_to_resume(ckpt_path: str | None, parent: Path) -> str | None:
    """Returns the unfinished run that `--ckpt_path` names, if it names one."""
    if ckpt_path == "last":
        unfinished = [run for path in parent.glob("*") if (run := RunFolder(path)).checkpoints and not run.is_finished]
        if not unfinished:
            raise ValueError(f"--ckpt_path last: {parent} holds no unfinished run with a checkpoint.")
        return str(max(unfinished, key=lambda run: run.checkpoints[0].stat().st_mtime).path)
    if ckpt_path and Path(ckpt_path).is_dir() and RunFolder(Path(ckpt_path)).checkpoints:
        return None if RunFolder(Path(ckpt_path)).is_finished else ckpt_path
    return None


def _run(options: RunOptions, folder: RunFolder, start: Path | None) -> Result | None:
    data, first = options.data, is_first()
    model = options.make_model(data.data.image_shape, len(data.data.classes))
    progress = EpochProgress() if options.shows_progress else None
    recorder = Recorder(folder, {}, {}, options.threads, options.test_every_epoch, options.writes_events, progress)
    with _as_value_error():
        trainer = options.make_trainer(
            callbacks=[recorder, *([progress] if progress else [])],
            plugins=[RunCheckpointIO(folder)],
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
            _check_start(start, recorder, model)
        if first:
            folder.write_config(options.config)
            print(f"the record of this run: {folder.path}", flush=True)
        diverged = _fit(trainer, model, data, start)
        return finish(options.name, options.command, trainer, model, data, recorder, diverged)
    except (ValueError, MisconfigurationException) as mistake:
        if first and set(folder.checkpoints) <= set(before):  # it got nowhere: leave nothing behind
            folder.clear()
            if saved is not None:
                write_atomically(folder.config_path, saved)
        raise ValueError(" ".join(str(mistake).split())) from None


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
        raise ValueError(f"the Trainer refuses: {' '.join(str(mistake).split())}") from None
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


def _check_start(start: Path, recorder: Recorder, model: LitMLP) -> None:
    """Refuses a checkpoint from which the run would not end as it would have without a stop.

    Raises:
        ValueError: The checkpoint is of another experiment, was not saved by `fit` at the end of an epoch, or was altered.
    """
    checkpoint = read_checkpoint(start)
    try:
        saved = checkpoint["callbacks"]["Recorder"]
        if saved["format"] != CHECKPOINT_FORMAT:
            raise ValueError(f"{start} has format {saved['format']}, not {CHECKPOINT_FORMAT}; train the run again.")
        history = msgspec.convert(saved["history"], History)
        epochs, steps = len(history.train_loss), checkpoint["global_step"]
        refuse_other_experiment(recorder.experiment, saved["experiment"], epochs, steps)
        expected = [model.configure_optimizers().state_dict()]
        if steps != epochs * recorder.experiment["steps_per_epoch"]:
            raise ValueError(f"{start} was taken within an epoch, after {steps} SGD steps; resume from the end of an epoch.")
        if checkpoint["optimizer_states"] != expected or checkpoint["lr_schedulers"]:
            raise ValueError(f"{start}: its optimizer is not plain SGD at {recorder.experiment['lr']}; it was altered.")
        build_mlp(checkpoint, start)
    except (KeyError, TypeError, AttributeError, IndexError, msgspec.ValidationError):
        raise ValueError(f"{start} was not saved by fit, so that there is no run to resume; name a run folder.") from None
    if is_first():
        print(f"resuming {start.parent.parent} after epoch {epochs}", flush=True)
        for change in environment_changes(recorder.environment, saved["environment"]):
            recorder.history.changes.append(change)
            print(f"lit_mnist: {change}: its bits may differ from those of an uninterrupted run.", file=sys.stderr)


class RunCheckpointIO(CheckpointIO):
    """The Trainer's way to the disk: whole files, the one before kept, and nothing unpickled but plain values.

    Args:
        folder: The run folder; older checkpoints in it are removed.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())
        for old in self.folder.checkpoints[KEPT:]:
            old.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)

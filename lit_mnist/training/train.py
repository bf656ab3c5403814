"""One run from its configuration to its result: claim a folder, train or go on, finish the record."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.record.atomic import write_durably
from lit_mnist.record.checkpoint import find_checkpoint, list_checkpoints, read_checkpoint
from lit_mnist.record.events import EventLog, event_files, rewind_events
from lit_mnist.record.experiment import check_same_experiment
from lit_mnist.record.folder import Config, RunFolder, claim_run_folder
from lit_mnist.record.provenance import machine, versions
from lit_mnist.training.divergence import Diverged
from lit_mnist.training.processes import Processes
from lit_mnist.training.result import finish
from lit_mnist.training.run import Run
from lit_mnist.training.signals import stop_at_once

LOGS = Path("logs")


def train(run: Run) -> Config:
    """Trains the run, or goes on with it, and writes its record.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: The run cannot be what was asked for; nothing is left behind that was not there before.
    """
    run.model.check_trainer(run.trainer)
    run.data.check_devices(run.trainer.world_size)
    with ExitStack() as leaving, Processes(run.trainer, run.arguments) as processes:
        folder, start = processes.begin(lambda: _plan(run, leaving))
        before, saved = _content(folder) if run.trainer.is_global_zero else ({}, set())
        try:
            diverged = _fit(run, folder, start)
            return finish(run, folder, diverged)
        except (ValueError, MisconfigurationException, RuntimeError) as mistake:
            if isinstance(mistake, RuntimeError) and "conditioned on metric" not in str(mistake):
                raise  # what EarlyStopping says of a metric that nobody logs is the only one that is the user's
            if run.trainer.is_global_zero and saved.issuperset(list_checkpoints(folder.path)):  # it got nowhere
                folder.clear()
                for path, content in before.items():
                    write_durably(path, content)
            raise ValueError(" ".join(str(mistake).split())) from None


def _content(folder: RunFolder) -> tuple[dict[Path, bytes], set[Path]]:
    """What a start changes, and the checkpoints that are there."""
    changed = (folder.config_path, *event_files(folder.path))
    return {path: path.read_bytes() for path in changed if path.exists()}, set(list_checkpoints(folder.path))


def _plan(run: Run, leaving: ExitStack) -> tuple[RunFolder, Path | None]:
    """The folder to work in, locked until `leaving`, and the checkpoint to begin with; refuses all it can by now."""
    given = None if run.ckpt_path in (None, "last") else find_checkpoint(Path(run.ckpt_path))
    named = run.run_dir or _folder_to_go_on_in(run.ckpt_path, LOGS / run.name)
    _refuse_finished(named)
    run.data.prepare_data()
    run.data.setup()
    folder = _claim(run, named)
    leaving.callback(folder.unlock)
    start = given
    elsewhere = given is None or given.parent.parent.resolve() != folder.path.resolve()
    if elsewhere and list_checkpoints(folder.path):  # the same command goes on where it got to, not where it began
        start = find_checkpoint(folder.path)
    run.record.settings, run.record.environment = _settings(run), _environment(run)
    if start is not None:
        run.record.changes = check_same_experiment(run, start)
    return folder, start


def _settings(run: Run) -> dict[str, Any]:
    """What makes the result beside the module's and the data module's parameters, as plain values."""
    limit = run.trainer.limit_train_batches
    limited_to = (
        None if isinstance(limit, float) and limit == 1.0 else f"{limit} (blocks of {run.data.steps_per_block} SGD steps)"
    )
    return {
        "precision": str(run.trainer.precision),
        "test_every_epoch": run.record.test_every_epoch,
        "limit_train_batches": limited_to,
    }


def _environment(run: Run) -> dict[str, Any]:
    """What may change the bits of the result, but not its sense, as plain values."""
    device = run.trainer.strategy.root_device.type
    where = {"threads": torch.get_num_threads(), "device": device, "processor": machine()["cpu"]}
    return {"engine": run.model.engine, **where, **versions()}


def _claim(run: Run, named: str | None) -> RunFolder:
    """The folder to work in, locked."""
    if not named:
        return claim_run_folder(LOGS / run.name, run.config)
    folder = RunFolder(Path(named))
    if not folder.lock():
        raise ValueError(f"{named}: another process is training there.")
    _refuse_finished(named)  # it may have been finished since
    if folder.is_foreign:
        folder.unlock()
        raise ValueError(f"{named} holds the files of something else; choose another --run_dir.")
    return folder


def _refuse_finished(named: str | None) -> None:
    if named and RunFolder(Path(named)).is_finished:
        raise ValueError(f"{named} holds a finished run; choose another --run_dir, or remove the folder.")


def _folder_to_go_on_in(ckpt_path: str | None, parent: Path) -> str | None:
    """The unfinished run that `--ckpt_path` names, if it names one."""
    if ckpt_path == "last":
        unfinished = [run for run in parent.glob("*") if list_checkpoints(run) and not RunFolder(run).is_finished]
        if not unfinished:
            raise ValueError(f"--ckpt_path last: {parent} holds no unfinished run with a checkpoint.")
        return str(max(unfinished, key=lambda run: list_checkpoints(run)[0].stat().st_mtime))
    if ckpt_path and Path(ckpt_path).is_dir() and not RunFolder(Path(ckpt_path)).is_finished:
        return ckpt_path
    return None


def _fit(run: Run, folder: RunFolder, start: Path | None) -> Diverged | None:
    """Trains to the end; returns how the loss diverged, if it did."""
    if run.trainer.is_global_zero:
        _make_ready(run, folder, start)
    run.record.open(folder, EventLog(folder.path) if run.logs_events and run.trainer.is_global_zero else None)
    if run.record.events:
        run.trainer.loggers = [run.record.events, *run.trainer.loggers]
    try:
        run.trainer.fit(run.model, datamodule=run.data, ckpt_path=start)
    except Diverged as diverged:
        return diverged
    finally:
        stop_at_once()
    return None


def _make_ready(run: Run, folder: RunFolder, start: Path | None) -> None:
    """Brings the folder into the state in which it was at the checkpoint to begin with."""
    event_sizes: dict[str, int] = {}
    source = folder.path
    if start is not None:
        checkpoint = read_checkpoint(start)
        event_sizes = checkpoint["callbacks"]["RunRecord"]["event_sizes"]
        source = start.parent.parent
        print(f"going on with {source} after {checkpoint['global_step']} SGD steps")
        for newer in list_checkpoints(folder.path):
            if newer > folder.checkpoint_path(checkpoint["global_step"]):
                newer.unlink()  # damaged, or given up by naming an older one
    folder.write_config(run.config)
    rewind_events(source, folder.path, event_sizes)

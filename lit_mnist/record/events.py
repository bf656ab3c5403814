"""TensorBoard event files: only what was asked for, nothing twice after a restart, no reason to stop training."""

import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import override

P = ParamSpec("P")


def _never_fatal(method: Callable[Concatenate["EventLog", P], None]) -> Callable[Concatenate["EventLog", P], None]:
    """A curve that cannot be written (full disk, folder gone) is worth one sentence, not the run."""

    @wraps(method)
    def guarded(self: "EventLog", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # the writer's thread hands on whatever it met
            self.give_up(error)

    return guarded


def _silence(writer: str) -> None:
    """Keeps Python from printing the traceback of this thread, which hands on to us what it met."""
    others = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != writer:
            others(failure)

    threading.excepthook = hook


_silence("_AsyncWriterThread")


class EventLog(TensorBoardLogger):
    """Writes scalars, images and the HPARAMS entry into the run folder itself.

    Args:
        folder: The run folder.
        filename_suffix: What the event file's name ends with.
    """

    def __init__(self, folder: Path, filename_suffix: str = "") -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, filename_suffix=filename_suffix)
        self.folder = folder
        self.broken = False

    @property
    @override
    def experiment(self) -> Any:
        """TensorBoard's writer, made when first asked for; None where its file cannot be."""
        try:
            return None if self.broken else super().experiment
        except OSError as error:
            self.give_up(error)
            return None

    def give_up(self, error: Exception) -> None:
        """Writes no more, and says so once."""
        if self.broken:
            return
        self.broken = True
        print(
            f"lit_mnist: TensorBoard's event file cannot be written ({error}); training goes on without it.",
            file=sys.stderr,
        )

    @override
    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing at the start of a run: an entry without results would stay beside the one with them."""

    @override
    @rank_zero_only
    @_never_fatal
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for tag, value in metrics.items():
            self.experiment.add_scalar(tag, value, step)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Nothing: the Trainer calls this for every point, and the writer flushes by itself."""

    @rank_zero_only
    @_never_fatal
    def flush(self) -> None:
        """Puts every point logged so far into the file."""
        self.experiment.flush()

    @rank_zero_only
    @_never_fatal
    def log_result(self, hyperparameters: dict[str, Any], results: dict[str, float]) -> None:
        """One row of the HPARAMS table; `results` are tags of scalars that were logged."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(hyperparameters, results):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    @_never_fatal
    def log_figure(self, tag: str, figure: Any, step: int) -> None:
        """A matplotlib figure in the image tab."""
        self.experiment.add_figure(tag, figure, step)

    @override
    def finalize(self, status: str) -> None:
        """Flushes only: the results are logged after the Trainer is done with its loggers."""
        self.flush()

    @rank_zero_only
    @_never_fatal
    def close(self) -> None:
        """Ends the event file; nothing can be logged after it."""
        self.experiment.close()


def event_files(folder: Path) -> list[Path]:
    """The event files of a run, oldest first."""
    return sorted(folder.glob("events.out.tfevents.*"))


def event_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each event file: with a checkpoint, the mark up to which its run had been logged."""
    return {path.name: path.stat().st_size for path in event_files(folder)}


def rewind_events(source: Path, folder: Path, sizes: Mapping[str, int]) -> None:
    """Leaves in `folder` what `source` had logged at a checkpoint, so that nothing is there twice.

    Args:
        source: The run folder of the checkpoint; may be `folder` itself.
        folder: The run folder to go on in.
        sizes: What `event_sizes` said at the checkpoint.
    """
    try:
        for name in sizes:
            if source.resolve() != folder.resolve() and (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        for path in event_files(folder):
            if path.name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[path.name]:
                with path.open("r+b") as file:
                    file.truncate(sizes[path.name])
    except OSError as error:
        print(
            f"lit_mnist: {folder}: {error.strerror or error}; TensorBoard may show some points twice.",
            file=sys.stderr,
        )

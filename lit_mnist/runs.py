"""The Python API: `fit`, `run_study` and `read_runs`, and the runs that they return, with their histories and figures."""

import json
import sys
from collections import UserList
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist.cli import DIVERGED, DONE
from lit_mnist.record.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

# Keywords of `fit` and `run_study` -> options of the command line.
KEYWORDS = {
    "lr": "model.lr",
    "hidden": "model.hidden",
    "batch_size": "data.batch_size",
    "dataset": "data.dataset",
    "train_size": "data.train_size",
    "val_size": "data.val_size",
    "epochs": "trainer.max_epochs",
    "engine": "engine",
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its run folder.
        result: Everything that is known of it; see `lit_mnist.record.result.Result`.
    """

    folder: Path
    result: Result

    def __repr__(self) -> str:
        accuracy = self.result.test_accuracy
        measured = "" if accuracy is None else f", test accuracy {100 * accuracy:.2f} %"
        return f"Run({self.result.name}, seed {self.result.seed}: {self.result.outcome}{measured}; {self.folder})"

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict per epoch: epoch (from 1), train_loss and val_loss (nats), accuracies (fractions), seconds.

        None stands for what was not measured. `pd.DataFrame(run.history)` works.
        """
        losses, names = self.result.train_loss_by_epoch, ("train_loss", "val_loss", "val_accuracy", "test_accuracy")
        measured = [getattr(self.result, f"{name}_by_epoch") for name in names]
        rows = zip_longest(range(1, len(losses) + 1), *measured, self.result.times.train_seconds_by_epoch)
        return [dict(zip(("epoch", *names, "seconds"), row, strict=True)) for row in islice(rows, len(losses))]

    def plot_loss(self) -> "Figure":
        """Draws the training loss against the epoch."""
        from lit_mnist.plots import draw_loss_curve

        return draw_loss_curve(self.result.train_loss_by_epoch, self.result.title)

    def predict(self, images: Any) -> "tuple[Tensor, Tensor]":
        """Classifies images, as `lit_mnist.predict_images` takes them: labels (N,) and probabilities (N, classes)."""
        from lit_mnist.predict.predict import predict_images

        return predict_images(self.folder, images)


class Runs(UserList[Run]):
    """Finished runs, of one study or of several; slices and sums of them are `Runs`, too."""

    def __repr__(self) -> str:
        return f"Runs({len(self)}: {', '.join(dict.fromkeys(run.result.name for run in self))})"

    def history(self) -> list[dict[str, Any]]:
        """Returns every epoch of every run as a dict, in long form: that of `Run.history` behind the run's own columns."""
        return [_columns(run) | row for run in self for row in run.history]

    def results(self) -> list[dict[str, Any]]:
        """Returns one dict per run: settings, outcome, final loss (nats), accuracies (fractions), seconds, folder."""
        measured = ("outcome", "final_train_loss", "train_accuracy", "test_accuracy")
        return [
            _columns(run)
            | {name: getattr(run.result, name) for name in measured}
            | {"seconds": run.result.times.seconds, "folder": str(run.folder)}
            for run in self
        ]

    def plot_loss(self) -> "Figure":
        """Draws the training losses of all runs on one logarithmic axis, one colour per configuration."""
        from lit_mnist.plots import draw_loss_curves

        curves: dict[str, list[Sequence[float]]] = {}
        for run in self:
            curves.setdefault(run.result.name, []).append(run.result.train_loss_by_epoch)
        return draw_loss_curves(curves)

    def findings(self) -> list[str]:
        """Returns the report's answers to what the learning rate and the batch size do, with 95 % intervals."""
        from lit_mnist.report.findings import answers

        return answers({run.folder: run.result for run in self})


def _columns(run: Run) -> dict[str, Any]:
    result = run.result
    return {"configuration": result.name, "seed": result.seed, "lr": result.lr, "batch_size": result.batch_size}


def fit(
    config: str | Path = "lr0.1",
    *,
    seed: int | None = None,
    name: str | None = None,
    run_dir: str | Path | None = None,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Run:
    """Trains a run as the command `fit` does: the same bits, the same folder, the same record.

    Args:
        config: A shipped configuration (lr0.1, lr1, lr0.01, batch8, batch128) or a YAML file.
        seed: Seed of initial weights, order and split.
        name, run_dir, threads: As the command's options.
        options: Any other options of the command, such as {"trainer.max_steps": 100}.
        keywords: lr, hidden, batch_size, dataset, train_size, val_size, epochs or engine.

    Returns:
        The finished run, even if its loss diverged (see `run.result.outcome`).

    Raises:
        ValueError: A setting does not exist or is out of range.
        KeyboardInterrupt: Ctrl-C, or a notebook's interrupt; the same call resumes the run.
    """
    own = {"seed_everything": seed, "name": name, "run_dir": run_dir, "threads": threads}
    with _as_command():
        from lit_mnist.cli.fit import run_options
        from lit_mnist.training.train import train

        chosen = run_options(["--config", str(config), *_arguments(own, keywords, options)])
        if chosen.config["trainer"]["devices"] not in (1, "1", "auto"):
            raise ValueError("trainer.devices: the command line starts several processes; use python -m lit_mnist fit.")
        trained = train(chosen)
    if trained is None:
        raise ValueError("trainer.fast_dev_run keeps no record, so that there is no run to return.")
    return Run(*trained)


def run_study(
    configs: Sequence[str | Path] | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    grid: Mapping[str, Sequence[Any]] | None = None,
    out: str | Path = "logs/study",
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Runs:
    """Trains every configuration with several seeds, several runs at a time, and writes a report, as the command `study` does.

    Args:
        configs: Shipped names or YAML files; None: the five published ones, or lr0.1 where there is a grid.
        seeds: Number of seeds from 1 on, or the seeds themselves.
        grid: Values by keyword or option, such as {"lr": [0.01, 0.1], "batch_size": [8, 32]}; all combinations are run.
        out: Folder of the study; the same call goes on with a study that was stopped.
        workers: Runs at a time; None: one per core.
        options, keywords: As for `fit`, for all runs.

    Returns:
        The finished runs; those that failed without a result are missing, and are named on stderr.
    """
    arguments = ["--out", str(out), "--seeds", str(seeds) if isinstance(seeds, int) else ",".join(map(str, seeds)) + ","]
    arguments += ["--configs", *map(str, configs)] if configs else []
    arguments += ["--workers", str(workers)] if workers else []
    for key, values in (grid or {}).items():
        arguments += ["--grid", f"{KEYWORDS.get(key, key)}={','.join(map(_text, values))}"]
    with _as_command():
        from lit_mnist.study import main

        code = main([*arguments, *_arguments({}, keywords, options)])
    if code not in (DONE, DIVERGED):
        print(f"lit_mnist: some runs failed; the same call tries them again (see {out}/*/*/output.txt).", file=sys.stderr)
    return read_runs(out)


def read_runs(folder: str | Path = "logs") -> Runs:
    """Reads all finished runs below a folder, sorted by path; needs no torch. Runs that cannot be read are named on stderr."""
    from lit_mnist.report.load import read_folders

    recorded, problems = read_folders([Path(folder)])
    for problem in problems:
        print(f"lit_mnist: {problem}", file=sys.stderr)
    return Runs([Run(run.path, run.result) for run in recorded])


def _arguments(own: Mapping[str, Any], keywords: Mapping[str, Any], options: Mapping[str, Any] | None) -> list[str]:
    if unknown := next((keyword for keyword in keywords if keyword not in KEYWORDS), ""):
        known = ", ".join(KEYWORDS)
        raise ValueError(f"there is no setting {unknown}; choose from {known}, or use options={{'trainer.{unknown}': ...}}.")
    settings = {**own, **{KEYWORDS[key]: value for key, value in keywords.items()}, **(options or {})}
    return [word for key, value in settings.items() if value is not None for word in (f"--{key}", _text(value))]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)


@contextmanager
def _as_command() -> Iterator[None]:
    """Stops on signals and keeps quiet as the command line does; Ctrl-C becomes KeyboardInterrupt, as Python expects."""
    from lit_mnist.cli.main import quiet
    from lit_mnist.training.signals import Stopped, stopping_on_signals

    try:
        with stopping_on_signals(), quiet():
            yield
    except Stopped as stopped:
        if str(stopped) == "SIGINT":
            raise KeyboardInterrupt from None
        raise

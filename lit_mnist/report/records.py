"""Finds and reads run folders; what cannot be read is reported by name and does not keep the rest from being read."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lit_mnist.record.configs import NOT_YAML
from lit_mnist.report.departures import departures, find_setting
from lit_mnist.report.event_file import Scalars, event_files, read_scalars
from lit_mnist.report.quantity import EARLY_IMAGES
from lit_mnist.report.run import Run, parse_run

LOCKS = {".lock", ".study.lock"}
# Each shows the folder of a run, the last two even where the study started `fit` and it wrote nothing.
MARKS = {"config.yaml", "result.json", "failure.json", ".study.lock"}
# What config.yaml and result.json must agree on: the same run wrote both.
SAME = {"seed": ("seed_everything",), "lr": ("model", "lr"), "batch_size": ("data", "batch_size")}


@dataclass(frozen=True)
class Problem:
    """Something amiss with the input: where, and a sentence without its subject and full stop."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}."


def read_runs(folder: Path) -> tuple[list[Run], list[Problem]]:
    """All finished runs below `folder`, sorted by path, and what is amiss with the others and with themselves."""
    runs: list[Run] = []
    problems: list[Problem] = []
    unlisted: list[OSError] = []
    for path in _run_folders(folder, unlisted.append):
        where = _name(path, folder)
        try:
            run, amiss = _read_run(path, where)
        except OSError as error:
            run, amiss = None, [f"cannot be read ({error.strerror})"]
        runs += [run] if run else []
        problems += [Problem(where, what) for what in amiss]
    for fault in unlisted:
        problems.append(Problem(_name(Path(fault.filename), folder), f"the folder cannot be listed ({fault.strerror})"))
    return runs, problems


def _name(path: Path, folder: Path) -> str:
    """A folder as the report calls it."""
    return path.relative_to(folder).as_posix() if path != folder else path.resolve().name


def _run_folders(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Folders that hold a run, or nothing but locks."""
    for name, folders, files in os.walk(folder, onerror=on_error):
        folders.sort()
        path = Path(name)
        if MARKS & set(files) or event_files(path):
            folders.clear()  # checkpoints and the like
            yield path
        elif not folders and set(files) <= LOCKS and path != folder:
            yield path


def _read_run(path: Path, where: str) -> tuple[Run | None, list[str]]:
    scalars = read_scalars(path)
    amiss = list(scalars.damage)
    config, result = path / "config.yaml", path / "result.json"
    settings: Any = None
    if config.exists():
        settings, unreadable = _read_settings(config)
        amiss += unreadable
    if not result.exists():
        return None, [*amiss, _unfinished(path, scalars)]
    try:
        run = parse_run(where, json.loads(result.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None, [*amiss, "its result.json is not JSON; the run is not counted"]
    except ValueError as error:
        return None, [*amiss, f"its result.json {error}; the run is not counted"]
    if not config.exists():
        amiss.append("it has no config.yaml")
    elif isinstance(settings, dict):
        if contradiction := _contradiction(run, settings):
            return None, [*amiss, f"{contradiction}; the run is not counted"]
        run = replace(run, hyperparameters=run.hyperparameters | departures(settings))
    if not scalars.files:
        amiss.append("it has no event file; its result.json alone is counted")
    elif not scalars.damage:
        amiss += _disagreement(run, scalars)
    steps = {} if _skips_blocks(run, settings) else scalars.curves.get("train/loss_step", {})
    return replace(run, loss_by_step={step: loss for step, loss in steps.items() if math.isfinite(loss)}), amiss


def _read_settings(config: Path) -> tuple[Any, list[str]]:
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except NOT_YAML:
        return None, ["its config.yaml is not YAML"]
    return settings, [] if isinstance(settings, dict) else ["its config.yaml holds no settings"]


def _unfinished(path: Path, scalars: Scalars) -> str:
    if {file.name for file in path.iterdir()} <= LOCKS:
        return "the folder is empty"
    epochs = max(scalars.curves.get("train/loss", {}), default=0)
    said = f"the run is not finished ({epochs} epochs logged) and not counted"
    try:  # left by the study when `fit` ended without a result
        reason = json.loads((path / "failure.json").read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return said
    return f"{said}: {str(reason).rstrip('.')}"


def _contradiction(run: Run, settings: dict[str, Any]) -> str:
    """Which setting shows that result.json was written by another run than config.yaml; "" if none."""
    for key, keys in SAME.items():
        configured = find_setting(settings, *keys)
        recorded = run.seed if key == "seed" else run.hyperparameters[key]
        if configured is not None and configured != recorded:
            return f"its result.json is of another run than its config.yaml ({key} {recorded}, not {configured})"
    return ""


def _skips_blocks(run: Run, settings: Any) -> bool:
    """Whether blocks of SGD steps went unlogged: then a logged loss is not that of all steps since the one before."""
    every, block = (find_setting(settings, *keys) for keys in (("trainer", "log_every_n_steps"), ("data", "steps_per_block")))
    usual = max(1, EARLY_IMAGES // run.batch_size)
    return isinstance(every, int) and every > (block if isinstance(block, int) and block else usual)


def _disagreement(run: Run, scalars: Scalars) -> list[str]:
    logged = scalars.curves.get("train/loss", {})
    if not logged and run.train_loss_by_epoch:
        return ["its event files hold no train/loss"]
    for epoch, loss in enumerate(run.train_loss_by_epoch, start=1):
        # event files hold float32
        if epoch not in logged or not math.isclose(logged[epoch], loss, rel_tol=1e-6, abs_tol=1e-12):
            seen = f"{logged[epoch]:.6g}" if epoch in logged else "nothing"
            return [f"its event files have {seen} as training loss of epoch {epoch}, its result.json {loss:.6g}"]
    return []

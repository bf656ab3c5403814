"""Run folders as `fit` leaves them, with invented curves, for tests of what reads them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lit_mnist.report.published import published_runs


def write_run(
    folder: Path,
    name: str = "lr0.1",
    seed: int = 1,
    losses: list[float] | None = None,
    outcome: str = "trained",
    events: bool = True,
    config: bool = True,
    test_accuracy: float = 0.98,
    seconds: float = 4.0,
    accuracies: list[float] | None = None,
    trainer: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> dict[str, Any]:
    """A run folder as `fit` leaves it; invented curves. Returns its result."""
    losses = [0.5, 0.2, 0.1] if losses is None else losses
    settings: dict[str, Any] = {
        "lr": 0.1,
        "batch_size": 32,
        "hidden": [512, 256],
        "max_epochs": len(losses),
        "engine": "exact",
        "dataset": "MNIST",
        "train_size": 60000,
        "val_size": 0,
    } | hyperparameters
    steps_per_epoch = math.ceil(settings["train_size"] / settings["batch_size"])
    diverged = outcome == "diverged"
    result = {
        "format": 1,
        "name": name,
        "outcome": outcome,
        "reason": "" if outcome == "trained" else "for a reason",
        "command": f"python -m lit_mnist fit --config {name} --seed_everything {seed}",
        "seed": seed,
        "threads": 1,
        "device": "cpu",
        "hyperparameters": settings,
        "epochs": len(losses),
        "steps": steps_per_epoch * len(losses),
        "steps_per_epoch": steps_per_epoch,
        "train_loss_by_epoch": losses,
        "test_accuracy_by_epoch": accuracies or [test_accuracy] * len(losses),
        "val_loss_by_epoch": [],
        "val_accuracy_by_epoch": [],
        "final_train_loss": None if diverged else losses[-1],
        "train_accuracy": None if diverged else min(1.0, test_accuracy + 0.01),
        "test_accuracy": None if diverged else test_accuracy,
        "test_loss": None if diverged else 0.07,
        "diverged": {"epoch": len(losses) + 1, "step": steps_per_epoch * len(losses) + 7} if diverged else None,
        "weights_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "versions": {"lit_mnist": "1.0.0", "python": "3.11.7", "torch": "2.15.0"},
        "commit": None,
        "machine": {"cpu": "a processor", "cores": 2, "system": "Linux"},
        "times": {
            "started": f"2026-11-23T22:{seed % 60:02d}:00+00:00",
            "finished": "2026-11-23T23:00:00+00:00",
            "seconds": seconds * len(losses),
            "train_seconds_by_epoch": [seconds] * len(losses),
            "resumed": 0,
        },
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    if config:
        own = {
            "seed_everything": seed,
            "name": name,
            "model": {"lr": settings["lr"]},
            "data": {"batch_size": settings["batch_size"], "split_batch": True, "steps_per_block": 0} | (data or {}),
            "trainer": {"precision": None, "max_steps": -1, "limit_train_batches": None, "devices": 1} | (trainer or {}),
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(own))
    if events:
        blocks = [(step, (losses or [2.3])[0] * 2 / (1 + step / 500)) for step in range(64, steps_per_epoch, 64)]
        write_events(folder, {"train/loss": list(enumerate(losses, 1)), "train/loss_step": blocks})
    return result


def write_events(folder: Path, curves: dict[str, list[tuple[int, float]]]) -> Path:
    """One more event file in the folder."""
    before = set(folder.glob("events*"))
    writer = EventFileWriter(str(folder), filename_suffix=f".{len(before)}")
    for tag, points in curves.items():
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1.0, step=step, summary=summary))
    writer.close()
    (file,) = set(folder.glob("events*")) - before
    return file


def write_study(folder: Path, seeds: int = 3) -> None:
    """The five published configurations with curves scattered around the published ones; lr1 fails with some seeds."""
    for run in published_runs():
        for seed in range(1, seeds + 1):
            draw = random.Random(f"{run.name} {seed}")
            scatter = 0.1 if run.name in ("lr1", "batch8") else 0.02
            losses = [loss * math.exp(draw.gauss(0, scatter)) for loss in run.train_loss_by_epoch]
            accuracy = round(run.test_accuracy + draw.gauss(0, 0.0007), 4)
            outcome = "trained"
            if run.name == "lr1" and seed % 3 == 0:
                outcome, losses = "diverged", [*losses[:11], 0.9, 5.0]
            elif run.name == "lr1" and seed % 3 == 2:
                outcome, losses, accuracy = (
                    "collapsed",
                    losses[:7] + [2.1 + 0.01 * n for n in range(13)],
                    0.21,
                )
            write_run(
                folder / run.name / f"seed_{seed}",
                run.name,
                seed,
                losses,
                outcome,
                lr=run.lr,
                batch_size=run.batch_size,
                max_epochs=20,
                test_accuracy=accuracy,
                accuracies=[accuracy - 0.05 / epoch for epoch in range(1, len(losses) + 1)],
                seconds=round((60000 / run.batch_size * 0.0011 + 2) * draw.uniform(0.97, 1.03), 3),
            )

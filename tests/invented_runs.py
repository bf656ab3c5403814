"""Run folders as `fit` leaves them, with invented curves, for tests of what reads them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_mnist.record.result import RULE_VERSION, Place, Result, Times, judge
from lit_mnist.report.tables import published_runs


def make_result(
    name: str = "lr0.1",
    seed: int = 1,
    losses: list[float] | None = None,
    diverged: bool = False,
    test_accuracy: float | None = 0.98,
    blocks: list[tuple[int, float]] | None = None,
    stopped: str = "",
    command: str | None = None,
    measurements: list[dict[str, float]] | None = None,
    **hyperparameters: Any,
) -> Result:
    """A result with invented curves; `losses` decide its outcome unless it diverged after them."""
    losses = [0.5, 0.2, 0.1, 0.08] if losses is None else losses
    settings: dict[str, Any] = {
        "lr": 0.1,
        "batch_size": 32,
        "hidden": [512, 256],
        "image_shape": [28, 28],
        "classes": 10,
        "engine": "exact",
    }
    settings |= {"dataset": "MNIST", "train_size": 60000, "val_size": 0, "max_epochs": len(losses), "max_steps": -1}
    settings |= {"precision": "32-true", "callbacks": []} | hyperparameters
    steps = math.ceil(settings["train_size"] / settings["batch_size"])
    outcome, reason = ("diverged", "the training loss is not finite") if diverged else judge(losses, settings["classes"])
    if blocks is None:
        every, total = max(1, 4096 // settings["batch_size"]), steps * len(losses)
        ends = [start + min(step, steps) for start in range(0, total, steps) for step in range(every, steps + every, every)]
        blocks = [(end, 2.3 * (losses[-1] / 2.3) ** (end / total)) for end in ends]
    return Result(
        name=name,
        outcome=outcome,  # type: ignore[arg-type]
        outcome_rule=RULE_VERSION,
        reason=reason,
        command=f"python -m lit_mnist fit --config {name} --seed_everything {seed}" if command is None else command,
        seed=seed,
        threads=1,
        device="cpu",
        hyperparameters=settings | {"steps_per_epoch": steps},
        epochs=len(losses),
        steps=steps * len(losses) + (7 if diverged else 0),
        steps_per_epoch=steps,
        train_loss_by_epoch=losses,
        test_accuracy_by_epoch=[] if test_accuracy is None else [test_accuracy] * len(losses),
        val_loss_by_epoch=[],
        val_accuracy_by_epoch=[],
        train_loss_by_block=blocks,
        final_train_loss=None if diverged else losses[-1],
        train_accuracy=None if diverged or test_accuracy is None else min(1.0, test_accuracy + 0.01),
        test_accuracy=None if diverged else test_accuracy,
        test_loss=None if diverged else 0.07,
        diverged=Place(len(losses) + 1, steps * len(losses) + 7) if diverged else None,
        weights_sha256=None if diverged else f"{seed:064x}",
        data_sha256="1" * 64,
        versions={"lit_mnist": "2.0.0", "python": "3.11.7", "torch": "2.15.0"},
        commit=None,
        machine={"cpu": "a processor", "cores": 2},
        stopped=stopped,
        instruments={"measurements": measurements} if measurements else {},
        times=Times(
            started="2026-11-23T22:00:00+00:00",
            finished="2026-11-23T23:00:00+00:00",
            seconds=4.0 * len(losses),
            train_seconds_by_epoch=[4.0] * len(losses),
        ),
    )


def write_run(folder: Path, *args: Any, **changes: Any) -> Result:
    """A run folder with the result that `make_result` makes of the arguments."""
    result = make_result(*args, **changes)
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(msgspec.json.encode(result))
    return result


def write_runs(folder: Path, name: str, finals: list[float], failed: int = 0, **changes: Any) -> None:
    """Runs of one configuration with these final losses and seeds from 1, and after them some that diverged."""
    accuracies = changes.pop("accuracies", None) or [0.98] * len(finals)
    for seed, (final, accuracy) in enumerate(zip(finals, accuracies, strict=True), 1):
        losses = [1.1 * final + 0.3, 2 * final, 1.1 * final, final]
        write_run(folder / name / f"seed_{seed}", name, seed, losses, test_accuracy=accuracy, **changes)
    for seed in range(len(finals) + 1, len(finals) + failed + 1):
        write_run(folder / name / f"seed_{seed}", name, seed, [0.5, 0.4], diverged=True, max_epochs=4, **changes)


def write_old_run(folder: Path, trainer: dict[str, Any] | None = None, **changes: Any) -> None:
    """A run folder of version 1.0: format 1, block losses and the Trainer's options in other files."""
    result = make_result(**changes)
    old = json.loads(msgspec.json.encode(result)) | {"format": 1}
    for key in ("outcome_rule", "train_loss_by_block", "stopped", "instruments"):
        del old[key]
    for key in ("image_shape", "classes", "max_steps", "precision", "callbacks", "steps_per_epoch"):
        del old["hyperparameters"][key]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(old))
    options = {"precision": None, "max_steps": -1, "callbacks": None, "devices": 1} | (trainer or {})
    config = {"seed_everything": result.seed, "model": {"lr": result.lr}, "data": {"split_batch": True}, "trainer": options}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_events(
        folder, {"train/loss": list(enumerate(result.train_loss_by_epoch, 1)), "train/loss_step": result.train_loss_by_block}
    )


def write_events(folder: Path, curves: dict[str, list[tuple[int, float]]]) -> Path:
    """One more event file in the folder."""
    path = folder / f"events.out.tfevents.{len(list(folder.glob('events*')))}.here.1.0"
    writer = RecordWriter(path.open("wb"))
    for tag, points in curves.items():
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(Event(wall_time=1.0, step=step, summary=summary).SerializeToString())
    writer.close()
    return path


def write_study(folder: Path, seeds: int = 3) -> None:
    """The five published configurations with curves scattered around the published ones; lr1 fails with every third seed."""
    for run in published_runs():
        for seed in range(1, seeds + 1):
            draw = random.Random(f"{run['name']} {seed}")
            scatter = 0.1 if run["name"] in ("lr1", "batch8") else 0.02
            losses = [loss * math.exp(draw.gauss(0, scatter)) for loss in run["train_loss_by_epoch"]]
            accuracy = round(run["test_accuracy_percent"] / 100 + draw.gauss(0, 0.0007), 4)
            fails = run["name"] == "lr1" and seed % 3 == 0
            write_run(
                folder / run["name"] / f"seed_{seed}",
                run["name"],
                seed,
                [*losses[:11], 0.9, 5.0] if fails else losses,
                diverged=fails,
                test_accuracy=accuracy,
                lr=run["lr"],
                batch_size=run["batch_size"],
                max_epochs=20,
            )

"""What a run came to: the last measurements, its row in the HPARAMS table, its picture, and `result.json`."""

import math
import sys
from typing import Any

import torch

from lit_mnist.engines.blocks import BlockLoader
from lit_mnist.plots import as_png, draw_loss_curve
from lit_mnist.record.atomic import write_durably
from lit_mnist.record.folder import Config, RunFolder
from lit_mnist.record.outcome import judge
from lit_mnist.record.provenance import commit, machine, versions, weights_sha256
from lit_mnist.training.divergence import Diverged
from lit_mnist.training.recorder import now
from lit_mnist.training.run import Run

RESULT_FORMAT = 1
RESULT_TAGS = ("train/loss", "train/accuracy", "test/accuracy")


def finish(run: Run, folder: RunFolder, diverged: Diverged | None) -> Config:
    """Measures the trained network exactly, logs it, and writes `result.json` as the last act.

    Args:
        run: Trained to its end.
        folder: Its folder.
        diverged: Where the loss stopped being finite, if it did: then there is nothing to measure.

    Returns:
        The content of `result.json`.
    """
    measured = {} if diverged else _measure(run)
    if not math.isfinite(measured.get("train_loss", 0)):  # since the last step: no batch came after to show it
        epoch = -(-run.trainer.global_step // _loader(run).steps_per_epoch)
        measured, diverged = {}, Diverged(epoch, run.trainer.global_step)
    result = _result(run, diverged, measured)
    if run.trainer.is_global_zero:
        _log(run, result)
        _draw(folder, result)
        folder.write_result(result)
        print(_table(folder, result))
    return result


def _measure(run: Run) -> dict[str, float]:
    run.model.to(run.trainer.strategy.root_device)  # the Trainer leaves it on the CPU
    train = run.model.evaluate(run.data.train_evaluation_dataloader())
    test = run.model.evaluate(run.data.test_dataloader())
    return {
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
    }


def _result(run: Run, diverged: Diverged | None, measured: dict[str, float]) -> Config:
    history = run.record.history
    losses = history.train_loss_by_epoch
    if diverged:
        outcome, reason = "diverged", str(diverged)
    else:
        outcome, reason = judge(losses)
    return {
        "format": RESULT_FORMAT,
        "name": run.name,
        "outcome": outcome,
        "reason": reason,
        "command": run.command,
        "seed": run.config["seed_everything"],
        "threads": torch.get_num_threads(),
        "device": run.trainer.strategy.root_device.type,
        "hyperparameters": {
            "lr": run.model.lr,
            "batch_size": run.data.batch_size,
            "hidden": list(run.model.mlp.hidden),
            "max_epochs": run.trainer.max_epochs,
            "engine": run.model.engine,
            "dataset": run.data.dataset,
            "train_size": run.data.train_size,
            "val_size": run.data.val_size,
        },
        "epochs": len(losses),
        "steps": diverged.step if diverged else run.trainer.global_step,
        "steps_per_epoch": _loader(run).steps_per_epoch,
        "train_loss_by_epoch": losses,
        "test_accuracy_by_epoch": history.test_accuracy_by_epoch,
        "val_loss_by_epoch": [_finite(loss) for loss in history.val_loss_by_epoch],
        "val_accuracy_by_epoch": history.val_accuracy_by_epoch,
        "final_train_loss": None if diverged else losses[-1],
        "train_accuracy": measured.get("train_accuracy"),
        "test_accuracy": measured.get("test_accuracy"),
        "test_loss": _finite(measured.get("test_loss")),
        "diverged": {"epoch": diverged.epoch, "step": diverged.step} if diverged else None,
        "weights_sha256": None if diverged else weights_sha256(run.model.mlp.state_dict()),
        "data_sha256": run.data.data_sha256,
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
        "changes": history.changes,
        "times": {
            "started": history.started,
            "finished": now(),
            "seconds": round(run.record.seconds, 3),
            "train_seconds_by_epoch": history.train_seconds_by_epoch,
            "resumed": history.resumed,
        },
    }


def _loader(run: Run) -> BlockLoader:
    loader = run.trainer.train_dataloader
    assert isinstance(loader, BlockLoader)
    loader.limit_blocks(int(run.trainer.num_training_batches))  # not done yet where there was nothing left to train
    return loader


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _log(run: Run, result: Config) -> None:
    events = run.record.events
    if events is None:
        return
    if result["outcome"] != "diverged":
        last = {"train/accuracy": result["train_accuracy"]}
        if not run.record.test_every_epoch:
            last["test/accuracy"] = result["test_accuracy"]
        events.log_metrics(last, step=result["epochs"])
    chosen: dict[str, Any] = {name: result["hyperparameters"][name] for name in ("lr", "batch_size", "engine")}
    chosen |= {"hidden": str(result["hyperparameters"]["hidden"]), "seed": result["seed"]}
    events.log_result(chosen, dict.fromkeys(RESULT_TAGS, 0.0))
    events.close()


def _draw(folder: RunFolder, result: Config) -> None:
    if not result["train_loss_by_epoch"]:
        return
    settings = result["hyperparameters"]
    title = f"{result['name']}: batch size {settings['batch_size']}, learning rate {settings['lr']:g}, seed {result['seed']}"
    try:
        write_durably(folder.path / "loss.png", as_png(draw_loss_curve(result["train_loss_by_epoch"], title)))
    except Exception as error:  # a picture is not worth the run, whatever matplotlib or the disk has to say
        print(f"lit_mnist: loss.png could not be drawn ({error}).", file=sys.stderr)


def _table(folder: RunFolder, result: Config) -> str:
    rows = [("outcome", result["outcome"] + (f" ({result['reason']})" if result["reason"] else ""))]
    if result["outcome"] != "diverged":
        rows += [
            ("final training loss", f"{result['final_train_loss']:.4f}"),
            ("train accuracy", f"{100 * result['train_accuracy']:.2f} %"),
            ("test accuracy", f"{100 * result['test_accuracy']:.2f} %"),
        ]
    rows += [("seconds", f"{result['times']['seconds']:.1f}"), ("record", str(folder.path))]
    return "\n".join(f"{name:>19}  {value}" for name, value in rows)

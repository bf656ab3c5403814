"""The end of a run: the last measurements, its picture, its row of the HPARAMS table, and `result.json`."""

import math
import sys
from typing import Any

import msgspec
import pytorch_lightning as pl

from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.plots import as_png, draw_loss_curve
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.printable import one_line
from lit_mnist.record.provenance import commit, machine, versions, weights_sha256
from lit_mnist.record.result import RULE_VERSION, Outcome, Place, Result, Times, judge, write_result
from lit_mnist.training.experiment import now
from lit_mnist.training.progress import format_metric
from lit_mnist.training.recorder import Diverged, Recorder, evaluate, measurements

TAGS = ("train/loss", "train/accuracy", "test/accuracy")  # scalars of the HPARAMS table
MEASURED = ("final_train_loss", "train_accuracy", "test_accuracy", "test_loss", "weights_sha256")  # None if it diverged


def finish(
    command: str,
    trainer: pl.Trainer,
    model: LitMLP,
    data: MNISTDataModule,
    recorder: Recorder,
    diverged: Diverged | None,
) -> Result | None:
    """Measures the trained network exactly, logs it, and writes `result.json` as the last act.

    Every process of the run must call this; only the first writes, and returns the result.

    Args:
        command: The line that does the run again.
        trainer, model, data, recorder: At the end of training.
        diverged: Where the loss stopped being finite, if it did: then there is nothing to measure.
    """
    measured = dict.fromkeys(MEASURED) if diverged else _measure(trainer, model, data, recorder)
    if measured is None:  # the loss is not finite since the last step: no mini-batch came after it to show it
        diverged = Diverged(-(-trainer.global_step // recorder.experiment["steps_per_epoch"]), trainer.global_step)
        measured = dict.fromkeys(MEASURED)
    if not trainer.is_global_zero:
        return None
    result = _result(command, trainer, recorder, diverged, measured)
    _log(result, trainer, recorder)
    _draw(result, recorder)
    write_result(recorder.folder.result_path, result)
    print(_table(result, recorder))
    return result


def _measure(trainer: pl.Trainer, model: LitMLP, data: MNISTDataModule, recorder: Recorder) -> dict[str, Any] | None:
    """Measures all training and all test images; returns None if their loss is not finite."""
    model.to(trainer.strategy.root_device)  # the Trainer leaves it on the CPU
    train_loss, train_accuracy = evaluate(trainer, model, data.train_evaluation_dataloader())
    test_loss, test_accuracy = evaluate(trainer, model, data.test_dataloader())
    if not math.isfinite(train_loss):
        return None
    loss = test_loss if math.isfinite(test_loss) else None
    last = recorder.history.train_loss_by_epoch[-1]
    values = last, train_accuracy, test_accuracy, loss, weights_sha256(model.mlp.state_dict())
    return dict(zip(MEASURED, values, strict=True))


def _result(
    command: str, trainer: pl.Trainer, recorder: Recorder, diverged: Diverged | None, measured: dict[str, Any]
) -> Result:
    history, experiment, environment = recorder.history, recorder.experiment, recorder.environment
    outcome: Outcome
    outcome, reason = ("diverged", str(diverged)) if diverged else judge(history.train_loss_by_epoch, experiment["classes"])
    settings = {key: value for key, value in experiment.items() if key not in ("seed", "data_sha256")}
    past = msgspec.structs.asdict(history) | {"seconds": round(recorder.seconds, 3)}
    past["val_loss_by_epoch"] = [
        loss if loss is not None and math.isfinite(loss) else None for loss in past["val_loss_by_epoch"]
    ]
    return Result(
        name=recorder.config["name"],
        outcome=outcome,
        outcome_rule=RULE_VERSION,
        reason=reason,
        command=command,
        seed=experiment["seed"],
        threads=environment["threads"],
        device=environment["device"],
        hyperparameters=settings | {"engine": environment["engine"]},
        epochs=len(history.train_loss_by_epoch),
        steps=diverged.step if diverged else trainer.global_step,
        steps_per_epoch=experiment["steps_per_epoch"],
        **{field: past[field] for field in Result.__struct_fields__ if field in past},
        **measured,
        diverged=Place(diverged.epoch, diverged.step) if diverged else None,
        data_sha256=experiment["data_sha256"],
        versions=versions(),
        commit=commit(),
        machine=machine(),
        instruments={"measurements": found} if (found := measurements(trainer)) else {},
        times=Times(finished=now(), **{field: past[field] for field in Times.__struct_fields__ if field in past}),
    )


def _log(result: Result, trainer: pl.Trainer, recorder: Recorder) -> None:
    last = {"train/accuracy": result.train_accuracy, "test/accuracy": result.test_accuracy}
    if result.outcome != "diverged":
        for logger in trainer.loggers:
            logger.log_metrics(last | {"epoch": result.epochs - 1}, step=result.steps)  # type: ignore[arg-type]
            logger.save()
    events = recorder.events
    if events is None:
        return
    for tag, value in last.items():
        if value is not None and not (tag == "test/accuracy" and result.test_accuracy_by_epoch):
            events.add_scalar(tag, value, result.epochs)
    chosen = {key: result.hyperparameters[key] for key in ("lr", "batch_size", "engine")}
    events.add_hyperparameters(chosen | {"hidden": str(result.hyperparameters["hidden"]), "seed": result.seed}, TAGS)
    events.close()


def _draw(result: Result, recorder: Recorder) -> None:
    if not result.train_loss_by_epoch:
        return
    try:
        picture = as_png(draw_loss_curve(result.train_loss_by_epoch, result.title))
        write_atomically(recorder.folder.path / "loss.png", picture)
    except Exception as error:  # a picture is not worth the run, whatever matplotlib or the disk says
        print(f"lit_mnist: loss.png could not be drawn ({error}).", file=sys.stderr)


def _table(result: Result, recorder: Recorder) -> str:
    rows = [("outcome", result.outcome + (f" ({result.reason})" if result.reason else ""))]
    if result.stopped:
        rows.append(("stopped early", result.stopped))
    values = {
        "final training loss": result.final_train_loss,
        "train accuracy": result.train_accuracy,
        "test accuracy": result.test_accuracy,
    }
    rows += [(name, format_metric(name, value)) for name, value in values.items() if value is not None]
    rows += [("seconds", f"{result.times.seconds:.1f}"), ("record", str(recorder.folder.path))]
    return "\n".join(f"{name:>19}  {one_line(value)}" for name, value in rows)

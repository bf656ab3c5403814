"""The end of a run: the last measurements, its picture, its row of the HPARAMS table, and `result.json`."""

import math
import sys

import pytorch_lightning as pl

from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.plots import as_png, draw_loss_curve
from lit_mnist.record.atomic import write_atomically
from lit_mnist.record.provenance import commit, machine, versions, weights_sha256
from lit_mnist.record.result import RULE_VERSION, Outcome, Place, Result, Times, judge, write_result
from lit_mnist.training.recorder import Diverged, Recorder, evaluate, now

TAGS = ("train/loss", "train/accuracy", "test/accuracy")  # scalars of the HPARAMS table


def finish(
    name: str,
    command: str,
    trainer: pl.Trainer,
    model: LitMLP,
    data: MNISTDataModule,
    recorder: Recorder,
    diverged: Diverged | None,
) -> Result | None:
    """Measures the trained network exactly, logs it, and writes `result.json` as the last act.

    Every process of the run must call this; the first alone writes, and returns the result.

    Args:
        name, command: The configuration, and the line that does the run again.
        trainer, model, data, recorder: At the end of training.
        diverged: Where the loss stopped being finite, if it did: then there is nothing to measure.
    """
    model.to(trainer.strategy.root_device)  # the Trainer leaves it on the CPU
    train_loss, train_accuracy = (math.nan, math.nan) if diverged else _measure(trainer, model, data, "train")
    test_loss, test_accuracy = (math.nan, math.nan) if diverged else _measure(trainer, model, data, "test")
    if diverged is None and not math.isfinite(train_loss):  # since the last step: no mini-batch came after it to show it
        diverged = Diverged(-(-trainer.global_step // recorder.experiment["steps_per_epoch"]), trainer.global_step)
    if not trainer.is_global_zero:
        return None
    history, experiment = recorder.history, recorder.experiment
    outcome: Outcome
    outcome, reason = ("diverged", str(diverged)) if diverged else judge(history.train_loss, experiment["classes"])
    result = Result(
        name=name,
        outcome=outcome,
        outcome_rule=RULE_VERSION,
        reason=reason,
        command=command,
        seed=experiment["seed"],
        threads=recorder.threads,
        device=trainer.strategy.root_device.type,
        hyperparameters={key: value for key, value in experiment.items() if key not in ("seed", "data_sha256")}
        | {"engine": recorder.environment["engine"]},
        epochs=len(history.train_loss),
        steps=diverged.step if diverged else trainer.global_step,
        steps_per_epoch=experiment["steps_per_epoch"],
        train_loss_by_epoch=history.train_loss,
        test_accuracy_by_epoch=history.test_accuracy,
        val_loss_by_epoch=[_finite(loss) for loss in history.val_loss],
        val_accuracy_by_epoch=history.val_accuracy,
        train_loss_by_block=history.train_loss_by_block,
        final_train_loss=None if diverged else history.train_loss[-1],
        train_accuracy=None if diverged else train_accuracy,
        test_accuracy=None if diverged else test_accuracy,
        test_loss=None if diverged else _finite(test_loss),
        diverged=Place(diverged.epoch, diverged.step) if diverged else None,
        weights_sha256=None if diverged else weights_sha256(model.mlp.state_dict()),
        data_sha256=experiment["data_sha256"],
        versions=versions(),
        commit=commit(),
        machine=machine(),
        changes=history.changes,
        stopped=history.stopped,
        instruments={"measurements": recorder.instruments.measurements} if recorder.instruments else {},
        times=Times(
            started=history.started,
            finished=now(),
            seconds=round(recorder.seconds, 3),
            train_seconds_by_epoch=history.train_seconds,
            resumed=history.resumed,
        ),
    )
    _log(result, trainer, recorder)
    _draw(result, recorder)
    write_result(recorder.folder.result_path, result)
    print(_table(result, recorder))
    return result


def _measure(trainer: pl.Trainer, model: LitMLP, data: MNISTDataModule, split: str) -> tuple[float, float]:
    batches = data.train_evaluation_dataloader() if split == "train" else data.test_dataloader()
    return evaluate(trainer, model, batches)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


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
    title = f"{result.name}: batch size {result.batch_size}, learning rate {result.lr:g}, seed {result.seed}"
    try:
        write_atomically(recorder.folder.path / "loss.png", as_png(draw_loss_curve(result.train_loss_by_epoch, title)))
    except Exception as error:  # a picture is not worth the run, whatever matplotlib or the disk says
        print(f"lit_mnist: loss.png could not be drawn ({error}).", file=sys.stderr)


def _table(result: Result, recorder: Recorder) -> str:
    rows = [("outcome", result.outcome + (f" ({result.reason})" if result.reason else ""))]
    if result.stopped:
        rows.append(("stopped early", result.stopped))
    if result.outcome != "diverged":
        rows += [
            ("final training loss", f"{result.final_train_loss:.4f}"),
            ("train accuracy", f"{100 * (result.train_accuracy or 0):.2f} %"),
            ("test accuracy", f"{100 * (result.test_accuracy or 0):.2f} %"),
        ]
    rows += [("seconds", f"{result.times.seconds:.1f}"), ("record", str(recorder.folder.path))]
    return "\n".join(f"{name:>19}  {value}" for name, value in rows)

"""Where a run stands, in the Trainer's own counters: unambiguous when saved, put right when a run goes on.

The SGD steps done decide everything: epoch and step within it are their quotient and remainder by the steps per
epoch. The Trainer (pytorch-lightning 2.6) counts blocks and hooks instead, and restores other things depending on the
hook it was saved in; so a checkpoint of ours always holds one and the same form, whichever hook it was taken in.
"""

from typing import Any

import pytorch_lightning as pl

from lit_mnist.engines.blocks import BlockLoader

COUNTERS = ("ready", "started", "processed", "completed")


def count_sgd_steps(trainer: pl.Trainer, steps: int) -> None:
    """Counts SGD steps that were made around the Trainer's optimizer wrapper, which counts its own."""
    total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    total.ready += steps
    total.completed += steps


def epoch_is_complete(trainer: pl.Trainer) -> bool:
    """Whether the SGD step made last was the last one of its epoch."""
    loader = trainer.train_dataloader
    assert isinstance(loader, BlockLoader)
    return trainer.global_step % loader.steps_per_epoch == 0


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether the Trainer validates after the block that it is about to leave.

    A checkpoint saved before such a validation would be taken for one saved after it: the validation would be lost.
    """
    loader, fetcher = trainer.train_dataloader, trainer.fit_loop._data_fetcher
    assert isinstance(loader, BlockLoader)
    assert fetcher is not None
    left_half_drawn = trainer.global_step % loader.steps_per_epoch % loader.steps_per_block > 0  # not so at an epoch's end
    return not left_half_drawn and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def save_position(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Rewrites the loop counters and the loader's state in `checkpoint` from the number of SGD steps done.

    The loader's own idea of where it stands is not to be trusted: a callback may have looked at a batch.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, BlockLoader):
        return
    epoch, step = divmod(trainer.global_step, loader.steps_per_epoch)
    begun = epoch + (step > 0)
    fit_loop = checkpoint["loops"]["fit_loop"]
    for scope in ("total", "current"):
        fit_loop["epoch_progress"][scope].update(ready=begun, started=begun, processed=epoch, completed=epoch)
    blocks = step // loader.steps_per_block
    fit_loop["epoch_loop.batch_progress"] = {
        "total": dict.fromkeys(COUNTERS, blocks),
        "current": dict.fromkeys(COUNTERS, blocks),
        "is_last_batch": False,
    }
    fit_loop["state_dict"]["combined_loader"] = [{"epoch": epoch, "step": step}]
    checkpoint["epoch"] = epoch
    checkpoint["lit_mnist"]["steps_per_epoch"] = loader.steps_per_epoch


def restore_position(trainer: pl.Trainer, steps_per_epoch: int | None, losses: int) -> None:
    """Adapts the restored counters to the loader at hand, whose blocks may be of another size than the saved run's.

    Args:
        trainer: About to start training.
        steps_per_epoch: What `save_position` found, 0 if that was another kind of loader; None in a run that starts anew.
        losses: How many SGD steps of the epoch the restored losses are of.

    Raises:
        ValueError: An epoch has another number of SGD steps now, or the restored counters contradict each other.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, BlockLoader):
        return
    loader.limit_blocks(int(trainer.num_training_batches))
    if steps_per_epoch is None:
        return
    if steps_per_epoch not in (0, loader.steps_per_epoch):
        raise ValueError(
            f"an epoch has {loader.steps_per_epoch} SGD steps, but in the run to continue it had {steps_per_epoch}."
        )
    epoch, done = divmod(trainer.global_step, loader.steps_per_epoch)
    start = loader.start[1] if loader.start[0] == epoch else 0
    if start != done or (done and losses != done):
        raise ValueError(
            f"the checkpoint contradicts itself: after {trainer.global_step} SGD steps its epoch stands at step {done}, "
            f"but its data loader at {start} and its losses at {losses}."
        )
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    for counter in COUNTERS:
        setattr(current, counter, done // loader.steps_per_block)

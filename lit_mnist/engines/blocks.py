"""Block stepping: a module performs many SGD steps per call of the Trainer's `training_step`, by an engine.

The Trainer's work around each `training_step` takes longer than an SGD step of this network. A block of 4,096 images makes it
vanish; the SGD steps, their order and their bits stay the same.
"""

from typing import Any, Literal, TypeVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks
from torch import Tensor

from lit_mnist.datasets.loaders import Batch, EpochLoader
from lit_mnist.engines import Engine, ExactEngine
from lit_mnist.lit_mlp import LitMLP

EngineName = Literal["exact", "fast"]
Model = TypeVar("Model", bound=LitMLP)

IMAGES_PER_BLOCK = 4096  # a tenth of a second to a second of CPU work, beside which the Trainer's 2 ms vanish
# What the Trainer calls at every SGD step, and in blocks would call once per block or never.
CALLBACK_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
DATA_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
MODULE_HOOKS = (
    *CALLBACK_HOOKS,
    *DATA_HOOKS,
    "training_step",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)
PLUGIN_HOOKS = ("pre_backward", "backward", "post_backward", "optimizer_step", "clip_gradients")  # of a precision or strategy
CHANGE_STEPS = (
    callbacks.GradientAccumulationScheduler,
    callbacks.LearningRateFinder,
    callbacks.StochasticWeightAveraging,
)


def in_blocks(module: Model, engine: EngineName = "exact", steps_per_block: int = 0) -> Model:
    """Makes a `LitMLP` step in blocks: `trainer.fit(in_blocks(LitMLP()), datamodule=MNISTDataModule())`.

    Its checkpoints stay those of the plain module, and may be loaded by either.

    Args:
        module: A `LitMLP` or a subclass that overrides nothing that happens at a single SGD step. It is changed in place.
        engine: exact: the bits of a plain PyTorch loop. fast: rounded differently, CPU only, leaves no `grad` behind.
        steps_per_block: SGD steps per `training_step`; 0: as many as 4,096 images hold.

    Returns:
        The same module. `Trainer.fit` raises ValueError if it was configured with something that needs single steps.
    """
    if engine not in ("exact", "fast"):
        raise ValueError(f"engine must be exact or fast, not {engine}.")
    if steps_per_block < 0:
        raise ValueError(f"steps_per_block must be at least 1, or 0 for the default, not {steps_per_block}.")
    if not isinstance(module, LitMLP):
        raise ValueError(
            f"in_blocks takes a LitMLP or a subclass, not {type(module).__name__}; compile it afterwards, if at all."
        )
    if not isinstance(module, _BlockStepping):
        module.__class__ = _stepping(type(module))  # type: ignore[assignment] # as torch's own parametrize and fully_shard do
    module.automatic_optimization = False
    stepping = cast(_BlockStepping, module)
    stepping.engine_name, stepping.chosen_steps_per_block = engine, steps_per_block
    return module


def _stepping(kind: type[LitMLP]) -> type["_BlockStepping"]:
    """Makes a class of the same name, in which everything but the stepping is the user's."""
    return type(kind.__name__, (_BlockStepping, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _unpickled(kind: type[LitMLP]) -> "_BlockStepping":
    return object.__new__(_stepping(kind))


class _BlockStepping(LitMLP):
    """The part of a module that `in_blocks` adds."""

    engine_name: EngineName
    chosen_steps_per_block: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self).__mro__[2],), self.__getstate__()  # its class is in no module, where pickle would look

    def steps_per_block(self, batch_size: int) -> int:
        """Returns the number of SGD steps that the data module hands out at once."""
        return self.chosen_steps_per_block or max(1, IMAGES_PER_BLOCK // batch_size)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if type(optimizer) is torch.optim.SGD and self.mlp.dtype in (torch.float32, torch.float64):
            for group in optimizer.param_groups:
                group["fused"] = True  # the same bits in one call instead of one per parameter; not so in half precision
        return optimizer

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if reason := why_single_steps(self, self.trainer):
            raise ValueError(f"{reason}; train the module without in_blocks.")
        trainer: Any = self.trainer
        batch_size = getattr(trainer.datamodule, "batch_size", None)
        if batch_size and trainer.log_every_n_steps:  # the Trainer would count blocks
            trainer.log_every_n_steps = max(1, trainer.log_every_n_steps // self.steps_per_block(batch_size))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if len(self.trainer.optimizers) != 1 or self.trainer.lr_scheduler_configs:
            raise ValueError("blocks of SGD steps take one optimizer and no learning-rate scheduler; train without in_blocks.")
        (optimizer,) = self.trainer.optimizers
        self.engine = self._make_engine(optimizer)  # each epoch anew: a callback may have set another learning rate

    def _make_engine(self, optimizer: torch.optim.Optimizer) -> Engine:
        if self.engine_name == "exact":
            return ExactEngine(self, optimizer)
        groups = optimizer.param_groups
        plain = torch.optim.SGD(self.mlp.parameters(), lr=groups[0]["lr"], fused=groups[0].get("fused")).param_groups
        if type(optimizer) is not torch.optim.SGD or _comparable(groups) != _comparable(plain):
            raise ValueError("engine fast replaces plain SGD only, but this module configures another optimizer; use exact.")
        attributes = {} if "training_step" in vars(self) else vars(self)  # torch.compile sets forward, too
        for name in ("batch_loss", "forward"):
            if name in attributes or getattr(type(self), name) is not getattr(LitMLP, name):
                raise ValueError(f"engine fast minimises cross-entropy only, but this module has another {name}; use exact.")
        from lit_mnist.engines.fast import FastEngine, refuse_hooks

        refuse_hooks(self, optimizer, *self.mlp.modules(), *self.mlp.parameters())
        return FastEngine(self.mlp, groups[0]["lr"], torch.get_num_threads())

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        loader, step, limit = self.trainer.train_dataloader, self.trainer.global_step, self.trainer.max_steps
        size = loader.batch_size if isinstance(loader, EpochLoader) else len(labels)
        if limit >= 0:
            images, labels = images[: (limit - step) * size], labels[: (limit - step) * size]
        # step by step, because a hook on a parameter may ask for the number; an engine without the optimizer at once
        with self.trainer.optimizers[0].register_step_post_hook(lambda *_: _count_steps(self.trainer, 1)):
            losses = self.engine.steps(images.to(self.mlp.dtype), labels, size)
        _count_steps(self.trainer, step + len(losses) - self.trainer.global_step)
        mean = losses.mean(dtype=torch.promote_types(losses.dtype, torch.float32))
        self.log("train/loss_step", mean, prog_bar=True)
        self.log("train/loss", mean, on_step=False, on_epoch=True, batch_size=len(losses), sync_dist=True)
        self._log_position()
        return {"loss": mean, "losses": losses}

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self._log_position()

    def on_train_end(self) -> None:
        super().on_train_end()
        # the x of what is tested next
        self.trainer.fit_loop.epoch_loop.on_load_checkpoint({"_batches_that_stepped": self.trainer.global_step})

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trainer.state.fn == "fit":
            self._log_position()

    def _log_position(self) -> None:
        # the x that loggers use, which would otherwise count blocks; beside a "step" the Trainer adds no epoch of its own
        position = {"step": float(self.trainer.global_step), "epoch": float(self.trainer.current_epoch)}
        self.log_dict(position, sync_dist=True)  # under ddp with one device Lightning would warn otherwise

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        _agree_on_steps(checkpoint)
        loader = self.trainer.train_dataloader
        if isinstance(loader, EpochLoader) and "MNISTDataModule" in checkpoint:  # max_steps may end within a block
            checkpoint["MNISTDataModule"]["batches_into_epoch"] = self.trainer.global_step % loader.steps_per_epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        _agree_on_steps(checkpoint)


def _count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Adds steps that bypassed the Trainer's optimizer wrapper to `global_step`."""
    total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    total.ready += steps
    total.completed += steps


def _agree_on_steps(checkpoint: dict[str, Any]) -> None:
    """Lets both of the Trainer's counters of SGD steps say the same, so that steps in blocks or single ones may follow."""
    loop, steps = checkpoint.get("loops", {}).get("fit_loop"), checkpoint["global_step"]
    if loop:
        loop["epoch_loop.manual_optimization.optim_step_progress"]["total"].update(ready=steps, completed=steps)
        loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"].update(
            ready=steps, completed=steps
        )
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps  # where loggers go on


def why_single_steps(module: LitMLP, trainer: pl.Trainer) -> str:
    """Says what needs the Trainer to perform each SGD step by itself; an empty string if nothing does."""
    connected: Any = trainer  # its connectors set attributes that its class does not declare
    options = {
        "several devices share each mini-batch": trainer.world_size > 1,
        "accumulate_grad_batches changes single SGD steps": trainer.accumulate_grad_batches != 1,
        "gradient_clip_val changes single SGD steps": bool(trainer.gradient_clip_val),
        "precision 16-mixed scales single SGD steps": trainer.scaler is not None,
    }
    options |= {f"{type(one).__name__} changes single SGD steps": isinstance(one, CHANGE_STEPS) for one in connected.callbacks}
    for name in ("fast_dev_run", "overfit_batches", "min_steps"):
        options[f"{name} counts single mini-batches"] = bool(getattr(connected, name))
    for name in ("limit_train_batches", "val_check_interval"):  # 1 is one batch, and 1.0 are all
        options[f"{name} counts single mini-batches"] = repr(getattr(connected, name)) != "1.0"
    for reason, holds in options.items():
        if holds:
            return reason
    own = next(kind for kind in type(module).__mro__ if not issubclass(kind, _BlockStepping))
    for owner, kind, base, hooks in (
        (module, own, LitMLP, MODULE_HOOKS),
        (connected.datamodule, type(connected.datamodule), pl.LightningDataModule, DATA_HOOKS),
        *((one, type(one), pl.Callback, CALLBACK_HOOKS) for one in connected.callbacks if not _works_in_blocks(one)),
        *((one, type(one), _of_lightning(one), PLUGIN_HOOKS) for one in (trainer.strategy, trainer.precision_plugin)),
    ):
        attributes = getattr(owner, "__dict__", {}).keys() - {"training_step"}  # which torch.compile sets
        for hook in hooks:
            if hook in attributes or getattr(kind, hook, None) not in (None, getattr(base, hook, None)):
                return f"{kind.__name__}.{hook} is called at every SGD step"
    return ""


def _of_lightning(plugin: object) -> type:
    return next(kind for kind in type(plugin).__mro__ if kind.__module__.startswith("pytorch_lightning"))


def _works_in_blocks(callback: pl.Callback) -> bool:
    if isinstance(callback, callbacks.ModelCheckpoint):
        return "'every_n_train_steps': 0" in callback.state_key and "'train_time_interval': None" in callback.state_key
    return isinstance(callback, callbacks.ProgressBar) or getattr(callback, "works_in_blocks", False)


def _comparable(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group | {"params": list(map(id, group["params"]))} for group in groups]

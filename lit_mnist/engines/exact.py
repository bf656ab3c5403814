"""SGD by autograd and the optimizer of torch: the bits of a plain PyTorch loop."""

from collections.abc import Callable, Iterator
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from lit_mnist.engines.blocks import Batch, Block


def exact_steps(module: pl.LightningModule, block: Block, loss_of: Callable[[Batch], Tensor]) -> Iterator[Tensor]:
    """Performs one SGD step per batch of a block, on any device, in any precision, in any number of processes.

    Args:
        module: Whose parameters its optimizer trains; in `training_step`.
        block: The batches.
        loss_of: The scalar to minimise, of a batch.

    Yields:
        The loss (1,) of each batch, after its step.
    """
    optimizer = cast(LightningOptimizer, module.optimizers())
    parameters = list(module.parameters())
    autocast = torch.is_autocast_enabled(module.device.type)
    # The Trainer's way around backward and step averages gradients over devices and scales those of float16. Where it
    # does neither it would only cost time: its hooks are called once per block, not per SGD step.
    direct = module.trainer.world_size == 1 and module.trainer.scaler is None
    for batch in block:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of(batch)
        if direct:
            loss.backward()
            optimizer.optimizer.step()
        else:
            module.manual_backward(loss)
            optimizer.step()
        if autocast:
            torch.clear_autocast_cache()  # it holds the weights as they were before this step
        yield loss.detach().view(1)

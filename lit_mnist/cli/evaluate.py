"""Measuring a trained run again: the commands validate and test."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_mnist.cli.command_line import CommandLine
from lit_mnist.data import MNISTDataModule
from lit_mnist.datasets.files import DATASETS
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.plots import as_png
from lit_mnist.record.atomic import write_durably
from lit_mnist.record.checkpoint import data_of, find_checkpoint, list_checkpoints
from lit_mnist.record.events import EventLog, event_files
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.mistakes import draw_confusion, draw_mistakes

SPLIT = ("batch_size", "dataset", "train_size", "val_size")
IMAGES_SUFFIX = ".test"  # of the event file that holds pictures, not points


def evaluate_run(command: str, options: list[str]) -> None:
    """Measures the network of `--ckpt_path` on the data that its run was configured with, and prints loss and accuracy.

    Args:
        command: validate or test.
        options: What follows it on the command line; they override the run's configuration.

    Raises:
        ValueError: There is no usable checkpoint, or nothing to validate on.
    """
    path = _checkpoint_asked_for(command, options)
    folder = RunFolder(path.parent.parent)
    trained_on = data_of(path)
    configured = ["--config", str(folder.config_path)] if folder.config else _options(trained_on)
    # on one device, however many the run had, so that every image is measured once and no other process has to start
    alone = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    all_images = ["--trainer.limit_val_batches", "1.0", "--trainer.limit_test_batches", "1.0"]
    command_line = CommandLine(command, [*configured, *alone, *all_images, *options])
    data, trainer = command_line.datamodule, command_line.trainer
    assert isinstance(data, MNISTDataModule)
    if trainer.world_size > 1:
        raise ValueError(f"{command} measures on one device, not on {trainer.world_size}.")
    for name in ("limit_val_batches", "limit_test_batches"):
        if repr(getattr(trainer, name)) != "1.0":  # 1 is one batch
            raise ValueError(f"{command} measures on every image; leave --trainer.{name} out.")
    model = LitMLP.load_from_checkpoint(path)
    if command == "validate":
        _check_held_out(data, trained_on)
    (measured,) = getattr(trainer, command)(model, datamodule=data, verbose=False)
    for tag, value in measured.items():
        print(f"{tag:>14}  {f'{100 * value:.2f} %' if tag.endswith('accuracy') else f'{value:.4f}'}")
    of_its_kind = data.dataset == trained_on.get("dataset")
    if command == "test" and of_its_kind and _is_the_result(path, folder) and trainer.is_global_zero:
        _show_mistakes(folder, model, data)


def _checkpoint_asked_for(command: str, options: list[str]) -> Path:
    given = None
    for option, following in pairwise([*options, ""]):
        name, equals, value = option.partition("=")
        if name == "--ckpt_path":
            given = value if equals else following
    if given:
        return find_checkpoint(Path(given))
    if "--help" in options or "-h" in options:
        CommandLine(command, options)  # prints it and exits
    raise ValueError(f"{command} needs --ckpt_path, a run folder or a checkpoint file.")


def _options(trained_on: dict[str, Any]) -> list[str]:
    """Those that give a network its data back, where there is no configuration of its run."""
    options = {f"--data.{name}": trained_on[name] for name in SPLIT if name in trained_on}
    if "seed" in trained_on:
        options["--seed_everything"] = trained_on["seed"]
    return [str(word) for option in options.items() for word in option]


def _check_held_out(data: MNISTDataModule, trained_on: dict[str, Any]) -> None:
    if not data.val_size:
        raise ValueError("the run held no images out of training (data.val_size is 0), so there is nothing to validate on.")
    for name in ("dataset", "val_size", "seed"):
        ours, theirs = getattr(data, name), trained_on.get(name)
        if trained_on and ours != theirs:
            raise ValueError(f"{name} is {ours}, but the network was trained with {theirs}: it may have seen these images.")


def _is_the_result(path: Path, folder: RunFolder) -> bool:
    """Whether the network is that of a finished run, so that pictures belong to its record."""
    return folder.is_finished and folder.config is not None and list_checkpoints(folder.path)[:1] == [path]


def _show_mistakes(folder: RunFolder, model: LitMLP, data: MNISTDataModule) -> None:
    """Draws the confusion matrix and the most confident mistakes into the run folder and TensorBoard's image tab."""
    logits, labels = _test_logits(model, data)
    images = torch.cat([images.cpu() for images, _ in data.test_dataloader()])
    classes = DATASETS[data.dataset].classes
    figures = {
        "confusion": draw_confusion(labels, logits.argmax(1), classes),
        "mistakes": draw_mistakes(images, labels, logits, classes),
    }
    for old in event_files(folder.path):
        if old.name.endswith(IMAGES_SUFFIX):
            old.unlink()  # of an earlier test: the tab should show each picture once
    events = EventLog(folder.path, filename_suffix=IMAGES_SUFFIX)
    for name, figure in figures.items():
        write_durably(folder.path / f"{name}.png", as_png(figure))
        print(f"{name:>14}  {folder.path / name}.png")
        events.log_figure(f"test/{name}", figure, step=0)
    events.close()


@torch.inference_mode()
def _test_logits(model: LitMLP, data: MNISTDataModule) -> tuple[Tensor, Tensor]:
    device, dtype = model.device, model.mlp.dtype  # the Trainer leaves the module on the CPU, in the run's precision
    with model.in_precision():
        batches = [(model(images.to(device, dtype)).cpu(), labels.cpu()) for images, labels in data.test_dataloader()]
    return torch.cat([logits for logits, _ in batches]), torch.cat([labels for _, labels in batches])

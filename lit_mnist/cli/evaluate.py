"""The commands validate and test: they measure a trained network again, on the data that its checkpoint names."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace

from lit_mnist.cli import DONE
from lit_mnist.cli.options import option_parser, parse
from lit_mnist.data import MNISTDataModule
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.plots import as_png, draw_confusion, draw_mistakes
from lit_mnist.record.atomic import write_together
from lit_mnist.record.checkpoint import TrainedNetwork, load_network, mapping_in, read_checkpoint
from lit_mnist.record.events import EventFile
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.progress import format_metric
from lit_mnist.training.train import make_trainer

PICTURES_SUFFIX = ".test"  # of the event file that holds pictures, not points


def validate(options: list[str]) -> int:
    """Measures loss and accuracy on the images that the run held out of training."""
    return _evaluate("validate", options)


def test(options: list[str]) -> int:
    """Measures loss and accuracy on every test image, and draws the mistakes."""
    return _evaluate("test", options)


def _evaluate(command: str, options: list[str]) -> int:
    if options and not options[0].startswith("-"):  # the run by itself, as `report` takes it
        options = ["--ckpt_path", *options]
    asked = parse(command, options)
    if not asked.ckpt_path:
        raise ValueError(f"{command} needs a run folder or a checkpoint file: lit_mnist {command} logs/lr0.1/version_0.")
    network = load_network(Path(asked.ckpt_path))
    checkpoint = read_checkpoint(network.path)
    # only plain values of the record are used; nothing that it says can name code to run
    config = parse(command, [*_options_of_run(checkpoint), *options])
    if command == "validate":
        _check_held_out(config, checkpoint)
    init = option_parser(command).instantiate_classes(config)
    data = init.data
    data.setup()
    model = LitMLP(**network.mlp.config())
    model.mlp = network.mlp
    if data.data.image_shape != network.mlp.image_shape or len(data.data.classes) != network.mlp.classes:
        raise ValueError(f"{config.data.dataset} has other images or classes than the network; name its own --data.dataset.")
    torch.set_num_threads(config.threads)
    trainer = make_trainer(init.trainer.as_dict(), enable_progress_bar=False)  # it is done in a second
    _check_trainer(command, trainer)
    (measured,) = getattr(trainer, command)(model, datamodule=data, verbose=False)
    if not all(map(math.isfinite, measured.values())):
        raise ValueError(f"{network.path} computes logits that are not finite in {trainer.precision}; it cannot be measured.")
    for tag, value in measured.items():
        print(f"{tag:>14}  {format_metric(tag, value)}")
    if command == "test":
        _show_mistakes(trainer, model, data, network, config.out)
    return DONE


def _options_of_run(checkpoint: dict[str, Any]) -> list[str]:
    """Returns the options under which the run of a checkpoint can be measured again."""
    data = mapping_in(checkpoint, "MNISTDataModule")
    values = {f"--data.{name}": data.get(name) for name in ("batch_size", "dataset", "root", "val_size")}
    values["--seed_everything"] = data.get("seed")
    values["--trainer.precision"] = mapping_in(checkpoint, "callbacks", "Recorder", "experiment").get("precision")
    # in one word each, so that a value that begins with a dash is not an option
    return [f"{name}={value}" for name, value in values.items() if isinstance(value, (str, int))]


def _check_held_out(config: Namespace, checkpoint: dict[str, Any]) -> None:
    if not config.data.val_size:
        raise ValueError(
            "the run held no images out of training (data.val_size is 0); train with --data.val_size 5000, or use test."
        )
    data = mapping_in(checkpoint, "MNISTDataModule")
    for name in ("dataset", "val_size", "seed"):  # which decide what images were held out
        ours, theirs = config.data[name], data.get(name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours}, but the network was trained with {theirs}: it may have seen these images.")


def _check_trainer(command: str, trainer: pl.Trainer) -> None:
    if trainer.world_size > 1:
        raise ValueError(f"{command} measures on one device, not on {trainer.world_size}; leave --trainer.devices out.")
    for name in ("limit_val_batches", "limit_test_batches"):
        if repr(getattr(trainer, name)) != "1.0":  # 1 is one batch
            raise ValueError(f"{command} measures on every image; leave --trainer.{name} out.")


def _show_mistakes(trainer: pl.Trainer, model: LitMLP, data: MNISTDataModule, network: TrainedNetwork, out: str) -> None:
    """Draws the confusion matrix and the most confident mistakes into a folder and TensorBoard's image tab."""
    run = RunFolder(network.path.parent.parent)
    is_the_result = run.is_finished and run.checkpoints[:1] == [network.path] and data.dataset == network.dataset
    if not out and not is_the_result:  # the pictures belong to the record of a finished run only
        return
    folder = Path(out) if out else run.path
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    with torch.inference_mode(), trainer.precision_plugin.val_step_context():
        logits = torch.cat([model(batch.to(model.device)).float().cpu() for batch, _ in data.test_dataloader()])
    figures = {
        "confusion": draw_confusion(labels.cpu(), logits.argmax(1), network.class_names),
        "mistakes": draw_mistakes(images.cpu(), labels.cpu(), logits, network.class_names),
    }
    pictures = {name: as_png(figure) for name, figure in figures.items()}
    write_together({folder / f"{name}.png": picture for name, picture in pictures.items()})
    for name in pictures:
        print(f"{name:>14}  {folder / name}.png")
    if not out:
        for old in run.event_files:
            if old.name.endswith(PICTURES_SUFFIX):
                old.unlink()  # of an earlier test: the tab should show each picture once
        events = EventFile(run.path, PICTURES_SUFFIX)
        for name, picture in pictures.items():
            events.add_png(f"test/{name}", picture, step=0)
        events.close()

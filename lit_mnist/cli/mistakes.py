"""Mistakes on the command line of fit, validate and test: one sentence each, with what to type instead."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lit_mnist.record.configs import SHIPPED

PLAIN_SGD = "training is plain SGD, and nothing changes its steps; use LitMLP with your own Trainer for that"
# Options of the Trainer that `fit` refuses, each with the reason.
REFUSED = {
    "gradient_clip_val": PLAIN_SGD,
    "gradient_clip_algorithm": PLAIN_SGD,
    "accumulate_grad_batches": PLAIN_SGD,
    "reload_dataloaders_every_n_epochs": "the images are in memory, and each epoch has an order of its own; leave it out",
    "overfit_batches": "use --data.train_size to train on a few images",
    "max_time": "the result of a run must not depend on the clock; use --trainer.max_epochs",
    "default_root_dir": "use --run_dir",
    "enable_checkpointing": "a checkpoint is saved at the end of every epoch; leave it out",
    "barebones": "the record of a run is kept; leave it out",
}
# What people type -> the option that does it, or a sentence that begins with a space.
MEANT = {
    "epochs": "trainer.max_epochs",
    "epoch": "trainer.max_epochs",
    "max-epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "learning_rate": "model.lr",
    "hidden_size": "model.hidden",
    "layers": "model.hidden",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "seed": "seed_everything",
    "gpus": "trainer.devices",
    "trainer.gpus": "trainer.devices",
    "num_processes": "trainer.devices",
    "trainer.num_processes": "trainer.devices",
    "trainer.tpu_cores": "trainer.devices",
    "trainer.resume_from_checkpoint": "ckpt_path",
    "trainer.checkpoint_callback": "trainer.callbacks",
    "trainer.progress_bar_refresh_rate": "trainer.enable_progress_bar",
    "trainer.weights_save_path": "run_dir",
    "trainer.auto_lr_find": " use Lightning's Tuner with LitMLP in Python.",
    "trainer.auto_scale_batch_size": " use Lightning's Tuner with LitMLP in Python.",
    "resume": "ckpt_path",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "out": "run_dir",
    "output": "run_dir",
    "device": "trainer.accelerator",
    "images": " pictures are for predict: lit_mnist predict RUN --images PATH.",
    "num_workers": " the images are in memory, so that no process need load them; leave it out.",
    "dropout": " the network has none; add it to MLP in lit_mnist/mlp.py.",
    "activation": " the network has ReLU; another one goes into MLP in lit_mnist/mlp.py.",
    "model.activation": " the network has ReLU; another one goes into MLP in lit_mnist/mlp.py.",
    "optimizer": " training is plain SGD; for another optimizer, override configure_optimizers of LitMLP in Python.",
    "momentum": " training is plain SGD; for another optimizer, override configure_optimizers of LitMLP in Python.",
    "weight_decay": " training is plain SGD; for another optimizer, override configure_optimizers of LitMLP in Python.",
    "lr_scheduler": " training is plain SGD; for a schedule, override configure_optimizers of LitMLP in Python.",
    "model.engine": "engine",
    "data.steps_per_block": "steps_per_block",
    "checkpoint_seconds": " a checkpoint is saved at the end of every epoch; leave it out.",
}


CLOSE = 0.75  # similarity of two names from which one may be a slip for the other
KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}


def one_sentence(message: str, defaults: Mapping[str, Any]) -> str:
    """Shortens what jsonargparse says over many lines: the option, what it takes, what it got, or which one was meant.

    Args:
        message: What the parser says.
        defaults: All its options, such as `model.lr`, with their default values.
    """
    text = _plain_words(message)
    for name, reason in REFUSED.items():
        if re.search(rf"\btrainer\.{name}\b", text):
            return f"--trainer.{name}: {reason}."
    if missing := re.search(r"Requirement '([\w-]+)", text):
        return f"this needs a package that is not installed: pip install {missing[1]}."
    if not_a_class := re.search(r"path but ([^\s\[{]\S*) either not accessible or invalid", text):
        option = re.match(r'Parser key "([^"]+)"', text)
        name = f"--{option[1]} " if option else ""
        known = "CSVLogger" if option and option[1] == "trainer.logger" else "EarlyStopping"
        return f"{name}{not_a_class[1]}: there is no such class; write one of Lightning's, such as {known}, or module.Class."
    text = _plain_words(_innermost(message))
    text = re.sub(r"^Group '([\w.]+)' does not accept option '([\w.-]+)'", r"Option '\1.\2' is not accepted", text)
    unknown = re.match(r"[Uu]nrecognized arguments: --([\w.-]+)|.*[Oo]ption ['\"]([\w.-]+)['\"] is not accepted", text)
    if unknown:
        name = unknown[1] or unknown[2]
        return f"there is no option --{name};{nearest(name, defaults)}"
    if stray := re.match(r"[Uu]nrecognized arguments: (\S+)", text):
        word = stray[1].removesuffix(".")
        meant = (
            f"did you mean --config {word}?" if word in SHIPPED else "an option takes one value; for several, use study --grid."
        )
        return f"{word} belongs to no option; {meant}"
    if without_value := re.match(r"argument (--[\w.]+): expected one argument", text):
        return f"{without_value[1]} needs a value, such as {without_value[1]} {_plain(defaults, without_value[1][2:])}."
    option = re.match(r'Parser key "([^"]+)": ?', text)
    name, text = (f"--{option[1]}: ", text[option.end() :]) if option else ("", text)
    expected = list(dict.fromkeys(re.findall(r"[Ee]xpected an? ([\w\[\]', -]+?)(?:\.| - | Given|$)", text)))
    value = re.search(r"(?:Given|Got) value: ?(.*?)\.?$", text)
    if option and option[1] == "model.hidden":
        text = "write the widths of the layers as 512,256."
    elif expected and value:
        kinds = " or ".join(KINDS.get(kind) or re.sub(r"^Literal\[(.*)\]$", r"\1", kind) for kind in expected)
        several = f"; for several values, use study --grid {option[1]}={value[1]}" if option and "," in value[1] else ""
        default = f" (default: {_plain(defaults, option[1])})" if option and option[1] in defaults else ""
        text = f"expected {kinds}{default}, not {value[1] or 'nothing'}{several}."
    return (name + text).rstrip(".") + "."


def _plain_words(message: str) -> str:
    text = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).split())
    return text.replace("typing.", "").replace("NoneType", "null")


def _innermost(message: str) -> str:
    """Returns what a message about an object with options of its own, such as a callback, says of one of these options."""
    head, _, errors = message.partition("Errors:\n")
    indent = " " * (len(errors) - len(errors.lstrip()))
    alternatives = errors.partition(f"\n{indent[2:]}Given value type")[0].removeprefix(f"{indent}- ").split(f"\n{indent}- ")
    reasons = [each for each in alternatives if each and not each.startswith(("Expected a", "Not a valid subclass"))]
    if not reasons:
        return message
    owner = re.match(r'Parser key "([\w.]+)"', head)
    option = f"{owner[1]}." if owner else ""
    if re.match(r"Option '|Parser key \"", reasons[0]):
        return re.sub(r"(Option '|Parser key \")", rf"\1{option}", reasons[0], count=1)
    made = re.search(r"class_path'?[=:] ?'(?:\w+\.)*(\w+)'", errors)
    name = f"--{owner[1]} {made[1]}" if owner and made else made[1] if made else option
    if missing := re.search(r"required: (\w+)|[Kk]ey \"(\w+)\" is required", reasons[0]):
        return f"{name} needs options of its own; add --{option}{missing[1] or missing[2]}."
    return f"{name}: {reasons[0]}"


def _plain(defaults: Mapping[str, Any], option: str) -> str:
    """The default of an option as it is typed."""
    return json.dumps(defaults.get(option), default=str).strip('"')


def nearest(name: str, names: Iterable[str]) -> str:
    """Says in the rest of a sentence which option was meant by a mistyped or shortened one."""
    meant = MEANT.get(name, MEANT.get(name.rpartition(".")[2], ""))
    if meant.startswith(" "):
        return meant
    if (owner := name.rpartition(".")[0]) in names:
        return f" see --{owner}.help CLASS for those of a class."
    by_end = {known.rpartition(".")[2]: known for known in names}
    close = difflib.get_close_matches(name, by_end.values(), 1, CLOSE) or [
        by_end[end] for end in difflib.get_close_matches(name.rpartition(".")[2], by_end, 1, CLOSE)
    ]
    found = meant or by_end.get(name) or (close[0] if close else "")
    return f" did you mean --{found}?" if found else " see --help for those that exist."

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
# An option, or a sentence that begins with a space <- what people type for it.
_TYPED = {
    "trainer.max_epochs": "epochs epoch max-epochs",
    "trainer.max_steps": "steps",
    "trainer.devices": "gpus trainer.gpus num_processes trainer.num_processes trainer.tpu_cores",
    "trainer.accelerator": "device",
    "trainer.callbacks": "trainer.checkpoint_callback",
    "trainer.enable_progress_bar": "trainer.progress_bar_refresh_rate",
    "model.lr": "learning_rate",
    "model.hidden": "hidden_size layers",
    "data.batch_size": "batch bs",
    "seed_everything": "seed",
    "ckpt_path": "resume checkpoint ckpt trainer.resume_from_checkpoint",
    "run_dir": "out output trainer.weights_save_path",
    "engine": "model.engine",
    "steps_per_block": "data.steps_per_block",
    " pictures are for predict: lit_mnist predict RUN --images PATH.": "images",
    " the images are in memory, so that no process need load them; leave it out.": "num_workers",
    " the network has none; add it to MLP in lit_mnist/mlp.py.": "dropout",
    " a checkpoint is saved at the end of every epoch; leave it out.": "checkpoint_seconds",
    " training is plain SGD; for a schedule, override configure_optimizers of LitMLP in Python.": "lr_scheduler",
    " training is plain SGD; for another optimizer, override configure_optimizers of LitMLP in Python.": (
        "optimizer momentum weight_decay"
    ),
    " the network has ReLU; another one goes into MLP in lit_mnist/mlp.py.": "activation model.activation",
    " use Lightning's Tuner with LitMLP in Python.": "trainer.auto_lr_find trainer.auto_scale_batch_size",
}
MEANT = {word: option for option, words in _TYPED.items() for word in words.split()}

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
        key = re.match(r'Parser key "([^"]+)"', text)
        name = f"--{key[1]} " if key else ""
        known = "CSVLogger" if "trainer.logger" in name else "EarlyStopping"
        return f"{name}{not_a_class[1]}: there is no such class; write one of Lightning's, such as {known}, or module.Class."
    text = _plain_words(_innermost(message))
    return _not_an_option(text, defaults) or _not_a_value(text, defaults)


def _not_an_option(text: str, defaults: Mapping[str, Any]) -> str:
    text = re.sub(r"^Group '([\w.]+)' does not accept option '([\w.-]+)'", r"Option '\1.\2' is not accepted", text)
    if unknown := re.match(r"[Uu]nrecognized arguments: --([\w.-]+)|.*[Oo]ption ['\"]([\w.-]+)['\"] is not accepted", text):
        name = unknown[1] or unknown[2]
        return f"there is no option --{name};{_nearest(name, defaults)}"
    if stray := re.match(r"[Uu]nrecognized arguments: (\S+)", text):
        word = stray[1].removesuffix(".")
        several = "an option takes one value; for several, use study --grid."
        return f"{word} belongs to no option; {f'did you mean --config {word}?' if word in SHIPPED else several}"
    return ""


def _not_a_value(text: str, defaults: Mapping[str, Any]) -> str:
    if without_value := re.match(r"argument --([\w.]+): expected one argument", text):
        return f"--{without_value[1]} needs a value, such as --{without_value[1]} {_plain(defaults, without_value[1])}."
    key = re.match(r'Parser key "([^"]+)": ?', text)
    option, text = (key[1], text[key.end() :]) if key else ("", text)
    expected = list(dict.fromkeys(re.findall(r"[Ee]xpected an? ([\w\[\]', -]+?)(?:\.| - | Given|$)", text)))
    value = re.search(r"(?:Given|Got) value: ?(.*?)\.?$", text)
    name = f"--{option}: " if option else ""
    if option == "model.hidden":
        text = "write the widths of the layers as 512,256"
    elif expected and value:
        kinds = " or ".join(KINDS.get(kind) or re.sub(r"^Literal\[(.*)\]$", r"\1", kind) for kind in expected)
        several = f"; for several values, use study --grid {option}={value[1]}" if option and "," in value[1] else ""
        default = f" (default: {_plain(defaults, option)})" if option in defaults else ""
        text = f"expected {kinds}{default}, not {value[1] or 'nothing'}{several}"
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
    """Returns the default of an option as it is typed."""
    return json.dumps(defaults.get(option), default=str).strip('"')


def _nearest(name: str, names: Iterable[str]) -> str:
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

"""Options as they are typed: names of configurations, shorthand, and the settings of a run that is named to be resumed."""

import json
import re
from pathlib import Path
from typing import Any

from lit_mnist.record.checkpoint import find_checkpoint
from lit_mnist.record.configs import find_config, read_config
from lit_mnist.record.folder import RunFolder

PLAIN_TRAINER_OPTIONS = (
    "max_epochs",
    "max_steps",
    "precision",
    "limit_train_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "devices",
)  # taken over from the run that --ckpt_path names


def completed(command: str, options: list[str]) -> list[str]:
    """Replaces the names of shipped configurations by their files, and shorthand values by what the parser takes."""
    completed, name = [], ""
    for option in options:
        if not name and (hyphens := re.match(r"(-(?=[a-zA-Z]{2})|[\u2013\u2014]-?)(\w+)", option)):
            raise ValueError(f"{option}: an option begins with two hyphens, --{hyphens[2]}.")
        if option.startswith("--") or option == "-c":
            name, equals, value = option.partition("=")
            option = f"{name}={_value(name, value)}" if equals else option
        else:
            option, name = _value(name, option), ""
        completed.append(option)
    named = [option.partition("=")[0] for option in completed]
    if command == "fit" and "--ckpt_path" in named and "--config" not in named and "-c" not in named:
        at = named.index("--ckpt_path")
        path = completed[at].partition("=")[2] or "".join(completed[at + 1 : at + 2])
        completed = [*_options_of_run(path), *completed]
    return completed


def _value(name: str, value: str) -> str:
    if name in ("--config", "-c"):
        return _found(value)
    if name == "--model.hidden" and re.fullmatch(r"\d+(,\d+)*,?", value):  # 128 or 128,64
        return f"[{value}]"
    return value


def _options_of_run(path: str) -> list[str]:
    """Returns the settings of a run that `--ckpt_path` names, so that it is resumed without typing them again.

    Only plain values are taken from its config.yaml.

    Raises:
        ValueError: The run has settings that name code, which must be typed.
    """
    if path == "last" or not path:
        return []
    config = RunFolder(find_checkpoint(Path(path)).parent.parent).config or {}
    options = {name: config.get(name) for name in ("seed_everything", "threads", "name", "test_every_epoch", "engine")}
    options |= {f"{group}.{name}": value for group in ("model", "data") for name, value in _items(config.get(group))}
    trainer = dict(_items(config.get("trainer")))
    options |= {f"trainer.{name}": trainer.get(name) for name in PLAIN_TRAINER_OPTIONS}
    for name in ("callbacks", "plugins"):
        if trainer.get(name):
            raise ValueError(f"{path} was trained with --trainer.{name}, which names code; give it and --config again.")
    linked = ("model.seed", "data.seed", "model.image_shape", "model.classes")
    plain = {name: value for name, value in options.items() if value is not None and name not in linked}
    return [word for name, value in plain.items() for word in (f"--{name}", json.dumps(value).strip('"'))]


def _items(group: Any) -> Any:
    return group.items() if isinstance(group, dict) else ()


def _found(config: str) -> str:
    path = find_config(config)
    read_config(path)
    return str(path)


def without(options: list[str], *names: str) -> list[str]:
    """Returns the options without those named and their values."""
    kept, skip = [], False
    for option in options:
        if not skip and option.split("=")[0] not in names:
            kept.append(option)
        skip = not skip and option in names
    return kept

"""Settings of a run: what a config file holds, an option of `fit` changes, and two files are compared by."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from lit_mnist.record.configs import NOT_YAML

Settings = dict[str, Any]  # nested by the dots of the option: {"model": {"lr": 0.1}}

# What the study itself decides for each run.
RESERVED = {
    "config": "name config files with --configs",
    "run_dir": "name the study's folder with --out",
    "seed_everything": "name seeds with --seeds",
    "threads": "a run has one thread, so that each core trains a run of its own",
    "name": "a configuration is called after its file and its grid values",
    "ckpt_path": "a run continues from its own checkpoint",
    "print_config": "look at the written config files, or use --dry-run",
}
OPTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def parse_value(text: str) -> Any:
    """The value of `text`: a number, true, false, null, a [list] or {dict} in YAML, else text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    if text in ("true", "false", "null") or text.startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except NOT_YAML:
            raise ValueError(f"{text!r} is no list or dict in YAML: look for a missing bracket.") from None
    return text


def parse_option(option: str) -> str:
    """`option` itself, when it is one that `fit` may know and the study does not set."""
    if not OPTION.fullmatch(option):
        raise ValueError(f"{option!r} is no option of fit: write it like model.lr.")
    if option in RESERVED:
        raise ValueError(f"The study sets {option} itself: {RESERVED[option]}.")
    return option


def parse_options(arguments: Sequence[str]) -> Settings:
    """Options for every run, `--model.lr 0.1` or `--model.lr=0.1`, as {"model.lr": 0.1}, not yet nested.

    Raises:
        ValueError: An argument is no option, has no value, or is one that the study sets itself.
    """
    options: Settings = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise ValueError(f"{argument!r} belongs to no option (see python -m lit_mnist study --help).")
        name, equals, text = argument[2:].partition("=")
        parse_option(name)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{name} needs a value.")
            text = rest.pop(0)
        options[name] = parse_value(text)
    return options


def merged(settings: Settings, options: Settings) -> Settings:
    """`settings` with each dotted option put in its nested place; `settings` itself stays as it is."""
    result = copy.deepcopy(settings)
    for option, value in options.items():
        *path, name = option.split(".")
        inner = result
        for key in path:
            if inner.get(key) is None:
                inner[key] = {}
            inner = inner[key]
            if not isinstance(inner, dict):
                raise ValueError(f"--{option}: the config says {key}: {inner!r}, which has no settings of its own.")
        inner[name] = value
    return result


def flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings as (dotted option, value) pairs."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def difference(old: Settings, new: Settings) -> str:
    """The first setting in which two configs differ, with both values; "" when there is none."""
    before, after = dict(flat(old)), dict(flat(new))
    for option in sorted(before.keys() | after.keys(), key=str):
        left, right = (repr(side[option]) if option in side else "unset" for side in (before, after))
        if left != right:
            return f"{option} was {left} and is now {right}"
    return ""

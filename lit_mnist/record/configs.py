"""Configuration files: the shipped ones, found by name, and the options in one."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from lit_mnist.record.atomic import read_regular

NOT_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # impossible dates and deep nesting, too
SHIPPED = ("lr0.1", "lr1", "lr0.01", "batch8", "batch128")
LARGEST_CONFIG = 100_000  # bytes; the resolved configuration of a run has 2,000
MOST_BRACKETS, MOST_ITEMS = 300, 2_000  # the parser's time grows with the square of their depth


def configs_folder() -> Path:
    """Returns `configs/` beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def find_config(name_or_path: str) -> Path:
    """Finds a configuration file by its path, or a shipped one by its name.

    Raises:
        ValueError: Neither exists.
    """
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path
        shipped = configs_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
        written = (shipped.stem, shipped.name, f"configs/{shipped.name}")  # the last in any folder, as README has it
        if shipped.stem in SHIPPED and str(path) in written:
            return shipped
    except (OSError, ValueError):  # a name that no file can have
        pass
    near = difflib.get_close_matches(name_or_path, SHIPPED, 1)
    hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(SHIPPED)})."
    if "," in name_or_path:
        hint = f"; write several with spaces between them: {name_or_path.replace(',', ' ')}."
    elif path.is_dir():
        hint = f"; to use the settings of a run, name its file: {path / 'config.yaml'}."
    raise ValueError(f"config {name_or_path} is neither a file nor one of the shipped configurations{hint}")


def read_config(path: Path) -> dict[str, Any]:
    """Reads the options in a configuration file.

    Raises:
        ValueError: It cannot be read, is not YAML, holds no options, or is larger than 100 kB.
    """
    try:
        content = read_regular(path, LARGEST_CONFIG)
    except ValueError as fault:
        raise ValueError(f"config {path}: {fault}; name a file of options.") from None
    try:
        options = parse_yaml(content.decode("utf-8"))
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"config {path} is not YAML{line}: write lines such as `seed_everything: 1`.") from None
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"config {path} holds no options, which would be lines such as `seed_everything: 1`.")
    return options


class _Plain(yaml.SafeLoader):
    """Reads plain values only; tuples, which Lightning writes among hyperparameters, become lists."""


_Plain.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: list(loader.construct_sequence(node)))  # type: ignore[arg-type]


def parse_yaml(text: str) -> Any:
    """Parses plain YAML values. Anchors are refused: nested ones grow without bound.

    Raises:
        One of NOT_YAML.
    """
    if text.count("[") + text.count("{") > MOST_BRACKETS or text.count("- ") + text.count("? ") > MOST_ITEMS:
        raise ValueError("it is nested too deep")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("aliases are not allowed")
    return yaml.load(text, _Plain)  # a safe loader

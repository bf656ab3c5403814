"""Configuration files: the shipped ones, found by name, and what is in one."""

from pathlib import Path
from typing import Any

import yaml

NOT_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # of dates that are none, and deep nesting, too
SHIPPED = ("lr0.1", "lr1", "lr0.01", "batch8", "batch128")


def configs_folder() -> Path:
    """`configs/` beside the package in a checkout, inside it once installed."""
    installed = Path(__file__).parent.parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent.parent / "configs"


def find_config(name_or_path: str) -> Path:
    """A configuration file, or the shipped one of that name.

    Raises:
        ValueError: Neither exists.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = configs_folder() / f"{name_or_path}.yaml"
    if name_or_path in SHIPPED and shipped.is_file():
        return shipped
    raise ValueError(f"config {name_or_path} is neither a file nor one of the shipped {', '.join(SHIPPED)}.")


def read_config(path: Path) -> dict[str, Any]:
    """The options in a configuration file.

    Raises:
        ValueError: It holds none, or cannot be read.
    """
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config {path} cannot be read: {error.strerror}.") from None
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"config {path} is not YAML{f', line {mark.line + 1}' if mark else ''}.") from None
    if not isinstance(options, dict):
        raise ValueError(f"config {path} holds no options, which would be lines such as `seed_everything: 1`.")
    return options

"""Grids: options with several values each, and a name for each point."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from lit_mnist.study.settings import Settings, parse_option, parse_value

Grid = dict[str, list[Any]]  # {"model.lr": [0.01, 0.1]}


def split_values(text: str) -> list[str]:
    """`text` cut at the commas outside brackets: "[512,256],[64]" has two values."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse_grid(axes: Sequence[str]) -> Grid:
    """The grid that arguments like "model.lr=0.01,0.1" span, in their order.

    Raises:
        ValueError: An axis has no values, an empty one or one twice, or its option is none for a study.
    """
    grid: Grid = {}
    for axis in axes:
        option, equals, text = axis.removeprefix("--").partition("=")
        if not equals:
            raise ValueError(f"--grid {axis}: write an option and its values, like model.lr=0.01,0.1.")
        if option in grid:
            raise ValueError(f"--grid names {option} twice: put all its values after one equals sign.")
        values = split_values(text)
        if "" in values:
            raise ValueError(f"--grid {axis}: a value is missing.")
        grid[parse_option(option)] = [parse_value(value) for value in values]
    return grid


def points(grid: Grid) -> list[Settings]:
    """Every combination of the values, as dotted options, the last axis fastest; no axes give one point."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def point_name(point: Settings) -> str:
    """A name like the shipped ones: {"model.lr": 0.1, "data.batch_size": 8} is "lr0.1-batch8"."""
    names = []
    for option, value in point.items():
        label = option.rpartition(".")[2].removesuffix("_size")
        number = "x".join(map(str, value)) if isinstance(value, list) else str(value)
        names.append(label + re.sub(r"[^A-Za-z0-9.-]+", "_", number.replace("+", "")))
    return "-".join(names)

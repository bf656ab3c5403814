"""The shipped configurations, found by name."""

from pathlib import Path

SHIPPED = ("lr0.1", "lr1", "lr0.01", "batch8", "batch128")


def configs_folder() -> Path:
    """`configs/` beside the package in a checkout, inside it once installed."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


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

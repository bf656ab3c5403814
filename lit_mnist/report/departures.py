"""Settings of a run's config.yaml that make it another experiment than the hyperparameters in its result.json say."""

from collections.abc import Mapping
from typing import Any

# What each is, as text, where nothing is asked for. What a callback or a plugin does to training, only its author knows.
PLAIN = {
    "precision": ("None", "32-true", "32"),
    "max_steps": ("None", "-1"),
    "max_time": ("None",),
    "limit_train_batches": ("None", "1.0"),
    "overfit_batches": ("None", "0.0", "0"),
    "callbacks": ("None", "[]"),
    "plugins": ("None", "[]"),
}
UNSHARED = "devices, each with its own batch"
BLOCKS = "steps per block"
DEPARTURES = (*PLAIN, UNSHARED, BLOCKS)  # every key that `departures` may give


def departures(settings: Mapping[str, Any]) -> dict[str, str]:
    """Those that differ from what they are without being asked for, as text: 1 block is not the share 1.0 of them.

    Args:
        settings: The content of a config.yaml; whatever is not in it is what it is without being asked for.
    """
    said = {key: str(find_setting(settings, "trainer", key)) for key in PLAIN}
    found = {key: value for key, value in said.items() if value not in PLAIN[key]}
    devices = str(find_setting(settings, "trainer", "devices"))
    if find_setting(settings, "data", "split_batch") is False and devices not in ("None", "1"):
        found[UNSHARED] = devices
    block = find_setting(settings, "data", "steps_per_block")
    if "limit_train_batches" in found and block:
        found[BLOCKS] = str(block)  # the limit counts them
    return found


def find_setting(settings: Any, *keys: str) -> Any:
    """What stands under these keys, each within the one before; None where it is not said."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings

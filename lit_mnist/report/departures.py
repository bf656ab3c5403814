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
BLOCKS = "steps_per_block"
DEPARTURES = (*PLAIN, UNSHARED, BLOCKS)  # every key that `departures` may give


def departures(settings: Mapping[str, Any]) -> dict[str, str]:
    """Those that differ from what they are without being asked for, as text: 1 block is not the share 1.0 of them.

    Args:
        settings: The content of a config.yaml; whatever is not in it is what it is without being asked for.
    """
    trainer, data = _section(settings, "trainer"), _section(settings, "data")
    found = {key: str(trainer.get(key)) for key, plain in PLAIN.items() if str(trainer.get(key)) not in plain}
    devices = str(trainer.get("devices", 1))
    if data.get("split_batch") is False and devices != "1":
        found[UNSHARED] = devices
    if "limit_train_batches" in found and data.get(BLOCKS):
        found[BLOCKS] = str(data[BLOCKS])  # the limit counts blocks
    return found


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, Mapping) else {}

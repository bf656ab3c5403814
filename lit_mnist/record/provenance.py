"""Provenance of a number: versions, machine, commit, and the fingerprint of trained weights."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lit_mnist import __version__

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "tensorboard", "numpy")


@cache
def versions() -> dict[str, str]:
    """Returns the version of Python and of each package that can change a result."""
    found = {package.replace("-", "_"): version(package) for package in PACKAGES}
    return {"lit_mnist": __version__, "python": platform.python_version(), **found}


def machine() -> dict[str, str | int]:
    """Describes this machine: processor, logical cores and operating system."""
    return {"cpu": _processor(), "cores": os.cpu_count() or 1, "system": platform.platform(terse=True)}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Returns the hash of the commit that the package runs from, with "-dirty" if files have changed; None outside git."""
    package = Path(__file__).parent.parent
    if not (package.parent / ".git").exists():
        return None
    describe = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # a checkout on a machine without git
        return None


def weights_sha256(state: "Mapping[str, Tensor]") -> str:
    """Returns the SHA-256 of the names and bytes of all weights: equal if and only if every bit is."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        plain_bytes = state[name].detach().cpu().contiguous().view(torch.uint8)  # numpy knows no bfloat16
        digest.update(plain_bytes.numpy().tobytes())
    return digest.hexdigest()

"""Where a number comes from: versions, machine, commit, and the fingerprint of trained weights."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from lit_mnist import __version__

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "tensorboard", "numpy")


@cache
def versions() -> dict[str, str]:
    """Version of Python and of each package that can change a result."""
    found = {package.replace("-", "_"): version(package) for package in PACKAGES}
    return {"lit_mnist": __version__, "python": platform.python_version(), **found}


def machine() -> dict[str, str | int]:
    """Processor, logical cores and operating system."""
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
    """Hash of the commit that the package was run from, "-dirty" behind it if files were changed since; None outside git."""
    package = Path(__file__).parent.parent
    if not (package.parent / ".git").exists():
        return None
    describe = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # a checkout copied to where there is no git
        return None


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of all weights: equal if and only if every bit is."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        plain_bytes = state[name].detach().cpu().contiguous().view(torch.uint8)  # numpy knows no bfloat16
        digest.update(plain_bytes.numpy().tobytes())
    return digest.hexdigest()

"""What the tests share: one thread, the data published once, and the published order written a second time."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes of two threads on two cores would be 80 times slower

import pytest
import torch

from lit_mnist.datasets.files import DEFAULT_ROOT, prepare

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The default data folder, with MNIST in it."""
    prepare("MNIST", DEFAULT_ROOT)
    return DEFAULT_ROOT


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

"""Lets every test run on one thread, and gives it an empty working directory where it asks for one."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes of two threads on two cores would be 80 times slower

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

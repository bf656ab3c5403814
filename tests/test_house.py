"""The source itself: who may import whom, the public names, what importing does to a process, the shipped configurations."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lit_mnist
from lit_mnist.record.configs import SHIPPED, find_config

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "lit_mnist"
# Each floor may import those below it; the rooms of one floor do not know each other.
FLOORS = "mlp | record plots | datasets | lit_mlp data | engines | training | cli | runs"
BESIDE = {  # these stand beside the floors
    "predict": "mlp record plots datasets lit_mlp cli",
    "study": "record plots cli training report",
    "report": "record plots cli",
    "insight": "mlp record plots datasets lit_mlp data report cli",
}
NO_TORCH = ("study", "report", "record")


def rooms_imported_by(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[1] for name in names if name.startswith("lit_mnist.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_lower_floors_only(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    below: list[str] = []
    for floor in FLOORS.split("|"):
        if room in floor.split():
            allowed = [room, *below, *(BESIDE if room == "runs" else [])]
            assert rooms_imported_by(path) <= set(allowed)
        below += floor.split()
    if room in BESIDE:
        assert rooms_imported_by(path) <= {room, *BESIDE[room].split()}


@pytest.mark.parametrize("room", NO_TORCH)
def test_what_only_reads_and_starts_runs_imports_no_torch(room: str) -> None:
    modules = [
        f"lit_mnist.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}" for path in (PACKAGE / room).glob("*.py")
    ]
    program = f"import sys, {', '.join(module.removesuffix('.__init__') for module in modules)}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_importing_everything_changes_nothing_in_the_process() -> None:
    program = """
import logging, os, signal, sys, threading, warnings
import torch, pytorch_lightning, torchmetrics, matplotlib, jsonargparse, tensorboard, rich, yaml, scipy.stats, torchvision
from torch.utils import tensorboard
import pytorch_lightning.cli, tqdm, msgspec, PIL.Image, scipy.ndimage
def state():
    return (dict(os.environ), list(warnings.filters), threading.excepthook, threading.active_count(), sys.excepthook,
            [logging.getLogger(name).level for name in ("", "pytorch_lightning", "lightning_fabric", "lit_mnist")],
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)],
            torch.get_num_threads())
before = state()
import lit_mnist
for name in lit_mnist.__all__:
    getattr(lit_mnist, name)
import lit_mnist.cli.fit, lit_mnist.cli.evaluate, lit_mnist.study, lit_mnist.report, lit_mnist.predict.export
after = state()
print([one == other for one, other in zip(before, after)])
"""
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert "False" not in printed, printed


def test_the_public_names_are_there_and_none_is_that_of_a_room() -> None:
    for name in lit_mnist.__all__:
        assert getattr(lit_mnist, name) is not None
    assert not set(lit_mnist.__all__) & {path.name for path in PACKAGE.iterdir() if path.is_dir()}


def test_importing_the_package_alone_takes_no_library() -> None:
    program = "import lit_mnist, sys; print(sorted({'torch', 'numpy', 'matplotlib', 'yaml', 'msgspec'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_short_and_says_how_to_launch_it(name: str) -> None:
    text = find_config(name).read_text()
    assert len(text.splitlines()) <= 25
    assert f"fit --config configs/{name}.yaml" in text
    assert set(yaml.safe_load(text)) == {"model", "data"}


def test_sizes_of_mnist_are_written_in_the_registry_alone() -> None:
    for path in PACKAGE.rglob("*.py"):
        code = "\n".join(ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        # version 1.0 knew no other shape, and its results do not say it
        if path.name != "registry.py" and path != PACKAGE / "report" / "load.py":
            assert not re.search(r"^(28|784)$", code, re.MULTILINE), path


def test_no_file_of_the_package_is_ignored_by_git() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "lit_mnist", "configs", "tests"]
    ignored = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [line for line in ignored.stdout.splitlines() if "__pycache__" not in line] == []

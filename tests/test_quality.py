"""The source itself: format, lint, types, the layers of the import order, the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lit_mnist
from lit_mnist.record.configs import SHIPPED, find_config

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "lit_mnist"

# each may import those before it and none after it
LAYERS = (
    {"block", "checksums", "command", "config", "curves", "divergence", "durable", "event_log", "idx", "ink", "mlp", "outcome"},
    {"picture_files", "products", "progress", "provenance", "signals"},
    {"catalogue", "exact_engine", "fast_engine", "images", "measures", "mistakes", "options", "position", "processes"},
    {"checkpoint", "publication", "sheet"},
    {"dataset", "lit_mlp", "run_folder"},
    {"data", "export", "predict"},
    {"record"},
    {"run"},
    {"result", "same_experiment", "command_line"},
    {"training", "evaluation"},
    {"fit"},
    {"cli"},
)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]], ids=" ".join)
def test_the_source_passes(command: list[str]) -> None:
    checked = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def imported_by(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[1] for name in names if name.startswith("lit_mnist.")}


def test_every_module_has_its_layer() -> None:
    assert sum(map(len, LAYERS)) == len(set().union(*LAYERS))
    assert set().union(*LAYERS) == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}


@pytest.mark.parametrize("below", range(len(LAYERS)))
def test_no_layer_imports_one_above_it(below: int) -> None:
    above = set().union(*LAYERS[below + 1 :])
    for module in LAYERS[below]:
        assert not imported_by(module) & above, module


def test_the_model_and_the_data_do_not_know_each_other() -> None:
    assert "data" not in imported_by("lit_mlp")
    assert "lit_mlp" not in imported_by("data")


def test_the_public_names_are_there() -> None:
    assert set(lit_mnist.__all__) == {"MLP", "Diverged", "LitMLP", "MNISTDataModule", "__version__", "predict_images"}
    for name in lit_mnist.__all__:
        assert getattr(lit_mnist, name) is not None


def test_importing_the_package_alone_imports_no_torch() -> None:
    program = (
        "import lit_mnist, lit_mnist.cli.main, sys; print(sorted({'torch', 'numpy', 'matplotlib', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_short_and_says_how_to_launch_it(name: str) -> None:
    text = find_config(name).read_text()
    assert len(text.splitlines()) <= 25
    assert f"fit --config configs/{name}.yaml" in text
    settings = yaml.safe_load(text)
    assert set(settings) == {"model", "data"}
    assert settings["data"]["val_size"] == 0


def test_no_file_of_the_package_is_ignored_by_git() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout")
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "lit_mnist", "configs", "tests"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [path for path in ignored if "__pycache__" not in path] == []

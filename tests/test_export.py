import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_mnist.cli.main import main
from lit_mnist.datasets.files import load
from lit_mnist.mlp import MLP
from lit_mnist.predict import export
from lit_mnist.record.checkpoint import TrainedNetwork, load_network

SETTINGS = ["--trainer.max_epochs", "1", "--data.train_size", "2000", "--threads", "1"]

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A barely trained network of another shape than the default."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--config", "lr0.1", "--model.hidden", "[40]", "--run_dir", str(folder), *SETTINGS]) == 0
    return folder


@pytest.fixture(scope="module")
def onnx_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="comes with the extra onnx")
    file = tmp_path_factory.mktemp("models") / "model.onnx"
    assert main(["export", "--ckpt_path", str(run), "--to", str(file)]) == 0
    return file


def test_the_onnx_file_computes_what_the_network_does_for_any_number_of_images(run: Path, onnx_file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx_file)
    images = load().test[0].unsqueeze(1).float() / 255
    for count in (1, 2, 7, 1000):
        (logits,) = session.run(["logits"], {"images": images[:count].numpy()})
        with torch.inference_mode():
            expected = load_network(run).mlp(images[:count]).numpy()
        assert logits.shape == (count, 10)
        assert np.abs(logits - expected).max() < 1e-4
    assert session.get_inputs()[0].shape == ["N", 1, 28, 28]


def test_the_onnx_file_says_what_goes_in_and_holds_no_path_of_this_machine(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    notes = {note.key: note.value for note in model.metadata_props}
    assert notes["input"].startswith("images (N, 1, 28, 28) float32 in [0, 1]: 0 background, 1 ink")
    assert notes["output"].startswith("logits (N, 10)")
    assert notes["hidden"] == "[40]"
    assert notes["dataset"] == "MNIST"
    assert json.loads(notes["class_names"])[7] == "7"
    assert "[0, 1]" in model.doc_string
    content = onnx_file.read_bytes()
    for path in (str(Path(torch.__file__).parent), str(Path(export.__file__).parent), "site-packages", ".py"):
        assert path.encode() not in content


WITHOUT_TORCH = """
import sys
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
image = np.asarray(Image.open(sys.argv[2]).convert("L"), dtype=np.float32) / 255
(logits,) = session.run(["logits"], {"images": image.reshape(1, 1, *image.shape)})
print(int(logits.argmax()))
assert not {"torch", "lit_mnist"} & set(sys.modules)
"""


def test_the_onnx_file_runs_without_torch_or_this_package(onnx_file: Path, run: Path, tmp_path: Path) -> None:
    from PIL import Image

    images = load().test[0]
    with torch.inference_mode():
        expected = int(load_network(run).mlp(images[:1].unsqueeze(1).float() / 255).argmax())
    Image.fromarray(images[0].numpy()).save(tmp_path / "digit.png")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(onnx_file), str(tmp_path / "digit.png")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert told == f"{expected}\n"


def test_a_file_that_computes_something_else_is_refused(onnx_file: Path, run: Path) -> None:
    trained = load_network(run)
    other = TrainedNetwork(MLP((28, 28), 10, (40,)).eval(), trained.path, "MNIST", trained.class_names)
    images = r"[\d,]+ of 1,000 random images"
    with pytest.raises(ValueError, match=f"was not written: on {images} it would give another class"):
        export._compare(other, onnx_file.read_bytes())


def test_other_image_shapes_and_classes_are_exported_too(workplace: Path) -> None:
    pytest.importorskip("onnxscript", reason="comes with the extra onnx")
    network = TrainedNetwork(MLP((8, 6), 3, (4,)).eval(), Path(), "./mine", ("a", "b", "c"))
    content, sentence = export.onnx_content(network)
    assert sentence.startswith("same class as the network on all 1,000 random images")
    assert b"images (N, 1, 8, 6) float32" in content
    assert b'["a", "b", "c"]' in content


def test_safetensors_holds_every_weight_bit_for_bit_with_its_description(run: Path, workplace: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="comes with the extra safetensors")
    assert main(["export", "--ckpt_path", str(run), "--to", "model.safetensors"]) == 0
    with safetensors.safe_open(workplace / "model.safetensors", "pt") as file:
        description = json.loads(file.metadata()["description"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    network = MLP(description["image_shape"], description["classes"], description["hidden"])
    network.load_state_dict(weights)
    trained = load_network(run).mlp.state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in network.state_dict().items())
    assert "[0, 1]" in description["input"]
    assert [path.name for path in workplace.iterdir()] == ["model.safetensors"]


def test_an_earlier_export_is_replaced_and_nothing_else(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    target = workplace / "model.safetensors"
    for _ in range(2):
        assert main(["export", str(run), "--to", str(target)]) == 0
    target.write_bytes(b"a thesis")
    assert main(["export", str(run), "--to", str(target)]) == 2
    assert "exists and is not an earlier export" in capsys.readouterr().err
    assert target.read_bytes() == b"a thesis"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("model.pt", "--to model.pt: the name must end in .onnx or .safetensors."),
        ("model", "--to model: the name must end in .onnx or .safetensors."),
        ("folder.safetensors", "folder.safetensors: Is a directory."),
        ("file/model.safetensors", "file/model.safetensors: "),
        ("/proc/model.safetensors", "/proc/model.safetensors: "),
    ],
)
def test_a_bad_target_is_one_sentence_and_exit_code_2(
    target: str, sentence: str, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "folder.safetensors").mkdir()
    (workplace / "file").touch()
    assert main(["export", "--ckpt_path", str(run), "--to", target]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"lit_mnist: {sentence}")
    assert complaint.count("\n") == 1
    assert sorted(path.name for path in workplace.iterdir()) == ["file", "folder.safetensors"]


@pytest.mark.parametrize("suffix", export.NEEDED)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(suffix: str, tmp_path: Path) -> None:
    # -S: a Python without any installed package
    command = [sys.executable, "-S", "-m", "lit_mnist", "export", "run", "--to", f"model{suffix}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(export.__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert result.stderr == (
        f"lit_mnist: --to model{suffix} needs packages that are not installed, "
        f'{", ".join(export.NEEDED[suffix])}: pip install "lit_mnist[{suffix[1:]}]".\n'
    )
    assert result.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_none_is_one_sentence_and_exit_code_2(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    (workplace / "foreign.ckpt").write_text("no checkpoint")
    for checkpoint in ("nowhere", "foreign.ckpt", "."):
        assert main(["export", "--ckpt_path", checkpoint, "--to", "model.safetensors"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["foreign.ckpt"]


def test_help_fits_a_screen_and_is_quick() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "lit_mnist", "export", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5
    assert len(result.stdout.splitlines()) <= 30
    assert "torch" not in result.stderr

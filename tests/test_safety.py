"""Files of somebody else and odd surroundings: nothing runs, nothing is overwritten, a command works or says why not."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forgeries import altered
from kills import Experiment
from victim import Victim, command

from lit_mnist.cli.main import main
from lit_mnist.record.checkpoint import find_checkpoint, read_checkpoint

EXPERIMENT = Experiment(32, val_size=500, epochs=1)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="users and streams as on Linux")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (victim,) = EXPERIMENT.start(folder)
    assert victim.wait() == 0, victim.stderr
    return folder / "run"


@pytest.fixture
def run(finished: Path, workplace: Path) -> Path:
    """A copy of a finished run, in the working directory."""
    return Path(shutil.copytree(finished, workplace / "run"))


PROOF = "the code has run"
CODE = f"""
import pathlib
pathlib.Path({PROOF!r}).touch()
class Evil:
    def __init__(self, *arguments, **options): pathlib.Path({PROOF!r}).touch()
"""


@pytest.mark.parametrize("call", ["test", "validate", "fit"])
def test_no_configuration_of_a_run_names_code_that_runs(
    call: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("evil.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("callbacks", "logger", "profiler", "plugins"):
        config["trainer"][key] = {"class_path": "evil.Evil"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    options = EXPERIMENT.options[1:] if call == "fit" else ["--ckpt_path", "run"]
    if call == "fit":
        (run / "result.json").unlink()
    assert main([call, *options]) == 0, capsys.readouterr().err
    assert not Path(PROOF).exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("MNISTDataModule", "dataset"), "--config=evil.yaml"),
        (("MNISTDataModule", "dataset"), "../../etc"),
        (("MNISTDataModule", "root"), "--trainer.callbacks+=evil.Evil"),
        (("MNISTDataModule", "seed"), -(2**60)),
        (("MNISTDataModule", "batch_size"), 0),
        (("callbacks", "Recorder", "experiment", "precision"), "{class_path: evil.Evil}"),
        (("callbacks",), [1]),
        (("MNISTDataModule",), "x"),
    ],
)
@pytest.mark.parametrize("call", ["test", "validate"])
def test_no_value_in_a_checkpoint_becomes_another_option(
    call: str, keys: tuple[str, ...], value: Any, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("evil.py").write_text(CODE)
    Path("evil.yaml").write_text("trainer:\n  callbacks:\n    class_path: evil.Evil\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    torch.save(altered(read_checkpoint(find_checkpoint(run)), *keys, value=value), "altered.ckpt")
    code, complaint = main([call, "--ckpt_path", "altered.ckpt"]), capsys.readouterr().err
    assert code == 2 or (code == 0 and (call == "test" or keys == ("callbacks",)))
    assert complaint == "" or (complaint.startswith("lit_mnist: ") and complaint.count("\n") == 1)
    assert not Path(PROOF).exists()


def test_a_network_that_overflows_in_the_precision_asked_for_is_not_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(find_checkpoint(run))
    bias = torch.full_like(checkpoint["state_dict"]["mlp.layers.2.bias"], 3.4e38)  # infinite in bfloat16
    torch.save(altered(checkpoint, "state_dict", "mlp.layers.2.bias", value=bias), "altered.ckpt")
    assert main(["test", "--ckpt_path", "altered.ckpt", "--out", "pictures", "--trainer.precision", "bf16-true"]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_a_diverged_run_cannot_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*Experiment(8, epochs=1).options, "--model.lr", "1e20"]) == 3
    capsys.readouterr()
    assert main(["test", "run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


LOGS: dict[str, tuple[Callable[[], object], str]] = {
    "a link to nothing": (lambda: Path("logs").symlink_to("nowhere"), "logs: A link to nothing."),
    "a file": (lambda: Path("logs").write_text("log\n"), "logs: Not a folder."),
    "a link to itself": (lambda: Path("logs").symlink_to("logs"), "logs: A link to nothing."),
}


@pytest.mark.parametrize("kind", LOGS)
def test_logs_that_are_not_a_folder_are_named(kind: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, sentence = LOGS[kind]
    make()
    before = sorted(workplace.iterdir())
    assert main([*EXPERIMENT.options, "--run_dir", ""]) == 2
    assert capsys.readouterr().err.startswith(f"lit_mnist: {sentence}")
    assert sorted(workplace.iterdir()) == before


def test_folders_of_another_purpose_are_left_as_they_are(workplace: Path) -> None:
    for name in ("logs/lr0.1", "configs", "lr0.1"):
        Path(name).mkdir(parents=True)
    Path("logs/lr0.1/version_0").write_text("a file\n")
    Path("logs/lr0.1/version_1").symlink_to("nowhere")
    Path("configs/lr0.1.yml").write_text("server: 1\n")
    assert main([*EXPERIMENT.options, "--run_dir", ""]) == 0
    assert json.loads(Path("logs/lr0.1/version_2/result.json").read_text())["name"] == "lr0.1"
    assert Path("logs/lr0.1/version_0").read_text() == "a file\n"
    assert Path("logs/lr0.1/version_1").is_symlink()


def without_streams(*options: str) -> int:
    """Runs a command as a new process begins that was given no streams, no variables and an unknown user."""
    for name in ("HOME", "USER", "LOGNAME", "TMPDIR", "PATH"):
        os.environ.pop(name, None)
    if os.getuid() == 0:
        os.setgid(12345)
        os.setuid(12345)
    for descriptor in range(3):
        os.close(descriptor)
    sys.stdin = sys.stdout = sys.stderr = None  # as Python begins then
    from lit_mnist.cli import main as module

    sys.argv = ["lit_mnist", *options]
    return module.main()


@linux_only
def test_a_run_of_an_unknown_user_without_streams_and_variables_works(finished: Path) -> None:
    if not all(folder.stat().st_mode & 0o1 for place in (__file__, torch.__file__) for folder in Path(place).parents):
        pytest.skip("another user cannot read the installed packages")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's folders are private
        folder = Path(name)
        folder.chmod(0o777)
        victim = Victim(*EXPERIMENT.options, folder=folder, act=without_streams)
        assert victim.wait() == 0
        assert (os.getuid() != 0) or (folder / "run").stat().st_uid == 12345
        theirs, ours = (json.loads((run / "result.json").read_text()) for run in (finished, folder / "run"))
        assert theirs["weights_sha256"] == ours["weights_sha256"]


@linux_only
def test_a_run_in_odd_surroundings_has_the_same_bits(finished: Path, tmp_path: Path) -> None:
    odd = {"LC_ALL": "C", "PYTHONWARNINGS": "error", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "lit_mnist", *EXPERIMENT.options],
        cwd=tmp_path,
        env={**odd, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    theirs, ours = (json.loads((folder / "result.json").read_text()) for folder in (finished, tmp_path / "run"))
    assert theirs["weights_sha256"] == ours["weights_sha256"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("target", ["/dev/full", "pipe"])
def test_output_that_nobody_can_read_ends_a_command_without_a_traceback(target: str, run: Path) -> None:
    victim = Victim(
        "test", "--ckpt_path", str(run), folder=run.parent / target.strip("/"), act=into, environment={"TO": target}
    )
    assert victim.wait() == 1
    assert victim.stderr in ("", "lit_mnist: No space left on device.\n")


def into(*options: str) -> int:
    """Runs a command with its output on a full disk, or to a reader that has gone."""
    if os.environ["TO"] == "pipe":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open(os.environ["TO"], os.O_WRONLY)
    os.dup2(output, 1)
    return command(*options)


@linux_only
@pytest.mark.parametrize("call", ["fit", "test"])
def test_a_folder_that_may_not_be_written_is_named(call: str, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    shutil.copytree(finished, folder / "run")
    (folder / "run" / "confusion.png").write_bytes(b"old")
    options = EXPERIMENT.options if call == "fit" else ("test", "--ckpt_path", "run", "--threads", "1")
    if call == "fit":
        (folder / "run" / "result.json").unlink()
    for path in (folder / "run", folder / "run" / "checkpoints"):
        path.chmod(0o555)
    victim = Victim(*options, folder=folder)
    assert victim.wait() == 2
    assert victim.stderr.startswith("lit_mnist: run/")
    assert victim.stderr.endswith("Permission denied.\n")
    assert victim.stderr.count("\n") == 1
    assert (folder / "run" / "confusion.png").read_bytes() == b"old"
    for path in (folder / "run", folder / "run" / "checkpoints"):
        path.chmod(0o755)

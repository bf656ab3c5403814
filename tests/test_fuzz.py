"""Whatever is typed, and whatever lies in a run folder: no traceback, no wrong result under code 0, nothing half-written.

Cases per run of this file: 120 command lines, 400 damaged checkpoints, 300 damaged configurations, 12 damaged run folders.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kills import Experiment
from plain_loop import plain_loop
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.record.atomic import is_part
from lit_mnist.record.checkpoint import list_checkpoints, read_checkpoint
from lit_mnist.record.folder import RunFolder
from lit_mnist.record.provenance import weights_sha256

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}
WORDS = st.sampled_from(["", "null", "nan", ".inf", "-1", "0", "1e999", "[", "{a: b}", "true", "ä\x00", "'", "~", "0x10"])
# Cheap where they are valid, mostly not.
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--model.lr": st.sampled_from(["0.1", "1e-3", "2", "1e20", "0", "-0.5", ".inf"]) | WORDS,
    "--model.hidden": st.sampled_from(["[8]", "[]", "[4,3]", "[0]", "[-1]", "8", "[8.5]", "[a]"]) | WORDS,
    "--model.engine": st.sampled_from(["exact", "fast", "Exact"]) | WORDS,
    "--data.batch_size": st.sampled_from(["1", "7", "8", "32", "65", "60001", "-8"]) | WORDS,
    "--data.train_size": st.sampled_from(["64", "33", "1", "60001", "-3"]),
    "--data.val_size": st.sampled_from(["0", "10", "59999", "60000", "-1"]) | WORDS,
    "--data.steps_per_block": st.sampled_from(["0", "1", "3", "1000", "-1"]) | WORDS,
    "--seed_everything": st.sampled_from(["1", "2", "4294967295", "4294967296", "-1", "true"]) | WORDS,
    "--trainer.max_epochs": st.sampled_from(["1", "2", "0", "-7"]),
    "--trainer.precision": st.sampled_from(["32-true", "bf16-mixed", "8"]) | WORDS,
    "--trainer.limit_train_batches": st.sampled_from(["1.0", "1", "0", "2.5", "-1"]) | WORDS,
    "--trainer.accelerator": st.sampled_from(["cpu", "auto", "gpu", "abacus"]) | WORDS,
    "--threads": st.sampled_from(["0", "1", "-1", "1.5"]) | WORDS,
    "--test_every_epoch": st.sampled_from(["false", "true", "2"]) | WORDS,
    "--checkpoint_seconds": st.sampled_from(["0", "5", "-1"]) | WORDS,
    "--name": st.sampled_from(["a", "a/b", "..", "."]) | WORDS,
    "--run_dir": st.sampled_from(["run", "file", "file/run", "a/b/c", "/dev/null/run"]) | WORDS,
    "--ckpt_path": st.sampled_from(["last", "none", "file", "https://localhost:9/x"]) | WORDS,
    "--config": st.sampled_from(["lr1", "lr7", "file", "."]) | WORDS,
    "--nonsense": WORDS,
}
CHEAP = ["fit", "--config", "lr0.1", "--model.hidden", "[8]", "--data.train_size", "64", "--trainer.max_epochs", "1"]


@contextmanager
def new_folder() -> Iterator[Path]:
    """A working directory with one file in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        (Path(name) / "file").write_text("a: [1, 2\n")
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def typed(arguments: list[str]) -> tuple[int, str]:
    """Exit code and complaints of a command."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    return code, errors.getvalue()


def check_ending(code: int, complaints: str, arguments: list[str]) -> None:
    """One of the documented ends, with a sentence if it is not a good one."""
    assert code in (0, 2, 3), (code, complaints, arguments)
    assert "Traceback" not in complaints
    if code == 2:
        assert complaints.splitlines()[-1].startswith("lit_mnist: "), (complaints, arguments)
        assert complaints.count("\n") <= 2, (complaints, arguments)


def plain_weights(root: Path, result: dict[str, Any]) -> str:
    """Fingerprint of the weights that the ordinary PyTorch loop arrives at."""
    chosen = [result["hyperparameters"][name] for name in ("train_size", "batch_size", "max_epochs", "lr", "hidden")]
    images, batch_size, epochs, lr, hidden = chosen
    _, mlp = plain_loop(root, images, batch_size, epochs, lr, result["seed"], hidden)
    return weights_sha256(mlp.state_dict())


@pytest.mark.slow
@settings(max_examples=120, **SLOW)  # type: ignore[arg-type]
@given(changes=st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.none(), min_size=1, max_size=3), data=st.data())
def test_no_command_line_ends_in_a_traceback_or_a_wrong_result(
    root: Path, changes: dict[str, None], data: st.DataObject
) -> None:
    arguments = [*CHEAP, *(f"{name}={data.draw(OPTIONS[name], name)}" for name in changes)]
    with new_folder() as folder:
        code, complaints = typed(arguments)
        check_ending(code, complaints, arguments)
        results = list(folder.rglob("result.json"))
        assert len(results) == (code != 2), arguments
        assert not [path for path in folder.rglob("*") if is_part(path)]
        if code == 2:
            assert [path.name for path in folder.iterdir()] == ["file"], arguments
            return
        result = json.loads(results[0].read_text())
        assert (result["outcome"] == "diverged") == (code == 3)
        exact = result["hyperparameters"]["engine"] == "exact" and not result["hyperparameters"]["val_size"]
        if code == 0 and exact and not {"--trainer.precision", "--trainer.limit_train_batches"} & set(changes):
            assert result["weights_sha256"] == plain_weights(root, result), arguments


@pytest.fixture(scope="module")
def interrupted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run was killed in its second epoch, with all that it left behind."""
    folder = tmp_path_factory.mktemp("interrupted")
    moment = Moment("lit_mlp", "training_step", 18)
    assert Victim(*Experiment(32, 0).options, folder=folder, moment=moment).wait() == -9
    return folder


def damage(content: bytes, draw: st.DataObject) -> bytes:
    """Some bytes changed, removed, added or repeated."""
    damaged = bytearray(content)
    for _ in range(draw.draw(st.integers(1, 4), "changes")):
        at = draw.draw(st.integers(0, max(0, len(damaged) - 1)), "at")
        end = at + draw.draw(st.sampled_from([0, 1, 2, 100, 100_000]), "length")
        damaged[at:end] = draw.draw(st.binary(max_size=4) | st.just(bytes(damaged[at:end] * 2)), "bytes")
    return bytes(damaged)


def refusal_of(path: Path) -> str:
    try:
        read_checkpoint(path)
    except ValueError as refusal:
        return str(refusal)
    return ""


@settings(max_examples=400, **SLOW)  # type: ignore[arg-type]
@given(data=st.data())
def test_no_damaged_checkpoint_is_taken_for_a_whole_one(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = list_checkpoints(interrupted / "run")[0]
    path = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    path.write_bytes(damage(whole.read_bytes(), data))
    refusal = refusal_of(path)
    if refusal:
        assert str(path) in refusal
        assert "\n" not in refusal
    else:
        assert str(read_checkpoint(path)) == str(read_checkpoint(whole))  # in the padding between the file's parts


@settings(max_examples=300, **SLOW)  # type: ignore[arg-type]
@given(data=st.data())
def test_no_configuration_makes_a_run_folder_unreadable(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = RunFolder(tmp_path_factory.getbasetemp() / "damaged")
    folder.path.mkdir(exist_ok=True)
    content = damage((interrupted / "run" / "config.yaml").read_bytes(), data)
    folder.config_path.write_bytes(data.draw(st.sampled_from([content, content[:40]]) | st.binary(max_size=60)))
    assert folder.config is None or {"model", "data", "trainer"} <= set(folder.config)


@pytest.mark.slow
@settings(max_examples=12, **SLOW)  # type: ignore[arg-type]
@given(data=st.data())
def test_no_damaged_run_folder_ends_in_a_traceback_or_a_wrong_result(
    root: Path, interrupted: Path, data: st.DataObject
) -> None:
    options = list(Experiment(32, 0).options)
    with new_folder() as folder:
        shutil.copytree(interrupted / "run", folder / "run")
        files = sorted(path for path in (folder / "run").rglob("*") if path.is_file() and path.name != ".lock")
        for victim in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
            victim.write_bytes(damage(victim.read_bytes(), data))
        code, complaints = typed(options)
        assert code in (0, 2), complaints
        assert "Traceback" not in complaints
        assert (folder / "run" / "result.json").exists() == (code == 0)
        assert not [path for path in folder.rglob("*") if is_part(path)]
        if code == 0:
            result = json.loads((folder / "run" / "result.json").read_text())
            assert result["weights_sha256"] == plain_weights(root, result)

"""Whatever is typed, and whatever lies in a checkpoint or a run to resume: no traceback, no wrong result under exit code 0.

    LIT_MNIST_FUZZ=300 python -m pytest tests/test_fuzz*.py --timeout 0

tries 300 cases of each kind; without the variable there are 14 command lines, 24 checkpoints and 8 runs.
"""

import json
import shutil
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from forgeries import altered
from fuzzing import CASES, HABITS, LONGEST, PLAIN, damage, new_folder, paths_in, typed
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kills import Experiment
from victim import Moment, Victim

from lit_mnist.record.atomic import is_part
from lit_mnist.record.checkpoint import find_checkpoint, load_network, read_checkpoint
from lit_mnist.record.folder import RunFolder

WORDS = st.sampled_from(["", "null", "nan", ".inf", "-1", "0", "1e999", "[", "{a: b}", "true", "ä\x00", "'", "~", "0x10"])
# Cheap where they are valid, mostly not.
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--model.lr": st.sampled_from(["0.1", "1e-3", "2", "1e20", "0", "-0.5", ".inf"]) | WORDS,
    "--model.hidden": st.sampled_from(["[8]", "[]", "[4,3]", "[0]", "[-1]", "8", "[8.5]", "[a]"]) | WORDS,
    "--engine": st.sampled_from(["exact", "Exact"]) | WORDS,
    "--data.batch_size": st.sampled_from(["1", "7", "8", "32", "65", "60001", "-8"]) | WORDS,
    "--data.train_size": st.sampled_from(["64", "33", "1", "60001", "-3"]),
    "--data.val_size": st.sampled_from(["0", "10", "59999", "60000", "-1"]) | WORDS,
    "--steps_per_block": st.sampled_from(["0", "1", "3", "1000", "-1"]) | WORDS,
    "--seed_everything": st.sampled_from(["1", "2", "4294967295", "4294967296", "-1", "true"]) | WORDS,
    "--trainer.max_epochs": st.sampled_from(["1", "2", "0", "-7"]),
    "--trainer.precision": st.sampled_from(["32-true", "bf16-mixed", "8"]) | WORDS,
    "--trainer.limit_train_batches": st.sampled_from(["1.0", "1", "0", "2.5", "-1"]) | WORDS,
    "--trainer.accelerator": st.sampled_from(["cpu", "auto", "abacus"]) | WORDS,
    "--threads": st.sampled_from(["0", "1", "-1", "1.5"]) | WORDS,
    "--test_every_epoch": st.sampled_from(["false", "true", "2"]) | WORDS,
    "--name": st.sampled_from(["a", "a/b", "..", "."]) | WORDS,
    "--run_dir": st.sampled_from(["run", "file", "file/run", "a/b/c", "/dev/null/run"]) | WORDS,
    "--ckpt_path": st.sampled_from(["last", "none", "file", "https://localhost:9/x"]) | WORDS,
    "--config": st.sampled_from(["lr1", "lr7", "file", "."]) | WORDS,
    "--nonsense": WORDS,
}
# Three epochs, of which the third is interrupted.
SMALL = (*Experiment(32).options, "--data.train_size", "640", "--model.hidden", "[16]")
CHEAP = ["fit", "--config", "lr0.1", "--model.hidden", "[8]", "--data.train_size", "64", "--trainer.max_epochs", "1"]


@settings(max_examples=CASES or 14, **HABITS)
@given(changes=st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=3, unique=True), data=st.data())
def test_no_command_line_ends_in_a_traceback_or_half_a_record(changes: list[str], data: st.DataObject) -> None:
    arguments = [*CHEAP, *(f"{name}={data.draw(OPTIONS[name], name)}" for name in changes)]
    with new_folder() as folder:
        code, _ = typed(arguments)
        results = list(folder.rglob("result.json"))
        assert len(results) == (code != 2), arguments
        assert not [path for path in folder.rglob("*") if is_part(path)]
        if code == 2:
            assert [path.name for path in folder.iterdir()] == ["file"], arguments
        else:
            assert (json.loads(results[0].read_text())["outcome"] == "diverged") == (code == 3)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small run was killed in its third epoch, with all that it left behind."""
    folder = tmp_path_factory.mktemp("interrupted")
    assert Victim(*SMALL, folder=folder, moment=Moment("blocks", "training_step", 3)).wait() == -9
    return folder


@pytest.fixture(scope="module")
def weights(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of the weights to which an undisturbed run comes."""
    folder = Path(shutil.copytree(interrupted, tmp_path_factory.mktemp("undisturbed") / "copy"))
    assert Victim(*SMALL, folder=folder).wait() == 0
    return str(json.loads((folder / "run" / "result.json").read_text())["weights_sha256"])


TENSORS = (torch.zeros(0), torch.ones(3), torch.full((16, 784), torch.nan), torch.zeros(1, 2).T)
VALUES: st.SearchStrategy[Any] = st.sampled_from([*PLAIN, b"x", {1: 2}, *TENSORS])


def write_again(path: Path, data: st.DataObject) -> None:
    """Rewrites a checkpoint: with bytes changed, with other values, or with pickled bytes changed and the right checksum."""
    how = data.draw(st.sampled_from(["bytes", "values", "values", "pickle"]), "how")
    if how == "bytes":
        path.write_bytes(damage(path.read_bytes(), data.draw))
    elif how == "values":
        checkpoint = read_checkpoint(path)
        for _ in range(data.draw(st.integers(1, 2), "count")):
            place = data.draw(st.sampled_from(sorted(paths_in(checkpoint), key=str)), "place")
            checkpoint = altered(checkpoint, *place, value=data.draw(VALUES, "value"))
        torch.save(checkpoint, path)
    else:
        content, pickled = path.read_bytes(), ""
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        pickled = next(name for name in parts if name.endswith("data.pkl"))
        changed = bytearray(parts[pickled])
        for _ in range(data.draw(st.integers(1, 3), "changes")):
            changed[data.draw(st.integers(0, len(changed) - 1), "at")] = data.draw(st.integers(0, 255), "byte")
        assume(bytes(changed) != parts[pickled] and content.count(parts[pickled]) == 1)
        old, new = (zlib.crc32(part).to_bytes(4, "little") for part in (parts[pickled], bytes(changed)))
        path.write_bytes(content.replace(parts[pickled], bytes(changed)).replace(old, new))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch, of pickles that were changed
@settings(max_examples=CASES or 24, **HABITS)
@given(data=st.data())
def test_no_checkpoint_makes_a_command_end_in_a_traceback(interrupted: Path, data: st.DataObject) -> None:
    with new_folder() as folder:
        path = folder / "changed.ckpt"
        shutil.copy(find_checkpoint(interrupted / "run"), path)
        write_again(path, data)
        began = time.process_time()
        try:
            network = load_network(path)
        except ValueError as error:
            refusal = str(error)
            assert (str(path) in refusal, "\n" in refusal, time.process_time() - began < LONGEST) == (True, False, True)
            return
        assert all(value.isfinite().all() for value in network.mlp.state_dict().values())
        if data.draw(st.integers(0, 5), "test it") == 0 or CASES:
            typed(["test", "--ckpt_path", str(path), "--threads", "1", "--out", "pictures"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=CASES or 8, **HABITS)
@given(data=st.data())
def test_no_run_folder_makes_a_resume_end_in_a_traceback_or_with_other_weights(
    interrupted: Path, weights: str, data: st.DataObject
) -> None:
    """Weights that were altered to other finite ones cannot be told from those that were trained."""
    with new_folder() as folder:
        shutil.copytree(interrupted / "run", folder / "run")
        newest, older = RunFolder(folder / "run").checkpoints
        chosen = data.draw(st.sampled_from(["newest", "newest", "both", "config.yaml", "events"]), "chosen")
        if chosen in ("newest", "both"):
            for path in (newest, older)[: 1 + (chosen == "both")]:
                write_again(path, data)
        else:
            (path,) = folder.glob("run/config.yaml" if chosen == "config.yaml" else "run/events*")
            path.write_bytes(damage(path.read_bytes(), data.draw))
        same = same_state(newest, interrupted) if newest.exists() else True
        code, _ = typed(list(SMALL))
        assert (folder / "run" / "result.json").exists() == (code == 0)
        assert not [path for path in folder.rglob("*") if is_part(path)]
        if code == 0 and same:
            assert json.loads((folder / "run" / "result.json").read_text())["weights_sha256"] == weights


def same_state(path: Path, interrupted: Path) -> bool:
    """Tells if a checkpoint, where it can be read, has the weights that were trained."""
    try:
        weights = read_checkpoint(path)["state_dict"]
    except ValueError:
        return True
    trained = read_checkpoint(find_checkpoint(interrupted / "run"))["state_dict"]
    try:
        return set(weights) == set(trained) and all(torch.equal(weights[name], trained[name]) for name in trained)
    except TypeError:
        return True  # not tensors, which is refused

"""`result.json`: one schema with bounds, and outcomes that are right for short runs, too."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lit_mnist.record.result import RULE_VERSION, Result, judge, read_result, write_result

REFERENCE = Path(__file__).parent.parent / "logs" / "reference"
COMMITTED = sorted(REFERENCE.glob("*/seed_*"))


def committed() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REFERENCE / "lr0.1" / "seed_1" / "result.json").read_text())
    return content


def put(folder: Path, content: object) -> Path:
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_every_committed_run_keeps_its_outcome_under_the_new_rule() -> None:
    assert len(COMMITTED) >= 55
    for folder in COMMITTED:
        recorded = json.loads((folder / "result.json").read_text())
        result = read_result(folder)
        assert result is not None
        assert (result.outcome, result.outcome_rule) == (
            recorded["outcome"],
            RULE_VERSION if recorded["outcome"] != "diverged" else recorded.get("outcome_rule", 1),
        ), folder


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ([2.278, 2.219, 2.121], "learning"),  # lr 0.01, batch 32, 3,000 images
        ([2.288, 2.049, 1.811], "learning"),  # lr 1, batch 32, 3,000 images
        ([2.3041, 2.3012, 2.2967], "learning"),  # lr 0.01, batch 128, 3,000 images
        ([2.3046], "learning"),
        ([2.21], "learning"),  # one epoch of 2,000 images, 52 % test accuracy
        ([0.34], "learning"),
        ([2.3030, 2.3028, 2.3026, 2.3024, 2.3022], "learning"),  # slow, and steadily so
        ([2.31, 2.30, 2.31, 2.30, 2.25], "learning"),  # it has left the plateau
        ([0.34, 0.12, 0.08, 0.06], "trained"),
        ([1.05, 0.36, 0.29, 0.25, 0.22], "trained"),
        ([3.05, 2.305, 2.306], "collapsed"),  # exploded in its first epoch
        ([62.5], "collapsed"),
        ([0.6, 0.25, 2.31], "collapsed"),  # fell, and rose to guessing
        ([0.99, 3.6e10, 2.08, 1.74], "collapsed"),
        ([2.3084, 2.3079, 2.3083, 2.3081], "collapsed"),  # never moved
    ],
)
def test_an_outcome_is_right_for_runs_of_any_length(losses: list[float], outcome: str) -> None:
    judged, reason = judge(losses)
    assert judged == outcome
    assert bool(reason) == (outcome != "trained")


def test_guessing_depends_on_the_number_of_classes() -> None:
    losses = [0.70, 0.69, 0.694, 0.693, 0.693]
    assert judge(losses, classes=2)[0] == "collapsed"
    assert judge(losses, classes=10)[0] == "trained"


def test_what_is_written_reads_back_equal_with_the_keys_of_version_1(tmp_path: Path) -> None:
    old = read_result(REFERENCE / "lr1" / "seed_1")
    assert old is not None
    new = msgspec.structs.replace(old, format=2, train_loss_by_block=[(128, 1.5)], outcome_rule=RULE_VERSION, stopped="why")
    write_result(tmp_path / "result.json", new)
    assert read_result(tmp_path) == new
    text = (tmp_path / "result.json").read_text()
    assert text.startswith('{\n "format": 2,\n')
    added = {"train_loss_by_block", "stopped", "instruments", "outcome_rule", "changes"}
    assert set(json.loads(text)) == set(committed()) | added


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    result = read_result(REFERENCE / "lr0.1" / "seed_1")
    assert result is not None
    for wrong in ({"train_loss_by_epoch": [float("nan")]}, {"name": "\udcff"}, {"steps": -1}):
        with pytest.raises(ValueError, match="cannot be recorded"):
            write_result(tmp_path / "result.json", msgspec.structs.replace(result, **wrong))
    assert not (tmp_path / "result.json").exists()


def test_a_run_without_a_result_is_not_finished(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "one", "seed: expected `int`, got `str`"),
        ("seed", int("9" * 400), "seed: expected `int` <="),
        ("steps", -1, "steps: expected `int` >= 0"),
        ("format", 3, "format: invalid enum value 3"),
        ("outcome", "fine", "outcome: invalid enum value 'fine'"),
        ("train_loss_by_epoch", [0.1, 1e308], r"train_loss_by_epoch\[1\]: expected `float` <= 1e\+39"),
        ("train_loss_by_epoch", {"0": 1}, "train_loss_by_epoch: expected `array`"),
        ("train_loss_by_epoch", [], "final_train_loss: is missing"),
        ("test_accuracy", 1.5, "test_accuracy: expected `float` <= 1"),
        ("final_train_loss", None, "final_train_loss: is missing for the outcome trained"),
        ("diverged", {"epoch": 1, "step": 2}, "diverged: must be given for the outcome diverged"),
        ("hyperparameters", {"lr": 0.1}, "hyperparameters: batch_size must be a number above 0"),
        ("hyperparameters", {"lr": True, "batch_size": 8}, "hyperparameters: lr must"),
        ("hyperparameters", {"lr": 0.1, "batch_size": int("9" * 400)}, "hyperparameters: a value is too large"),
        ("hyperparameters", {"lr": 0.1, "batch_size": 8, "classes": 1}, "hyperparameters: classes must"),
        ("hyperparameters", {"lr": 5e-324, "batch_size": 8}, "hyperparameters: lr must be a number above 1e-39"),
        ("hyperparameters", {"lr": 0.1, "batch_size": 8, "train_size": None}, "hyperparameters: train_size must"),
        ("hyperparameters", {"lr": 0.1, "batch_size": 8, "max_epochs": "x"}, "hyperparameters: max_epochs must"),
        ("hyperparameters", {"lr": 0.1, "batch_size": 8, "steps_per_epoch": [1]}, "hyperparameters: steps_per_epoch must"),
        ("name", "n" * 1001, "name: expected `str` of length <= 1000"),
    ],
)
def test_damage_is_refused_with_the_name_of_the_field(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_result(put(tmp_path, committed() | {key: value}))


def test_nesting_has_a_bound(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(20):
        nested = [nested]
    with pytest.raises(ValueError, match="nested more than 8 deep"):
        read_result(put(tmp_path, committed() | {"hyperparameters": {"x": nested}}))
    (tmp_path / "result.json").write_text('{"instruments": ' + "[" * 10**6)
    with pytest.raises(ValueError, match="instruments"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"hyperparameters": {"x": ' + "[" * 10**6)
    with pytest.raises(ValueError, match="not JSON"):
        read_result(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    content = committed()
    del content["seed"]
    with pytest.raises(ValueError, match="missing required field `seed`"):
        read_result(put(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"name": "\xff"}', b'{"seed": NaN}', b'{"name": "\\ud800"}'])
def test_what_is_not_a_result_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^result\.json"):
        read_result(tmp_path)


def test_pipes_links_to_nothing_and_huge_files_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        read_result(tmp_path)
    path.unlink()
    path.symlink_to("result.json")
    with pytest.raises(ValueError, match="cannot be read"):
        read_result(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ValueError, match="larger than"):
        read_result(tmp_path)


def test_a_collapsed_run_is_a_failed_one() -> None:
    result = read_result(REFERENCE / "lr1" / "seed_1")
    assert isinstance(result, Result)
    assert result.failed

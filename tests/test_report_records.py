"""Whatever is wrong with a run folder is reported by name, and the rest is still reported."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from invented_runs import write_events, write_run

from lit_mnist.report.configuration import group_runs
from lit_mnist.report.event_file import read_scalars
from lit_mnist.report.records import read_runs

NAME = "lr0.1/seed_4"


def edit(folder: Path, **changes: object) -> None:
    """Changes fields of result.json."""
    file = folder / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def without_events(folder: Path) -> None:
    next(folder.glob("events*")).unlink()


def truncated_events(folder: Path) -> None:
    file = next(folder.glob("events*"))
    file.write_bytes(file.read_bytes()[:-5])


def foreign_events(folder: Path) -> None:
    next(folder.glob("events*")).write_bytes(b"These are no events of any kind.")


def other_events(folder: Path) -> None:
    without_events(folder)
    write_events(folder, {"train/loss": [(1, 0.5), (2, 0.3), (3, 0.1)]})


def unfinished(folder: Path) -> None:
    (folder / "result.json").unlink()


def failed(folder: Path) -> None:
    unfinished(folder)
    (folder / "failure.json").write_text('{"reason": "killed by signal 9.", "exit_code": 137}')


def failed_before_its_config(folder: Path) -> None:
    empty(folder)
    for name in (".lock", ".study.lock", "output.txt"):
        (folder / name).touch()
    (folder / "failure.json").write_text('{"reason": "fit ended with exit code 2: no space.", "exit_code": 2}')


def killed_before_its_config(folder: Path) -> None:
    empty(folder)
    for name in (".lock", ".study.lock", "output.txt"):
        (folder / name).touch()


def only_locks(folder: Path) -> None:
    empty(folder)
    for name in (".lock", ".study.lock"):
        (folder / name).touch()


def without_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def bad_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("model: [")


def impossible_date(folder: Path) -> None:
    (folder / "config.yaml").write_text("x: 2001-06-31")


def endless_brackets(folder: Path) -> None:
    (folder / "config.yaml").write_text("[" * 10_000)


def deep_json(folder: Path) -> None:
    (folder / "result.json").write_text("[" * 100_000)


def huge_number(folder: Path) -> None:
    edit(folder, final_train_loss=10**400)


def huge_seed(folder: Path) -> None:
    edit(folder, seed=10**400)


def no_json(folder: Path) -> None:
    (folder / "result.json").write_text('{"format": 1, "na')


def binary(folder: Path) -> None:
    (folder / "result.json").write_bytes(b"\xff\xfe\x00")


def foreign(folder: Path) -> None:
    (folder / "result.json").write_text('{"accuracy": 0.99}')


def a_list(folder: Path) -> None:
    (folder / "result.json").write_text("[1, 2, 3]")


def of_another_run(folder: Path) -> None:
    edit(folder, seed=9)


def newer(folder: Path) -> None:
    edit(folder, format=2)


def not_finite(folder: Path) -> None:
    edit(folder, final_train_loss=float("nan"))


def impossible(folder: Path) -> None:
    edit(folder, test_accuracy=98.3)


def incomplete(folder: Path) -> None:
    edit(folder, test_accuracy=None)


def strange_outcome(folder: Path) -> None:
    edit(folder, outcome="excellent")


BAD_INPUT: list[tuple[Callable[[Path], None], str, bool]] = [
    (empty, "the folder is empty", False),
    (without_events, "no event file", True),
    (truncated_events, "truncated or damaged after byte", True),
    (foreign_events, "truncated or damaged after byte 0 of 32", True),
    (other_events, "0.3 as training loss of epoch 2, its result.json 0.2", True),
    (unfinished, "the run is not finished (3 epochs logged)", False),
    (failed, "not counted: killed by signal 9.", False),
    (failed_before_its_config, "not counted: fit ended with exit code 2: no space.", False),
    (killed_before_its_config, "the run is not finished (0 epochs logged)", False),
    (only_locks, "the folder is empty", False),
    (impossible_date, "config.yaml is not YAML", True),
    (endless_brackets, "config.yaml is not YAML", True),
    (deep_json, "result.json is not JSON", False),
    (huge_number, "final_train_loss that is not a finite number", False),
    (huge_seed, "seed that is not a whole number", False),
    (without_config, "no config.yaml", True),
    (bad_config, "config.yaml is not YAML", True),
    (no_json, "result.json is not JSON", False),
    (binary, "result.json is not JSON", False),
    (foreign, "result.json is no result of lit_mnist", False),
    (a_list, "result.json is no result of lit_mnist", False),
    (of_another_run, "result.json is of another run than its config.yaml (seed 9, not 4)", False),
    (newer, "result.json has format 2", False),
    (not_finite, "final_train_loss that is not a finite number", False),
    (impossible, "test_accuracy that is not between 0 and 1", False),
    (incomplete, "says trained without a loss or an accuracy", False),
    (strange_outcome, "outcome 'excellent'", False),
]


@pytest.mark.parametrize(("spoil", "said", "counted"), BAD_INPUT, ids=[case[0].__name__ for case in BAD_INPUT])
def test_bad_input_is_named_and_the_rest_is_read(
    spoil: Callable[[Path], None], said: str, counted: bool, tmp_path: Path
) -> None:
    for seed in (1, 2, 4):
        write_run(tmp_path / f"lr0.1/seed_{seed}", seed=seed)
    spoil(tmp_path / NAME)
    runs, problems = read_runs(tmp_path)
    assert [problem.where for problem in problems] == [NAME]
    assert said in str(problems[0])
    assert [run.seed for run in runs] == ([1, 2, 4] if counted else [1, 2])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "lr0.1/seed_1")
    inner, deep = os.open(tmp_path, os.O_RDONLY), "d" * 250
    for _ in range(20):  # to where a path is longer than the system takes, for root too
        os.mkdir(deep, dir_fd=inner)
        outer, inner = inner, os.open(deep, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    runs, (problem,) = read_runs(tmp_path)
    assert len(runs) == 1
    assert problem.where.startswith(f"{deep}/{deep}")
    assert problem.what == "the folder cannot be listed (File name too long)"


def test_sound_runs_are_read_without_a_word(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"lr0.1/seed_{seed}", seed=seed)
        write_run(tmp_path / f"lr1/seed_{seed}", "lr1", seed, outcome="diverged", lr=1.0)
    runs, problems = read_runs(tmp_path)
    assert not problems
    assert [(run.name, run.seed, run.outcome) for run in runs] == [
        ("lr0.1", 1, "trained"),
        ("lr0.1", 2, "trained"),
        ("lr1", 1, "diverged"),
        ("lr1", 2, "diverged"),
    ]
    assert runs[2].diverged == (4, 3 * 1875 + 7)
    assert not group_runs(runs)[1]


def test_the_event_files_of_a_resumed_run_are_read_as_one(tmp_path: Path) -> None:
    write_events(tmp_path, {"train/loss": [(1, 0.5), (2, 9.0)]})
    write_events(tmp_path, {"train/loss": [(2, 0.25), (3, 0.125)]})
    scalars = read_scalars(tmp_path)
    assert scalars.files == 2
    assert scalars.curves == {"train/loss": {1: 0.5, 2: 0.25, 3: 0.125}}
    assert not scalars.damage


def test_a_truncated_event_file_gives_all_before_the_cut(tmp_path: Path) -> None:
    file = write_events(tmp_path, {"train/loss": [(1, 0.5), (2, 0.25), (3, 0.125)]})
    file.write_bytes(file.read_bytes()[:-1])
    scalars = read_scalars(tmp_path)
    assert scalars.curves == {"train/loss": {1: 0.5, 2: 0.25}}
    assert file.name in scalars.damage[0]


def test_the_same_seed_twice_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "lr0.1/version_0", seed=1)
    write_run(tmp_path / "lr0.1/version_1", seed=1)
    write_run(tmp_path / "lr0.1/version_2", seed=2)
    (configuration,), problems = group_runs(read_runs(tmp_path)[0])
    assert [run.folder for run in configuration.runs] == ["lr0.1/version_0", "lr0.1/version_2"]
    assert [problem.where for problem in problems] == ["lr0.1/version_1"]
    assert "lr0.1/version_0" in str(problems[0])


def test_one_name_with_different_hyperparameters_becomes_two_configurations(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"a/{seed}", "mine", seed, lr=0.1)
        write_run(tmp_path / f"b/{seed}", "mine", seed, lr=0.2)
    configurations, problems = group_runs(read_runs(tmp_path)[0])
    assert [each.name for each in configurations] == ["mine (lr 0.1)", "mine (lr 0.2)"]
    assert len(problems) == 1
    assert "lr" in str(problems[0])


def test_a_single_seed_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "lr0.1/seed_7", seed=7)
    (problem,) = group_runs(read_runs(tmp_path)[0])[1]
    assert str(problem) == "lr0.1: it has one seed only (7), so no sd is given."

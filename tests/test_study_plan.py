"""What a study will run: settings, grids, names, seeds, files; its status and the table of its results."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_mnist.record.configs import SHIPPED, find_config, read_config
from lit_mnist.record.result import Place, Result, Times
from lit_mnist.study import main
from lit_mnist.study.plan import (
    RunGroup,
    RunSpec,
    first_change,
    groups_of,
    parse_grid,
    parse_options,
    parse_seeds,
    parse_value,
    plan_study,
    point_name,
    refuse_other_settings,
    set_option,
    write_configs,
)
from lit_mnist.study.progress import RUNNING, WAITING, Progress, Status, read_status
from lit_mnist.study.server import last_words


def plan(
    configs: Sequence[str],
    out: Path,
    grid: Sequence[str] = (),
    options: dict[str, Any] | None = None,
    seeds: Sequence[int] = (1,),
) -> list[RunSpec]:
    return plan_study(configs, parse_grid(grid), options or {}, seeds, out)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("1e-3", 0.001), ("8", 8), ("false", False), ("[512, 256]", [512, 256]), ("on", "on"), ("a/b~", "a/b~")],
)
def test_values_on_the_command_line_mean_what_they_look_like(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_times_of_day_stay_text() -> None:
    assert parse_value("00:10:00") == "00:10:00"  # YAML 1.1 would read 600


def test_options_for_fit_are_taken_in_both_spellings() -> None:
    options = parse_options(["--trainer.max_epochs", "2", "--data.train_size=2000", "--model.lr", "-1"])
    assert options == {"trainer.max_epochs": 2, "data.train_size": 2000, "model.lr": -1}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model.lr"], "--model.lr needs a value"),
        (["--model.lr", "--yes"], "--model.lr needs a value"),
        (["lr1"], "'lr1' belongs to no option"),
    ],
)
def test_what_is_no_option_with_a_value_is_refused_by_name(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_options(arguments)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [("run_dir", "--out"), ("seed_everything", "--seeds"), ("config", "--configs"), ("trainer.fast_dev_run", "no record")],
)
def test_options_that_the_study_sets_are_refused_by_name(option: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"sets {option} itself: .*{complaint}"):
        plan(["lr1"], tmp_path, options={option: 1})
    with pytest.raises(ValueError, match=f"sets {option} itself: .*{complaint}"):
        plan(["lr1"], tmp_path, [f"{option}=1,2"])
    with pytest.raises(ValueError, match=r"model\.lr is both in the grid and an option"):
        plan(["lr1"], tmp_path, ["model.lr=1,2"], {"model.lr": 1})


def test_an_option_reaches_its_nested_place() -> None:
    settings: dict[str, Any] = {"model": {"lr": 0.1, "engine": "exact"}, "trainer": None}
    set_option(settings, "model.lr", 1)
    set_option(settings, "data.batch_size", 8)
    set_option(settings, "trainer.max_epochs", 2)
    assert settings == {"model": {"lr": 1, "engine": "exact"}, "data": {"batch_size": 8}, "trainer": {"max_epochs": 2}}
    with pytest.raises(ValueError, match=r"--model\.lr\.x"):
        set_option(settings, "model.lr.x", 1)


def test_a_difference_names_both_values() -> None:
    assert first_change({"a": {"b": 1}, "c": 2}, {"a": {"b": 1.5}, "c": 2}) == "a.b was 1 and is now 1.5"
    assert first_change({"a": 1}, {}) == "a was 1 and is now unset"
    assert first_change({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) == ""


scalars = st.one_of(st.integers(-5, 5), st.sampled_from(["exact", "fast"]), st.booleans(), st.none())
nested = st.recursive(
    st.dictionaries(st.sampled_from("abc"), scalars),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
)


@given(nested, nested)
def test_two_configs_differ_exactly_when_a_difference_is_named(old: dict[str, object], new: dict[str, object]) -> None:
    assert (first_change(old, new) == "") == (yaml.safe_dump(old) == yaml.safe_dump(new))


def test_a_grid_is_every_combination_in_the_order_given(tmp_path: Path) -> None:
    grid = parse_grid(["model.lr=0.01,0.1", "data.batch_size=8", "data.batch_size=32"])
    names = [group.name for group in groups_of(plan_study(None, grid, {}, [1, 2], tmp_path))]
    assert names == ["lr0.01-batch8", "lr0.01-batch32", "lr0.1-batch8", "lr0.1-batch32"]


def test_grid_values_may_be_lists() -> None:
    grid = parse_grid(["model.hidden=[512,256],[64]", "model.engine=exact,fast"])
    assert grid == {"model.hidden": [[512, 256], [64]], "model.engine": ["exact", "fast"]}
    assert point_name({option: values[0] for option, values in grid.items()}) == "hidden512x256-engineexact"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
@settings(max_examples=30)
def test_no_grid_value_leads_out_of_the_studys_folder(values: list[str]) -> None:
    name = point_name({"data.root": "/".join(values), "model.lr": values, "/".join(values): 1})
    assert name == Path(name).name
    assert name.startswith("root")
    assert name.isprintable()


@pytest.mark.parametrize("axis", ["model.lr", "model.lr=", "model.lr=1,,2", "model.engine=exact,"])
def test_a_malformed_grid_axis_is_refused(axis: str) -> None:
    with pytest.raises(ValueError, match=axis.partition("=")[0]):
        parse_grid([axis])


def test_seeds_are_a_number_or_a_list() -> None:
    assert list(parse_seeds("3")) == [1, 2, 3]
    assert list(parse_seeds("7,2")) == [7, 2]
    assert list(parse_seeds("7,")) == [7]
    assert list(parse_seeds("1,1")) == [1]


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,-2", "1,x", ",", "", "1,,2", "12345678901"])
def test_impossible_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_shipped_configs_are_copied_as_they_are(tmp_path: Path) -> None:
    study = plan(SHIPPED, tmp_path)
    write_configs(study)
    assert [group.name for group in groups_of(study)] == list(SHIPPED)
    for name in SHIPPED:
        assert (tmp_path / name / f"{name}.yaml").read_bytes() == find_config(name).read_bytes()


def test_runs_are_planned_configuration_by_configuration_each_with_its_folder(tmp_path: Path) -> None:
    runs = plan(["lr1", "lr0.1"], tmp_path, seeds=[3, 1])
    assert [str(run) for run in runs] == ["lr1 seed 3", "lr1 seed 1", "lr0.1 seed 3", "lr0.1 seed 1"]
    assert len({run.folder for run in runs}) == 4


def test_grid_and_options_stand_in_the_written_config(tmp_path: Path) -> None:
    write_configs(plan(["lr0.1"], tmp_path, ["model.lr=0.5,2"], {"trainer.max_epochs": 2}))
    settings = yaml.safe_load((tmp_path / "lr0.1-lr2" / "lr0.1-lr2.yaml").read_text())
    assert settings["model"]["lr"] == 2
    assert settings["trainer"]["max_epochs"] == 2


def test_configs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lr1.yaml").write_text("model: {lr: 1}\n")
    with pytest.raises(ValueError, match="called lr1"):
        plan(["lr1", str(tmp_path / "lr1.yaml")], tmp_path)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", b"just words", b"x: 2001-06-31", b"[" * 10_000])
def test_a_file_that_is_not_a_config_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        plan([str(tmp_path / "odd.yaml")], tmp_path)


@pytest.mark.parametrize("name", ["\udcff", "x" * 230, ".."])
def test_a_name_that_cannot_be_a_folder_is_refused_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.yaml").write_text("model: {lr: 1}\n")
    with pytest.raises(ValueError, match=r"rename it|cannot name a folder"):
        main(["--configs", str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()


def test_runs_of_other_settings_in_the_same_folder_are_refused_with_both_values(tmp_path: Path) -> None:
    write_configs(plan(["lr1"], tmp_path, options={"trainer.max_epochs": 2}))
    with pytest.raises(ValueError, match=r"trainer\.max_epochs was 2 and is now 3"):
        refuse_other_settings(plan(["lr1"], tmp_path, options={"trainer.max_epochs": 3}))


def test_of_studies_started_at_once_with_different_settings_in_one_folder_one_goes_on(tmp_path: Path) -> None:
    def start(study: list[RunSpec], gate: threading.Barrier) -> bool:
        refuse_other_settings(study)
        gate.wait()
        try:
            write_configs(study)
        except ValueError:
            return False
        return read_config(study[0].group.file) == study[0].group.settings

    for number in range(10):
        gate = threading.Barrier(2)
        plans = [plan(["lr1", "lr0.1"], tmp_path / str(number), options={"trainer.max_epochs": epochs}) for epochs in (2, 3)]
        with ThreadPoolExecutor(2) as pool:
            goes_on = list(pool.map(start, plans, [gate] * 2))
        assert sorted(goes_on) == [False, True]
        winner = plans[goes_on.index(True)]
        assert all(read_config(group.file) == group.settings for group in groups_of(winner))


def test_a_study_too_large_to_count_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="runs: confirm"):
        main(["--seeds", "4000000000"])


def result(outcome: str, loss: float = 0.01, train: float = 0.99, test: float = 0.98) -> Result:
    """A result of two epochs."""
    diverged = outcome == "diverged"
    common: dict[str, Any] = {
        "seed": 1, "threads": 1, "device": "cpu", "epochs": 2, "steps": 4, "steps_per_epoch": 2, "command": "", "name": "a",
        "hyperparameters": {"lr": 0.1, "batch_size": 32}, "test_accuracy_by_epoch": [], "val_loss_by_epoch": [],
        "val_accuracy_by_epoch": [], "weights_sha256": None, "data_sha256": "", "versions": {}, "commit": None, "machine": {},
        "times": Times(started="", finished="", seconds=1.0, train_seconds_by_epoch=[0.5, 0.5]),
    }  # fmt: skip
    return Result(
        outcome=outcome,  # type: ignore[arg-type]
        outcome_rule=2,
        reason="" if outcome == "trained" else f"it {outcome}",
        train_loss_by_epoch=[loss],
        final_train_loss=None if diverged else loss,
        train_accuracy=None if diverged else train,
        test_accuracy=None if diverged else test,
        test_loss=None,
        diverged=Place(1, 1) if diverged else None,
        **common,
    )


@pytest.mark.parametrize("content", [b"", b'{"outcome": "trained"}', b"[" * 100_000, b"\xff"])
def test_a_result_that_fit_did_not_write_is_a_failure_by_name(content: bytes, tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "result.json").write_bytes(content)
    status = read_status(tmp_path)
    assert status is not None
    assert status.state == "failed"
    assert "result.json" in status.reason


def test_a_status_is_the_outcome_of_the_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(msgspec.json.encode(result("diverged")))
    assert read_status(tmp_path) == Status("diverged", "it diverged", result("diverged"), epoch=2, epochs=2)


def test_progress_is_read_from_what_runs_print_and_time_left_is_known_after_an_epoch(tmp_path: Path) -> None:
    runs = [RunSpec(RunGroup("a", tmp_path, ""), seed) for seed in (1, 2, 3)]
    progress = Progress(runs, {runs[2]: Status("trained", "", result("trained"))})
    assert [status.state for status in progress.look().values()] == [WAITING, WAITING, "trained"]
    output = runs[0].folder / "output.txt"
    output.parent.mkdir(parents=True)
    output.write_text("$ python -m lit_mnist fit\n")
    assert progress.look()[runs[0]] == Status(RUNNING)
    assert progress.summary(progress.look().values()) == "1 of 3 runs done, 1 running"
    with output.open("a") as file:
        file.write(
            "epoch   1/20  loss 0.5000  test accuracy 80.00 %  0.2 s\nepoch   2/20  loss 0.0760  test accuracy 90.00 %  0.2 s\n"
        )
    assert progress.look()[runs[0]] == Status(RUNNING, epoch=2, epochs=20, loss=0.076)
    assert progress.summary(progress.look().values()).endswith("1 of 3 runs done, 1 running, about 1 min left")


def test_last_words_are_the_sentence_of_the_command() -> None:
    assert last_words("epoch 1\nlit_mnist: data is damaged.\n[W] leaked\n") == "data is damaged."
    assert last_words("Traceback\nMemoryError\n\n") == "MemoryError"
    assert last_words("") == "it said nothing."


def test_a_study_itself_loads_no_torch() -> None:
    program = "import sys, lit_mnist.study.execute; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

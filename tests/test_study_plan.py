"""What a study will run: settings, grids, names, seeds, files; and the table of its results."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lit_mnist.record.configs import SHIPPED, find_config, read_config
from lit_mnist.study import main
from lit_mnist.study.ending import Ending, read_ending
from lit_mnist.study.estimate import Cost, costs, estimate, spoken, wall_seconds
from lit_mnist.study.grid import parse_grid, point_name, points
from lit_mnist.study.plan import (
    Configuration,
    Run,
    parse_seeds,
    plan_configurations,
    plan_runs,
    refuse_other_settings,
    write_configs,
)
from lit_mnist.study.probe import workload
from lit_mnist.study.results_table import results_table
from lit_mnist.study.settings import difference, merged, parse_options, parse_value
from lit_mnist.study.supervisor import last_words


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("1e-3", 0.001), ("8", 8), ("false", False), ("[512,256]", [512, 256]), ("fast", "fast")],
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
        (["--run_dir", "x"], "--out"),
        (["--seed_everything=3"], "--seeds"),
        (["--config", "lr1"], "--configs"),
        (["--model.lr"], "needs a value"),
        (["--model.lr", "--yes"], "needs a value"),
        (["lr1"], "'lr1' belongs to no option"),
        (["--model.hidden+", "3"], "no option of fit"),
        (["--model.hidden", "[1,"], "missing bracket"),
    ],
)
def test_options_a_study_cannot_pass_on_are_refused_by_name(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("[", r"\[")):
        parse_options(arguments)


def test_merging_reaches_nested_settings_and_leaves_the_original_alone() -> None:
    base = {"model": {"lr": 0.1, "engine": "exact"}}
    assert merged(base, {"model.lr": 1, "data.batch_size": 8}) == {
        "model": {"lr": 1, "engine": "exact"},
        "data": {"batch_size": 8},
    }
    assert base == {"model": {"lr": 0.1, "engine": "exact"}}
    with pytest.raises(ValueError, match=r"--model\.lr\.x"):
        merged(base, {"model.lr.x": 1})


def test_a_difference_names_both_values() -> None:
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1.5}, "c": 2}) == "a.b was 1 and is now 1.5"
    assert difference({"a": 1}, {}) == "a was 1 and is now unset"
    assert difference({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) == ""


scalars = st.one_of(st.integers(-5, 5), st.sampled_from(["exact", "fast"]), st.booleans(), st.none())
nested = st.recursive(
    st.dictionaries(st.sampled_from("abc"), scalars),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
)


@given(nested, nested)
def test_two_configs_differ_exactly_when_a_difference_is_named(old: dict[str, object], new: dict[str, object]) -> None:
    assert (difference(old, new) == "") == (yaml.safe_dump(old) == yaml.safe_dump(new))


def test_a_grid_is_every_combination_in_the_order_given() -> None:
    grid = parse_grid(["model.lr=0.01,0.1", "data.batch_size=8,32"])
    assert [point_name(point) for point in points(grid)] == [
        "lr0.01-batch8",
        "lr0.01-batch32",
        "lr0.1-batch8",
        "lr0.1-batch32",
    ]


def test_grid_values_may_be_lists() -> None:
    grid = parse_grid(["model.hidden=[512,256],[64]", "model.engine=exact,fast"])
    assert grid == {"model.hidden": [[512, 256], [64]], "model.engine": ["exact", "fast"]}
    assert next(point_name(point) for point in points(grid)) == "hidden512x256-engineexact"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_no_grid_value_leads_out_of_the_studys_folder(values: list[str]) -> None:
    name = point_name({"data.root": "/".join(values), "model.lr": values})
    assert name == Path(name).name
    assert name.startswith("root")
    assert name.isprintable()


@pytest.mark.parametrize("axis", ["model.lr", "model.lr=", "model.lr=1,,2", "lr/x=1", "seed_everything=1,2"])
def test_a_malformed_grid_axis_is_refused(axis: str) -> None:
    with pytest.raises(ValueError, match=axis.partition("=")[0]):
        parse_grid([axis])


def test_seeds_are_a_number_or_a_list() -> None:
    assert list(parse_seeds("3")) == [1, 2, 3]
    assert list(parse_seeds("7,2")) == [7, 2]
    assert list(parse_seeds("7,")) == [7]


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,1", "1,-2", "1,x", ",", "", f"{2**32},"])
def test_impossible_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_shipped_configs_are_copied_as_they_are(tmp_path: Path) -> None:
    configurations = plan_configurations(SHIPPED, {}, {}, keep_names=True)
    write_configs(configurations, tmp_path)
    assert [configuration.name for configuration in configurations] == list(SHIPPED)
    for name in SHIPPED:
        assert (tmp_path / name / f"{name}.yaml").read_bytes() == find_config(name).read_bytes()


def test_runs_are_planned_configuration_by_configuration_each_with_its_folder(tmp_path: Path) -> None:
    configurations = plan_configurations(["lr1", "lr0.1"], {}, {}, keep_names=True)
    runs = plan_runs(configurations, [3, 1], tmp_path)
    assert [str(run) for run in runs] == ["lr1 seed 3", "lr1 seed 1", "lr0.1 seed 3", "lr0.1 seed 1"]
    assert len({run.folder for run in runs}) == 4


def test_grid_and_options_stand_in_the_written_config(tmp_path: Path) -> None:
    grid = parse_grid(["model.lr=0.5,2"])
    configurations = plan_configurations(["lr0.1"], grid, {"trainer.max_epochs": 2}, keep_names=True)
    write_configs(configurations, tmp_path)
    settings = yaml.safe_load((tmp_path / "lr0.1-lr2" / "lr0.1-lr2.yaml").read_text())
    assert settings["model"]["lr"] == 2
    assert settings["trainer"]["max_epochs"] == 2


def test_configs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lr1.yaml").write_text("model: {lr: 1}\n")
    with pytest.raises(ValueError, match="called lr1"):
        plan_configurations(["lr1", str(tmp_path / "lr1.yaml")], {}, {}, keep_names=True)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", b"just words", b"x: 2001-06-31", b"[" * 10_000])
def test_a_file_that_is_no_config_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        plan_configurations([str(tmp_path / "odd.yaml")], {}, {}, keep_names=True)


def test_runs_of_other_settings_in_the_same_folder_are_refused_with_both_values(tmp_path: Path) -> None:
    write_configs(plan_configurations(["lr1"], {}, {"trainer.max_epochs": 2}, keep_names=True), tmp_path)
    other = plan_configurations(["lr1"], {}, {"trainer.max_epochs": 3}, keep_names=True)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs was 2 and is now 3"):
        refuse_other_settings(other, tmp_path)


def test_of_studies_started_at_once_with_different_settings_in_one_folder_one_goes_on(tmp_path: Path) -> None:
    plans = [plan_configurations(["lr1", "lr0.1"], {}, {"trainer.max_epochs": epochs}, keep_names=True) for epochs in (2, 3)]

    def start(plan: list[Configuration], out: Path, gate: threading.Barrier) -> bool:
        refuse_other_settings(plan, out)
        gate.wait()
        try:
            write_configs(plan, out)
        except ValueError:
            return False
        return read_config(plan[0].file(out)) == plan[0].settings

    for number in range(20):
        out, gate = tmp_path / str(number), threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            goes_on = list(pool.map(start, plans, [out] * 2, [gate] * 2))
        assert sorted(goes_on) == [False, True]
        settings = [read_config(configuration.file(out)) for configuration in plans[goes_on.index(True)]]
        assert settings == [configuration.settings for configuration in plans[goes_on.index(True)]]


def test_a_thousand_runs_need_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--grid", "model.lr=0.1,0.2", "--seeds", "501", "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(ValueError, match="1,002 runs"):
        main(arguments)
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--yes"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1002


def test_a_study_too_large_to_count_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="runs: confirm"):
        main(["--seeds", "4000000000"])


def test_the_training_of_the_short_runs_is_no_start_up_time_of_the_long_ones() -> None:
    work = {"epochs": 20, "images": 60_000, "batch_size": 6000, "step_seconds": 0.5, "epoch_seconds": 1.0}
    workloads = {"a": work | {"kind": "one", "seconds": 6.0}, "b": work | {"kind": "other", "seconds": 3.0, "epochs": 1}}
    assert costs(workloads, 12.0) == {"a": Cost(20, 3.0 + 20 * 6.0), "b": Cost(1, 3.0 + 6.0)}


def test_the_longest_run_first_bounds_the_wall_time() -> None:
    assert wall_seconds([1, 1, 1, 3], workers=2) == 3
    assert wall_seconds([2, 2, 2], workers=2) == 4
    assert wall_seconds([], workers=2) == 0


def test_durations_are_spoken_in_their_unit() -> None:
    assert [spoken(seconds) for seconds in (42, 700, 11_100)] == ["42 s", "12 min", "3 h 05 min"]


def test_what_fit_trains_can_be_timed_large_batches_and_small_parts_of_the_images_too() -> None:
    grid = parse_grid(["data.batch_size=32,8192"])
    costs = estimate(plan_configurations(["lr0.1"], grid, {"trainer.max_epochs": 1}, keep_names=False))
    assert {name: cost.epochs for name, cost in costs.items()} == {"batch32": 1, "batch8192": 1}
    small = {"data.train_size": 2000, "data.val_size": 5000, "trainer.max_epochs": None, "trainer.max_steps": 100}
    (cost,) = estimate(plan_configurations(["lr0.1"], {}, small, keep_names=True)).values()
    assert cost.epochs == 2  # of 63 steps


def settings(**trainer: object) -> dict[str, Any]:
    """As far as they decide how long a run takes."""
    data = {"train_size": 0, "val_size": 5000, "batch_size": 100, "dataset": "MNIST"}
    plain = {"max_epochs": 20, "max_steps": -1, "max_time": None, "fast_dev_run": False}
    return {"data": data, "model": {"hidden": [512, 256], "engine": "exact"}, "trainer": plain | trainer}


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "epochs"),
    [(20, -1, 20), (20, None, 20), (None, 551, 2), (-1, 550, 1), (3, 10_000, 3), (None, -1, 1000)],
)
def test_the_first_of_the_trainers_limits_decides_how_long_a_run_takes(
    max_epochs: int | None, max_steps: int | None, epochs: int
) -> None:
    assert workload(settings(max_epochs=max_epochs, max_steps=max_steps))["epochs"] == epochs
    assert workload(settings())["images"] == 55_000


def test_runs_without_end_or_record_are_none_for_a_study() -> None:
    with pytest.raises(ValueError, match="never ends"):
        workload(settings(max_epochs=-1))
    with pytest.raises(ValueError, match="fast_dev_run"):
        workload(settings(fast_dev_run=True))


def test_the_table_counts_every_outcome_and_averages_trained_runs_alone() -> None:
    endings = {
        Run("a", 1, Path("x")): Ending("trained", "", 0.01, 0.99, 0.98),
        Run("a", 2, Path("x")): Ending("trained", "", 0.03, 1.0, 0.96),
        Run("a", 3, Path("x")): Ending("collapsed", "no better than guessing", 2.3, 0.1, 0.1),
        Run("b", 1, Path("x")): Ending("diverged", "NaN in epoch 1"),
        Run("b", 2, Path("x")): Ending("failed", "fit was killed by SIGKILL."),
    }
    lines = results_table(endings).splitlines()
    assert lines[1].split() == ["a", "3", "2", "1", "0", "0", "0.020000", "99.500%", "97.000%"]
    assert lines[2].split() == ["b", "2", "0", "0", "1", "1", "-", "-", "-"]
    assert lines[3:] == [
        "a seed 3: collapsed. no better than guessing",
        "b seed 1: diverged. NaN in epoch 1",
        "b seed 2: failed. fit was killed by SIGKILL.",
    ]


@pytest.mark.parametrize("loss", ["1" + "0" * 400, "[" * 100_000])
def test_a_result_that_no_computer_wrote_is_a_failure_by_name(loss: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(f'{{"outcome": "trained", "reason": "", "final_train_loss": {loss}}}')
    ending = read_ending(tmp_path)
    assert ending is not None
    assert "is no result of fit" in ending.reason


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.sampled_from(["trained", "diverged"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["outcome", "reason", "final_train_loss", "train_accuracy", "test_accuracy", "other"]),
            inner,
        ),
    ),
)


@given(st.one_of(st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode())))
def test_whatever_a_result_file_holds_it_is_an_ending_or_a_failure_by_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "result.json").write_bytes(content)
    ending = read_ending(folder)
    assert ending is not None
    if ending.outcome == "failed":
        assert "result.json" in ending.reason
    else:
        assert json.loads(content)["outcome"] == ending.outcome


def test_last_words_are_the_sentence_of_the_command() -> None:
    assert last_words("epoch 1\nlit_mnist: data is damaged.\n[W] leaked\n") == "data is damaged."
    assert last_words("Traceback\nMemoryError\n\n") == "MemoryError"
    assert last_words("") == "it said nothing."


def test_a_study_itself_loads_no_torch() -> None:
    program = "import sys, lit_mnist.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

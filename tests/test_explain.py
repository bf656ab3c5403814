"""`explain RUN` on small real runs: replays have their bits, sentences their conditions, and forged folders are refused."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from forgeries import Payload
from remains import result_of
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.insight.branches import Branch
from lit_mnist.insight.explain import describe_replay
from lit_mnist.insight.failure import Failure, Rerun, Reruns, find_failure, rerun_changed
from lit_mnist.insight.recorded import Recorded, read_run
from lit_mnist.insight.replay import Window
from lit_mnist.insight.sentences import (
    branch_sentences,
    failure_sentences,
    what_happened,
    what_prevents,
    what_showed,
    when_decided,
    which_image,
)
from lit_mnist.record.checkpoint import find_checkpoint
from lit_mnist.record.folder import RunFolder
from lit_mnist.record.result import Place, calm_until, guessing, read_result

SMALL = ("--data.batch_size", "8", "--threads", "1", "--test_every_epoch", "false", "--trainer.logger", "false")
LATE = (*SMALL, "--data.train_size", "2000", "--model.hidden", "[64,32]", "--model.lr", "0.6", "--trainer.max_epochs", "8")


def names(folder: Path) -> list[str]:
    return [path.name for path in RunFolder(folder).checkpoints]


def edited(run: Path, to: Path, **fields: Any) -> Path:
    """A copy of a run with other values in its result; `hyperparameters` are added to its own."""
    shutil.copytree(run, to)
    result = json.loads((to / "result.json").read_text())
    result |= fields | {"hyperparameters": result["hyperparameters"] | fields.get("hyperparameters", {})}
    (to / "result.json").write_text(json.dumps(result))
    return to


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that collapses some epochs after the first, and is trained to its end."""
    for seed in ("3", *map(str, range(4, 40))):
        folder = tmp_path_factory.mktemp("late") / "run"
        assert main(["fit", *LATE, "--seed_everything", seed, "--run_dir", str(folder)]) in (0, 3)
        result = read_result(folder)
        if result and result.outcome == "collapsed" and 250 <= calm_until(result.train_loss_by_block) <= 1250:
            return folder
    raise AssertionError("no seed collapses late here: choose another learning rate")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ("--data.train_size", "600", "--model.hidden", "[16]", "--trainer.max_epochs", "2", "--model.lr", "0.05")
    harmless = '[{"class_path": "lit_mnist.training.collapse.StopCollapsed"}]'
    assert main(["fit", *SMALL, *options, "--trainer.callbacks", harmless, "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(late: Path) -> Recorded:
    return read_run(late)


@pytest.fixture(scope="module")
def window(run: Recorded) -> Window:
    return run.window(2200 - run.step)


@pytest.fixture(scope="module")
def losses(run: Recorded, window: Window) -> list[float]:
    return window.train(copy.deepcopy(run.network))


@pytest.fixture(scope="module")
def failure(run: Recorded, window: Window, losses: list[float]) -> Failure:
    found = find_failure(run.network, window, losses, guessing(10))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reruns(run: Recorded, failure: Failure) -> Reruns:
    return rerun_changed(run.network, failure)


def test_a_loss_is_calm_until_a_block_before_it_rose_for_good() -> None:
    def calm(*losses: float) -> int:
        return calm_until([(100 * (at + 1), loss) for at, loss in enumerate(losses)])

    assert calm(0.5, 0.4, 0.3, 2.3, 2.4) == 200
    assert calm(0.5, 2.3, 0.4, 0.3, 2.3, 2.4, 1e30) == 300
    assert calm(2.2, 2.3) == calm(0.5, 2.3) == calm() == 0
    assert calm(0.5, 0.4, 0.3) == 200


def test_a_collapsed_run_keeps_its_newest_checkpoints_and_the_last_from_before_its_loss_rose(late: Path) -> None:
    result = read_result(late)
    assert result is not None
    calm = calm_until(result.train_loss_by_block)
    assert names(late) == [f"step={step:08d}.ckpt" for step in (2000, 1750, calm // 250 * 250)]
    assert find_checkpoint(late) == RunFolder(late).checkpoints[0]


def test_a_run_that_was_killed_while_it_removed_checkpoints_keeps_the_same_ones(late: Path, tmp_path: Path) -> None:
    result = read_result(late)
    assert result is not None
    options = ("fit", *LATE, "--seed_everything", str(result.seed), "--run_dir", "run")
    assert Victim(*options, folder=tmp_path, moment=Moment("resume", "_remove_old", 4)).wait() == -9
    assert Victim(*options, folder=tmp_path).wait() == 0
    assert names(tmp_path / "run") == names(late)
    assert result_of(tmp_path / "run")["weights_sha256"] == result.weights_sha256
    for name in names(late):
        ours, theirs = (torch.load(folder / "checkpoints" / name)["state_dict"] for folder in (late, tmp_path / "run"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_replay_has_every_recorded_loss_of_the_run_and_its_last_weights(
    run: Recorded, losses: list[float], late: Path
) -> None:
    assert run.step == int(names(late)[-1][5:-5])
    assert run.differing_step(losses) is None
    network = copy.deepcopy(run.network)
    run.window(2000 - run.step).train(network)
    weights = torch.load(RunFolder(late).checkpoints[0])["state_dict"]
    assert all(torch.equal(value, weights[f"mlp.{name}"]) for name, value in network.state_dict().items())


def test_a_failed_run_is_explained_on_a_page_and_the_run_folder_only_read(
    late: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in late.rglob("*")}
    (tmp_path / "explain.html").write_text('<meta name="generator" content="made by lit_mnist explain">')  # is replaced
    assert main(["explain", str(late), "--out", str(tmp_path)]) == 0
    replay, *said, path = capsys.readouterr().out.splitlines()
    assert replay.endswith("every recorded block has the run's loss to the last bit.")
    assert len(said) == 5
    html = Path(path).read_text()
    assert "made by lit_mnist explain" in html[:2000]
    assert html.count("<svg") == 7
    assert all(sentence.split(";")[0] in html for sentence in said)
    assert {path: path.stat().st_mtime_ns for path in late.rglob("*")} == before


def test_a_trained_run_goes_through_the_branch_test(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trained), "--out", str(tmp_path)]) == 0
    *said, path = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert said[0].startswith("After 2 epochs at learning rate 0.05 and batch size 8, the training loss was")
    assert "What limits unnamed, seed 1" in Path(path).read_text()


def test_a_run_that_diverges_in_its_first_epoch_is_replayed_from_its_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    assert main(["fit", *SMALL, "--data.train_size", "100", "--model.lr", "1e20", "--run_dir", folder]) == 3
    capsys.readouterr()
    assert main(["explain", folder]) == 0
    replay, happened, *_ = capsys.readouterr().out.splitlines()
    assert replay == "Replayed from the initial weights: every recorded block has the run's loss to the last bit."
    assert (
        happened == "In the step before step 2, the mini-batch loss had a median of 2.3; at step 2 it became infinite or NaN."
    )


def test_a_replay_that_leaves_the_record_says_where_and_what_differs(run: Recorded, losses: list[float]) -> None:
    blocks = [(step, loss + 1e-6 * (step > 1500)) for step, loss in run.result.train_loss_by_block]
    elsewhere = msgspec.structs.replace(run.result, train_loss_by_block=blocks, machine={"cpu": "Another"}, threads=2)
    other = replace(run, result=elsewhere)
    assert other.differing_step(losses) == 1750
    said = describe_replay(other, losses)
    assert "differ from the run's by step 1,750 (the run's machine was Another, the run had 2 threads)" in said
    diverged = replace(run, result=msgspec.structs.replace(run.result, outcome="diverged", diverged=Place(8, 1999)))
    assert diverged.differing_step(losses) == 1999


def test_a_replay_that_does_not_fail_says_so_and_writes_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = dict.fromkeys(("final_train_loss", "train_accuracy", "test_accuracy", "test_loss"))
    other = edited(trained, tmp_path / "run", outcome="diverged", diverged={"epoch": 1, "step": 10}, **gone)
    assert main(["explain", str(other)]) == 0
    assert "does not fail within" in capsys.readouterr().out
    assert not (other / "explain.html").exists()


def without_result(run: Path) -> None:
    (run / "result.json").unlink()


def without_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def with_code_for_a_checkpoint(run: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"a": Payload(run / "proof")}}, RunFolder(run).checkpoints[-1])


def with_a_renamed_checkpoint(run: Path) -> None:
    for path in RunFolder(run).checkpoints[1:]:
        path.unlink()
    RunFolder(run).checkpoints[0].rename(RunFolder(run).checkpoint_path(250))


def with_a_page_of_somebody_else(run: Path) -> None:
    (run / "explain.html").write_text("<p>my own</p>")


def nothing(run: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("fields", "change", "sentence"),
    [
        ({}, without_result, "holds no finished run; finish it"),
        ({}, without_checkpoints, "has no checkpoint from before its loss rose"),
        ({}, with_code_for_a_checkpoint, "holds more than dense tensors and plain values"),
        ({}, with_a_renamed_checkpoint, "it was altered"),
        ({}, with_a_page_of_somebody_else, "was not written by explain; move it"),
        ({"format": 1}, nothing, "was trained by lit_mnist 1.0"),
        ({"hyperparameters": {"dataset": "../mine"}}, nothing, "was trained on a folder of your own"),
        ({"hyperparameters": {"precision": "bf16-true"}}, nothing, "precision bf16-true, which explain cannot replay"),
        ({"hyperparameters": {"callbacks": ["a.B"]}}, nothing, "callbacks a.B, which explain cannot replay"),
        ({"hyperparameters": {"hidden": [0]}}, nothing, "result.json is not that of a run"),
        ({"hyperparameters": {"lr": 0.5}}, nothing, "is of another run than the result beside it"),
        ({"seed": 99}, nothing, "is of another run than the result beside it"),
        ({"data_sha256": "0"}, nothing, "was trained on other files than those of MNIST here"),
        ({"steps_per_epoch": 251}, nothing, "another number of steps per epoch than its images"),
        ({"train_loss_by_block": [[250, 3.0]], "hyperparameters": {"hidden": [60000, 60000]}}, nothing, "network is too large"),
        ({"train_loss_by_block": [[250, 0.5]]}, nothing, "did not stay near that of guessing"),
    ],
)
def test_a_run_that_cannot_be_explained_is_refused_in_a_sentence(
    late: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    change: Callable[[Path], None],
    sentence: str,
) -> None:
    run = edited(late, tmp_path / "run", **fields)
    change(run)
    before = sorted(run.rglob("*"))
    assert main(["explain", str(run)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("lit_mnist: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert sorted(run.rglob("*")) == before


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder; name a run folder" in capsys.readouterr().err


def test_sentences_say_what_became_of_the_loss(failure: Failure, reruns: Reruns, run: Recorded) -> None:
    said = failure_sentences(failure, reruns, run.classes)
    assert all(each[0].isupper() and each.endswith(".") and "nan" not in each for each in said)
    step = f"step {run.step + failure.index + 1:,}"
    assert f"In the {len(failure.before)} steps before {step}, the mini-batch loss had a median of" in said[0]
    assert said[0].endswith("from then on it was at least 80 % of the loss of guessing (2.30), for 100 steps and more.")
    ended = what_happened(replace(failure, not_finite=failure.index + 2))
    assert ended.endswith(f", and at step {run.step + failure.index + 3:,} it became infinite or NaN.")
    first = replace(failure, index=0, level=2.0)
    assert what_happened(first).startswith("From the first step on, the mini-batch loss was at least twice the loss of")
    assert what_showed(first) == ""


def test_a_step_stands_out_if_its_gradient_was_three_times_as_long_as_usual(failure: Failure) -> None:
    def said(norm: float, change: float = 1.0) -> str:
        tipping = replace(failure.tipping, gradient_norm=norm, change=change, curvature=4 / failure.window.lr)
        others = [replace(step, gradient_norm=1.0, change=0.0) for step in failure.before if step is not failure.tipping]
        return str(what_showed(replace(failure, steps=sorted([*others, tipping], key=lambda step: step.index))))

    assert "No step stood out" in said(2.9)
    assert "9 times as long as usual, and lr x curvature / 2 along it was 2 (above 1, a step overshoots)" in said(9)
    assert f"should have risen by {failure.window.lr * 81:.2g}; it rose by 1." in said(9)
    assert said(9, math.nan).endswith("it became infinite or NaN.")


def test_an_image_is_to_blame_only_if_the_run_fails_with_it_and_not_without(failure: Failure, reruns: Reruns) -> None:
    def said(share: float, without: int, control: int) -> str:
        shares = torch.full_like(failure.tipping.image_shares, (1 - share) / 7)
        shares[3] = share
        steps = [replace(step, image_shares=shares) for step in failure.steps]
        fates = replace(reruns, without_largest=Rerun(0, 1, without, 0), without_smallest=Rerun(0, 1, control, 0))
        return str(which_image(replace(failure, steps=steps), fates, "abcdefghij"))

    assert said(0.3, 0, 1).startswith("One image stood out among the 8 of step")
    assert said(0.2, 0, 1).startswith("No image stood out among the 8 of step")
    assert "without that image the run does not fail, and without the one of the smallest gradient it does." in said(0.3, 0, 1)
    assert "but neither does it without" in said(0.3, 0, 0)
    assert "the run fails without that image too, as it does" in said(0.3, 1, 1)
    assert "but not without the one of the smallest gradient" in said(0.3, 1, 0)


def test_a_failure_is_decided_as_long_before_as_all_moved_reruns_fail(failure: Failure, reruns: Reruns) -> None:
    def with_twins(*failed: int) -> Reruns:
        return replace(reruns, twins=[Rerun(k, 5, count, 0) for k, count in zip((1, 2, 50), failed, strict=True)])

    assert "2 steps before, all 5 reruns failed, and 3 of 5 with the weights moved 50" in when_decided(with_twins(5, 5, 3))
    assert "ceased to hang on rounding about 1 step before" in when_decided(with_twins(5, 4, 5))
    assert "50 steps before, all 5 reruns failed: the failure did not hang" in when_decided(with_twins(5, 5, 5))
    assert "1 step before, 4 of 5 reruns failed: the failure hung on rounding until" in when_decided(with_twins(4, 5, 5))
    sure, unsure = (
        what_prevents(failure, replace(with_twins(*failed), capped=Rerun(2, 1, 0, 0), double=Rerun(2, 1, 1, 1)))
        for failed in ((5, 5, 3), (4, 5, 5))
    )
    assert sure.startswith("Rerun from 2 steps before, with the gradient norm capped at")
    assert "training does not fail; rerun in float64, it fails too, with a loss that becomes infinite or NaN." in sure
    assert unsure.endswith("; but some reruns with moved weights did not fail from there either.")


def test_what_limits_a_run_is_said_where_the_intervals_say_it(trained: Path) -> None:
    result = read_result(trained)
    assert result is not None

    def said(shorter: float, longer: float, quieter: float) -> list[str]:
        branches = {
            name: Branch([mean] * 5, [mean] * 5, mean, mean - 0.1, mean + 0.1)
            for name, mean in (("lr / 8", shorter), ("lr x 2", longer), ("batch x 8", quieter))
        }
        return branch_sentences(branches, 200, result)

    assert said(0.5, 1.5, 0.5)[-1].startswith("Training is noise-limited")
    assert said(1.5, 0.5, 1.0)[-1].startswith("Training is step-limited")
    assert said(1.0, 0.5, 0.5)[-1].startswith("The test does not decide")
    assert said(0.5, 1.5, 0.5)[2].endswith("1.50 times (95 % interval 1.40 to 1.60) as high as after unchanged steps.")
    assert "infinite or NaN in 5 of 5 orders" in said(0.5, math.nan, 0.5)[2]

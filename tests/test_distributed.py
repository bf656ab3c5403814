"""One run in several processes: the SGD steps of one device, one record, one ending."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kills import difference, start_pair
from remains import result_of
from torch import Tensor
from victim import PATIENCE, Victim

from lit_mnist.cli.main import main
from lit_mnist.data import MNISTDataModule
from lit_mnist.record.checkpoint import load_network
from lit_mnist.record.folder import RunFolder

# Of the weights, up to 0.1 in size. Seen: 3e-8, half a unit in the last place of 0.5; a gradient that is not averaged, or one
# batch that is shared out wrongly, makes 1e-3 and more.
TOLERANCE = 1e-6
OPTIONS = (
    *("fit", "--config", "lr0.1", "--run_dir", "run", "--threads", "1", "--trainer.max_epochs", "2"),
    *("--data.val_size", "501", "--data.train_size", "1002"),  # the last mini-batch of an epoch has 10 images
)
TWO = ("--trainer.accelerator", "cpu", "--trainer.devices", "2")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Pair:
    """The two processes of one run, started as torchrun starts them."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.run = folder, folder / "run"
        self.members = start_pair([*OPTIONS, *options], folder)

    def wait(self) -> list[int]:
        """Returns the exit codes."""
        return [member.wait() for member in self.members]

    @property
    def complaints(self) -> list[str]:
        # torch 2.10 prints a line with "[Gloo]" wherever processes meet
        return ["".join(line for line in member.stderr.splitlines(True) if "Gloo" not in line) for member in self.members]

    def wait_until_saved(self) -> None:
        assert self.members[0].wait_until(lambda: bool(RunFolder(self.run).checkpoints)), self.complaints

    def send(self, number: signal.Signals, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self.members[rank].send(number)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A run in two processes that was never stopped."""
    pair = Pair(tmp_path_factory.mktemp("trained"))
    assert pair.wait() == [0, 0], pair.complaints
    return pair


def weights_of(run: Path) -> Tensor:
    return torch.cat([weights.flatten() for weights in load_network(run).mlp.state_dict().values()])


def test_two_devices_make_the_sgd_steps_of_one(trained: Pair, tmp_path: Path) -> None:
    alone = Victim(*OPTIONS, folder=tmp_path)
    assert alone.wait() == 0, alone.stderr
    torch.testing.assert_close(weights_of(trained.run), weights_of(tmp_path / "run"), rtol=0, atol=TOLERANCE)
    theirs, ours = result_of(trained.run), result_of(tmp_path / "run")
    assert theirs["steps"] == ours["steps"]
    for losses in ("train_loss_by_epoch", "val_loss_by_epoch"):
        assert theirs[losses] == pytest.approx(ours[losses], rel=TOLERANCE)


def test_accuracies_count_every_image_once(trained: Pair) -> None:
    data = MNISTDataModule(32, val_size=501, train_size=1002, seed=1)
    data.setup()
    mlp, result = load_network(trained.run).mlp, result_of(trained.run)
    accuracies = {
        "train": result["train_accuracy"],
        "test": result["test_accuracy"],
        "val": result["val_accuracy_by_epoch"][-1],
    }
    loaders = {"train": data.train_evaluation_dataloader(), "test": data.test_dataloader(), "val": data.val_dataloader()}
    with torch.inference_mode():
        for split, accuracy in accuracies.items():
            images, labels = map(torch.cat, zip(*loaders[split], strict=True))
            assert round(accuracy * len(labels), 2) == int((mlp(images).argmax(1) == labels).sum()), split
            if split == "test":
                assert result["test_loss"] == pytest.approx(F.cross_entropy(mlp(images), labels).item(), rel=1e-5)


def test_only_the_first_process_speaks_and_writes(trained: Pair) -> None:
    assert trained.complaints == ["", ""]
    said = [[line for line in member.stdout.splitlines() if "[Gloo]" not in line] for member in trained.members]
    assert [bool(lines) for lines in said] == [True, False]
    assert trained.members[0].stdout.count("test accuracy  ") >= 1
    others = {path.name for path in (trained.folder / "process1").iterdir()}
    assert others == {"stdout", "stderr"}


def test_the_second_killed_and_both_started_again_equals_never_stopped(trained: Pair, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.wait_until_saved()
    pair.send(signal.SIGKILL, [1])
    assert pair.wait() == [1, -signal.SIGKILL]
    sentence = "another process of this run has ended; the same command resumes from the end of the last whole epoch."
    assert pair.complaints[0] == f"lit_mnist: {sentence}\n"
    assert not (pair.run / "result.json").exists()
    pair = Pair(tmp_path)
    assert pair.wait() == [0, 0], pair.complaints
    assert "resuming" in pair.members[0].stdout
    assert difference(trained.run, pair.run) == ""


def test_a_signal_to_both_ends_both_with_one_sentence(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "--trainer.max_epochs", "1000")
    pair.wait_until_saved()
    pair.send(signal.SIGTERM, [0, 1])
    codes = pair.wait()
    assert codes[0] in (143, 1), pair.complaints  # 1: the other one was first
    assert "Traceback" not in "".join(pair.complaints)
    assert pair.complaints[0].count("\n") == 1
    assert pair.complaints[1] == ""


def test_a_signal_ends_a_process_that_waits_for_a_first_one_that_is_gone(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.send(signal.SIGKILL, [0])
    pair.members[0].wait()
    time.sleep(8)  # until it waits, in C++
    began = time.monotonic()
    pair.send(signal.SIGTERM, [1])
    assert pair.members[1].wait() in (143, -signal.SIGTERM)
    assert time.monotonic() - began < 2


def test_divergence_ends_both(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "--model.lr", "1e20")
    assert pair.wait()[0] == 3, pair.complaints
    assert result_of(pair.run)["outcome"] == "diverged"
    assert "Traceback" not in "".join(pair.complaints)


def test_what_the_first_process_refuses_is_said_once_and_changes_nothing(trained: Pair, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")}
    pair = Pair(trained.folder)
    assert pair.wait()[0] == 2
    assert "finished run" in pair.complaints[0]
    assert pair.complaints[1] == ""
    assert {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")} == before
    pair = Pair(tmp_path, "--data.batch_size", "33")
    assert pair.wait()[0] == 2
    assert "2 devices cannot share mini-batches of 33" in pair.complaints[0]
    assert pair.complaints[0].count("\n") == 1
    assert not pair.run.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--engine", "fast"], "--engine fast cannot be used"), (["--trainer.strategy", "fsdp"], "fsdp")],
)
def test_what_several_devices_cannot_do_is_refused_before_anything_is_written_or_started(
    options: list[str], named: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIT_MNIST_RUN", "")  # which main sets; the fixture removes it again
    monkeypatch.delenv("LIT_MNIST_RUN")
    assert main([*OPTIONS, *TWO, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lit_mnist: ")
    assert named in error
    assert error.count("\n") == 1
    assert list(workplace.iterdir()) == []


def test_devices_that_do_not_share_a_batch_see_as_many_batches_at_once(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "pair", "--data.split_batch", "false", "--data.batch_size", "32")
    alone = Victim(*OPTIONS, "--data.batch_size", "64", folder=tmp_path)
    assert alone.wait() == 0, alone.stderr
    assert pair.wait() == [0, 0], pair.complaints
    torch.testing.assert_close(weights_of(pair.run), weights_of(tmp_path / "run"), rtol=0, atol=TOLERANCE)


def test_threads_count_under_ddp_with_one_device(tmp_path: Path) -> None:
    runs = []
    for name, strategy in (("plain", []), ("ddp", ["--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"])):
        options = (*OPTIONS, "--threads", "2", "--data.batch_size", "128", "--trainer.max_epochs", "1", *strategy)
        victim = Victim(*options, folder=tmp_path / name)
        assert victim.wait() == 0, victim.stderr
        runs.append(result_of(tmp_path / name / "run"))
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert [run["threads"] for run in runs] == [2, 2]


def children_of(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def command_line_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@linux_only
@pytest.mark.slow
def test_lightnings_launcher_starts_the_other_which_never_outlives_the_first(trained: Pair, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    first = Victim(*OPTIONS, *TWO, folder=tmp_path / "whole", environment=environment)
    killed = Victim(*OPTIONS, *TWO, folder=tmp_path / "killed", environment=environment)
    assert killed.wait_until(lambda: any("fit" in command_line_of(pid) for pid in children_of(killed.pid)))
    others = children_of(killed.pid)
    killed.send(signal.SIGKILL)  # in the other's first seconds
    killed.wait()
    assert first.wait() == 0, first.stderr
    assert first.stderr == ""
    theirs, ours = result_of(tmp_path / "whole" / "run"), result_of(trained.run)
    assert theirs["weights_sha256"] == ours["weights_sha256"]
    limit = time.monotonic() + PATIENCE / 4
    while any("fit" in command_line_of(other) for other in others):
        assert time.monotonic() < limit, "a process outlives the first of its run"
        time.sleep(0.1)


@pytest.mark.slow
def test_torchrun_starts_both(trained: Pair, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lit_mnist"]
    ended = subprocess.run(
        [*launch, *OPTIONS, *TWO],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert result_of(tmp_path / "run")["weights_sha256"] == result_of(trained.run)["weights_sha256"]


def test_torchrun_and_the_trainer_must_agree_on_the_number_of_processes(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "--trainer.devices", "1")
    assert pair.wait()[0] == 2
    assert "torchrun started 2 processes" in pair.complaints[0]
    assert not pair.run.exists()

"""One run in several processes: the SGD steps of one device, one record, one ending."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from remains import points_of, result_of
from torch import Tensor
from victim import PATIENCE, Victim

from lit_mnist import MLP, MNISTDataModule
from lit_mnist.cli.main import main
from lit_mnist.record.checkpoint import list_checkpoints, load_mlp

EPOCHS = 2
# The last batch of an epoch cannot be shared evenly: 11 images by two processes; 1 image by three, two of which have none.
IMAGES = {2: (32, 1003), 3: (33, 991)}  # devices: batch size, training images
# Of the weights, up to 0.1 in size, after 64 steps. Seen: 3e-8, half a unit in the last place of 0.5; a gradient that is
# not averaged, or one batch that is shared out wrongly, makes 1e-3 and more.
TOLERANCE = 1e-6
OPTIONS = (
    *("fit", "--config", "lr0.1", "--threads", "1", "--trainer.accelerator", "cpu", "--data.val_size", "501"),
    *("--trainer.max_epochs", str(EPOCHS), "--checkpoint_seconds", "0", "--data.steps_per_block", "5"),
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def sizes(devices: int) -> tuple[str, ...]:
    batch_size, images = IMAGES[devices]
    return "--data.batch_size", str(batch_size), "--data.train_size", str(images)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Crew:
    """The processes of one run, started as a launcher does it that is not ours: LOCAL_RANK tells each which one it is."""

    def __init__(self, folder: Path, devices: int, *options: str) -> None:
        self.run = folder / "run"
        port = free_port()
        self.members = [
            Victim(
                *(*OPTIONS, "--run_dir", str(self.run), "--trainer.devices", str(devices), *options),
                folder=folder / f"process{rank}",
                environment={"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            )
            for rank in range(devices)
        ]

    def wait(self) -> list[int]:
        """The exit codes."""
        return [member.wait() for member in self.members]

    @property
    def complaints(self) -> list[str]:
        return [member.stderr for member in self.members]

    def wait_until_trained(self, steps: int) -> None:
        """Until there is a checkpoint so far on."""
        written = [f"step={steps:08d}.ckpt"]
        assert self.members[0].wait_until(lambda: [path.name for path in list_checkpoints(self.run)[:1]] >= written), (
            self.complaints
        )

    def send(self, number: signal.Signals, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self.members[rank].send(number)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[int, Crew]:
    """A run each in two and in three processes, never stopped."""
    crews = {}
    for devices in IMAGES:
        crews[devices] = Crew(tmp_path_factory.mktemp(f"devices{devices}"), devices, *sizes(devices))
        assert crews[devices].wait() == [0] * devices, crews[devices].complaints
    return crews


def weights_of(run: Path) -> Tensor:
    return torch.cat([weights.flatten() for weights in load_mlp(run).state_dict().values()])


@pytest.mark.parametrize("devices", IMAGES)
def test_several_devices_make_the_sgd_steps_of_one(trained: dict[int, Crew], devices: int, tmp_path: Path) -> None:
    alone = Victim(*OPTIONS, *sizes(devices), "--run_dir", str(tmp_path / "run"), folder=tmp_path)
    assert alone.wait() == 0, alone.stderr
    torch.testing.assert_close(weights_of(trained[devices].run), weights_of(tmp_path / "run"), rtol=0, atol=TOLERANCE)
    theirs, ours = result_of(trained[devices].run), result_of(tmp_path / "run")
    assert theirs["steps"] == ours["steps"]
    for losses in ("train_loss_by_epoch", "val_loss_by_epoch"):
        assert theirs[losses] == pytest.approx(ours[losses], rel=TOLERANCE)


@pytest.mark.parametrize("devices", IMAGES)
def test_accuracies_count_every_image_once(trained: dict[int, Crew], devices: int) -> None:
    batch_size, images = IMAGES[devices]
    data = MNISTDataModule(batch_size, val_size=501, train_size=images)
    data.setup()
    mlp: MLP = load_mlp(trained[devices].run)
    result = result_of(trained[devices].run)
    with torch.inference_mode():
        for split, accuracy in (
            ("train", result["train_accuracy"]),
            ("test", result["test_accuracy"]),
            ("val", result["val_accuracy_by_epoch"][-1]),
        ):
            inputs, labels = data._splits[split]
            right = int((mlp(inputs).argmax(1) == labels).sum())
            assert round(accuracy * len(labels), 2) == right, split
        inputs, labels = data._splits["test"]
        assert result["test_loss"] == pytest.approx(F.cross_entropy(mlp(inputs), labels).item(), rel=1e-5)


def test_a_run_of_several_devices_is_tested_on_one(
    trained: dict[int, Crew], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained[3].run, workplace / "run"))  # test draws into it
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert f"test/accuracy  {100 * result_of(trained[3].run)['test_accuracy']:.2f} %" in capsys.readouterr().out
    assert main(["test", "--ckpt_path", str(run), "--trainer.devices", "2"]) == 2
    assert "one device, not on 2" in capsys.readouterr().err


@pytest.mark.parametrize("devices", IMAGES)
def test_only_the_first_process_speaks_and_writes(trained: dict[int, Crew], devices: int) -> None:
    crew = trained[devices]
    assert crew.complaints == [""] * devices
    # torch 2.10 prints a line with "[Gloo]" wherever processes meet
    said = [[line for line in member.stdout.splitlines() if "[Gloo]" not in line] for member in crew.members]
    assert [bool(lines) for lines in said] == [True] + [False] * (devices - 1)
    assert crew.members[0].stdout.count("test accuracy  ") == 1
    left = sorted(path.name for path in crew.run.parent.rglob("*") if path.is_file() and path.parent != crew.run)
    kept = [path.name for path in list_checkpoints(crew.run)]
    assert left == sorted(kept + ["stdout", "stderr"] * devices)
    assert len(list(crew.run.glob("events.out.tfevents.*"))) == 1


def test_how_many_steps_make_a_block_changes_no_bit(trained: dict[int, Crew], tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3, *sizes(3), "--data.steps_per_block", "64")
    assert crew.wait() == [0, 0, 0], crew.complaints
    command = {"command": ""}  # where they do differ
    assert result_of(crew.run) | command == result_of(trained[3].run) | command


def test_killed_and_started_again_equals_never_stopped(trained: dict[int, Crew], tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3, *sizes(3))
    crew.wait_until_trained(10)
    crew.send(signal.SIGKILL, range(3))
    assert crew.wait() == [-signal.SIGKILL] * 3
    assert not (crew.run / "result.json").exists()
    crew = Crew(tmp_path, 3, *sizes(3))
    assert crew.wait() == [0] * 3, crew.complaints
    assert "going on" in crew.members[0].stdout
    assert result_of(crew.run) == result_of(trained[3].run)
    assert points_of(crew.run) == points_of(trained[3].run)


@pytest.mark.parametrize(
    ("number", "ranks", "code"),
    [(signal.SIGTERM, [0], 143), (signal.SIGINT, [0, 1], 130), (signal.SIGTERM, [1], 143)],
    ids=["SIGTERM to the first", "Ctrl-C to all", "SIGTERM to the second"],
)
def test_a_signal_stops_all_at_one_step(
    trained: dict[int, Crew], number: signal.Signals, ranks: list[int], code: int, tmp_path: Path
) -> None:
    crew = Crew(tmp_path, 2, *sizes(2), "--checkpoint_seconds", "3600", "--trainer.max_epochs", "1000")
    crew.wait_until_trained(32)  # the first epoch's end
    crew.send(number, ranks)
    assert crew.wait() == [code, 0], crew.complaints
    assert "Traceback" not in "".join(crew.complaints)
    assert not crew.members[1].stderr
    newest = list_checkpoints(crew.run)[0]
    assert f"stopped after {int(newest.stem[5:])} SGD steps" in crew.members[0].stderr


def test_divergence_ends_all_processes(root: Path, tmp_path: Path) -> None:
    crew = Crew(tmp_path, 2, *sizes(2), "--model.lr", "1e20")
    assert crew.wait() == [3, 0], crew.complaints
    assert result_of(crew.run)["outcome"] == "diverged"
    assert crew.complaints[1] == ""


@pytest.mark.parametrize("lost", [0, 1])
def test_the_death_of_one_process_ends_the_other_with_a_sentence(root: Path, lost: int, tmp_path: Path) -> None:
    crew = Crew(tmp_path, 2, *sizes(2), "--trainer.max_epochs", "1000")
    crew.wait_until_trained(10)
    crew.send(signal.SIGKILL, [lost])
    codes = crew.wait()
    assert (codes[lost], codes[1 - lost]) == (-signal.SIGKILL, 1)
    assert crew.complaints[1 - lost] == (
        "lit_mnist: another process of this run has ended; the same command goes on from the last checkpoint.\n"
    )


def test_a_finished_run_is_refused_by_the_first_process_for_all(trained: dict[int, Crew]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained[2].run.rglob("*")}
    crew = Crew(trained[2].run.parent, 2, *sizes(2))
    assert crew.wait() == [2, 0]
    assert "finished run" in crew.complaints[0]
    assert crew.complaints[1] == ""
    assert {path: path.stat().st_mtime_ns for path in trained[2].run.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "named"),
    {
        "odd batch": (["--data.batch_size", "33"], "batch_size 33 cannot be shared evenly by 2 devices"),
        "batches too large": (
            ["--data.split_batch", "false", "--data.batch_size", "600", "--data.train_size", "1000"],
            "1200 images",
        ),
        "fast engine": (["--model.engine", "fast"], "engine fast works on one device, not on 2"),
        "spawned": (["--trainer.strategy", "ddp_spawn"], "--trainer.strategy"),
    }.values(),
)
def test_what_several_devices_cannot_do_is_refused_before_anything_is_written_or_started(
    options: list[str], named: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OPTIONS, "--trainer.devices", "2", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lit_mnist: ")
    assert named in error
    assert error.count("\n") == 1
    assert list(workplace.iterdir()) == []


def test_devices_that_do_not_share_a_batch_see_as_many_batches_at_once(root: Path, tmp_path: Path) -> None:
    crew = Crew(tmp_path, 2, "--data.split_batch", "false", "--data.batch_size", "32", "--data.train_size", "1003")
    alone = Victim(
        *(*OPTIONS, "--run_dir", str(tmp_path / "alone"), "--data.batch_size", "64", "--data.train_size", "1003"),
        folder=tmp_path,
    )
    assert alone.wait() == 0, alone.stderr
    assert crew.wait() == [0, 0], crew.complaints
    torch.testing.assert_close(weights_of(crew.run), weights_of(tmp_path / "alone"), rtol=0, atol=TOLERANCE)


def children_of(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def command_line_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.mark.slow
def test_the_first_process_starts_the_others_itself(trained: dict[int, Crew], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Victim(*OPTIONS, *sizes(2), "--run_dir", str(run), "--trainer.devices", "2", folder=tmp_path)
    assert first.wait() == 0, first.stderr
    assert first.stderr == ""
    assert first.stdout.count("test accuracy  ") == 1
    theirs, ours = result_of(run), result_of(trained[2].run)
    assert theirs["weights_sha256"] == ours["weights_sha256"]
    assert theirs["train_loss_by_epoch"] == ours["train_loss_by_epoch"]


@linux_only
def test_stopped_while_the_others_start_it_leaves_nothing(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Victim(*OPTIONS, *sizes(2), "--run_dir", str(run), "--trainer.devices", "2", folder=tmp_path)
    assert first.wait_until(lambda: any("-m lit_mnist fit" in command_line_of(pid) for pid in children_of(first.pid)))
    others = children_of(first.pid)
    first.send(signal.SIGTERM)
    assert first.wait() == 143, first.stderr
    assert "Traceback" not in first.stderr
    assert not run.exists()
    assert not any(command_line_of(other) for other in others)


@pytest.mark.slow
def test_two_hosts_under_torchrun_need_no_common_folder(trained: dict[int, Crew], tmp_path: Path) -> None:
    port = free_port()
    hosts = []
    for host in range(2):
        folder = tmp_path / f"host{host}"
        folder.mkdir()
        with (folder / "output").open("w") as output:
            hosts.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
                        *("--node-rank", str(host), "--master-addr", "127.0.0.1", "--master-port", port),
                        *("-m", "lit_mnist", *OPTIONS, *sizes(2), "--run_dir", "run", "--trainer.num_nodes", "2"),
                    ],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
                    stdout=output,
                    stderr=output,
                )
            )
    codes = [host.wait(PATIENCE) for host in hosts]
    outputs = [(tmp_path / f"host{host}" / "output").read_text() for host in range(2)]
    assert codes == [0, 0], outputs
    assert "test accuracy" in outputs[0]
    assert "accuracy" not in outputs[1]
    assert [path.name for path in (tmp_path / "host1").iterdir()] == ["output"]
    theirs, ours = result_of(tmp_path / "host0" / "run"), result_of(trained[2].run)
    assert theirs["weights_sha256"] == ours["weights_sha256"]


def test_torchrun_and_the_trainer_must_agree_on_the_number_of_processes(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        **{"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"},
    }.items():
        monkeypatch.setenv(name, value)
    assert main([*OPTIONS, "--data.train_size", "1000"]) == 2
    assert "torchrun started 2 processes" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []

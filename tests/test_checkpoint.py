"""Checkpoints that were damaged, cut off, forged or made elsewhere are refused in one sentence, and nothing in them runs."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forgeries import FORGED, ODD, checkpoint_of, forge
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.record.checkpoint import find_checkpoint, load_network, read_checkpoint
from lit_mnist.record.folder import RunFolder
from lit_mnist.training.resume import RunCheckpointIO


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints."""
    (tmp_path / ".lock").touch()
    for step in (100, 200):
        save(tmp_path, step)
    return tmp_path


def save(run: Path, step: int) -> int:
    folder = RunFolder(run)
    RunCheckpointIO(folder).save_checkpoint(checkpoint_of(seed=step), folder.checkpoint_path(step))
    return 0


def equal(one: Any, other: Any) -> bool:
    return str(one) == str(other) and all(
        torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"]
    )


def test_the_newest_two_checkpoints_are_kept_whatever_the_number_of_steps(run: Path) -> None:
    for step in (99_999_999, 100_000_000, 12_345_678_901):
        save(run, step)
    assert [path.stem for path in RunFolder(run).checkpoints] == ["step=12345678901", "step=100000000"]
    assert find_checkpoint(run) == RunFolder(run).checkpoints[0]


def test_any_flipped_bit_is_noticed_or_harmless_and_the_checkpoint_before_is_used(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = RunFolder(run).checkpoints
    content, whole = newest.read_bytes(), read_checkpoint(newest)
    chance, noticed = random.Random(1), 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        newest.write_bytes(damaged)
        found = find_checkpoint(run)
        complaint = capsys.readouterr().err
        if found == newest:  # in the padding between the parts of the file
            assert equal(read_checkpoint(newest), whole)
            assert complaint == ""
        else:
            noticed += 1
            assert found == older
            assert complaint.startswith(f"lit_mnist: {newest} ")
            assert complaint.count("\n") == 1
    assert noticed > 120


def test_a_checkpoint_cut_off_anywhere_is_named_and_the_one_before_is_used(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = RunFolder(run).checkpoints
    content = newest.read_bytes()
    for length in [0, 1, *range(2, len(content) - 1, len(content) // 40), len(content) - 1]:
        newest.write_bytes(content[:length])
        assert find_checkpoint(run) == older
        assert f"{newest} is not a checkpoint, or only a part of one." in capsys.readouterr().err


def test_without_a_whole_checkpoint_nothing_begins_again_in_silence(run: Path) -> None:
    for path in RunFolder(run).checkpoints:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no usable checkpoint; name a run folder"):
        find_checkpoint(run)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch, of the odd tensors that are saved here
@pytest.mark.parametrize("kind", FORGED)
def test_what_is_not_a_checkpoint_of_ours_is_refused_in_one_sentence_and_nothing_in_it_runs(
    kind: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, proof = workplace / "file.ckpt", workplace / "the payload has run"
    forge(kind, path, proof)
    before = sorted(workplace.iterdir())
    with pytest.raises(ValueError, match=FORGED[kind]) as refusal:
        load_network(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert main(["test", "--ckpt_path", str(path)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("lit_mnist: ")
    assert complaint.count("\n") == 1
    assert str(path) in complaint
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize("kind", ["payload", "a tensor", "stride 0", "lists for tensors"])
def test_fit_begins_with_none_of_them(kind: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(kind, workplace / "file.ckpt", workplace / "the payload has run")
    assert main(["fit", "--config", "lr0.1", "--data.train_size", "64", "--ckpt_path", "file.ckpt"]) == 2
    assert capsys.readouterr().err.startswith("lit_mnist: file.ckpt ")
    assert [path.name for path in workplace.iterdir()] == ["file.ckpt"]


LOAD = """
import resource, sys, time, torch
from pathlib import Path
from lit_mnist.record.checkpoint import load_network
from forgeries import checkpoint_of
torch.save(checkpoint_of(), "good.ckpt")
load_network("good.ckpt")
for path in sorted(Path().glob("*.odd")):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        load_network(path)
    except ValueError:
        print(path.stem, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, time.process_time() - began)
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bomb_is_refused_within_a_second_and_200_megabytes(tmp_path: Path) -> None:
    bombs = ["compressed", *ODD]
    for number, kind in enumerate(bombs):
        forge(kind, tmp_path / f"{number}.odd", tmp_path / "the payload has run")
    tests = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = {bombs[int(line.split()[0])]: list(map(float, line.split()[1:])) for line in run.stdout.splitlines()}
    assert set(measured) == set(bombs)
    assert {kind: cost for kind, cost in measured.items() if cost[0] > 200 or cost[1] > 1} == {}


@pytest.mark.parametrize("address", ["https://localhost:9/a.ckpt", "http://localhost:9/a.ckpt", "s3://bucket/a.ckpt"])
def test_an_address_is_refused_and_not_fetched(address: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "lr0.1", "--ckpt_path", address]) == 2
    assert "is an address, not a path" in capsys.readouterr().err


def test_a_loaded_network_is_the_saved_one(run: Path) -> None:
    saved = LitMLP(hidden=(16,), seed=200)
    images = torch.rand(5, 1, 28, 28)
    before = torch.random.get_rng_state()
    network = load_network(run)
    assert torch.equal(network.mlp(images), saved(images))
    assert not network.mlp.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_newest_checkpoint(run: Path) -> None:
    boundary = step = 0
    code = -1
    while code:
        boundary, step = boundary + 15, step + 1000
        killed = Moment("resume", "save_checkpoint", c_call=boundary)
        code = Victim(run, step, folder=run, act=save, moment=killed).wait()
        assert code in (0, -signal.SIGKILL)
        found = find_checkpoint(run)
        assert equal(read_checkpoint(found), checkpoint_of(seed=int(found.stem[5:])))
        assert len(RunFolder(run).checkpoints) >= 2
    assert len(RunFolder(run).checkpoints) == 2
    assert step >= 2000

"""Checkpoints that were damaged, cut off, forged or made elsewhere are refused in one sentence, and nothing in them runs."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forgeries import FORGED, checkpoint_of, forge
from victim import Moment, Victim

from lit_mnist.cli.main import main
from lit_mnist.lit_mlp import LitMLP
from lit_mnist.mlp import MLP
from lit_mnist.record.checkpoint import (
    DurableCheckpointIO,
    find_checkpoint,
    list_checkpoints,
    load_mlp,
    read_checkpoint,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints."""
    for step in (100, 200):
        save(tmp_path, step)
    return tmp_path


def save(run: Path, step: int) -> int:
    path = run / "checkpoints" / f"step={step:08d}.ckpt"
    DurableCheckpointIO().save_checkpoint(checkpoint_of(seed=step), path)
    return 0


def equal(one: Any, other: Any) -> bool:
    return str(one) == str(other) and all(
        torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"]
    )


def test_the_newest_two_checkpoints_are_kept(run: Path) -> None:
    save(run, 300)
    assert [path.stem for path in list_checkpoints(run)] == ["step=00000300", "step=00000200"]
    assert find_checkpoint(run) == list_checkpoints(run)[0]


def test_any_flipped_bit_is_noticed_or_harmless_and_the_checkpoint_before_is_used(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = list_checkpoints(run)
    content, whole = newest.read_bytes(), read_checkpoint(newest)
    chance, noticed = random.Random(1), 0
    for _ in range(300):
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
    assert noticed > 250


def test_a_checkpoint_cut_off_anywhere_is_named_and_the_one_before_is_used(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = list_checkpoints(run)
    content = newest.read_bytes()
    for length in [0, 1, *range(2, len(content) - 1, len(content) // 40), len(content) - 1]:
        newest.write_bytes(content[:length])
        assert find_checkpoint(run) == older
        assert f"{newest} is not a checkpoint, or only a part of one." in capsys.readouterr().err


def test_without_a_whole_checkpoint_nothing_is_begun_anew_silently(run: Path) -> None:
    for path in list_checkpoints(run):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no usable checkpoint\.$"):
        find_checkpoint(run)


@pytest.mark.parametrize("kind", FORGED)
def test_what_is_not_a_checkpoint_of_ours_is_refused_in_one_sentence_and_nothing_in_it_runs(
    kind: str, workplace: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, proof = workplace / "file.ckpt", workplace / "the payload has run"
    forge(kind, path, proof)
    before = sorted(workplace.iterdir())
    for load in (load_mlp, LitMLP.load_from_checkpoint):
        with pytest.raises(ValueError, match=FORGED[kind]) as refusal:
            load(path)
        assert "\n" not in str(refusal.value)
        assert str(path) in str(refusal.value)
    for command in (["fit", "--config", "lr0.1", "--data.train_size", "64"], ["test"]):
        assert main([*command, "--ckpt_path", str(path)]) == 2
        (complaint,) = capsys.readouterr().err.splitlines()
        assert complaint.startswith("lit_mnist: ")
        assert str(path) in complaint or "but the run to continue was trained with" in complaint
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize("address", ["https://localhost:9/a.ckpt", "http://localhost:9/a.ckpt", "s3://bucket/a.ckpt"])
def test_an_address_is_refused_and_not_fetched(address: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="is an address, not a path; nothing is fetched"):
        LitMLP.load_from_checkpoint(address)
    assert main(["fit", "--config", "lr0.1", "--ckpt_path", address]) == 2
    assert "is an address" in capsys.readouterr().err


def test_loading_anything_else_than_weights_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="weights_only must be true"):
        LitMLP.load_from_checkpoint(run, weights_only=False)


def test_a_loaded_network_is_the_saved_one(run: Path) -> None:
    saved = LitMLP(hidden=(16,), seed=200)
    images = torch.rand(5, 1, 28, 28)
    before = torch.random.get_rng_state()
    for loaded in (load_mlp(run), LitMLP.load_from_checkpoint(run)):
        assert torch.equal(loaded(images), saved(images))
    mlp = load_mlp(run)
    assert isinstance(mlp, MLP)
    assert not mlp.training
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("function", ["write_durably", "remove_checkpoint"])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_newest_checkpoint(function: str, run: Path) -> None:
    module = "durable" if function == "write_durably" else "checkpoint"
    boundary = step = 0
    code = -1
    while code:
        boundary, step = boundary + 1, step + 1000
        killed = Moment(module, function, c_call=boundary)
        code = Victim(run, step, folder=run, act=save, moment=killed).wait()
        assert code in (0, -signal.SIGKILL)
        found = find_checkpoint(run)
        assert equal(read_checkpoint(found), checkpoint_of(seed=int(found.stem[5:])))
        assert len(list_checkpoints(run)) >= 2
    assert len(list_checkpoints(run)) == 2
    assert step >= 2000

"""`compare RUN RUN`: what differs, on one screen."""

from pathlib import Path

import pytest
from invented_runs import write_run, write_runs

from lit_mnist.report.compare import compare, main


def test_settings_that_differ_and_results_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", "lr0.1", 1)
    write_run(tmp_path / "b", "lr1", 2, [0.6, 0.3], diverged=True, lr=1.0, max_epochs=4)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["lr", "0.1", "1"] in lines
    assert ["seed", "1", "2"] in lines
    assert ["outcome", "trained", "diverged"] in lines
    assert ["final", "training", "loss", "0.0800", "–"] in lines
    assert not any(line[:2] == ["batch", "size"] for line in lines)
    assert len(lines) <= 24


def test_equal_weights_are_said_to_be_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
    text = compare(tmp_path / "a", tmp_path / "b")
    assert "equal to the last bit" in text
    assert "none" in text.splitlines()[1]


def test_a_folder_of_no_run_or_of_several_is_one_sentence(tmp_path: Path) -> None:
    write_runs(tmp_path / "many", "low", [0.1, 0.2])
    (tmp_path / "none").mkdir()
    for folder, message in (
        ("many", "holds 2 finished runs"),
        ("none", "holds 0 finished runs"),
        ("nowhere", "is not a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            main([str(tmp_path / folder), str(tmp_path / "many" / "low" / "seed_1")])


def test_names_cannot_reach_the_terminal_as_control_codes(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "red\x1b[31m")
    write_run(tmp_path / "b", "x" * 300, dataset="\x1b]0;title\x07")
    assert "\x1b" not in compare(tmp_path / "a", tmp_path / "b")

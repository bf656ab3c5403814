"""Folders, checkpoints and pictures made to do more than be read: write elsewhere, run a program, wait, fill the memory."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forgeries import Memory
from fuzzing import typed, write_hole
from kills import Experiment
from pictures import on_paper

from lit_mnist.cli.main import main
from lit_mnist.datasets.files import load
from lit_mnist.record.checkpoint import find_checkpoint, load_network, read_checkpoint
from lit_mnist.record.folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links and pipes as on Linux")
REFERENCE = Path(__file__).parent.parent / "logs" / "reference"
OPTIONS = [*Experiment(32).options]
PRECIOUS = "somebody's thesis\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before, folder = Path.cwd(), tmp_path_factory.mktemp("runs")
    os.chdir(folder)
    assert main(OPTIONS) == 0
    os.chdir(before)
    return folder / "run"


@pytest.fixture
def finished(run: Path, workplace: Path) -> Path:
    return Path(shutil.copytree(run, workplace / "run"))


@pytest.fixture
def killed(finished: Path) -> Path:
    """A run of three epochs that was killed in the third."""
    (finished / "result.json").unlink()
    RunFolder(finished).checkpoints[0].unlink()
    return finished


@pytest.fixture
def study(workplace: Path) -> Path:
    shutil.copytree(REFERENCE / "lr0.1" / "seed_1", workplace / "study/lr0.1/seed_1")
    return Path("study")


@pytest.fixture
def thesis(workplace: Path) -> Path:
    path = workplace / "thesis"
    path.write_text(PRECIOUS)
    return path


def test_no_link_in_a_finished_run_leads_a_command_to_write_elsewhere(finished: Path, thesis: Path) -> None:
    for name in ("confusion.png", "mistakes.png", "explain.html"):
        (finished / name).unlink(missing_ok=True)
        (finished / name).symlink_to(thesis)
    assert typed(["test", "run", "--threads", "1"])[0] == 0
    assert typed(["explain", "run"])[0] == 2
    assert thesis.read_text() == PRECIOUS
    assert (finished / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_no_link_in_a_run_that_goes_on_leads_it_to_write_elsewhere(killed: Path, thesis: Path) -> None:
    (killed / "loss.png").unlink()
    (killed / "loss.png").symlink_to(thesis)
    (killed / "checkpoints" / "step=00000282.ckpt").symlink_to(thesis)  # the one that comes next
    code, complaints = typed(OPTIONS)
    assert (code, complaints.count("\n")) == (0, 1), complaints
    assert thesis.read_text() == PRECIOUS
    assert (killed / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_lock_that_is_a_link_is_refused(killed: Path, thesis: Path) -> None:
    (killed / ".lock").unlink()
    (killed / ".lock").symlink_to(thesis)
    assert "/.lock: Too many levels of symbolic links." in typed(OPTIONS, codes=(1,))[1]
    assert thesis.read_text() == PRECIOUS


def test_links_and_pipes_where_a_report_or_an_explanation_would_be_are_refused(study: Path, finished: Path) -> None:
    Path("elsewhere").mkdir()
    things: dict[str, Callable[[Path], object]] = {
        "report.md": lambda path: path.symlink_to("../outside"),
        "figures": lambda path: path.symlink_to("../elsewhere"),
        "report.html": os.mkfifo,
        "results.csv": lambda path: path.symlink_to("/dev/zero"),
    }
    for name, make in things.items():
        make(study / name)
        code, complaint = typed(["report", "study"])
        assert (code, "was not written by a report" in complaint) == (2, True), name
        (study / name).unlink()
    os.mkfifo(finished / "explain.html")
    assert typed(["explain", "run"])[0] == 2
    assert [path.name for path in Path().rglob("*") if path.suffix in (".html", ".md", ".svg", ".csv")] == ["explain.html"]


def test_a_link_to_no_checkpoint_does_not_hide_the_run_beside_it(finished: Path) -> None:
    Path("logs/bad/checkpoints").mkdir(parents=True)
    for number, target in enumerate(("nowhere", "step=1.ckpt")):
        Path(f"logs/bad/checkpoints/step={number}.ckpt").symlink_to(target)
    shutil.copytree(finished, "logs/good")
    assert load_network(Path("logs")).path == find_checkpoint(Path("logs/good"))


def test_names_that_are_not_utf_8_can_be_printed(study: Path) -> None:
    name = os.fsdecode(b"latin\xe9")
    study.rename(name)
    assert typed(["report", name]) == (0, "")


ODD_VALUES = ("2026-01-01", "!!set {a, b}", "!!binary aGFsbG8=", "{1: a, b: c}", "{1: a}", "1" + ":1" * 49_000)


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: value[:20])
def test_values_that_only_yaml_knows_are_named(value: str, study: Path) -> None:
    run = study / "plain"
    run.mkdir()
    shutil.copy(next(study.glob("lr0.1/*/events*")), run)
    (run / "hparams.yaml").write_text(f"lr: 0.1\nbatch_size: 32\nx: {value}\n")
    complaints = typed(["report", "study"], codes=(1,))[1]
    assert complaints.startswith("lit_mnist: plain: ")
    assert complaints.count("\n") == 1


def lists(content: bytes) -> tuple[int, int]:
    """Where the list of parts of an archive begins, and its length, as its end says."""
    length, begin = struct.unpack("<QQ", content[-58:-42])
    return begin, length


def archive(checkpoint: object) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def test_no_part_of_an_archive_is_loaded_that_was_not_looked_at(finished: Path) -> None:
    """torch takes names of parts in capitals, and the list of parts that lies where the end says; zipfile does neither."""
    good = read_checkpoint(find_checkpoint(finished))
    bad = archive({**good, "extra": Memory()})
    Path("capitals.ckpt").write_bytes(bad.replace(b"archive/data.pkl", b"archive/DATA.PKL"))
    seen = next(content for each in range(200) if lists(content := archive({**good, "x" * each: 0})) == lists(bad))
    begin, length = lists(bad)
    end = seen[-98:-34] + struct.pack("<Q", begin + length + len(seen) - 98) + seen[-26:]
    Path("two.ckpt").write_bytes(bad[: begin + length] + seen[:-98] + end)
    for name in ("capitals.ckpt", "two.ckpt"):
        with pytest.raises(ValueError, match=r"is not a checkpoint|holds more than dense tensors"):
            load_network(Path(name))


def test_weights_that_share_their_memory_are_exported(finished: Path) -> None:
    checkpoint = read_checkpoint(find_checkpoint(finished))
    checkpoint["state_dict"]["mlp.layers.1.bias"] = checkpoint["state_dict"]["mlp.layers.0.bias"][:32]
    torch.save(checkpoint, "shared.ckpt")
    assert typed(["export", "shared.ckpt", "--to", "shared.safetensors"]) == (0, "")


def test_a_picture_inside_a_picture_runs_no_program(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPTC file may hold a picture of any format; PostScript is decoded by the program gs."""
    Path("bin").mkdir()
    Path("bin/gs").write_text(f"#!/bin/sh\ntouch {Path.cwd()}/proof\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path.cwd()}/bin", prepend=os.pathsep)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\nshowpage\n%%EOF\n"
    fields = {
        (3, 20): b"\0\x1c",
        (3, 30): b"\0\x1c",
        (3, 60): b"\1\0",
        (3, 65): b"\1",
        (3, 120): b"\5",
        (8, 10): page,
        (8, 11): b"",
    }
    content = b"".join(struct.pack(">BBBH", 0x1C, *tag, len(value)) + value for tag, value in fields.items())
    Path("picture.png").write_bytes(content)
    assert typed(["predict", "run", "--images", "picture.png"])[0] == 2
    assert not Path("proof").exists()


def test_a_picture_with_a_million_frames_or_gigabytes_of_nothing_takes_no_time(finished: Path) -> None:
    page = on_paper(load().test[0][0].numpy()).convert("P")
    page.save("one.gif", save_all=True, append_images=[page.rotate(9)])
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    Path("million.gif").write_bytes(Path("one.gif").read_bytes()[:-1] + frame * 1_000_000 + b";")
    write_hole(Path("nothing.webp"), 20 * 2**30, b"RIFF\xff\xff\xff\x7fWEBPVP8 \xff\xff\xff\x7f")
    complaints = typed(["predict", "run", "--images", "million.gif", "nothing.webp"], codes=(1,))[1]
    assert complaints.splitlines()[:2] == [
        "lit_mnist: million.gif: the first of its frames is used.",
        "lit_mnist: nothing.webp: the file is too large; save it smaller.",
    ]


def write_records(path: Path, *records: bytes) -> None:
    path.write_bytes(b"".join(struct.pack("<Q4x", len(record)) + record + b"sums" for record in records))


def test_event_files_that_would_take_minutes_or_gigabytes_are_named(study: Path) -> None:
    files = {"records": b"", "values": b"*" + bytes([0xA0, 0x9C, 1]) + b"\x0a\0" * 10_000}
    for name, record in files.items():
        (study / name).mkdir()
        (study / name / "hparams.yaml").write_text("lr: 0.1\nbatch_size: 32\n")
        write_records(study / name / "events.out.tfevents.1.x", *[record] * 2_000)
    (study / "nothing").mkdir()
    shutil.copy(study / "records" / "hparams.yaml", study / "nothing")
    write_hole(study / "nothing" / "events.out.tfevents.1.x", 256 * 2**20)
    complaints = typed(["report", "study"], codes=(1,))[1].splitlines()
    assert complaints == [
        "lit_mnist: nothing: the event file events.out.tfevents.1.x is damaged.",
        "lit_mnist: records: the event file events.out.tfevents.1.x is damaged.",
        "lit_mnist: values: its event files hold more than 1,000,000 points.",
    ]


@pytest.mark.parametrize("depth", [1_500, 3_000])
def test_folders_nested_without_end_are_named(depth: int, study: Path, finished: Path) -> None:
    before = Path.cwd()
    on_paper(load().test[0][0].numpy()).save("study/digit.png")
    os.chdir(study)
    for _ in range(depth):  # 3,000 have a path longer than a path may be
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    os.chdir(before)
    report = typed(["report", "study"], codes=(1,))[1]
    predict = typed(["predict", "run", "--images", "study/digit.png", "study/d"], codes=(1,))[1]
    subprocess.run(["rm", "-r", study], check=True)  # Python's own way calls itself for each level
    assert report.endswith("the folder cannot be listed (nested too deep).\n")
    assert "the folder cannot be listed." in predict


def test_a_failure_long_after_the_last_checkpoint_is_not_replayed(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    result |= {"outcome": "collapsed", "train_loss_by_epoch": [0.1, 9.0], "final_train_loss": 9.0, "steps": 10**14}
    result |= {"train_loss_by_block": [[1, 9.0], [10**14, 9.0]]}
    (finished / "result.json").write_text(json.dumps(result))
    assert "too many to replay" in typed(["explain", "run"])[1]

"""Whatever lies in run folders: `report` gives every run with the numbers of its own record, or names it; see test_fuzz.py."""

import csv
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from forgeries import altered
from fuzzing import CASES, HABITS, NAMES, PLAIN, Draw, damage, new_folder, paths_in, typed, write_hole
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_mnist.record.printable import csv_cell, one_line

REFERENCE = Path(__file__).parent.parent / "logs" / "reference"
GOOD = ("lr0.1/seed_1", "lr0.1/seed_2", "lr1/seed_1", "lr1/seed_2")
OTHERS = ("lr0.1/seed_3", "lr1/seed_4", "batch8/seed_5", "lr0.01/seed_6")
Row = dict[str, str]


def rows_of(study: Path) -> dict[str, Row]:
    """The lines of results.csv by folder, without the name of the configuration, which tells it from all others."""
    with (study / "results.csv").open(newline="") as file:
        return {row["folder"]: row | {"configuration": ""} for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Row]]:
    """Four runs of the reference study, and what a report says of them."""
    study = tmp_path_factory.mktemp("good") / "study"
    for name in GOOD:
        shutil.copytree(REFERENCE / name, study / name)
    assert typed(["report", str(study), "--out", str(study.parent / "out")])[0] == 0
    return study, rows_of(study.parent / "out")


def alter_values(run: Path, draw: Draw) -> None:
    result = json.loads((run / "result.json").read_text())
    for _ in range(draw(st.integers(1, 2), "count")):
        first = draw(st.sampled_from(sorted(result)), "field")
        places = [place for place in paths_in(result) if place[0] == first]
        result = altered(result, *draw(st.sampled_from(places), "place"), value=draw(st.sampled_from(PLAIN), "value"))
    (run / "result.json").write_text(json.dumps(result))


def alter_bytes(run: Path, draw: Draw) -> None:
    path = draw(st.sampled_from(sorted(run.iterdir())), "file")
    path.write_bytes(damage(path.read_bytes(), draw))


def make_plain(run: Path, draw: Draw) -> None:
    """Leaves what a plain Trainer leaves, altered."""
    settings = json.loads((run / "result.json").read_text())["hyperparameters"] | {"seed": draw(st.sampled_from([7, *PLAIN]))}
    (run / "result.json").unlink()
    (run / "config.yaml").unlink()
    key = draw(st.sampled_from(sorted(settings)), "key")
    settings[key] = draw(st.sampled_from([settings[key], *PLAIN]), "value")
    (run / "hparams.yaml").write_text(yaml.safe_dump(settings))
    draw(st.sampled_from([alter_bytes, alter_events]), "how")(run, draw)


def make_old(run: Path, draw: Draw) -> None:
    """Leaves what version 1.0 left, whose losses of blocks are in its event files, altered."""
    result = json.loads((run / "result.json").read_text()) | {"format": 1}
    for key in ("outcome_rule", "train_loss_by_block", "stopped", "instruments"):
        del result[key]
    (run / "result.json").write_text(json.dumps(result))
    draw(st.sampled_from([alter_bytes, alter_events]), "how")(run, draw)


def alter_events(run: Path, draw: Draw) -> None:
    """Adds events that no run writes: at odd steps, of odd values, of lengths that no file has, and many that say nothing."""
    steps, values = [0, 1, 128, -1, -(2**63), 2**63 - 1], [0.0, -1.0, 3.4e38, 1e-45, float("nan"), float("inf")]
    with (run / "events.out.tfevents.9.x.1").open("wb") as file:
        writer = RecordWriter(file)
        for _ in range(draw(st.integers(0, 30), "count")):
            tag = draw(st.sampled_from(["train/loss", "train/loss_step", "test/accuracy", ""]), "tag")
            point = Summary.Value(tag=tag, simple_value=draw(st.sampled_from(values), "value"))
            event = Event(step=draw(st.sampled_from(steps), "step"), summary=Summary(value=[point]))
            writer.write(event.SerializeToString())
        length = draw(st.sampled_from([None, 0, 2**24, 2**31, 2**62, 2**64 - 1]), "length")
        file.write(b"" if length is None else struct.pack("<Q4x", length) + b"data")
    if draw(st.integers(0, 9), "empty events") == 0:
        os.truncate(run / "events.out.tfevents.9.x.1", 256 * 2**20)


def replace(run: Path, draw: Draw) -> None:
    """Puts something other than a file of ours into the place of one."""
    path = run / draw(st.sampled_from(["result.json", "result.json", "config.yaml", "hparams.yaml", "failure.json"]), "name")
    if path.name in ("hparams.yaml", "failure.json") or draw(st.booleans(), "alone"):
        for name in ("result.json", "config.yaml"):
            (run / name).unlink()
    path.unlink(missing_ok=True)
    things: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to("nowhere"),
        "link to itself": lambda: path.symlink_to(path.name),
        "device": lambda: path.symlink_to("/dev/zero"),
        "empty": path.touch,
        "huge": lambda: write_hole(path, 2**34),
        "deep": lambda: path.write_text("[" * 50_000),
        "deeper": lambda: path.write_text('{"a":' * 50_000),
        "not UTF-8": lambda: path.write_bytes(b'{"name": "\xff"}'),
        "anchors": lambda: path.write_text("a: &a [1, 2]\n" + "".join(f"a{n}: &a{n} [*a, *a]\n" for n in range(99))),
        "code": lambda: path.write_text("!!python/object/apply:os.mkdir [proof]"),
        "a value": lambda: path.write_text(draw(st.sampled_from(["1", "null", "[]", '"a"', "{}", "lr: 1", '{"reason": [1]}']))),
    }
    things[draw(st.sampled_from(sorted(things)), "thing")]()


WAYS = (alter_values, alter_values, alter_values, alter_bytes, make_plain, make_old, replace)


@settings(max_examples=CASES or 10, **HABITS)
@given(data=st.data())
def test_every_run_is_reported_with_its_own_numbers_or_named(good: tuple[Path, dict[str, Row]], data: st.DataObject) -> None:
    """Values that were altered to other plausible ones cannot be told from those of a run."""
    with new_folder() as folder:
        study = folder / data.draw(st.sampled_from(["study", *NAMES]), "study")
        shutil.copytree(good[0], study)
        for name in data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), "names"):
            run = study / f"z{name}"  # behind the good ones, should it be given the seed of one of them
            shutil.copytree(REFERENCE / data.draw(st.sampled_from(OTHERS), "run"), run)
            data.draw(st.sampled_from(WAYS), "way")(run, data.draw)
        code, complaints = typed(["report", study.name], codes=(0, 1))
        rows = rows_of(study)
        assert {name: rows.get(name) for name in good[1]} == good[1]
        for run in study.glob("z*"):
            row, is_named = rows.get(csv_cell(one_line(run.name))), f"lit_mnist: {one_line(run.name)}: " in complaints
            assert (row is not None) != is_named, (run.name, complaints)
            if row and (run / "result.json").exists():
                assert_same(row, json.loads((run / "result.json").read_bytes()))
        assert code == bool(complaints)
        assert not (folder / "proof").exists()


def assert_same(row: Row, result: dict[str, Any]) -> None:
    """Compares a line of the table with the record that it is about."""
    settings = result["hyperparameters"]
    expected = {"seed": result["seed"], "lr": settings["lr"], "batch_size": settings["batch_size"], "steps": result["steps"]}
    expected |= {name: result[name] for name in ("final_train_loss", "train_accuracy", "test_accuracy")}
    for name, value in expected.items():
        assert (float(row[name]) if row[name] else None) == value, name

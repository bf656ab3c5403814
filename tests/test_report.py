"""The `report` command: any run can be reported, a bad one is named and takes nothing with it, nothing foreign is touched."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from invented_runs import make_result, write_events, write_old_run, write_run, write_runs, write_study
from report_text import first_screen, prose, section

from lit_mnist.cli import DONE, FAILED
from lit_mnist.report import main, results_table, write_report
from lit_mnist.report.experiments import group_runs
from lit_mnist.report.load import read_folders
from lit_mnist.report.quantities import steps_to
from lit_mnist.report.tables import find_published, published, published_runs

REFERENCE = Path(__file__).parent.parent / "logs" / "reference"


def report(folder: Path) -> str:
    assert main([str(folder)]) in (DONE, FAILED)
    return (folder / "report.md").read_text()


def test_the_same_folders_give_the_same_bytes(tmp_path: Path) -> None:
    write_study(tmp_path / "runs")
    for out in ("one", "two"):
        assert main([str(tmp_path / "runs"), "--out", str(tmp_path / out)]) == DONE
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 20
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_nothing_is_imported_that_needs_torch() -> None:
    program = "import sys, lit_mnist.report.contents, lit_mnist.report.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_several_folders_make_one_report_in_the_first(tmp_path: Path) -> None:
    write_runs(tmp_path / "a", "low", [0.1, 0.2], lr=0.01)
    write_runs(tmp_path / "b", "high", [0.1, 0.2], lr=0.1)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == DONE
    assert "4 runs of 2 configurations" in (tmp_path / "a" / "report.md").read_text()
    assert not (tmp_path / "b" / "report.md").exists()


def test_a_run_given_twice_counts_once_and_a_repeated_seed_is_named(tmp_path: Path) -> None:
    write_runs(tmp_path / "a", "low", [0.1, 0.2])
    assert main([str(tmp_path / "a"), str(tmp_path / "a" / ".." / "a" / "low")]) == DONE
    write_run(tmp_path / "a" / "again", "low", 1, [0.5, 0.1, 0.1, 0.1])
    assert "same seed and hyperparameters as" in report(tmp_path / "a")


def test_files_that_no_report_wrote_stay(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for name in ("report.html", "report.md", "results.csv", "figures/training_loss-light.svg"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        with pytest.raises(ValueError, match="was not written by a report"):
            main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
        assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == [path]
        path.unlink()
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == DONE
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == DONE


def test_nothing_to_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        main([str(tmp_path)])
    with pytest.raises(ValueError, match="is not a folder"):
        main([str(tmp_path / "nowhere")])


def test_a_run_with_a_callback_beside_one_without_has_a_short_name_of_its_own(tmp_path: Path) -> None:
    stopping = "pytorch_lightning.callbacks.EarlyStopping"
    write_run(tmp_path / "a", "lr0.1")
    write_run(tmp_path / "b", "lr0.1", callbacks=[stopping], stopped="val/loss did not improve")
    text = report(tmp_path)
    assert "| lr0.1 |" in text
    assert "| lr0.1, callbacks EarlyStopping |" in text
    assert "val/loss did not improve" in text


def test_one_epoch_of_few_images_is_learning_and_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "batch128", 1, [2.21], batch_size=128, train_size=2000, test_accuracy=0.52)
    assert main([str(tmp_path)]) == DONE
    assert "1 still learning when they ended, none failed" in (tmp_path / "report.md").read_text()


def test_one_seed_each_is_no_problem(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=1)
    assert main([str(tmp_path)]) == DONE
    assert "## Beside" not in (tmp_path / "report.md").read_text()  # folded
    assert "Beside the published runs" in (tmp_path / "report.md").read_text()


def test_sixty_configurations_keep_a_short_first_screen_and_lose_none(tmp_path: Path) -> None:
    for lr in range(1, 11):
        for batch_size in (8, 16, 32, 64, 128, 256):
            for seed in (1, 2):
                loss = 0.1 + lr / 100 + seed / 1000
                name = f"lr{lr / 100}-batch{batch_size}"
                write_run(tmp_path / name / f"{seed}", name, seed, [0.5, loss], lr=lr / 100, batch_size=batch_size)
    write_report([tmp_path])
    page = (tmp_path / "report.html").read_text()
    header, rest = page.split("</header>")
    assert header.count('<th scope="row">') <= 16
    assert rest.count('<th scope="row">lr') >= 60
    assert len(first_screen(page).split()) <= 250
    assert "Colours brighten from learning rate 0.01 to 0.1." in prose(page)
    for name in ("batch size 8", "batch size 256", "learning rate 0.01", "learning rate 0.1"):
        assert f"t {name} " in prose(page)


def test_other_data_sets_and_classes_are_other_experiments(tmp_path: Path) -> None:
    write_runs(tmp_path, "same", [0.1, 0.2])
    write_runs(tmp_path / "more", "same", [0.1, 0.2], dataset="FashionMNIST")
    write_runs(tmp_path / "most", "same", [0.1, 0.2], dataset="letters", classes=26)
    text = report(tmp_path)
    assert "6 runs of 3 configurations" in text
    for name in ("same, dataset MNIST", "same, dataset FashionMNIST", "same, classes 26, dataset letters"):
        assert f"| {name} |" in text


def test_a_run_of_version_1_joins_its_experiment_and_is_judged_again(tmp_path: Path) -> None:
    write_old_run(tmp_path / "old", seed=1, losses=[2.29, 2.22, 2.12, 2.0], train_size=3000)
    write_run(tmp_path / "new", seed=2, losses=[2.29, 2.22, 2.12, 2.0], train_size=3000)
    runs, problems = read_folders([tmp_path])
    configurations, _ = group_runs(runs)
    assert not problems
    assert [len(each.runs) for each in configurations] == [2]
    old = next(run for run in runs if run.result.format == 1)
    assert old.result.outcome == "learning"
    assert len(old.block_losses) > 1


def test_the_time_to_a_target_is_interpolated_in_the_block_losses(tmp_path: Path) -> None:
    write_run(tmp_path / "a", blocks=[(100, 0.5), (200, 0.3), (300, 0.1), (400, 0.05)])
    (run,), _ = read_folders([tmp_path])
    assert steps_to(run, 0.2) == 250
    assert steps_to(run, 0.5) == 100
    assert steps_to(run, 0.01) is None


def test_a_failure_has_its_epoch(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=1, losses=[0.5, 0.3, 2.31, 2.31, 2.31])
    write_run(tmp_path / "b", seed=2, losses=[0.5, 0.3], diverged=True)
    write_run(tmp_path / "c", seed=3, losses=[3.0, 2.31, 2.31, 2.31])
    write_run(tmp_path / "d", seed=4)
    runs, _ = read_folders([tmp_path])
    assert [run.failure and round(run.failure, 1) for run in runs] == [3, 2.0, 1, None]


def test_what_a_plain_trainer_logged_is_reported(tmp_path: Path) -> None:
    for version in (0, 1):
        folder = tmp_path / "lightning_logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "hparams.yaml").write_text("batch_size: 32\nhidden:\n- 512\n- 256\nlr: 0.1\nclasses: 10\n")
        epochs = [(1874, 0.35), (3749, 0.12), (5624, 0.08 + version / 100)]
        blocks = [(step - 1, 2.3 * 0.5 ** (step / 500)) for step in range(50, 5600, 50)]
        write_events(folder, {"train/loss": epochs, "train/loss_step": blocks, "test/accuracy": [(5625, 0.975)]})
    text = report(tmp_path)
    assert "2 runs of 1 configuration: 2 trained" in text
    assert "97.50 %" in text
    bare = tmp_path / "other"
    bare.mkdir()
    (bare / "hparams.yaml").write_text("lr: 0.1\n")
    assert "hparams.yaml holds no batch\\_size" in report(tmp_path)


HOSTILE = [
    "n" * 93 + "y",
    "$x^2$",
    "#c0ff00",
    "red\x1b[31m",
    "名前",
    "<script>alert(1)</script>",
    "[x](http://e.example)|`a`",
    "=A1",
]


def test_names_of_any_kind_are_reported_and_become_nothing_else(tmp_path: Path) -> None:
    for index, name in enumerate(HOSTILE):
        for seed in (1, 2):
            write_run(
                tmp_path / f"{index}" / f"{seed}",
                name,
                seed,
                [0.5, 0.1 * (index + 1)],
                lr=(index + 1) / 100,
                command=f"rm -r ~; {name}",
            )
    assert main([str(tmp_path)]) == DONE
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<script" not in page
    assert "\x1b" not in page + text + (tmp_path / "results.csv").read_text()
    for name in ("$x^2$", "#c0ff00"):  # in the figures, neither a formula nor a colour
        assert f">{name}</text>" in page
    assert not re.search(r"(?<!\\)\]\(", text)
    assert not re.search(r"(?<!\\)\$", text)
    assert "<pre>" not in page  # no line to paste
    assert "not a command of lit_mnist: <q>rm -r ~" in page
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["configuration"] for row in rows} >= {"'=A1", "$x^2$"}


def test_a_command_of_plain_words_is_a_line_to_paste(tmp_path: Path) -> None:
    write_run(tmp_path / "a", command="python -m lit_mnist fit --config configs/lr0.1.yaml --seed_everything 1")
    write_run(tmp_path / "b", seed=2, command="python -m lit_mnist fit --config $(reboot)")
    text = report(tmp_path)
    assert "\npython -m lit_mnist fit --config configs/lr0.1.yaml --seed_everything 1\n" in text
    assert "- not a command of lit_mnist: python -m lit\\_mnist fit --config \\$(reboot)" in text


def bad_runs(folder: Path) -> dict[str, bytes]:
    """Folders of runs that cannot be read, by name, with what must be said of each."""
    good = make_result()
    content = json.loads(msgspec.json.encode(good))
    nested = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 20))
    results: dict[str, tuple[str | bytes, bytes]] = {
        "huge_loss": (json.dumps(content | {"train_loss_by_epoch": [1e308] * 4}), b"train_loss_by_epoch"),
        "huge_seed": (json.dumps(content | {"seed": 10**400}), b"seed"),
        "no_json": ("{", b"not JSON"),
        "no_text": (b"\xff\xfe", b"not JSON"),
        "deep": ('{"hyperparameters": {"a": ' + "[" * 100_000, b"not JSON"),
        "foreign": ("[]", b"expected"),
        "m" * 200: ("{}", b"missing required field"),
    }
    for name, (text, _) in results.items():
        (folder / name).mkdir()
        (folder / name / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = {name: what for name, (_, what) in results.items()}
    for name in ("pipe", "dangling", "circle", "anchors", "unfinished", "events", "killed"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe" / "result.json")
    (folder / "dangling" / "result.json").symlink_to("nowhere")
    (folder / "circle" / "result.json").symlink_to("result.json")
    (folder / "anchors" / "hparams.yaml").write_text(f"a0: &a0 [1, 2]\n{nested}\n")
    (folder / "unfinished" / "config.yaml").write_text("seed_everything: 1\n")
    (folder / "killed" / "failure.json").write_text('{"reason": "it was killed"}')
    (folder / "events" / "hparams.yaml").write_text("lr: 0.1\nbatch_size: 32\n")
    (folder / "events" / "events.out.tfevents.1.x").write_bytes((2**62).to_bytes(8, "little") + b"....")
    said |= {
        "pipe": b"not a regular file",
        "dangling": b"cannot be read",
        "circle": b"cannot be read",
        "anchors": b"is not YAML",
    }
    said |= {"unfinished": b"not finished", "killed": b"it was killed", "events": b"event file"}
    surrogate = os.fsdecode(b"latin\xe9")
    (folder / surrogate).mkdir()
    (folder / surrogate / "result.json").write_text("{")
    return said | {surrogate: b"not JSON"}


def test_every_bad_run_is_named_and_the_others_are_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path, "good", [0.1, 0.11])
    said = bad_runs(tmp_path)
    assert main([str(tmp_path)]) == FAILED
    lines = capfd.readouterr().err.splitlines()
    page = (tmp_path / "report.html").read_text()
    for name, what in said.items():
        shown = name.encode("utf-8", "backslashreplace").decode()
        (line,) = [line for line in lines if line.startswith(f"lit_mnist: {shown}: ")]
        assert what.decode() in line
        assert f"{shown}: " in page
    assert len(lines) == len(said)
    assert "2 runs of 1 configuration: 2 trained, none failed." in page
    assert f"{len(said)} folders could not be counted" in page


def test_one_bad_run_of_version_1_is_named(tmp_path: Path) -> None:
    write_old_run(tmp_path / "good")
    write_old_run(tmp_path / "bad", seed=2)
    (tmp_path / "bad" / "result.json").write_text("{")
    text = report(tmp_path)
    assert "1 run of 1 configuration" in text
    assert "is not JSON" in section(text, "What could not be counted")


def test_ranks_stand_beside_the_published_values(tmp_path: Path) -> None:
    run = next(run for run in published_runs() if run["name"] == "lr0.1")
    for seed in (1, 2, 3):
        losses = [loss * (0.9 + 0.02 * seed) for loss in run["train_loss_by_epoch"]]
        write_run(tmp_path / f"{seed}", "mine", seed, losses, max_epochs=20, test_accuracy=0.9833)
    (configuration,), _ = group_runs(read_folders([tmp_path])[0])
    assert find_published(configuration) == run
    rows = {row[1]: row[-1] for row in published([configuration]).rows}
    assert rows["training loss of epoch 1"] == "above 3 of 3"
    assert rows["test accuracy"] == "above 0 of 3, equal to 3"


def test_another_experiment_has_no_published_value(tmp_path: Path) -> None:
    write_run(tmp_path / "a", losses=[0.3] * 19)
    write_run(tmp_path / "b", losses=[0.3] * 20, dataset="FashionMNIST")
    write_run(tmp_path / "c", losses=[0.3] * 20, hidden=[512])
    configurations, _ = group_runs(read_folders([tmp_path])[0])
    assert len(configurations) == 3
    assert not any(find_published(each) for each in configurations)


def test_the_published_runs_name_their_source() -> None:
    text = (REFERENCE.parent.parent / "lit_mnist" / "report" / "published_runs.json").read_text()
    assert 'unpublished course notebook, "Assignment 2", January 2025' in json.loads(text)["source"]


def test_the_results_table_has_five_columns_and_a_line_for_each_configuration() -> None:
    lines = results_table(REFERENCE).splitlines()
    assert len(lines) == 2 + 5
    assert all(line.count("|") == 6 for line in lines)
    assert "9 of 20 |" in lines[-1]

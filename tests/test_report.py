"""The report command: what it writes, what it says, and that it says no more than the runs do."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invented_runs import write_run, write_study
from report_text import section

from lit_mnist.cli.main import main as cli
from lit_mnist.record.outcome import FAR_WORSE_BY, NO_BETTER_THAN
from lit_mnist.report import main, results_table


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a report consists of."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five configurations with six seeds, lr1 failing with four of them; its report is in `report`."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "runs", seeds=6)
    assert main([str(folder / "runs"), "--out", str(folder / "report")]) == 0
    return folder


def markdown(study: Path) -> str:
    return (study / "report/report.md").read_text()


def test_the_same_folders_give_the_same_bytes_in_another_process_with_no_torch(study: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom lit_mnist.report import main\n"
        f"code = main([{str(study / 'runs')!r}, '--out', {str(tmp_path)!r}])\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'pytorch_lightning', 'tensorflow'}\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, check=True)
    assert written(tmp_path) == written(study / "report")
    assert {"report.html", "report.md", "results.csv"} <= written(tmp_path).keys()


def test_fifty_runs_take_less_than_ten_seconds_of_the_processor(tmp_path: Path) -> None:
    for index in range(50):
        losses = [2.0 * 0.8**epoch * (1 + index % 5 / 100) for epoch in range(20)]
        lr, batch_size = (0.01, 0.03, 0.1, 0.3, 1.0)[index // 10], (8, 32)[index // 5 % 2]
        write_run(tmp_path / f"{index}", f"{lr} {batch_size}", index % 5, losses, lr=lr, batch_size=batch_size)
    began = time.process_time()
    assert main([str(tmp_path)]) == 0
    assert time.process_time() - began < 10


def test_the_results_table_gives_mean_sd_and_range_of_the_trained_runs_alone(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.9810, 0.9820, 0.9830), 1):
        write_run(tmp_path / f"{seed}", "mine", seed, test_accuracy=accuracy, seconds=4.0)
    write_run(tmp_path / "4", "mine", 4, [0.5, 2.3, 2.3], "collapsed", test_accuracy=0.1)
    write_run(tmp_path / "5", "mine", 5, [0.5, 9.0], "diverged", max_epochs=3)
    table = results_table(tmp_path)
    assert len(table.splitlines()) == 3
    assert "98.20 ± 0.10<br>(98.10–98.30)" in table
    assert "| 5 | 2 of 5<br>1 collapsed<br>1 diverged<br>(12–77 %) |" in table
    assert "| 4.00 ± 0.00<br>(4.00–4.00) |" in table
    assert "published" not in table


def test_one_seed_gives_no_sd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "1", "mine", 1)
    assert main([str(tmp_path)]) == 1
    assert "mine: it has one seed only (1)" in capsys.readouterr().err
    assert "±" not in results_table(tmp_path)
    results = section((tmp_path / "report.md").read_text(), "Results")
    assert "98.00" in results


def test_one_seed_gives_no_range_to_lie_in(tmp_path: Path) -> None:
    write_run(tmp_path / "1", "lr0.1", 1, [0.5] * 20)
    assert main([str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "| 98.00<br>published 98.33 |" in section(text, "Results")
    assert "| test accuracy, % | 98.00 | 98.00–98.00 | 98.33 | – | – | – |" in section(text, "Beside the published runs")


def test_published_runs_are_found_by_hyperparameters_not_by_name(study: Path, tmp_path: Path) -> None:
    losses = [0.5] * 20
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", "anything", seed, losses, lr=0.1, test_accuracy=0.9833)
        write_run(tmp_path / f"b{seed}", "lr0.1", seed, losses, lr=0.1, train_size=2000)
    rows = {row.split(" | ")[0]: row for row in results_table(tmp_path).splitlines()}
    assert "published 98.33" in rows["| anything"]
    assert "published" not in rows["| lr0.1"]
    assert results_table(study / "runs").count("published") == 15
    assert section(markdown(study), "Beside the published runs").count("\n| ") == 2 + 25


def test_failures_are_listed_with_seed_and_place(study: Path) -> None:
    failures = section(markdown(study), "Failed runs")
    assert "| lr1 | 3 | diverged | epoch 14, step 24,382 |" in failures
    assert "| lr1 | 2 | collapsed | – |" in failures
    assert failures.count("| lr1 |") == 4


def test_findings_follow_from_the_runs(study: Path) -> None:
    text = section(markdown(study), "What the learning rate does")
    assert re.search(r"  - lr0\.1 against lr0\.01: 0\.00\d+ times \(.*\): differs\.", text)
    assert re.search(r"Share of failed runs: 0 of 6 \(lr0\.01\), 0 of 6 \(lr0\.1\), 4 of 6 \(lr1\)\.", text)
    assert "A low learning rate is slower (lr0.01): the data agree" in text
    # with six seeds, 4 of 6 against 0 of 6 is p = 0.06, before any correction
    assert "Training is less stable at a high learning rate (lr1): these runs do not decide." in text
    assert "share of failed runs, lr1 against lr0.1: 4 of 6 against 0 of 6: open." in text
    assert "Accuracies at a high learning rate are still high (lr1): the data agree in part." in text
    assert "4 of 6 runs failed (95 % interval of the share 30 to 90 %): against it." in text
    assert re.search(r"test accuracy of the trained runs 95\.\d+ ± 0\.\d+ %, with 90 % as high: for it\.", text)
    assert "| training loss 0.01 | 0 of 6 trained runs | epoch " in text
    text = section(markdown(study), "What the batch size does")
    assert "Small batches are dearer in time (batch8): the data agree." in text
    assert "in 7,500, 1,875, 469 SGD steps" in text
    assert "none failed" not in text
    assert "Learning rate and batch size together" not in markdown(study)


def test_the_bounds_of_a_collapse_are_told_as_they_are(study: Path) -> None:
    methods = section(markdown(study), "How the numbers are made")
    assert f"{NO_BETTER_THAN:.3f} nats or more (0.9 of guessing, ln 10)" in methods
    assert f"{FAR_WORSE_BY:.3f} nats or more (0.25 of it) above their best epoch" in methods


def test_runs_that_all_failed_are_reported_as_that(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", "one", seed, [], "diverged", lr=10.0, max_epochs=3)
        write_run(tmp_path / f"b{seed}", "ten", seed, [2.3, 2.3, 2.3], "collapsed", lr=1.0)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "2 configurations, 4 runs: 2 collapsed, 2 diverged." in text
    assert "| 2 of 2<br>2 diverged<br>(34–100 %) | – | – | – | – |" in text
    assert ": differs." not in text


def test_a_grid_is_recognised_whatever_its_names(tmp_path: Path) -> None:
    number = 0
    for lr in (0.1, 1.0):
        for batch_size in (8, 32):
            for seed in (1, 2):
                number += 1
                losses = [1.0 / lr / batch_size + seed / 100, 0.1]
                outcome = "diverged" if (lr, batch_size) == (1.0, 8) else "trained"
                name = f"run {'abcd'[2 * (lr > 0.5) + (batch_size > 8)]}"
                write_run(tmp_path / f"{number}", name, seed, losses, outcome, lr=lr, batch_size=batch_size)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "## Learning rate and batch size together" in text
    assert "✕ 2 of 2" in (tmp_path / "figures/grid-light.svg").read_text()
    assert (tmp_path / "figures/learning_rates_2-dark.svg").exists()
    assert (tmp_path / "figures/batch_sizes_2-dark.svg").exists()


def test_problems_stand_in_the_report_and_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"lr0.1/seed_{seed}", seed=seed)
    write_run(tmp_path / "lr0.1/seed_3", seed=3, events=False)
    (tmp_path / "lr0.1/seed_4").mkdir()
    assert cli(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "lit_mnist: lr0.1/seed_3: it has no event file" in said
    assert "lit_mnist: lr0.1/seed_4: the folder is empty." in said
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "lr0.1/seed_3: it has no event file" in text
        assert "lr0.1/seed_4: the folder is empty." in text
    assert "| lr0.1 | 0.1 | 32 | 3 |" in results_table(tmp_path)


@pytest.mark.parametrize("what", ["no such folder", "empty", "one unfinished run"])
def test_nothing_to_report_is_bad_input(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    if what != "no such folder":
        folder.mkdir()
    if what == "one unfinished run":
        write_run(folder / "1")
        (folder / "1/result.json").unlink()
    before = written(tmp_path)
    assert cli(["report", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err
    assert written(tmp_path) == before


def test_the_csv_has_every_run_with_all_its_digits(study: Path) -> None:
    rows = list(csv.DictReader((study / "report/results.csv").read_text().splitlines()))
    assert len(rows) == 30
    assert {row["outcome"] for row in rows} == {"trained", "collapsed", "diverged"}
    (row,) = [row for row in rows if row["configuration"] == "batch8" and row["seed"] == "2"]
    assert row["command"] == "python -m lit_mnist fit --config batch8 --seed_everything 2"
    assert float(row["final_train_loss"]) == float(row["train_loss_by_epoch"].split()[-1])
    assert len(row["test_accuracy_by_epoch"].split()) == 20


def test_every_run_stands_beside_the_line_that_runs_it_again(study: Path) -> None:
    text = section(markdown(study), "Every run")
    assert text.count("`python -m lit_mnist fit --config ") == 30
    assert section(markdown(study), "Results").count("python -m lit_mnist fit --config ") == 5


def test_a_real_run_is_reported(workplace: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.root", str(root), "--data.train_size", "1000", "--trainer.max_epochs", "3"]
    assert cli(["fit", "--config", "lr0.1", *options]) == 0
    capsys.readouterr()
    assert cli(["report", "logs"]) == 1
    assert capsys.readouterr().err == "lit_mnist: lr0.1: it has one seed only (1), so no sd is given.\n"
    assert "| lr0.1 | 0.1 | 32 | 1 | 0 of 1<br>(0–79 %) |" in results_table(workplace / "logs")

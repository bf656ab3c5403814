"""The benchmark runs, in small, and its figures are those of what it ran."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

SPEED = Path(__file__).parent / "benchmarks" / "speed.py"


def test_the_benchmark_prints_its_table_and_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "speed.json"
    size = ["--images", "256", "--batches", "32", "--threads", "1", "--repeats", "1"]
    rows = ["--contenders", "plain tensor loop", "lit_mnist fast", "--epochs", "1", "--start_up", "0", "--whole", "0"]
    command = [sys.executable, str(SPEED), *size, *rows, "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(figures.read_text())
    medians = {(row["contender"], row["batch_size"]): median(row["seconds"]) for row in record["rows"]}
    assert set(medians) == {("plain tensor loop", 32), ("lit_mnist fast", 32)}
    assert all(seconds > 0 for seconds in medians.values())
    ratio = record["ratios"]["time of plain loop / fast, threads 1"]["32"]
    assert ratio == medians["plain tensor loop", 32] / medians["lit_mnist fast", 32]
    for (name, _), seconds in medians.items():
        assert f"  {name:<34}{seconds:>8.2f}" in done.stdout
    assert {"torch", "pytorch_lightning"} <= set(record["machine"]["versions"])
    assert record["import_peak_mib"] > 0

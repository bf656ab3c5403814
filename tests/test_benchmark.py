"""The benchmark runs, in small, and its table holds the figures of what it ran."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

SPEED = Path(__file__).parent / "benchmarks" / "speed.py"


def test_the_benchmark_writes_its_table_into_the_readme_and_its_figures_into_a_file(tmp_path: Path) -> None:
    figures, readme = tmp_path / "speed.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    size = ["--parts", "epochs", "--images", "256", "--batches", "32", "--threads", "1", "--rounds", "1"]
    rows = ["--contenders", "plain tensor loop", "exact engine"]
    files = ["--json", str(figures), "--readme", str(readme)]
    done = subprocess.run([sys.executable, str(SPEED), *size, *rows, *files], capture_output=True, text=True, check=True)
    record = json.loads(figures.read_text())
    medians = {row["row"]: median(row["seconds"]) for row in record["rows"]}
    assert set(medians) == {"plain tensor loop, one thread", "exact engine, one thread"}
    assert readme.read_text() == f"before\n<!-- speed -->\n{done.stdout}<!-- /speed -->\nafter\n"
    ratio = medians["exact engine, one thread"] / medians["plain tensor loop, one thread"]
    assert f"| exact engine / plain tensor loop, one thread | {ratio:.2f} |" in done.stdout
    for name, seconds in medians.items():
        assert f"| {name} | {seconds:.2f} (" in done.stdout

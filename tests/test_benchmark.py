"""The benchmark runs, in small, and its table holds the figures of what it ran."""

import json
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest


def test_the_benchmark_writes_its_table_into_the_readme_and_its_figures_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, readme = tmp_path / "speed.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    size = ["--parts", "epochs", "--images", "256", "--batches", "32", "--threads", "1", "--rounds", "1"]
    rows = ["--contenders", "plain tensor loop", "exact engine"]
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    import_module("speed").main([*size, *rows, "--json", str(figures), "--readme", str(readme)])
    printed = capsys.readouterr().out
    record = json.loads(figures.read_text())
    medians = {row["row"]: median(row["seconds"]) for row in record["rows"]}
    assert set(medians) == {"plain tensor loop, one thread", "exact engine, one thread"}
    assert readme.read_text() == f"before\n<!-- speed -->\n{printed}<!-- /speed -->\nafter\n"
    ratio = medians["exact engine, one thread"] / medians["plain tensor loop, one thread"]
    assert f"| exact engine / plain tensor loop, one thread | {ratio:.2f} |" in printed
    for name, seconds in medians.items():
        assert f"| {name} | {seconds:.2f} (" in printed

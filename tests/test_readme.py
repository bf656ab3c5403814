"""README.md says nothing that does not work: its commands run, its table is that of the committed runs, its links exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from PIL import Image, ImageDraw

from lit_mnist.cli import main as cli
from lit_mnist.report import results_table

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
REFERENCE = REPOSITORY / "logs" / "reference"
CHEAP = ["--data.train_size", "1000", "--trainer.max_epochs", "1"]  # instead of 60,000 images and 20 epochs


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands_of_the_tour() -> list[list[str]]:
    (tour,) = [block for block in blocks("bash") if "predict" in block]
    return [shlex.split(line, comments=True) for line in tour.splitlines() if "tensorboard" not in line]


def test_the_first_command_stands_within_25_lines() -> None:
    assert any(line.startswith("python3 -m venv") for line in README.splitlines()[:25])


def test_the_test_command_is_the_one_that_the_check_script_runs() -> None:
    pattern = re.search(r"grep -m1 '(.*)' README.md", (REPOSITORY / ".ci" / "run").read_text())
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1


def test_every_other_command_is_one_that_exists_and_takes_its_options(workplace: Path) -> None:
    others = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    others = [words for words in others if words[:3] != ["python3", "-m", "venv"] and words not in commands_of_the_tour()]
    assert len(others) > 10
    for program, *arguments in others:
        if arguments[:3] == ["-m", "lit_mnist", "study"]:
            options = arguments[3:]
            if "--scheduler" in options:  # what is sent to one is shown by the tests of the study
                at = options.index("--scheduler")
                del options[at : at + 2]
            assert cli.main(["study", *options, "--dry-run"]) == 0
        elif arguments[:2] == ["-m", "lit_mnist"]:
            quick = ["--trainer.max_epochs", "1", "--data.train_size", "640"]
            assert subprocess.run([sys.executable, *arguments, *quick], check=False).returncode == 0
        elif program == "python":
            source = (REPOSITORY / arguments[0]).read_text()
            assert all(f'"{option}"' in source for option in arguments if option.startswith("--"))
        elif program == "bash":
            assert os.access(REPOSITORY / arguments[0], os.X_OK)
        else:
            assert shutil.which(program, path=str(Path(sys.executable).parent)), program


def test_every_promise_names_a_test_of_its_own() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `(tests/test_\w+\.py)` \|$", README, re.MULTILINE)
    assert len(rows) >= 12
    assert len({promise for promise, _ in rows}) == len(rows)


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r"`((?:lit_mnist|tests|configs|logs)/[\w./]+?)/?`|\]\(([\w./]+)\)", README):
        assert (REPOSITORY / (name[0] or name[1])).exists(), name
    for name in re.findall(r'src(?:set)?="([^"]+)"', README):
        assert (REPOSITORY / name).exists(), name


def test_the_table_is_that_of_the_committed_runs() -> None:
    between = re.search(r"<!-- results -->\n(.*)\n<!-- /results -->", README, re.DOTALL)
    assert between is not None
    assert between[1].strip() == results_table(REFERENCE).strip()


def test_the_report_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    command = [sys.executable, "-m", "lit_mnist", "report", str(copy)]
    subprocess.run(command, check=False, capture_output=True)
    for name in ("report.md", "results.csv"):
        assert (copy / name).read_text() == (REFERENCE / name).read_text()


def test_the_figures_of_speed_are_those_of_the_committed_run_of_the_benchmark() -> None:
    rows = json.loads((REPOSITORY / "tests" / "benchmarks" / "speed.json").read_text())["rows"]
    medians = {(row["contender"], row["batch_size"], row["threads"]): median(row["seconds"]) for row in rows}
    (table,) = re.findall(r"^\| seconds per epoch.*\n.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    for line in table.splitlines():
        name, _, *shown = [cell.strip(" *") for cell in line.strip("|").split("|")]
        threads = 0 if name == "notebook loop" else 1
        assert shown == [f"{medians[name, size, threads]:.2f}" for size in (8, 32, 128)]


@pytest.mark.slow
def test_the_tour_works_line_by_line(tmp_path: Path) -> None:
    picture = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(picture).line([(100, 30), (100, 170)], fill=0, width=18)
    picture.save(tmp_path / "photo.png")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for words in commands_of_the_tour():
        assert words[0] == "python"
        cheap = CHEAP if words[3] in ("fit", "study") else []
        ran = subprocess.run(
            [sys.executable, *words[1:], *cheap], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{shlex.join(words)}: {ran.stderr}"
        assert "Traceback" not in ran.stderr
    assert (tmp_path / "logs" / "study" / "report.html").exists()
    assert (tmp_path / "model.onnx").exists()
    (program,) = [block for block in blocks("python") if "predict_images" in block]
    assert "max_epochs=20" in program
    program = program.replace("max_epochs=20", "max_steps=20")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True)

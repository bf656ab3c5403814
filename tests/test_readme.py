"""README.md and CONTRIBUTING.md say nothing that does not work: commands run, tables are those of the committed runs."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from victim import Victim

from lit_mnist.cli.main import COMMANDS
from lit_mnist.report import main as report
from lit_mnist.report import results_table

REPOSITORY = Path(__file__).parent.parent
README, CONTRIBUTING = ((REPOSITORY / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
REFERENCE = REPOSITORY / "logs" / "reference"
# instead of 60,000 images, 20 epochs and 512 and 256 units
CHEAP = ["--data.train_size", "640", "--trainer.max_epochs", "1", "--model.hidden", "[16]"]


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(part, comments=True) for block in blocks for line in block.splitlines() for part in line.split(" && ")]


def test_the_first_command_stands_within_30_lines() -> None:
    assert any(line.startswith("python3 -m venv") for line in README.splitlines()[:30])


def test_readme_and_contributing_are_short() -> None:
    assert len(README.splitlines()) <= 150
    assert len(CONTRIBUTING.splitlines()) <= 80


def test_the_commands_of_readme_work_line_by_line(tmp_path: Path) -> None:
    picture = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(picture).line([(100, 30), (100, 170)], fill=0, width=18)
    picture.save(tmp_path / "photo.png")
    ours = [words for words in commands(README) if words[:3] == ["python", "-m", "lit_mnist"]]
    assert {words[3] for words in ours} == set(COMMANDS) - {"validate"}
    # `compare` names a run of the study with the published number of epochs, which differs in what the tests shorten
    for words in ours:
        cheap = CHEAP if words[3] in ("fit", "study") else []
        seeds = ["--seeds", "1"] if words[3] == "study" else []
        ran = Victim(*words[3:], *cheap, *seeds, folder=tmp_path)
        assert ran.wait() == 0, f"{shlex.join(words)}: {ran.stderr}"
        assert "Traceback" not in ran.stderr
    assert (tmp_path / "logs" / "study" / "report.html").exists()
    assert (tmp_path / "model.onnx").exists()


def run_lines(program: str) -> int:
    exec(program, {"__name__": "__main__"})
    return 0


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_lines_of_readme_work(tmp_path: Path, number: int) -> None:
    program = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[number]
    program = program.replace('fit("lr0.1")', 'fit("lr0.1", epochs=1, train_size=640)').replace("max_epochs=20", "max_steps=20")
    Image.linear_gradient("L").rotate(90).save(tmp_path / "photo.png")
    ran = Victim(program, folder=tmp_path, act=run_lines, environment={"MPLBACKEND": "agg"})
    assert ran.wait() == 0, ran.stderr


def test_other_commands_name_programs_and_options_that_exist() -> None:
    for words in commands(README) + commands(CONTRIBUTING):
        if words[0] == "python" and words[1].endswith(".py"):
            source = (REPOSITORY / words[1]).read_text()
            assert all(f'"{option}"' in source for option in words if option.startswith("--")), words
        elif words[0] == "bash":
            assert os.access(REPOSITORY / words[1], os.X_OK)
        elif words[0] not in ("python", "python3", "source"):
            assert shutil.which(words[0], path=str(Path(sys.executable).parent)), words


def test_every_promise_names_a_test_of_its_own() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `(tests/test_\w+\.py)` \|$", CONTRIBUTING, re.MULTILINE)
    assert len(rows) >= 12
    assert len(dict(rows)) == len({test for _, test in rows}) == len(rows)


def test_every_file_that_is_named_exists() -> None:
    text = README + CONTRIBUTING
    for name in re.findall(r"`((?:lit_mnist|tests|configs|logs)/[\w./]+?)/?`|\]\(([\w./]+)\)", text):
        place = name[0] or name[1]
        assert (REPOSITORY / place).exists() or place.startswith("logs/lr0.1"), place
    for name in re.findall(r'src(?:set)?="([^"]+)"', text):
        assert (REPOSITORY / name).exists(), name


def test_the_table_is_that_of_the_committed_runs() -> None:
    between = re.search(r"<!-- results -->\n(.*)\n<!-- /results -->", README, re.DOTALL)
    assert between is not None
    assert between[1].strip() == results_table(REFERENCE).strip()
    assert between[1].splitlines()[0].count("|") <= 6


def test_the_report_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    report([str(REFERENCE), "--out", str(tmp_path)])
    for name in ("report.md", "results.csv"):
        assert (tmp_path / name).read_text() == (REFERENCE / name).read_text()

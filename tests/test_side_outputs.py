"""What is written beside the result, curves and pictures, never stops a run and never changes it."""

from pathlib import Path

import pytest
from kills import Experiment
from remains import result_of
from victim import Victim

from lit_mnist.record.events import EventFile

OPTIONS = Experiment(batch_size=32, epochs=2).options


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    victim = Victim(*OPTIONS, folder=folder)
    assert victim.wait() == 0, victim.stderr
    return folder / "run"


@pytest.mark.parametrize("matplotlib_folder", ["", "/dev/null/nowhere"])
def test_a_picture_that_cannot_be_written_is_one_sentence_and_the_same_result(
    matplotlib_folder: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Event files that cannot be written are among the faults of `tests/faults.py`."""
    (tmp_path / "run" / "loss.png").mkdir(parents=True)
    environment = {"MPLCONFIGDIR": matplotlib_folder} if matplotlib_folder else {}
    victim = Victim(*OPTIONS, folder=tmp_path, environment=environment)
    assert victim.wait() == 0
    assert victim.stderr.splitlines()[-1].startswith("lit_mnist: loss.png could not be drawn (")
    assert "Traceback" not in victim.stderr
    assert result_of(tmp_path / "run") == result_of(undisturbed)
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_folder_in_which_no_event_file_can_be_made_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    events = EventFile(Path("/dev/null/nowhere"))
    for step in range(3):
        events.add_scalar("train/loss", 1.0, step)
    events.flush()
    events.close()
    complaint = capsys.readouterr().err
    assert complaint.startswith("lit_mnist: TensorBoard's event file cannot be written (")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("name", ["config.yaml", "events.out.tfevents.1.somebody"])
def test_files_of_something_else_are_neither_overwritten_nor_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(parents=True)
    (tmp_path / "run" / name).write_text("port: 8080\n")
    victim = Victim(*OPTIONS, folder=tmp_path)
    assert victim.wait() == 2
    assert victim.stderr == "lit_mnist: run holds the files of something else; choose another --run_dir.\n"
    assert (tmp_path / "run" / name).read_text() == "port: 8080\n"
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {name, ".lock"}

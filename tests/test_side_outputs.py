"""What is written beside the result, curves and pictures, never stops a run and never changes it."""

from pathlib import Path

import pytest
from kills import Experiment
from remains import result_of
from victim import Victim

from lit_mnist.record.events import EventLog

# Two seconds between the first point of a curve and the last one, so that a disturbance comes in time on a busy machine.
OPTIONS = (*Experiment(batch_size=8, val_size=0).options, "--trainer.max_epochs", "12")
FULL = Path("/dev/full")  # a file that can be opened, and not written to

needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    victim = Victim(*OPTIONS, folder=folder)
    assert victim.wait() == 0, victim.stderr
    return folder / "run"


@needs_full
def test_an_event_file_that_cannot_be_written_any_more_is_one_sentence_and_the_same_result(
    undisturbed: Path, tmp_path: Path
) -> None:
    victim = Victim(*OPTIONS, folder=tmp_path)
    assert victim.wait_until(lambda: any((tmp_path / "run").glob("events.out.tfevents.*")))
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    (tmp_path / "run" / "full").symlink_to(FULL)
    (tmp_path / "run" / "full").rename(events)
    assert victim.wait() == 0
    assert victim.stderr.startswith("lit_mnist: TensorBoard's event file cannot be written ([Errno 28]")
    assert victim.stderr.count("\n") == 1
    assert result_of(tmp_path / "run") == result_of(undisturbed)


@pytest.mark.parametrize("matplotlib_folder", ["", "/dev/null/nowhere"])
def test_a_picture_that_cannot_be_written_is_one_sentence_and_the_same_result(
    matplotlib_folder: str, undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "loss.png").mkdir(parents=True)
    environment = {"MPLCONFIGDIR": matplotlib_folder} if matplotlib_folder else {}
    victim = Victim(*OPTIONS, folder=tmp_path, environment=environment)
    assert victim.wait() == 0
    assert victim.stderr.splitlines()[-1].startswith("lit_mnist: loss.png could not be drawn (")
    assert "Traceback" not in victim.stderr
    assert result_of(tmp_path / "run") == result_of(undisturbed)
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_folder_in_which_no_event_file_can_be_made_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    events = EventLog(Path("/dev/null/nowhere"))
    for step in range(3):
        events.log_metrics({"train/loss": 1.0}, step)
    events.flush()
    events.close()
    complaint = capsys.readouterr().err
    assert complaint.startswith("lit_mnist: TensorBoard's event file cannot be written (")
    assert complaint.count("\n") == 1


def test_files_of_something_else_are_neither_overwritten_nor_removed(undisturbed: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "events.out.tfevents.1.somebody"):
        folder = tmp_path / name
        (folder / "run").mkdir(parents=True)
        (folder / "run" / name).write_text("port: 8080\n")
        victim = Victim(*OPTIONS, folder=folder)
        assert victim.wait() == 2
        assert victim.stderr == "lit_mnist: run holds the files of something else; choose another --run_dir.\n"
        assert (folder / "run" / name).read_text() == "port: 8080\n"
        assert {path.name for path in (folder / "run").iterdir()} <= {name, ".lock"}

"""What is written beside the result, curves and pictures, never stops a run and never changes it."""

from pathlib import Path

import pytest
from kills import Experiment
from remains import result_of
from victim import Victim

from lit_mnist.cli.main import main
from lit_mnist.record.events import EventFile

OPTIONS = (*Experiment(batch_size=32, epochs=2).options, "--data.train_size", "640")


def test_a_picture_that_cannot_be_written_is_one_sentence_and_the_same_result(tmp_path: Path) -> None:
    """Event files that cannot be written are among the faults of `tests/faults.py`."""
    undisturbed = tmp_path / "undisturbed"
    assert Victim(*OPTIONS, folder=undisturbed).wait() == 0
    (tmp_path / "run" / "loss.png").mkdir(parents=True)
    victim = Victim(*OPTIONS, folder=tmp_path, environment={"MPLCONFIGDIR": "/dev/null/nowhere"})
    assert victim.wait() == 0
    assert victim.stderr.splitlines()[-1].startswith("lit_mnist: loss.png could not be drawn (")
    assert "Traceback" not in victim.stderr
    assert result_of(tmp_path / "run") == result_of(undisturbed / "run")
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
def test_files_of_something_else_are_neither_overwritten_nor_removed(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workplace / "run"
    run.mkdir()
    (run / name).write_text("port: 8080\n")
    assert main(list(OPTIONS)) == 2
    assert capsys.readouterr().err == "lit_mnist: run holds the files of something else; choose another --run_dir.\n"
    assert (run / name).read_text() == "port: 8080\n"
    assert {path.name for path in run.iterdir()} <= {name, ".lock"}

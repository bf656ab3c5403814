"""The Python API: the same runs as the command line, and what can be asked of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import lit_mnist
from lit_mnist.cli.main import main

SHORT: dict[str, Any] = {"epochs": 2, "train_size": 640, "hidden": (16,)}
OPTIONS = ["--trainer.max_epochs", "2", "--data.train_size", "640", "--model.hidden", "16"]


def test_python_and_the_command_line_give_the_same_bits_and_folders(workplace: Path) -> None:
    run = lit_mnist.fit("lr0.1", seed=3, lr=0.2, **SHORT)
    assert run.folder == Path("logs/lr0.1/version_0")
    assert main(["fit", "--config", "lr0.1", "--seed_everything", "3", "--model.lr", "0.2", *OPTIONS]) == 0
    (_, command) = lit_mnist.read_runs("logs")
    assert command.folder == Path("logs/lr0.1/version_1")
    assert command.result.weights_sha256 == run.result.weights_sha256
    assert command.result.hyperparameters == run.result.hyperparameters
    names = [sorted(path.name for path in each.folder.iterdir() if "tfevents" not in path.name) for each in (run, command)]
    assert names[0] == names[1]


def test_a_run_tells_its_history_draws_its_loss_and_classifies(workplace: Path) -> None:
    run = lit_mnist.fit("lr0.1", val_size=100, **SHORT)
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert [row["train_loss"] for row in run.history] == run.result.train_loss_by_epoch
    assert all(0 <= row["val_accuracy"] <= 1 for row in run.history)
    assert list(run.plot_loss().axes[0].lines[0].get_ydata()) == run.result.train_loss_by_epoch  # type: ignore[arg-type]
    data = lit_mnist.MNISTDataModule()
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    predicted, probabilities = run.predict(images)
    assert probabilities.shape == (len(images), 10)
    assert float((predicted == labels).float().mean()) == pytest.approx(run.result.test_accuracy, abs=0.05)
    assert "seed 1" in repr(run)


def test_a_cell_run_twice_keeps_both_runs(workplace: Path) -> None:
    folders = [lit_mnist.fit("batch8", options={"trainer.max_steps": 5}, **SHORT).folder for _ in range(2)]
    assert [folder.name for folder in folders] == ["version_0", "version_1"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"momentum": 0.9}, "there is no setting momentum; choose from lr,"),
        ({"options": {"trainer.epochs": 3}}, "did you mean --trainer.max_epochs"),
        ({"lr": -1}, "lr must be above 0"),
        ({"options": {"trainer.devices": 2}}, "use python -m lit_mnist fit"),
        ({"config": "lr0.2"}, "did you mean lr0.1?"),
    ],
)
def test_a_mistake_is_a_value_error_of_one_sentence_and_leaves_nothing(
    workplace: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lit_mnist.fit(**settings)  # type: ignore[arg-type]
    assert list(workplace.iterdir()) == []


def test_an_interrupt_stops_a_fit_as_in_a_terminal_and_the_same_call_resumes_it(workplace: Path) -> None:
    whole = lit_mnist.fit("lr0.1", epochs=5, train_size=3000, run_dir="whole")
    record = Path("logs/lr0.1/version_0")

    def interrupt() -> None:
        while not list((record / "checkpoints").glob("*.ckpt")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        lit_mnist.fit("lr0.1", epochs=5, train_size=3000)
    assert signal.getsignal(signal.SIGINT) is before
    again = lit_mnist.fit("lr0.1", epochs=5, train_size=3000)
    assert again.folder == record
    assert again.result.times.resumed == 1
    assert again.result.weights_sha256 == whole.result.weights_sha256


def test_runs_of_a_study_come_back_in_long_form_and_on_one_axis(workplace: Path) -> None:
    runs = lit_mnist.run_study(grid={"lr": [0.01, 0.1]}, seeds=1, **SHORT)
    assert [run.result.lr for run in runs] == [0.01, 0.1]
    assert [(row["lr"], row["epoch"]) for row in runs.history()] == [(0.01, 1), (0.01, 2), (0.1, 1), (0.1, 2)]
    assert {row["configuration"] for row in runs.results()} == {"lr0.01", "lr0.1"}
    axes = runs.plot_loss().axes[0]
    assert axes.get_yscale() == "log"
    assert len(axes.lines) == 2
    assert (len(runs[:1]), type(runs[:1])) == (1, type(runs))
    assert Path("logs/study/report.html").exists()


def test_reading_the_committed_runs_needs_no_torch_and_little_time() -> None:
    reference = Path(__file__).parent.parent / "logs" / "reference"
    program = (
        "import sys, time; start = time.perf_counter(); import lit_mnist; "
        f"runs = lit_mnist.read_runs({str(reference)!r}); print(len(runs), 'torch' in sys.modules, time.perf_counter() - start)"
    )
    count, has_torch, seconds = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert int(count) >= 55
    assert has_torch == "False"
    assert float(seconds) < 10  # 1.5 s on an idle machine

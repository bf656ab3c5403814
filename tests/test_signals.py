"""Ctrl-C and SIGTERM: saved at the next SGD step, said how to go on, the documented exit code, and nothing lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import Experiment, difference
from victim import PATIENCE, Victim

from lit_mnist.record.checkpoint import list_checkpoints

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# An epoch that is one block of the Trainer's, and is trained for many seconds at any batch size.
LONG = (
    *("fit", "--config", "lr0.1", "--run_dir", "run", "--threads", "1", "--test_every_epoch", "false"),
    *("--data.steps_per_block", "100000"),
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def train(folder: Path, *options: str) -> Victim:
    """A run that is within its first epoch."""
    victim = Victim(*LONG, *options, folder=folder)
    assert victim.wait_until(lambda: any((folder / "run").glob("events.out.tfevents.*"))), victim.stderr
    time.sleep(1)
    return victim


def cpu_seconds(victim: Victim) -> float:
    """Computing time so far: waiting for a busy machine's cores does not count."""
    fields = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@linux_only
@pytest.mark.parametrize("batch_size", [8, 32, 128])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_saves_within_a_second_says_how_to_go_on_and_ends_with_its_code(
    number: signal.Signals, batch_size: int, root: Path, tmp_path: Path
) -> None:
    victim = train(tmp_path, "--data.batch_size", str(batch_size))
    assert not list_checkpoints(tmp_path / "run")
    before = after = cpu_seconds(victim)
    victim.send(number)
    while not list_checkpoints(tmp_path / "run") and victim.is_alive:
        after = cpu_seconds(victim)
        time.sleep(0.001)
    assert after - before < 1
    assert victim.wait() == EXIT_CODES[number]
    said = re.fullmatch(r"lit_mnist: stopped after (\d+) SGD steps; the same command goes on from there\.\n", victim.stderr)
    assert said, victim.stderr
    assert [path.stem for path in list_checkpoints(tmp_path / "run")] == [f"step={int(said[1]):08d}"]
    assert 0 < int(said[1]) < 60000 / batch_size  # not the end of the block


@linux_only
def test_a_second_signal_ends_a_run_at_once(root: Path, tmp_path: Path) -> None:
    victim = train(tmp_path)
    victim.send(signal.SIGSTOP)  # both are waiting when it goes on
    victim.send(signal.SIGINT)
    victim.send(signal.SIGTERM)
    victim.send(signal.SIGCONT)
    assert victim.wait() in EXIT_CODES.values()
    assert victim.stderr == ""
    assert list_checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_run_stopped_by_signals_again_and_again_ends_as_if_undisturbed(
    number: signal.Signals, root: Path, tmp_path: Path
) -> None:
    experiment = Experiment(batch_size=32, val_size=500)
    seconds = experiment.undisturbed(tmp_path / "undisturbed")
    folder, stops = tmp_path / "stopped", 0
    while True:
        victim = Victim(*experiment.options, folder=folder)
        if stops < 4:
            begun = "going on" if stops else "epoch"
            victim.wait_until(lambda victim=victim, begun=begun: begun in victim.stdout)  # type: ignore[misc]
            time.sleep(seconds / 12)
            victim.send(number)
        code = victim.wait()
        if code == 0:
            break
        assert code == EXIT_CODES[number], victim.stderr
        assert "Traceback" not in victim.stderr
        stops += 1
    assert stops > 1
    assert difference(tmp_path / "undisturbed" / "run", folder / "run") == ""


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has installed a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = re.search(r"SigCgt:\s*(\w+)", status)
    return bool(mask and int(mask[1], 16) >> (number - 1) & 1)


@linux_only
@pytest.mark.parametrize("number", EXIT_CODES)
@pytest.mark.parametrize("seconds", [0, 0.3, 1, 2])
def test_a_signal_during_the_start_of_the_program_ends_it_without_a_traceback(
    number: signal.Signals, seconds: float, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_mnist", *LONG],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == EXIT_CODES[number]
    assert "Traceback" not in errors
    assert "Exception" not in errors
    assert not list(tmp_path.rglob("*.json"))


SIGNALLED_WHILE_IMPORTING = """
import os, signal, sys
from lit_mnist.cli.main import main

class Moment:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Moment())
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["numpy.exceptions", "numpy.dtypes", "torch._C", "pytorch_lightning", "lit_mnist.cli.fit"])
def test_a_signal_within_an_import_ends_the_program_with_its_code_and_without_a_word(module: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WHILE_IMPORTING, module, *LONG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
    assert not list(tmp_path.rglob("*.json"))

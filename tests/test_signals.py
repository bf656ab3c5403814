"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: the end within a second, a sentence on how to go on, the documented exit code."""

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

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}
SAID = "lit_mnist: stopped; the same command resumes from the end of the last whole epoch.\n"
# An epoch that is one block of the Trainer's, and is trained for many seconds.
LONG = ("fit", "--config", "lr0.1", "--run_dir", "run", "--threads", "1", "--steps_per_block", "100000")
SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"},
    **{"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"},
}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def train(folder: Path, environment: dict[str, str]) -> Victim:
    """A run that is within its first epoch."""
    victim = Victim(*LONG, folder=folder, environment=environment)
    assert victim.wait_until(lambda: any((folder / "run").glob("events.out.tfevents.*"))), victim.stderr
    time.sleep(0.3)
    return victim


def cpu_seconds(victim: Victim) -> float:
    """Computing time so far: waiting for a busy machine's cores does not count."""
    fields = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@linux_only
@pytest.mark.parametrize("environment", [{}, SLURM], ids=["anywhere", "under Slurm"])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_ends_a_run_within_a_second_says_how_to_go_on_and_leaves_nothing_to_go_wrong(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    if environment and number in (signal.SIGINT, signal.SIGHUP):
        pytest.skip("no different under Slurm")
    victim = train(tmp_path, environment)
    before = after = cpu_seconds(victim)
    victim.send(number)
    while victim.is_alive:
        try:
            after = cpu_seconds(victim)
        except (OSError, IndexError):  # it has ended
            break
        time.sleep(0.01)
    assert after - before < 1
    assert victim.wait() == EXIT_CODES[number]
    assert victim.stderr == SAID
    assert not list(tmp_path.rglob("*.ckpt"))


@linux_only
def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    victim = train(tmp_path, {})
    victim.send(signal.SIGSTOP)  # both are waiting when it goes on
    victim.send(signal.SIGINT)
    victim.send(signal.SIGTERM)
    victim.send(signal.SIGCONT)
    assert victim.wait() in EXIT_CODES.values()
    assert victim.stderr in ("", SAID)


def test_a_run_stopped_by_every_signal_in_turn_ends_as_if_undisturbed(tmp_path: Path) -> None:
    experiment = Experiment(batch_size=32, val_size=500, epochs=5)
    (undisturbed,) = experiment.start(tmp_path / "undisturbed")
    assert undisturbed.wait() == 0
    folder = tmp_path / "stopped"
    for epoch, (number, code) in enumerate(EXIT_CODES.items(), 1):
        victim = Victim(*experiment.options, folder=folder, environment=SLURM)
        assert victim.wait_until(lambda victim=victim, line=f"epoch   {epoch}/5": line in victim.stdout)  # type: ignore[misc]
        victim.send(number)
        assert victim.wait() == code, victim.stderr
        assert victim.stderr in (SAID, "")  # within an import, which the first checkpoint makes, a process ends without a word
    victim = Victim(*experiment.options, folder=folder)
    assert victim.wait() == 0, victim.stderr
    assert difference(tmp_path / "undisturbed" / "run", folder / "run") == ""


def test_a_checkpoint_of_lightnings_own_under_slurm_is_not_resumed_from_in_silence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "run"):
        folder.mkdir(exist_ok=True)
        (folder / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    victim = Victim(*Experiment(32, epochs=1).options, folder=tmp_path, environment=SLURM)
    assert victim.wait() == 2
    assert "hpc_ckpt_1.ckpt was not saved by fit, and a run begins at its start; remove the file" in victim.stderr
    (tmp_path / "run" / "hpc_ckpt_1.ckpt").unlink()  # the one in the working folder has no meaning
    victim = Victim(*Experiment(32, epochs=1).options, folder=tmp_path, environment=SLURM)
    assert victim.wait() == 0, victim.stderr


def catches(pid: int, number: signal.Signals) -> bool:
    """Tells if the process has installed a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = re.search(r"SigCgt:\s*(\w+)", status)
    return bool(mask and int(mask[1], 16) >> (number - 1) & 1)


@linux_only
def test_a_signal_as_the_program_starts_ends_it_without_a_traceback(tmp_path: Path) -> None:
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
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert errors in ("", SAID)
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


@pytest.mark.parametrize("module", ["numpy.exceptions", "torch._C"])
def test_a_signal_within_an_import_ends_the_program_with_its_code_and_without_a_word(module: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WHILE_IMPORTING, module, *LONG],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.count("\n"), ended.stderr) == (143, 1, "")
    assert not list(tmp_path.rglob("*.json"))

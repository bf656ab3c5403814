"""Lets the system calls of a short run fail, one after the other, and checks what becomes of the run.

    python tests/faults.py            each write, fsync, rename, open, unlink and mkdir in the run folder, once each
    python tests/faults.py --every 9  a ninth of them

After each failure: no traceback, exit code 0 (where the run can do without) or 1 or 2 with one sentence, no damaged
checkpoint; the same command then ends with the bits and curves of an undisturbed run. Needs gcc and Linux.
"""

import argparse
import ctypes
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kills import Experiment, difference
from remains import result_of
from victim import Victim, command

CALLS = ("write", "fsync", "rename", "open", "unlink", "mkdir")  # as in faults.c
LIBRARY = "LIT_MNIST_FAULTS"  # names the compiled faults.c
OPTIONS = (*Experiment(32, epochs=2).options, "--data.train_size", "640", "--model.hidden", "[16]")


@dataclass(frozen=True)
class Fault:
    """A kind of system call that fails: as error, once or from then on, and if the run is to go on as if it had not."""

    call: str
    error: int
    lasting: bool = False
    harmless: bool = False


FAULTS = (
    Fault("write", errno.ENOSPC, lasting=True),
    Fault("write", errno.EIO),
    Fault("fsync", errno.EIO),
    Fault("fsync", errno.EINVAL, lasting=True, harmless=True),
    Fault("rename", errno.EIO),
    Fault("open", errno.EIO),
    Fault("open", errno.ENOSPC, lasting=True),
    Fault("unlink", errno.EIO),
    Fault("mkdir", errno.ENOSPC),
)


def disturbed(call: str, nth: int, error: int, lasting: bool, *options: str) -> int:
    """Runs a command with a fault armed (nth 0: counts only), and writes how many calls there were."""
    library = ctypes.CDLL(os.environ[LIBRARY])
    library.arm(str(Path.cwd() / "run").encode(), call.encode(), nth, error, lasting)
    code = command(*options)
    Path("calls").write_text(json.dumps({kind: library.counted(number) for number, kind in enumerate(CALLS)}))
    return code


def start(folder: Path, fault: Fault, nth: int) -> Victim:
    """Starts the run in `folder`, where the nth call fails; 0: none."""
    arguments = (fault.call, nth, fault.error, fault.lasting, *OPTIONS, "--run_dir", str(folder / "run"))
    return Victim(*arguments, folder=folder, act=disturbed)


def problem(folder: Path, fault: Fault, nth: int, undisturbed: Path) -> str:
    """Lets one call fail, and says what is wrong with the end of the run; an empty string if nothing is."""
    from lit_mnist.record.checkpoint import read_checkpoint
    from lit_mnist.record.folder import RunFolder

    victim = start(folder, fault, nth)
    code, run = victim.wait(), folder / "run"
    if "Traceback" in victim.stderr or code not in (0, 1, 2) or (fault.harmless and (code or victim.stderr)):
        return f"exit code {code}: {victim.stderr[-2000:]}"
    if code and not victim.stderr.splitlines()[-1].startswith("lit_mnist: "):
        return f"no sentence: {victim.stderr}"
    for path in RunFolder(run).checkpoints:
        read_checkpoint(path)
    if code == 0:  # curves and picture may be missing, and that was said
        return "" if result_of(run) == result_of(undisturbed) else "another result"
    again = start(folder, fault, 0)
    if again.wait():
        return f"not resumed: {victim.stderr}{again.stderr}"
    return difference(undisturbed, run)


def all_faults(folder: Path, every: int, at_once: int) -> list[str]:
    """Tries every so many-th call of each kind, and one at least; returns what was wrong."""
    undisturbed = folder / "undisturbed"
    assert start(undisturbed, FAULTS[0], 0).wait() == 0
    calls = json.loads((undisturbed / "calls").read_text())
    found: list[str] = []
    tried = 0
    with ThreadPoolExecutor(at_once) as pool:
        chosen = {
            fault: range(1 + number % min(every, calls[fault.call]), calls[fault.call] + 1, every)
            for number, fault in enumerate(FAULTS)
        }
        futures = {
            (fault, nth): pool.submit(problem, folder / f"{number}-{nth}", fault, nth, undisturbed / "run")
            for number, (fault, numbers) in enumerate(chosen.items())
            for nth in numbers
        }
        for fault, numbers in chosen.items():
            problems = {nth: what for nth in numbers if (what := futures[fault, nth].result())}
            name = f"{fault.call}, {errno.errorcode[fault.error]}"
            print(f"{name}: {len(numbers)} of {calls[fault.call]} calls, {len(problems)} wrong", flush=True)
            found += [f"{name}, call {nth}: {what}" for nth, what in problems.items()]
            tried += len(numbers)
    print(f"{tried} failing calls: {len(found)} wrong")
    return found


def main() -> int:
    """Compiles the library, starts itself again with it preloaded, and tries the faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if LIBRARY not in os.environ:
            library = str(folder / "faults.so")
            subprocess.run(
                ["gcc", "-shared", "-fPIC", "-O1", "-o", library, str(Path(__file__).with_suffix(".c")), "-ldl"], check=True
            )
            environment = {**os.environ, LIBRARY: library, "LD_PRELOAD": library, "OMP_NUM_THREADS": "1"}
            return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
        began = time.monotonic()
        wrong = all_faults(folder, asked.every, asked.at_once)
    print(f"{time.monotonic() - began:.0f} s", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

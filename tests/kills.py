"""Kills runs at random moments until they are done, and compares them to the last bit with undisturbed ones.

    python tests/kills.py --kills 100 --seed 1 --at-once 2

Runs of every kind are killed several times with SIGKILL, and resumed by the same command: batch sizes 8, 32 and 128, with and
without validation, exact and fast engine, a run in two processes of which one is killed, a run in a study. Prints a line per
run and the counts at the end; exit code 1 if a run differs from the undisturbed one in any bit of its weights, in
`result.json` (times apart) or in a point of its TensorBoard curves. A test uses the same code with fewer kills.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from remains import points_of, result_of
from victim import Victim

KILLS_PER_RUN = 4
Start = Callable[[Path], list[Victim]]


@dataclass(frozen=True)
class Experiment:
    """A small run of three epochs that is undisturbed once and killed often."""

    batch_size: int
    val_size: int = 0
    engine: str = "exact"
    epochs: int = 3

    @property
    def settings(self) -> tuple[str, ...]:
        """Options of the command line that decide the result."""
        return (
            *("--threads", "1", "--trainer.max_epochs", str(self.epochs), "--model.hidden", "[64,32]", "--engine", self.engine),
            *("--data.train_size", "3000", "--data.val_size", str(self.val_size), "--data.batch_size", str(self.batch_size)),
        )

    @property
    def options(self) -> tuple[str, ...]:
        """The command; its folder is relative, so that the recorded command is always the same."""
        return "fit", "--config", "lr0.1", "--run_dir", "run", *self.settings

    def start(self, folder: Path) -> list[Victim]:
        return [Victim(*self.options, folder=folder)]


def start_pair(options: Sequence[str], folder: Path) -> list[Victim]:
    """Starts a run in two processes, as torchrun starts them; the second prints in a folder of its own."""
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2")
    folders = (folder, folder / "process1")
    return [
        Victim(options[0], *two, *options[1:], "--run_dir", str(folder / "run"), folder=here, environment=environment)
        for here, environment in zip(folders, torchrun(2), strict=True)
    ]


def torchrun(processes: int) -> list[Mapping[str, str]]:
    """Returns the environment that torchrun gives each process of a run on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"},
        **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"},
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def kinds() -> dict[str, Start]:
    """Returns what is killed: a function that starts the processes of one run in a folder, by a description."""
    found: dict[str, Start] = {}
    for batch_size, val_size, engine in ((8, 0, "exact"), (32, 500, "exact"), (128, 500, "exact"), (32, 500, "fast")):
        found[f"batch size {batch_size}, val_size {val_size}, {engine}"] = Experiment(batch_size, val_size, engine).start
    pair = Experiment(32, 500).options
    found["one of two processes"] = lambda folder: start_pair(pair, folder)
    study = ("study", "--configs", "lr0.1", "--seeds", "1", "--out", "run", "--workers", "1", "--yes")
    settings = Experiment(32, 500).settings[2:]  # a study sets the threads itself
    found["a study"] = lambda folder: [Victim(*study, *settings, folder=folder)]
    return found


def record_in(folder: Path) -> Path:
    """Returns the run folder below `folder`, "run" itself or one in a study; it need not exist yet."""
    return next((path.parent for path in folder.glob("run/**/config.yaml")), folder / "run")


def undisturbed(start: Start, folder: Path) -> float:
    """Trains without a disturbance; returns the seconds that training and finishing take."""
    victims = start(folder)
    victims[0].wait_until(lambda: any((record_in(folder) / "checkpoints").glob("*.ckpt")))
    began = time.monotonic()  # after the first of three epochs, in which an engine may be compiled
    codes = [victim.wait() for victim in victims]
    assert not any(codes), [victim.stderr for victim in victims]
    return 1.5 * (time.monotonic() - began)


def killed(start: Start, folder: Path, kills: int, seconds: float, chance: random.Random) -> int:
    """Trains to the end in spite of up to `kills` kills; returns how many there were."""
    done = 0
    while True:
        victims = start(folder)
        if done == kills:
            codes = [victim.wait() for victim in victims]
            assert not any(codes), [victim.stderr for victim in victims]
            return done
        # one in five dies as it starts, the others while they train, evaluate, save or finish
        if chance.random() < 0.8:
            victims[0].wait_until(lambda: (record_in(folder) / "config.yaml").exists())
        time.sleep(chance.uniform(0, 1.5 * seconds / kills))
        chosen = chance.choice(victims)
        chosen.send(signal.SIGKILL)
        code = chosen.wait()
        if code == 0:  # it was done before it could be killed
            assert not any(victim.wait() for victim in victims), [victim.stderr for victim in victims]
            return done
        for victim in victims:  # one that has lost another ends by itself; torchrun sends this, too
            victim.send(signal.SIGTERM)
            victim.wait()
            assert "Traceback" not in victim.stderr, victim.stderr
        assert code == -signal.SIGKILL, chosen.stderr
        done += 1


def difference(one: Path, other: Path) -> str:
    """Says how two run folders differ, times apart; an empty string if they do not."""
    results, points = (result_of(one), result_of(other)), (points_of(one), points_of(other))
    fields = [name for name in results[0] if results[0][name] != results[1].get(name)]
    missing, extra = points[0] - points[1], points[1] - points[0]
    parts = {"result.json": fields, "missing points": list(missing), "points too many": list(extra)}
    return "; ".join(f"{what}: {found}" for what, found in parts.items() if found)


def kill_runs(kind: str, start: Start, kills: int, folder: Path, chance: random.Random) -> tuple[int, list[str]]:
    """Kills runs of one kind until there were `kills` kills; returns the number of runs and what differed."""
    seconds, runs, differences = undisturbed(start, folder / "undisturbed"), 0, []
    while kills > 0:
        runs += 1
        here = folder / f"killed{runs}"
        done = killed(start, here, min(kills, KILLS_PER_RUN), seconds, chance)
        found = difference(record_in(folder / "undisturbed"), record_in(here))
        print(f"{kind}: {done} kills, {found or 'every bit equal'}", flush=True)
        differences += [f"{kind}: {found}"] if found else []
        shutil.rmtree(here)
        kills -= done
    return runs, differences


def kill_many(chosen: Mapping[str, Start], kills: int, seed: int, folder: Path, at_once: int) -> tuple[int, list[str]]:
    """Shares the kills out among the kinds; returns the number of killed runs and what differed."""
    shares = [kills // len(chosen) + (i < kills % len(chosen)) for i in range(len(chosen))]
    with ThreadPoolExecutor(at_once) as pool:
        futures = [
            pool.submit(kill_runs, kind, start, share, folder / str(i), random.Random(f"{seed}/{i}"))
            for i, ((kind, start), share) in enumerate(zip(chosen.items(), shares, strict=True))
        ]
    outcomes = [future.result() for future in futures]
    return sum(runs for runs, _ in outcomes), [found for _, differences in outcomes for found in differences]


def main() -> int:
    """Runs the command; see above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", default=[], help="Words of which each kind must have one. Default: all kinds.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    asked = parser.parse_args()
    chosen = {kind: start for kind, start in kinds().items() if not asked.kinds or any(word in kind for word in asked.kinds)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs, differences = kill_many(chosen, asked.kills, asked.seed, Path(folder), asked.at_once)
    print(f"{asked.kills} kills of {runs} runs in {time.monotonic() - began:.0f} s: {len(differences)} differ")
    print("\n".join(differences), end="")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

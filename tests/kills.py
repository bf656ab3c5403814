"""Kills runs at random moments until they are done, and compares them to the last bit with undisturbed ones.

    python tests/kills.py --kills 100 --batch-sizes 8,32,128 --seed 1 --at-once 2

Every run is killed several times with SIGKILL, and continued by the same command. Prints a line per run and the counts at
the end; exit code 1 if a run differs from the undisturbed one in any bit of its weights, in `result.json` (times apart) or
in a point of its TensorBoard curves. The test of the same name uses the same code with fewer kills.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

from remains import points_of, result_of
from victim import Victim

KILLS_PER_RUN = 4
VAL_SIZES = (0, 500)


@dataclass(frozen=True)
class Experiment:
    """A small run, with many checkpoints in every epoch, that is undisturbed once and killed often."""

    batch_size: int
    val_size: int

    def __str__(self) -> str:
        return f"batch size {self.batch_size:3}, val_size {self.val_size:3}"

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command line; its folder is relative, so that the recorded command is always the same."""
        return (
            *("fit", "--config", "lr0.1", "--run_dir", "run", "--threads", "1", "--trainer.max_epochs", "3"),
            *("--model.hidden", "[64,32]", "--data.train_size", "3000", "--data.steps_per_block", "8"),
            *("--data.batch_size", str(self.batch_size), "--data.val_size", str(self.val_size)),
            *("--checkpoint_seconds", "0.02"),
        )

    def undisturbed(self, folder: Path) -> float:
        """Trains without a disturbance; returns the seconds between the start of training and the end."""
        victim = Victim(*self.options, folder=folder)
        victim.wait_until((folder / "run" / "config.yaml").exists)
        began = time.monotonic()
        assert victim.wait() == 0, victim.stderr
        return time.monotonic() - began

    def killed(self, folder: Path, kills: int, seconds: float, chance: random.Random) -> int:
        """Trains to the end in spite of up to `kills` kills; returns how many there were."""
        done = 0
        while True:
            victim = Victim(*self.options, folder=folder)
            if done == kills:
                assert victim.wait() == 0, victim.stderr
                return done
            # One in five dies in its start-up, the others while they train, evaluate, save or finish.
            if chance.random() < 0.8:
                victim.wait_until(lambda victim=victim, first=not done: self._trains(victim, folder, first))  # type: ignore[misc]
            time.sleep(chance.uniform(0, 1.5 * seconds / kills))
            victim.send(signal.SIGKILL)
            code = victim.wait()
            if code == 0:
                return done
            assert code == -signal.SIGKILL, victim.stderr
            done += 1

    def _trains(self, victim: Victim, folder: Path, first: bool) -> bool:
        return (folder / "run" / "config.yaml").exists() if first else "going on" in victim.stdout


def difference(one: Path, other: Path) -> str:
    """How two run folders differ, times apart; empty if they do not."""
    results, points = (result_of(one), result_of(other)), (points_of(one), points_of(other))
    fields = [name for name in results[0] if results[0][name] != results[1].get(name)]
    missing, extra = points[0] - points[1], points[1] - points[0]
    parts = {"result.json": fields, "missing points": list(missing), "points too many": list(extra)}
    return "; ".join(f"{what}: {found}" for what, found in parts.items() if found)


def run_experiment(experiment: Experiment, kills: int, folder: Path, chance: random.Random) -> tuple[int, list[str]]:
    """Kills runs of one experiment until there were `kills` kills; returns the number of runs and what differed."""
    undisturbed = folder / "undisturbed"
    seconds, runs, differences = experiment.undisturbed(undisturbed), 0, []
    while kills > 0:
        runs += 1
        here = folder / f"killed{runs}"
        done = experiment.killed(here, min(kills, KILLS_PER_RUN), seconds, chance)
        found = difference(undisturbed / "run", here / "run")
        print(f"{experiment}: {done} kills, {found or 'every bit equal'}", flush=True)
        differences += [f"{experiment}: {found}"] if found else []
        shutil.rmtree(here)
        kills -= done
    return runs, differences


def run_experiments(batch_sizes: Iterable[int], kills: int, seed: int, folder: Path, at_once: int) -> tuple[int, list[str]]:
    """Shares the kills out among the experiments; returns the number of killed runs and what differed."""
    experiments = [Experiment(*sizes) for sizes in product(batch_sizes, VAL_SIZES)]
    shares = [kills // len(experiments) + (i < kills % len(experiments)) for i in range(len(experiments))]
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = pool.map(
            lambda i: run_experiment(experiments[i], shares[i], folder / str(i), random.Random(f"{seed}/{i}")),
            range(len(experiments)),
        )
        runs, differences = zip(*outcomes, strict=True)
    return sum(runs), list(chain.from_iterable(differences))


def main() -> int:
    """The command; see above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--batch-sizes", default="8,32,128")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    chosen = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs, differences = run_experiments(
            map(int, chosen.batch_sizes.split(",")), chosen.kills, chosen.seed, Path(folder), chosen.at_once
        )
    print(f"{chosen.kills} kills of {runs} runs in {time.monotonic() - began:.0f} s: {len(differences)} differ")
    print("\n".join(differences), end="")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

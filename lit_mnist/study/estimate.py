"""How long runs will take, from short measured ones, which also show whether `fit` takes the configs."""

import heapq
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_mnist.study.plan import Configuration
from lit_mnist.study.supervisor import last_words, one_thread, tethered


@dataclass(frozen=True)
class Cost:
    """Expected duration of one run: `seconds` on one core of this machine, for `epochs` epochs."""

    epochs: int
    seconds: float


def estimate(configurations: Sequence[Configuration]) -> dict[str, Cost]:
    """The cost of a run of each configuration, by name. Takes some seconds, and leaves nothing behind.

    Raises:
        ValueError: `fit` refuses a configuration.
    """
    with tempfile.TemporaryDirectory(prefix="lit_mnist_probe_") as folder:
        job = Path(folder)
        (job / "configs").mkdir()
        for configuration in configurations:
            (job / "configs" / f"{configuration.name}.yaml").write_text(configuration.text, encoding="utf-8")
        start = time.monotonic()
        command = tethered(["-m", "lit_mnist.study.probe", str(job)])
        probe = subprocess.run(command, env=one_thread(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if probe.returncode != 0:
            refused = probe.stdout.strip() or "the configurations"
            raise ValueError(f"{refused}: {last_words(probe.stderr)}")
        wall = time.monotonic() - start
        workloads = json.loads((job / "workloads.json").read_text(encoding="utf-8"))
    return costs(workloads, wall)


def costs(workloads: Mapping[str, Mapping[str, Any]], wall: float) -> dict[str, Cost]:
    """The cost of each workload, where the short runs that timed them took `wall` seconds with all that surrounds them."""
    timed = {work["kind"]: work["seconds"] for work in workloads.values()}
    start_up = max(0.0, wall - sum(timed.values()))  # mostly imports, which each run pays for itself
    expected = {}
    for name, work in workloads.items():
        steps = -(-work["images"] // work["batch_size"])
        seconds = work["epochs"] * (steps * work["step_seconds"] + work["epoch_seconds"])
        expected[name] = Cost(work["epochs"], start_up + seconds)
    return expected


def wall_seconds(seconds: Iterable[float], workers: int) -> float:
    """When the last run ends, if each worker takes the longest run that waits."""
    free_at = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def spoken(seconds: float) -> str:
    """A duration as people say it: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"

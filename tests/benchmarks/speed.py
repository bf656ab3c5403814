"""Speed of lit_mnist: trains the same network in every way there is, in turns, and prints a table of medians.

python tests/benchmarks/speed.py                         everything: 12 minutes on two still cores
python tests/benchmarks/speed.py --readme README.md      and writes the table into README.md
python tests/benchmarks/speed.py --parts epochs          seconds per epoch only; --contenders, --batches: fewer still

Every figure of an epoch is scaled to 60,000 images. All rows are of CPUs; no GPU is used.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median

EPOCH_IMAGES = 60_000
CONTENDERS = {
    "fast engine": "numba", "exact engine": "torch", "plain tensor loop": "torch", "LitMLP in a plain Trainer": "torch",
    "notebook loop": "torchvision", "scikit-learn": "sklearn", "Keras": "keras", "JAX": "jax", "eight bare products": "torch",
}  # fmt: skip
PARTS = ("epochs", "fit", "at_once", "start", "study")
RATIOS = {
    "fast engine / JAX, one thread": ("fast engine, one thread", "JAX, one thread"),
    "fast engine / JAX, each at its best": ("fast engine, best", "JAX, best"),
    "exact engine / plain tensor loop, one thread": ("exact engine, one thread", "plain tensor loop, one thread"),
    "fit --engine fast, untested epochs / JAX, one core": ("fit, last test only", "JAX, one thread"),
    "evaluation and logging: fit, test every epoch / fast engine": ("fit, test every epoch", "fast engine, one thread"),
    "two one-thread runs at once / one": ("two fast runs at once", "one fast run alone"),
}

Seconds = dict[tuple[str, int], list[float]]
"""Seconds per epoch of 60,000 images by row and batch size, one for each round."""


def cores(threads: int) -> list[int]:
    """The last cores that this process may use, as many as there are threads."""
    return sorted(os.sched_getaffinity(0))[-threads:] if hasattr(os, "sched_getaffinity") else list(range(threads))


class Worker:
    """A contender in a process of its own (worker.py), which trains for one epoch each time it is told to."""

    def __init__(self, contender: str, on: list[int], images: int) -> None:
        command = [str(Path(__file__).with_name("worker.py")), contender, ",".join(map(str, on)), str(images)]
        self.scale, self.by_hand = EPOCH_IMAGES / images, shlex.join(["python", *command])
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(len(on))},
        )  # fmt: skip

    def begin(self, batch_size: int) -> None:
        print(batch_size, file=self.process.stdin, flush=True)

    def end(self) -> float:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a contender failed; to see why: echo 32 | {self.by_hand}")
        return float(answer) * self.scale

    def epoch(self, batch_size: int) -> float:
        self.begin(batch_size)
        return self.end()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def command_seconds(arguments: list[str], on: list[int]) -> float:
    """Seconds of a command of lit_mnist, from start to end, on some cores."""
    pinned = ["taskset", "-c", ",".join(map(str, on))] if hasattr(os, "sched_setaffinity") else []
    start = time.perf_counter()
    subprocess.run([*pinned, sys.executable, "-m", "lit_mnist", *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def fit_seconds(*options: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return command_seconds(["fit", "--config", "lr0.1", "--threads=1", f"--run_dir={folder}/run", *options], cores(1))


def time_epochs(options: argparse.Namespace, found: Seconds) -> None:
    """One epoch of each contender in turn, at each batch size and thread count, and all that again."""
    with contextlib.ExitStack() as stack:
        workers = {
            f"{name}, {words}": stack.enter_context(Worker(name, cores(threads), options.images))
            for name in options.contenders
            for threads, words in enumerate(("one thread", "two threads")[: options.threads], 1)
        }
        for _ in range(options.rounds):
            for batch_size in options.batches:
                for name, worker in workers.items():
                    found[name, batch_size].append(worker.epoch(batch_size))


def time_runs_at_once(options: argparse.Namespace, found: Seconds) -> None:
    """An epoch of either of two workers alone, then of both at once on two cores."""
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(Worker("fast engine", [core], options.images)) for core in cores(2)]
        for round_ in range(options.rounds + 1):
            for batch_size in options.batches:
                alone = [worker.epoch(batch_size) for worker in pair]
                for worker in pair:
                    worker.begin(batch_size)
                at_once = [worker.end() for worker in pair]
                if round_:  # the first compiles
                    found["one fast run alone", batch_size] += alone
                    found["two fast runs at once", batch_size] += at_once


def time_fit(options: argparse.Namespace, found: Seconds) -> None:
    """An epoch inside `fit`, seen from outside, on one core: a quarter of what five epochs take longer than one."""
    for _ in range(options.fits):
        for batch_size in options.batches:
            chosen = ("--engine=fast", f"--data.batch_size={batch_size}", f"--data.train_size={options.fit_images}")
            one = fit_seconds(*chosen, "--trainer.max_epochs=1")
            for row, tests in (("fit, last test only", "false"), ("fit, test every epoch", "true")):
                five = fit_seconds(*chosen, "--trainer.max_epochs=5", f"--test_every_epoch={tests}")
                found[row, batch_size].append((five - one) / 4 * EPOCH_IMAGES / options.fit_images)


def time_start(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of short commands; the difference of the two fits is what the fast engine's first step waits longer."""
    tiny = ("--data.train_size=64", "--trainer.max_epochs=1")
    seconds = defaultdict(list)
    for _ in range(options.rounds):
        seconds["`lit_mnist --version`"].append(command_seconds(["--version"], cores(1)))
        for engine in ("exact", "fast"):
            seconds[f"`fit` of two steps, {engine} engine, warm cache"].append(fit_seconds(*tiny, f"--engine={engine}"))
    return {name: median(values) for name, values in seconds.items()}


def time_study(options: argparse.Namespace) -> dict[str, float]:
    """The study of the five configurations with the fast engine, beside as many epochs of the notebook loop, one by one."""
    with Worker("notebook loop", cores(2), options.images) as notebook:
        epochs = {size: median(notebook.epoch(size) for _ in range(options.rounds)) for size in (8, 32, 128)}
    loops = options.study_seeds * options.study_epochs * (epochs[8] + 3 * epochs[32] + epochs[128])
    with tempfile.TemporaryDirectory() as folder:
        length = [] if options.study_epochs == 20 else [f"--trainer.max_epochs={options.study_epochs}"]
        command = ["study", f"--seeds={options.study_seeds}", "--out", f"{folder}/study", "--engine", "fast", *length]
        study = command_seconds(command, cores(2))
    return {
        f"`study --engine fast`, {options.study_seeds} seeds, {options.study_epochs} epochs, two cores": study,
        "as many epochs of the notebook loop, extrapolated": loops,
        "notebook loops / study": loops / study,
    }


def tables(options: argparse.Namespace, found: Seconds, others: dict[str, float]) -> str:
    """The medians, their ratios and what else was measured, in Markdown."""
    middle = {key: median(values) for key, values in found.items()}
    for (name, size), seconds in list(middle.items()):
        best = f"{name.rsplit(', ', 1)[0]}, best", size
        middle[best] = min(seconds, middle.get(best, seconds))
    head = "".join(f" batch {size} |" for size in options.batches) + "\n| --- |" + " ---: |" * len(options.batches)
    lines = [f"| seconds per epoch, median (fewest to most) |{head}"]
    for name in dict.fromkeys(name for name, _ in found):
        cells = (found[name, size] for size in options.batches)
        lines.append(f"| {name} |" + "".join(f" {median(one):.2f} ({min(one):.2f} to {max(one):.2f}) |" for one in cells))
    lines += ["", f"| ratio of medians |{head}"]
    for name, (above, below) in RATIOS.items():
        if all((row, size) in middle for row in (above, below) for size in options.batches):
            cells_ = (middle[above, size] / middle[below, size] for size in options.batches)
            lines.append(f"| {name} |" + "".join(f" {ratio:.2f} |" for ratio in cells_))
    if others:
        lines += ["", "| what | value |\n| --- | ---: |", *(f"| {name} | {value:.2f} |" for name, value in others.items())]
    return "\n".join(lines)


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    installed = [name for name, module in CONTENDERS.items() if find_spec(module)]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--contenders", nargs="+", choices=installed, metavar="NAME", default=installed,
                        help=f"of: {', '.join(installed)}")  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32, 128], help="images per SGD step")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2, help="the most threads of a contender")
    parser.add_argument("--images", type=int, default=12_000, help="of an epoch; figures are scaled up")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--fits", type=int, default=2, help="rounds of the part fit")
    parser.add_argument("--fit_images", type=int, default=EPOCH_IMAGES, help="of an epoch in the part fit")
    parser.add_argument("--study_seeds", type=int, default=3)
    parser.add_argument("--study_epochs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--readme", type=Path, help="a file in which the table goes between <!-- speed --> and <!-- /speed -->")
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    found: Seconds = defaultdict(list)
    others: dict[str, float] = {}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numba", "jax") if find_spec(name)}
    print(platform.platform(), f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},", versions, file=sys.stderr)
    for part, measure in (("epochs", time_epochs), ("at_once", time_runs_at_once), ("fit", time_fit)):
        if part in options.parts:
            measure(options, found)
    if "epochs" in options.parts and find_spec("numba"):
        from contenders import share_of_nonzero_products

        for size in options.batches:
            others[f"share of multiply-adds that are not zero, batch {size}"] = share_of_nonzero_products(options.images, size)
    for part, measure_others in (("start", time_start), ("study", time_study)):
        if part in options.parts:
            others |= measure_others(options)
    text = tables(options, found, others)
    print(text)
    if options.json:
        rows = [{"row": name, "batch_size": size, "seconds": values} for (name, size), values in found.items()]
        options.json.write_text(json.dumps({"versions": versions, "rows": rows, "others": others}, indent=1) + "\n")
    if options.readme:
        marked = re.compile("(<!-- speed -->\n).*?(<!-- /speed -->)", re.DOTALL)
        readme = options.readme.read_text()
        options.readme.write_text(marked.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", readme))


if __name__ == "__main__":
    main()

"""How fast is lit_mnist? Trains the same network in every way there is, in turns, and prints a table.

python tests/benchmarks/speed.py                      everything: about an hour on two cores
python tests/benchmarks/speed.py --images 12000       a fifth of each epoch, scaled up: about a quarter
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import fit_process
from table import OWN_THREADS, Table

EPOCH_IMAGES = 60_000
WORKER = Path(__file__).with_name("worker.py")
ENGINES = {"lit_mnist exact": "exact", "lit_mnist fast": "fast"}
OTHERS = (
    *("plain tensor loop", "Lightning as usual", "LitMLP in a plain Trainer", "fast engine alone"),
    *("eight bare products", "scikit-learn", "JAX", "Keras"),
)
NOTEBOOK = "notebook loop"
PACKAGES = ("lit_mnist", "torch", "torchvision", "pytorch_lightning", "torchmetrics", "jax", "keras")


class Worker:
    """A contender in a process of its own, which trains for one epoch each time it is told to."""

    def __init__(self, contender: str, threads: int, images: int) -> None:
        arguments = [str(WORKER), contender, str(threads), str(images)]
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads != OWN_THREADS else None
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env=variables,
        )

    def epoch(self, batch_size: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(batch_size, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.messages.seek(0)
            raise RuntimeError(f"a contender failed:\n{self.messages.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.messages.close()


def measure(table: Table, contenders: list[str], options: argparse.Namespace) -> None:
    """One epoch of each contender in turn, at each batch size and thread count, and all that again."""
    places = [(name, threads) for threads in options.threads for name in contenders if name != NOTEBOOK]
    if NOTEBOOK in contenders:
        places.insert(0, (NOTEBOOK, OWN_THREADS))
    workers = {(name, threads): Worker(name, threads, options.images) for name, threads in places if name not in ENGINES}
    scale = EPOCH_IMAGES / options.images
    try:
        for repeat in range(options.repeats):
            for batch_size in options.batches:
                for name, threads in places:
                    row = table.row(name, batch_size, threads)
                    if name in ENGINES:
                        seconds, finished = fit_process.fit(
                            ENGINES[name], batch_size, threads, options.images, options.epochs + 1
                        )
                        row.warm_up_seconds = seconds[0] * scale if repeat == 0 else row.warm_up_seconds
                        row.peak_mib = max(row.peak_mib or 0.0, finished.peak_mib)
                        row.seconds += [one * scale for one in seconds[1:]]
                    else:
                        answer = workers[name, threads].epoch(batch_size)
                        row.warm_up_seconds = answer.get("warm_up_seconds", row.warm_up_seconds)
                        row.seconds.append(answer["seconds"] * scale)
                    print(
                        f"  {name}, batch {batch_size}, threads {threads}: {row.seconds[-1]:.2f}",
                        file=sys.stderr,
                    )
    finally:
        for worker in workers.values():
            worker.close()


def start_up(repeats: int) -> dict[str, list[float]]:
    """Seconds of commands that train nothing, and of the imports that any command with the Trainer needs."""
    commands = {
        "import torch, pytorch_lightning": ["-c", "import torch, pytorch_lightning"],
        "lit_mnist --version": ["-m", "lit_mnist", "--version"],
        "lit_mnist --help": ["-m", "lit_mnist", "--help"],
        "lit_mnist fit --help": ["-m", "lit_mnist", "fit", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    seconds["fit, from the command to the first SGD step"] = []
    for _ in range(repeats):
        for name, arguments in commands.items():
            seconds[name].append(fit_process.run(arguments).seconds)
        seconds["fit, from the command to the first SGD step"].append(fit_process.until_first_step())
    return seconds


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    everything = [NOTEBOOK, *ENGINES, *OTHERS]
    parser.add_argument("--contenders", nargs="+", choices=everything, metavar="NAME", default=everything,
                        help=f"of: {', '.join(everything)}")  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32, 128], help="images per SGD step")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--images", type=int, default=EPOCH_IMAGES, help="of an epoch; figures are scaled up")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which each contender has its turn")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per turn of lit_mnist, after the first")
    parser.add_argument("--whole", type=int, default=20, help="epochs of the whole-command row; 0 for none")
    parser.add_argument("--start_up", type=int, default=3, help="repeats of the start-up rows; 0 for none")
    parser.add_argument("--json", type=Path, default=Path("speed.json"), help="where the figures go")
    return parser.parse_args(args)


def machine() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "versions": versions,
    }


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    installed = {"JAX": "jax", "Keras": "keras"}
    contenders = [name for name in options.contenders if find_spec(installed.get(name, "torch"))]
    record: dict[str, Any] = {"machine": machine(), "images": options.images, "repeats": options.repeats}
    print(json.dumps(record["machine"], indent=1))
    table = Table()
    measure(table, contenders, options)
    record["rows"] = [row.as_json() for row in table.rows]
    record["ratios"] = table.ratios()
    print(table.text(), table.ratios_text(), sep="\n\n")

    fits = [row.peak_mib for row in table.rows if row.peak_mib is not None]
    if fits:
        imports = fit_process.run(["-c", "import torch, pytorch_lightning"])
        record["import_peak_mib"] = imports.peak_mib
        print(f"\npeak memory of fit above that of its imports: {max(fits) - imports.peak_mib:.0f} MiB")
    if options.start_up:
        record["start_up_seconds"] = start_up(options.start_up)
        print("\nseconds, start to end")
        for name, seconds in record["start_up_seconds"].items():
            print(f"  {name:<48}{median(seconds):>8.2f}{min(seconds):>8.2f}{max(seconds):>8.2f}")
    if options.whole:
        record["whole_command"] = {"epochs": options.whole}
        for engine in ENGINES.values():
            record["whole_command"][engine] = fit_process.whole_command(engine, options.whole)
            name = f"fit --config lr0.1, {options.whole} epochs, {engine}"
            print(f"  {name:<48}{record['whole_command'][engine]:>8.2f}")
    record["machine"]["load_after"] = os.getloadavg()
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nfigures: {options.json}")


if __name__ == "__main__":
    main()

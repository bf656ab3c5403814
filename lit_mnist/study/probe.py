"""A program that checks configs with `fit` itself and times short runs, in one process that imports once.

`python -m lit_mnist.study.probe JOB` reads JOB/configs/*.yaml and writes JOB/workloads.json. It stops at the
first config that `fit` refuses, with its name on stdout, the sentence on stderr, and exit code 2.
"""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from lit_mnist import cli
from lit_mnist.command import DIVERGED, DONE

IMAGES = 6000  # of a timed run; a tenth of an epoch is 0.3 to 1 s, and 40 steps or more up to batch 128


def fit(*options: str) -> tuple[int, str]:
    """Exit code and standard output of `fit` with these options."""
    with redirect_stdout(io.StringIO()) as output:
        try:
            code = cli.main(["fit", *options])
        except SystemExit as end:  # --print_config ends the program
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return code, output.getvalue()


def workload(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides how long a run with these resolved settings takes."""
    data, model = settings["data"], settings["model"]
    return {
        "epochs": settings["trainer"]["max_epochs"],
        "images": (data["train_size"] or 60_000) - data["val_size"],
        "batch_size": data["batch_size"],
        # equal kinds take equal times per step
        "kind": f"{data['batch_size']} {model['hidden']} {model['engine']}",
    }


def measure(config: Path, images: int, folder: Path) -> tuple[int, dict[str, float]]:
    """Exit code of a short run, and its seconds per SGD step and per epoch beside the steps."""
    short = [
        "--trainer.max_epochs",
        "1",
        "--data.train_size",
        str(min(images, IMAGES)),
        "--data.val_size",
        "0",
    ]
    code, _ = fit("--config", str(config), "--run_dir", str(folder), "--threads", "1", "--seed_everything", "1", *short)
    if code not in (DONE, DIVERGED):
        return code, {}
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    training = sum(result["times"]["train_seconds_by_epoch"])
    steps = max(1, result["steps"])
    return DONE, {"step_seconds": training / steps, "epoch_seconds": result["times"]["seconds"] - training}


def main(arguments: Sequence[str]) -> int:
    """Runs the program; gives its exit code."""
    job = Path(arguments[0])
    workloads: dict[str, dict[str, Any]] = {}
    measured: dict[str, dict[str, float]] = {}
    configs = sorted((job / "configs").glob("*.yaml"))
    for config in configs:
        code, printed = fit("--config", str(config), "--print_config")
        if code != DONE:
            print(config.stem)
            return code
        workloads[config.stem] = workload(yaml.safe_load(printed))
    for config in configs:
        kind = workloads[config.stem]["kind"]
        if kind not in measured:
            images = workloads[config.stem]["images"]
            code, measured[kind] = measure(config, images, job / f"run_{len(measured)}")
            if code != DONE:
                print(config.stem)
                return code
        workloads[config.stem] |= measured[kind]
    (job / "workloads.json").write_text(json.dumps(workloads), encoding="utf-8")
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

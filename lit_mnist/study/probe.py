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

from lit_mnist.cli import main as cli
from lit_mnist.cli.command import BAD_INPUT, DIVERGED, DONE
from lit_mnist.datasets.files import find

IMAGES = 6000  # of a timed run; a tenth of an epoch is 0.3 to 1 s, and 40 steps or more up to batch 128
UNLIMITED = (None, -1)  # how the Trainer writes that there is no such limit
DEFAULT_EPOCHS = 1000  # the Trainer's, where no limit is set at all


def fit(*options: str) -> tuple[int, str]:
    """Exit code and standard output of `fit` with these options."""
    with redirect_stdout(io.StringIO()) as output:
        try:
            code = cli.main(["fit", *options])
        except SystemExit as end:  # --print_config ends the program
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return code, output.getvalue()


def workload(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides how long a run with these resolved settings takes.

    Raises:
        ValueError: Such a run never ends, or leaves no record.
    """
    data, model, trainer = settings["data"], settings["model"], settings["trainer"]
    if trainer["fast_dev_run"]:
        raise ValueError("--trainer.fast_dev_run: such a run leaves no record for a study to count.")
    images = data["train_size"] or find(data["dataset"]).train_size - data["val_size"]
    return {
        "epochs": _epochs(trainer, -(-images // data["batch_size"])),
        "images": images,
        "batch_size": data["batch_size"],
        # equal kinds take equal times per step
        "kind": f"{data['batch_size']} {model['hidden']} {model['engine']}",
    }


def _epochs(trainer: dict[str, Any], steps: int) -> int:
    """Epochs, of `steps` SGD steps each, until the first of the Trainer's limits; a begun one counts."""
    limits = [] if trainer["max_epochs"] in UNLIMITED else [trainer["max_epochs"]]
    limits += [] if trainer["max_steps"] in UNLIMITED else [-(-trainer["max_steps"] // steps)]
    if not limits and trainer["max_epochs"] == -1 and trainer["max_time"] is None:
        raise ValueError("--trainer.max_epochs -1: without --trainer.max_steps such a run never ends.")
    return int(min(limits, default=DEFAULT_EPOCHS))


def measure(config: Path, images: int, folder: Path) -> tuple[int, dict[str, float]]:
    """Exit code of a short run on `images` images; its seconds, those per SGD step, and those per epoch beside the steps."""
    short = ["--trainer.max_epochs", "1", "--data.train_size", str(images), "--data.val_size", "0"]
    code, _ = fit("--config", str(config), "--run_dir", str(folder), "--threads", "1", "--seed_everything", "1", *short)
    if code not in (DONE, DIVERGED):
        return code, {}
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    seconds, training = result["times"]["seconds"], sum(result["times"]["train_seconds_by_epoch"])
    times = {"seconds": seconds, "step_seconds": training / max(1, result["steps"]), "epoch_seconds": seconds - training}
    return DONE, times


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
        try:
            workloads[config.stem] = workload(yaml.safe_load(printed))
        except ValueError as mistake:
            print(config.stem)
            print(f"lit_mnist: {mistake}", file=sys.stderr)
            return BAD_INPUT
    for config in configs:
        work = workloads[config.stem]
        kind = work["kind"]
        if kind not in measured:
            images = min(work["images"], max(IMAGES, work["batch_size"]))  # one SGD step at least
            code, measured[kind] = measure(config, images, job / f"run_{len(measured)}")
            if code != DONE:
                print(config.stem)
                return code
        work |= measured[kind]
    (job / "workloads.json").write_text(json.dumps(workloads), encoding="utf-8")
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

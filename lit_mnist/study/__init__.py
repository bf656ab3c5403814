"""The `study` command: many runs of `fit`, each in a process and a folder of its own."""

import argparse
import math
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist.cli import DIVERGED, DONE, FAILED, Parser
from lit_mnist.record.configs import SHIPPED

if TYPE_CHECKING:
    from lit_mnist.record.result import Result
    from lit_mnist.study.plan import RunSpec

__all__ = ["main"]

# Learning rates in steps of 2 and batch sizes in steps of 4: each ratio of the two occurs with several batch sizes.
MAP_GRID: dict[str, list[Any]] = {
    "model.lr": [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6],
    "data.batch_size": [8, 32, 128, 512],
}
_MOMENTS = {"epochs": [0.2, 1, 2, 5], "images": 1000}  # the defaults would take twice the time
MAP_OPTIONS: dict[str, Any] = {
    "trainer.max_epochs": 8,
    "trainer.callbacks": [
        {"class_path": "lit_mnist.training.collapse.StopCollapsed"},
        {"class_path": "lit_mnist.Instruments", "init_args": _MOMENTS},
    ],
}


def _parser() -> Parser:
    """Makes the parser; options that it does not know go to `fit`."""
    parser = Parser(
        prog="python -m lit_mnist study",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [options of fit, for all runs]",
        description="Trains each configuration with several seeds, one run per core at a time, and writes a report.\n"
        "The same command again continues: finished runs are skipped, failed ones tried again.",
        epilog="example: lit_mnist study --grid model.lr=0.01,0.1,1 --grid data.batch_size=8,32 --seeds 5\n"
        "exit codes: 0 all runs done, 3 a run diverged, 1 a run failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM",
    )
    configs = f"files or shipped names (default: {' '.join(SHIPPED)})"
    grid = "values of an option of fit; may be repeated, all combinations are run; starts from lr0.1 unless --configs is given"
    a_map = "the grid of 8 learning rates and 4 batch sizes, 8 epochs with instruments, the fast engine where numba is "
    a_map += "installed; collapsed runs stop early; other options override it"
    scheduler = "send the runs to a Dask cluster whose workers see this working directory and have these versions of packages"
    dry_run = "write the config files, print the command line of each run, start none"
    add = parser.add_argument
    add("--configs", nargs="+", action="extend", metavar="CONFIG", help=configs)
    add("--seeds", default="3", metavar="N|A,B", help="number of seeds from 1 on, or a list of them (default: 3)")
    add("--grid", action="append", default=[], metavar="OPTION=A,B", help=grid)
    add("--map", action="store_true", help=a_map)
    add("--out", type=Path, metavar="DIR", help="folder of the study (default: logs/study, or logs/map)")
    add("--workers", type=int, metavar="N", help="runs at once on this machine (default: one per core)")
    add("--scheduler", metavar="ADDRESS", help=scheduler)
    add("--instruments", nargs="?", const="true", metavar="BOOL", help="measure in every run why training goes as it does")
    add("--dry-run", action="store_true", help=dry_run)
    add("--yes", action="store_true", help="start even more than 1000 runs")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns DONE, DIVERGED or FAILED.

    Raises:
        ValueError: The command line or a config is wrong, or the folder holds runs of other settings. Nothing was written.
        Stopped: A signal came; all runs have been stopped.
    """
    options, fit_options = _parser().parse_known_args(arguments)
    from lit_mnist.study import execute, plan

    if options.workers is not None and (options.workers < 1 or options.scheduler):
        raise ValueError("--workers: at least 1, and not with --scheduler, whose cluster has its own.")
    runs = _plan(options, fit_options)
    try:
        plan.refuse_other_settings(runs)
    except ValueError:
        execute.check(runs)  # a mistyped option is the truer reason
        raise
    if options.dry_run:
        execute.check(runs)
        plan.write_configs(runs)
        print(*(shlex.join(["python", "-m", "lit_mnist", *run.arguments]) for run in runs), sep="\n")
        return DONE
    statuses = execute.conduct(runs, options.workers, options.scheduler)
    if len(statuses) < len(runs):
        return FAILED
    for run, status in statuses.items():
        if status.result is None or status.result.failed:
            print(f"{run}: {status.state}. {status.reason}", flush=True)
    return _report([status.result for status in statuses.values()], runs[0].group.out)


def _plan(options: argparse.Namespace, fit_options: Sequence[str]) -> "list[RunSpec]":
    from lit_mnist.study import plan

    instruments = ["--instruments", options.instruments] if options.instruments else []
    grid, for_all = plan.parse_grid(options.grid), plan.parse_options([*fit_options, *instruments])
    if options.map:
        grid = MAP_GRID | grid
        engine = {"engine": "fast"} if find_spec("numba") else {}
        for_all = {key: value for key, value in (MAP_OPTIONS | engine).items() if key not in grid} | for_all
    out = options.out or Path("logs/map" if options.map else "logs/study")
    most = math.inf if options.yes else plan.MOST_RUNS
    return plan.plan_study(options.configs, grid, for_all, plan.parse_seeds(options.seeds), out, most)


def _report(results: "list[Result | None]", out: Path) -> int:
    """Prints the table of results and writes the report; returns the exit code. None is a run without a result."""
    from lit_mnist.report import main as report
    from lit_mnist.report import results_table

    if any(results):
        print(results_table(out), flush=True)
        report([str(out)])
    if None in results:
        return FAILED
    return DIVERGED if any(result and result.outcome == "diverged" for result in results) else DONE

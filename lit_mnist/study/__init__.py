"""The `study` command: many runs of `fit`, each in a process and a folder of its own."""

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli.command import DIVERGED, DONE, FAILED, Parser
from lit_mnist.record.configs import SHIPPED
from lit_mnist.study import ending
from lit_mnist.study.conduct import conduct
from lit_mnist.study.ending import read_ending
from lit_mnist.study.grid import parse_grid
from lit_mnist.study.plan import (
    parse_seeds,
    plan_configurations,
    plan_runs,
    refuse_other_settings,
    write_configs,
)
from lit_mnist.study.results_table import results_table
from lit_mnist.study.settings import parse_options

__all__ = ["main"]

MOST_RUNS = 1000  # more need --yes: a typing error in a grid is quickly made
BASE_OF_A_GRID = "lr0.1"


def parser() -> Parser:
    """The command line; what it does not know goes to `fit`."""
    parser = Parser(
        prog="python -m lit_mnist study",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [options of fit, for all runs]",
        description="Trains each configuration with several seeds, one run per core at a time.\n"
        "The same command again continues: finished runs are skipped, failed ones tried again.",
        epilog="example: lit_mnist study --grid model.lr=0.01,0.1,1 --grid data.batch_size=8,32 --seeds 5\n"
        "exit codes: 0 all runs done, 3 a run diverged, 1 a run failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM",
    )
    helps = {
        "configs": f"files or shipped names (default: {' '.join(SHIPPED)})",
        "seeds": "number of seeds from 1 on, or a list of them (default: 3)",
        "grid": "values of an option of fit; may be repeated, all combinations are run; "
        f"starts from {BASE_OF_A_GRID} unless --configs is given",
        "out": "folder of the study (default: logs/study)",
        "workers": "runs at once on this machine (default: one per core)",
        "scheduler": "send the runs to a Dask cluster whose workers see this working directory",
        "dry_run": "write the config files, print the command line of each run, start none",
        "yes": f"start even more than {MOST_RUNS} runs",
    }
    parser.add_argument("--configs", nargs="+", metavar="CONFIG", help=helps["configs"])
    parser.add_argument("--seeds", default="3", metavar="N|A,B", help=helps["seeds"])
    parser.add_argument("--grid", action="append", default=[], metavar="OPTION=A,B", help=helps["grid"])
    parser.add_argument("--out", type=Path, default=Path("logs/study"), metavar="DIR", help=helps["out"])
    parser.add_argument("--workers", type=int, metavar="N", help=helps["workers"])
    parser.add_argument("--scheduler", metavar="ADDRESS", help=helps["scheduler"])
    parser.add_argument("--dry-run", action="store_true", help=helps["dry_run"])
    parser.add_argument("--yes", action="store_true", help=helps["yes"])
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code, DONE, DIVERGED, FAILED or 128 + the signal that stopped it.

    Raises:
        ValueError: The command line or a config is wrong, or the folder holds runs of other settings.
            Nothing was started.
    """
    options, fit_options = parser().parse_known_args(arguments)
    if options.workers is not None and (options.workers < 1 or options.scheduler):
        raise ValueError("--workers: at least 1, and not with --scheduler, whose cluster has its own.")
    grid, seeds = parse_grid(options.grid), parse_seeds(options.seeds)
    configs = options.configs or ([BASE_OF_A_GRID] if grid else SHIPPED)
    count = len(configs) * math.prod(map(len, grid.values())) * len(seeds)
    if count > MOST_RUNS and not options.yes:
        raise ValueError(f"That would be {count:,} runs: confirm with --yes, or give fewer values or seeds.")
    fit_settings = parse_options(fit_options)
    configurations = plan_configurations(configs, grid, fit_settings, keep_names=bool(options.configs))
    runs = plan_runs(configurations, seeds, options.out)
    refuse_other_settings(configurations, options.out)

    endings = {run: known for run in runs if (known := read_ending(run.folder))}
    unfinished = [run for run in runs if run not in endings]
    if options.dry_run:
        write_configs(configurations, options.out)
        print(*(run.line for run in runs), sep="\n")
        return DONE
    code = DONE
    if unfinished:
        code = conduct(runs, configurations, endings, options.out, options.workers, options.scheduler)
    if code == DONE:
        print(results_table({run: endings[run] for run in runs}))
        print(shlex.join(["python", "-m", "lit_mnist", "report", str(options.out)]), flush=True)
        outcomes = {known.outcome for known in endings.values()}
        code = FAILED if ending.FAILED in outcomes else DIVERGED if "diverged" in outcomes else DONE
    return code

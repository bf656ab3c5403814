"""The `study` command: many runs of `fit`, each in a process and a folder of its own."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from lit_mnist.cli import DIVERGED, DONE, FAILED, Parser
from lit_mnist.record.configs import SHIPPED

__all__ = ["main"]

MOST_RUNS = 1000  # more need --yes: a typing error in a grid is quickly made
BASE_OF_A_GRID = "lr0.1"


def parser() -> Parser:
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
    parser.add_argument("--configs", nargs="+", action="extend", metavar="CONFIG", help=helps["configs"])
    parser.add_argument("--seeds", default="3", metavar="N|A,B", help=helps["seeds"])
    parser.add_argument("--grid", action="append", default=[], metavar="OPTION=A,B", help=helps["grid"])
    parser.add_argument("--out", type=Path, default=Path("logs/study"), metavar="DIR", help=helps["out"])
    parser.add_argument("--workers", type=int, metavar="N", help=helps["workers"])
    parser.add_argument("--scheduler", metavar="ADDRESS", help=helps["scheduler"])
    parser.add_argument("--dry-run", action="store_true", help=helps["dry_run"])
    parser.add_argument("--yes", action="store_true", help=helps["yes"])
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns DONE, DIVERGED or FAILED.

    Raises:
        ValueError: The command line or a config is wrong, or the folder holds runs of other settings. Nothing was written.
        Stopped: A signal came; all runs have been stopped.
    """
    options, fit_options = parser().parse_known_args(arguments)
    from lit_mnist.study import plan
    from lit_mnist.study.execute import check, conduct
    from lit_mnist.study.progress import FAILED as FAILED_RUN
    from lit_mnist.study.progress import read_status, results_table

    if options.workers is not None and (options.workers < 1 or options.scheduler):
        raise ValueError("--workers: at least 1, and not with --scheduler, whose cluster has its own.")
    grid, seeds = plan.parse_grid(options.grid), plan.parse_seeds(options.seeds)
    configs = options.configs or ([BASE_OF_A_GRID] if grid else SHIPPED)
    count = len(configs) * math.prod(map(len, grid.values())) * len(seeds)
    if count > MOST_RUNS and not options.yes:
        raise ValueError(f"That would be {count:,} runs: confirm with --yes, or give fewer values or seeds.")
    for_all = plan.parse_options(fit_options)
    study = plan.plan_study(configs, grid, for_all, seeds, options.out, keep_names=bool(options.configs))
    try:
        plan.refuse_other_settings(study)
    except ValueError:
        check(study, study.runs)  # a mistyped option is the truer reason
        raise
    if options.dry_run:
        check(study, study.runs)
        plan.write_configs(study)
        print(*(run.line for run in study.runs), sep="\n")
        return DONE
    statuses = {run: status for run in study.runs if (status := read_status(run.folder))}
    if len(statuses) < len(study.runs):
        conduct(study, statuses, options.workers, options.scheduler)
    if len(statuses) < len(study.runs):
        return FAILED
    print(results_table({run: statuses[run] for run in study.runs}), flush=True)
    if any(status.result for status in statuses.values()):
        from lit_mnist.report import main as report

        report([str(options.out)])
    states = {status.state for status in statuses.values()}
    return FAILED if FAILED_RUN in states else DIVERGED if "diverged" in states else DONE

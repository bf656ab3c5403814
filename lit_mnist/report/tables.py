"""Tables of the report: results by configuration and by level of a sweep, runs, provenance."""

from collections import Counter
from collections.abc import Callable, Sequence

from lit_mnist.record.printable import one_line
from lit_mnist.report.experiments import Configuration, Sweep, level_text
from lit_mnist.report.quantities import DECLARED, FINAL_LOSS, TEST_ACCURACY, TRAIN_ACCURACY, Quantity, common_target, steps_to
from lit_mnist.report.render import Table
from lit_mnist.report.statistics import share_interval, spread

MOST_ROWS = 30  # of the table of failed runs


def results(configurations: Sequence[Configuration], settings: bool = False) -> Table:
    """One line for each configuration: its settings if wanted, medians over the runs that did not fail, how many failed."""
    rows = [
        [
            each.name,
            *((level_text(each.lr), str(each.batch_size)) if settings else ()),
            *(quantity.median_text(each) for quantity in (FINAL_LOSS, TRAIN_ACCURACY, TEST_ACCURACY)),
            f"{len(each.failed)} of {len(each.runs)}",
        ]
        for each in configurations
    ]
    columns = ("learning rate", "batch size") if settings else ()
    return Table(("configuration", *columns, "final loss", "train accuracy", "test accuracy", "failed"), rows)


def levels(sweep: Sweep) -> Table:
    """A column for each level, a row for each quantity."""
    columns, target = sweep.configurations, common_target(sweep.configurations)
    shares = [share_interval(len(each.failed), len(each.runs)) for each in columns]
    rows = [
        ["failed", *(f"{len(each.failed)} of {len(each.runs)}" for each in columns)],
        ["share of failures, 95 % interval", *(f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in shares)],
        *(
            [quantity.name, *(_with_quartiles(quantity.text, quantity.values(each)) for each in columns)]
            for quantity in DECLARED
        ),
    ]
    if target:
        reached = [[(run, steps) for run in each.runs if (steps := steps_to(run, target)) is not None] for each in columns]
        epochs = [[steps / max(1, run.result.steps_per_epoch) for run, steps in each] for each in reached]
        rows += [
            [f"epochs to a loss of {target:g}", *(_with_quartiles("{:.2f}".format, each) for each in epochs)],
            [
                f"SGD steps to {target:g}",
                *(_with_quartiles("{:,.0f}".format, [steps for _, steps in each]) for each in reached),
            ],
            [
                f"runs that reached {target:g}",
                *(f"{len(some)} of {len(each.runs)}" for some, each in zip(reached, columns, strict=True)),
            ],
        ]
    return Table([sweep.label, *(level_text(each.level(sweep.axis)) for each in columns)], rows)


def failed_runs(configurations: Sequence[Configuration]) -> Table:
    """One line for each of the first failed runs."""
    failed = [(each, run) for each in configurations for run in each.failed]
    rows = [[each.name, str(run.result.seed), run.result.outcome, f"{run.failure:.2f}"] for each, run in failed[:MOST_ROWS]]
    note = f"The first {MOST_ROWS} of {len(failed)}; all are in results.csv." if len(failed) > MOST_ROWS else ""
    return Table(("configuration", "seed", "outcome", "failed in epoch"), rows, 3, note)


def all_runs(configurations: Sequence[Configuration]) -> Table:
    """One line for each run."""
    runs = [(each, run) for each in configurations for run in each.runs]
    rows = [
        [
            run.folder,
            each.name,
            str(run.result.seed),
            run.result.outcome + (f" ({one_line(run.result.stopped)})" if run.result.stopped else ""),
            f"{run.length:.4g}",
            *(_text(quantity, value) for quantity in (FINAL_LOSS, TEST_ACCURACY) for value in (quantity.of(run),)),
        ]
        for each, run in runs
    ]
    return Table(("folder", "configuration", "seed", "outcome", "epochs", "final loss", "test accuracy"), rows, 4)


def provenance(configurations: Sequence[Configuration]) -> Table:
    """Versions, machines and data behind the runs, each value with the number of runs that have it."""
    counts: dict[str, Counter[str]] = {}
    for each in configurations:
        for run in each.runs:
            result = run.result
            told = {
                "threads": result.threads,
                "device": result.device,
                "commit": result.commit,
                "data_sha256": result.data_sha256,
            }
            told |= {f"version of {key}": value for key, value in result.versions.items()} | dict(result.machine)
            for key, value in told.items():
                if value not in (None, ""):
                    counts.setdefault(one_line(key), Counter())[one_line(str(value))] += 1
    rows = [
        [key, ", ".join(f"{value} ({count_of(n, 'run')})" if len(values) > 1 else value for value, n in values.most_common(5))]
        for key, values in counts.items()
    ]
    return Table(("what", "value"), rows, 2)


def count_of(n: int, noun: str) -> str:
    """Writes a number with its noun."""
    return f"{n} {noun}{'s' if n != 1 else ''}"


def _with_quartiles(text: Callable[[float], str], values: Sequence[float]) -> str:
    if not values:
        return "–"
    shown = spread(values)
    quartiles = f" ({text(shown.low)}–{text(shown.high)})".replace(" %–", "–") if len(values) > 2 else ""
    return f"{text(shown.median)}{quartiles}"


def _text(quantity: Quantity, value: float | None) -> str:
    return "–" if value is None else quantity.text(value)

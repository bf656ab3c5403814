"""The benchmark's figures as text: seconds per epoch, and the ratios that the project holds itself to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

PLAIN_TRAINER = "LitMLP in a plain Trainer"
OWN_THREADS = 0
"""The thread count of a contender that was left its libraries' own default."""


@dataclass
class Row:
    """One contender at one batch size and thread count.

    Attributes:
        seconds: Per epoch of 60,000 images, one figure for each repeat.
        warm_up_seconds: What came before the first of them: compilation and first epoch, as measured.
        peak_mib: The most memory its process held, where it had one for itself.
    """

    contender: str
    batch_size: int
    threads: int
    seconds: list[float] = field(default_factory=list)
    warm_up_seconds: float | None = None
    peak_mib: float | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Table:
    """All rows of a run, and the ratios between their medians."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(self, contender: str, batch_size: int, threads: int) -> Row:
        """The row of that name, made if there is none."""
        for row in self.rows:
            if (row.contender, row.batch_size, row.threads) == (contender, batch_size, threads):
                return row
        self.rows.append(Row(contender, batch_size, threads))
        return self.rows[-1]

    def find(self, contender: str, batch_size: int, threads: int) -> float | None:
        """Median seconds of a contender; None where it was not measured."""
        for row in self.rows:
            if (row.contender, row.batch_size, row.threads) == (
                contender,
                batch_size,
                threads,
            ) and row.seconds:
                return row.median
        return None

    def text(self) -> str:
        lines = [
            f"{'seconds per epoch of 60,000 images':<36}{'median':>8}{'min':>8}{'max':>8}"
            f"{'/ plain':>9}{'/ JAX':>8}{'warm-up':>9}{'MiB':>7}"
        ]
        group = None
        for row in sorted(self.rows, key=lambda row: (row.batch_size, row.threads or 99)):
            if not row.seconds:
                continue
            if group != (row.batch_size, row.threads):
                group = (row.batch_size, row.threads)
                threads = f"{row.threads} threads" if row.threads != OWN_THREADS else "its own threads"
                lines.append(f"batch {row.batch_size}, {threads.replace('1 threads', '1 thread')}")
            plain = self.find("plain tensor loop", row.batch_size, row.threads)
            jax = self.find("JAX", row.batch_size, row.threads)
            lines.append(
                f"  {row.contender:<34}{row.median:>8.2f}{min(row.seconds):>8.2f}{max(row.seconds):>8.2f}"
                f"{_cell(row.median, plain):>9}{_cell(row.median, jax):>8}"
                f"{_plain_cell(row.warm_up_seconds, 1):>9}{_plain_cell(row.peak_mib, 0):>7}"
            )
        return "\n".join(lines)

    def ratios(self) -> dict[str, dict[int, float]]:
        """The ratios of medians that the project holds itself to, by batch size, of what was measured."""
        batch_sizes = sorted({row.batch_size for row in self.rows})
        counts = sorted({row.threads for row in self.rows} - {OWN_THREADS})
        found: dict[str, dict[int, float]] = {}

        def add(name: str, batch_size: int, above: float | None, below: float | None) -> None:
            if above is not None and below is not None:
                found.setdefault(name, {})[batch_size] = above / below

        for size in batch_sizes:
            notebook = self.find("notebook loop", size, OWN_THREADS)
            best_exact = self._best("lit_mnist exact", size, counts)
            for n in counts:
                exact, fast = (self.find(f"lit_mnist {engine}", size, n) for engine in ("exact", "fast"))
                plain, jax = self.find("plain tensor loop", size, n), self.find("JAX", size, n)
                add(f"time of exact / plain loop, threads {n}", size, exact, plain)
                add(f"time of plain loop / fast, threads {n}", size, plain, fast)
                add(f"time of fast / JAX, threads {n}", size, fast, jax)
                add(f"time of fast engine alone / JAX, threads {n}", size, self.find("fast engine alone", size, n), jax)
                usual = self.find("Lightning as usual", size, n)
                add(f"time of LitMLP / Lightning as usual, threads {n}", size, self.find(PLAIN_TRAINER, size, n), usual)
                add(f"time of notebook loop / exact, threads {n}", size, notebook, exact)
            add("time of notebook loop / exact, at its best", size, notebook, best_exact)
            best_fast, best_jax = self._best("lit_mnist fast", size, counts), self._best("JAX", size, counts)
            add("time of fast / JAX, each at its best", size, best_fast, best_jax)
        return found

    def _best(self, contender: str, batch_size: int, counts: Sequence[int]) -> float | None:
        medians = [self.find(contender, batch_size, threads) for threads in counts]
        return min((one for one in medians if one is not None), default=None)

    def ratios_text(self) -> str:
        batch_sizes = sorted({row.batch_size for row in self.rows})
        lines = [f"{'ratios of medians':<50}" + "".join(f"{f'batch {size}':>11}" for size in batch_sizes)]
        for name, by_batch in self.ratios().items():
            cells = (f"{by_batch[size]:.2f}" if size in by_batch else "" for size in batch_sizes)
            lines.append(f"  {name:<48}" + "".join(f"{cell:>11}" for cell in cells))
        return "\n".join(lines)


def _cell(above: float, below: float | None) -> str:
    return "" if below is None else f"{above / below:.2f}"


def _plain_cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

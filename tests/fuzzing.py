"""What all fuzz tests share: the number of cases, a command typed in this process, bytes and values that were altered."""

import io
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from lit_mnist.cli.main import main

CASES = int(os.environ.get("LIT_MNIST_FUZZ", 0))
HABITS: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}
HABITS["phases"] = (Phase.generate,)  # to make a failing case smaller would take minutes
Draw = Callable[..., Any]  # of hypothesis' data()
LONGEST = 5  # seconds of computing for any case

PLAIN: tuple[Any, ...] = (None, True, -1, 0, 3, 2**40, 10**30, 0.5, -1e38, 1e39, 1e308, float("nan"), float("inf"))
PLAIN += ("", "x" * 10_000, "\x1b[31m\n", "../../x", [], {}, [1, 2], [[[]]], {"a": 1}, "=1+1", "\ud800")
# Names that files may have.
NAMES = (os.fsdecode(b"latin\xe9"), "x" * 200, "=1+1", "a\nb", "\x1b[31m", "$x$", "<b>&amp;", "名前", 'a,"b', "#c0ff00", " ")


@contextmanager
def new_folder() -> Iterator[Path]:
    """Changes into a working directory with one file in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        (Path(name) / "file").write_text("a: [1, 2\n")
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def typed(arguments: list[str], codes: Collection[int] = (0, 2, 3)) -> tuple[int, str]:
    """Returns exit code and complaints of a command that ended in one of the documented ways, and in time."""
    began = time.process_time()
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")  # which raises, as a terminal does, for what cannot be encoded
    with redirect_stdout(stdout), redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    complaints = errors.getvalue()
    assert time.process_time() - began < LONGEST, arguments
    assert code in codes, (code, complaints, arguments)
    assert "Traceback" not in complaints
    if code == 2:
        assert complaints.splitlines()[-1].startswith("lit_mnist: "), (complaints, arguments)
        assert complaints.count("\n") <= 3, (complaints, arguments)
    return code, complaints


def damage(content: bytes, draw: Draw) -> bytes:
    """Changes, removes, adds or repeats some bytes."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4), "changes")):
        at = draw(st.integers(0, max(0, len(damaged) - 1)), "at")
        end = at + draw(st.sampled_from([0, 1, 2, 100, 100_000]), "length")
        damaged[at:end] = draw(st.binary(max_size=4) | st.just(bytes(damaged[at:end] * 2)), "bytes")
    return bytes(damaged)


def write_hole(path: Path, size: int, start: bytes = b"") -> None:
    """Writes a file that seems large and takes no room on the disk."""
    path.write_bytes(start)
    os.truncate(path, size)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Lists the places of everything in nested mappings and lists."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))

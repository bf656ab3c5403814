"""A grid of learning rates and batch sizes: the section on both together, its sentences, and the knob."""

import math
import random
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, browser
from invented_runs import write_run, write_runs, write_study
from report_text import section

from lit_mnist.report import write_report

RATES, SIZES = (0.025, 0.05, 0.1, 0.2, 0.4), (8, 16, 32, 64)


def blocks_to(steps: float, size: int, epochs: int) -> list[tuple[int, float]]:
    """Losses of blocks that reach 0.1 nats after so many SGD steps, on a straight line of logarithms."""
    every, whole = max(1, 4096 // size), math.ceil(6000 / size) * epochs
    return [(step, 2 * 0.05 ** (step / steps)) for step in range(every, whole, every)]


def write_grid(folder: Path, noise: float = 64, scatter: float = 0.003, fails_from: float = 9, bend: float = 0) -> None:
    """Runs whose final loss depends on lr / batch size, and whose steps follow 300 (1 + noise / batch size) at lr 0.1."""
    draw = random.Random(1)
    for rate in RATES:
        for size in SIZES:
            for seed in (1, 2, 3):
                final = 0.02 * (0.1 / 32 / (rate / size)) ** 0.7 * (size / 8) ** bend * math.exp(draw.gauss(0, scatter))
                steps = 300 * (1 + noise / size) * (1 + abs(math.log(rate / 0.1)) / 4) * math.exp(draw.gauss(0, 0.01))
                name, losses = f"lr{rate}-batch{size}", [1.0, 0.3, final * 1.02, final]
                write_run(
                    folder / name / f"seed_{seed}", name, seed, losses, rate >= fails_from, lr=rate, batch_size=size,
                    train_size=6000, max_epochs=4, blocks=blocks_to(steps, size, 40),
                    measurements=[{"epoch": 0.5, "step": 100, "gradient_noise_scale": 50.0 + seed}],
                )  # fmt: skip


def together(folder: Path) -> str:
    write_report([folder])
    return section((folder / "report.md").read_text(), "Learning rate and batch size together")


def test_runs_that_form_no_grid_have_no_such_section(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_report([tmp_path])
    assert "together" not in (tmp_path / "report.md").read_text()
    assert '<div class="knob">' not in (tmp_path / "report.html").read_text()


def test_linear_scaling_is_an_equivalence_with_the_batch_size_up_to_which_it_holds(tmp_path: Path) -> None:
    write_grid(tmp_path / "same")
    text = together(tmp_path / "same")
    assert "is the same, to within 5 %, for batch sizes from 8 to 64 at 0.003125" in text
    assert "does not hold" not in text
    write_grid(tmp_path / "bent", bend=0.2)
    text = together(tmp_path / "bent")
    assert "does not hold for batch sizes from 8 to 16 at" in text
    assert "holds there" not in text
    write_grid(tmp_path / "vague", scatter=0.3)
    assert "scaling" not in together(tmp_path / "vague")  # neither equivalent nor different


def test_a_law_is_stated_with_the_noise_scale_if_it_describes_the_steps(tmp_path: Path) -> None:
    write_grid(tmp_path / "law")
    found = re.search(r"follow ([\d,]+) × \(1 \+ (\d+) / batch size\)", together(tmp_path / "law"))
    assert found
    assert float(found[1]) == pytest.approx(300, rel=0.1)
    assert float(found[2]) == pytest.approx(64, rel=0.15)
    assert "The gradient noise scale measured on the way there has a median of 52 images." in together(tmp_path / "law")


def test_no_law_is_stated_if_the_fastest_rate_is_the_highest_without_failures(tmp_path: Path) -> None:
    write_grid(tmp_path, fails_from=0.1)  # of the rates that are left, the highest is 0.05, inside; all beyond it failed
    assert "follow" in together(tmp_path)
    for rate in (0.1, 0.2, 0.4):
        for folder in tmp_path.glob(f"lr{rate}-*"):
            folder.rename(folder.with_name(f".{folder.name}"))
            (folder.with_name(f".{folder.name}")).rename(tmp_path.parent / f"{tmp_path.name}-{folder.name}")
    assert "follow" not in together(tmp_path)


def test_the_knob_shows_each_cell_once_and_what_its_runs_did(tmp_path: Path) -> None:
    write_grid(tmp_path, fails_from=0.4)
    write_runs(tmp_path, "other", [0.1, 0.2], lr=0.1, hidden=[16])
    together(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count('type="radio"') == len(RATES) + len(SIZES)
    assert page.count('<figure class="cell') == len(RATES) * len(SIZES)
    assert "Learning rate 0.4, batch size 64: 3 of 3 runs failed." in page
    assert re.search(
        r"Learning rate 0.1, batch size 32: 0 of 3 runs failed, median final training loss 0\.0\d+, median test", page
    )
    assert "<script" not in page
    assert "cell_0_0" not in (tmp_path / "report.md").read_text()
    assert len(page) < 1_500_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_a_choice_changes_the_cell_that_is_shown(tmp_path: Path) -> None:
    write_grid(tmp_path)
    together(tmp_path)
    with browser() as driver:
        driver.get((tmp_path / "report.html").as_uri())
        for rate, size in ((0, 1), (4, 3)):
            driver.execute_script("for (id of arguments) document.getElementById(id).click()", f"rate-{rate}", f"size-{size}")
            shown = [each for each in driver.find_elements("class name", "cell") if each.is_displayed()]
            assert [each.get_attribute("class") for each in shown] == [f"cell cell-{rate}-{size}"]

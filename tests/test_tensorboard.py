"""What a run shows in TensorBoard: the points in its event files, and the dashboard in a real browser."""

import time
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, PATIENCE, PICTURES, VISIBLE_TEXT, browser, dashboard, shown_on
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist.cli.main import main

EPOCHS = 3


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run, and `test` after it."""
    folder = tmp_path_factory.mktemp("tensorboard")
    run = str(folder / "logs" / "lr0.1" / "version_0")
    small = ["--data.train_size", "2000", "--trainer.max_epochs", str(EPOCHS), "--data.val_size", "500"]
    assert main(["fit", "--config", "lr0.1", "--run_dir", run, "--seed_everything", "7", *small]) == 0
    assert main(["test", "--ckpt_path", run]) == 0
    return folder / "logs"


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags["scalars"]}


def test_the_event_files_hold_what_was_asked_for_and_nothing_else(logs: Path) -> None:
    shown = points(logs / "lr0.1" / "version_0")
    epochs = list(range(1, EPOCHS + 1))
    assert set(shown) == {
        "train/loss",
        "train/loss_step",
        "train/accuracy",
        "test/accuracy",
        "val/loss",
        "val/accuracy",
    }
    for tag in ("train/loss", "test/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in shown[tag]] == epochs
    assert [step for step, _ in shown["train/accuracy"]] == [EPOCHS]
    assert [step for step, _ in shown["train/loss_step"]] == [63, 126, 189]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed")
def test_the_dashboard_shows_loss_by_epoch_the_hparams_table_and_the_pictures(logs: Path) -> None:
    with dashboard(logs) as address, browser() as driver:
        shown_on(driver, f"{address}/#timeseries", VISIBLE_TEXT, {"lr0.1/version_0", "train/loss", "test/accuracy"})
        row = {
            "lr",
            "batch_size",
            "seed",
            "train/loss",
            "train/accuracy",
            "test/accuracy",
            "lr0.1/version_0",
            "32.000",
            "7.0000",
        }
        table = shown_on(driver, f"{address}/#hparams", VISIBLE_TEXT, row)
        assert not {"hp_metric", "_instantiator", "epoch"} & set(table)
        shown_on(driver, f"{address}/#images", VISIBLE_TEXT, {"test/confusion", "test/mistakes"})
        deadline = time.monotonic() + PATIENCE
        while len(driver.execute_script(PICTURES)) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(driver.execute_script(PICTURES)) >= 2

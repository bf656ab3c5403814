"""What a run shows in TensorBoard: the points in its event files, and the dashboard in a real browser."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist.cli import main

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 120  # seconds for a page to show what it should; it takes 5 on an idle machine
EPOCHS = 3

# innerText stops at shadow roots, of which TensorBoard has many
VISIBLE_TEXT = """
const texts = [];
function gather(node) {
    const text = node.textContent.trim();
    if (text.length < 60) texts.push(text);  // elements too: a tag is written in two pieces
    if (node.tagName === 'STYLE' || node.tagName === 'SCRIPT') return;
    if (node.shadowRoot) gather(node.shadowRoot);
    node.childNodes.forEach(gather);
}
gather(document.body);
return texts.filter(Boolean);
"""
PICTURES = """
const found = [];
function gather(node) {
    if (node.tagName === 'IMG' && node.complete && node.naturalWidth > 100) found.push(node.src);
    if (node.shadowRoot) gather(node.shadowRoot);
    node.childNodes.forEach(gather);
}
gather(document.body);
return found;
"""


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


@pytest.fixture(scope="module")
def address(logs: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                   "disable-component-update", "disable-sync", "window-size=1500,1200"):  # fmt: skip
        options.add_argument(f"--{switch}")
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def shown_on(browser: Any, page: str, script: str, wanted: set[str]) -> list[str]:
    """What `script` finds on the page, as soon as all of `wanted` is among it."""
    browser.get("about:blank")
    browser.get(page)
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = browser.execute_script(script)
        if wanted <= set(found):
            return found
        time.sleep(0.5)
    pytest.fail(f"{page} never showed {sorted(wanted - set(found))}; it showed {found[:80]}")


@pytest.mark.browser
@pytest.mark.slow
def test_the_dashboard_shows_loss_by_epoch_the_hparams_table_and_the_pictures(address: str, browser: Any) -> None:
    shown_on(browser, f"{address}/#timeseries", VISIBLE_TEXT, {"lr0.1/version_0", "train/loss", "test/accuracy"})
    row = {"lr", "batch_size", "seed", "train/loss", "train/accuracy", "test/accuracy", "lr0.1/version_0", "32.000", "7.0000"}
    table = shown_on(browser, f"{address}/#hparams", VISIBLE_TEXT, row)
    assert not {"hp_metric", "_instantiator", "epoch"} & set(table)
    shown_on(browser, f"{address}/#images", VISIBLE_TEXT, {"test/confusion", "test/mistakes"})
    deadline = time.monotonic() + PATIENCE
    while len(browser.execute_script(PICTURES)) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(browser.execute_script(PICTURES)) >= 2

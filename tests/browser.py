"""TensorBoard in a real browser, for the tests and for the picture of it in README.md.

    python tests/browser.py logs logs/reference/tensorboard.png

takes that picture again: training loss and test accuracy of the reference study against the epoch, one run of each
configuration. Needs Chromium, its driver, and the extra `test`.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 120  # seconds for a page to show what it should; it takes 5 on an idle machine

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


@contextmanager
def dashboard(logs: Path) -> Iterator[str]:
    """Starts `tensorboard --logdir LOGS` on a free port of this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, as Selenium drives it."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                   "disable-component-update", "disable-sync", "window-size=1500,1200"):  # fmt: skip
        options.add_argument(f"--{switch}")
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shown_on(driver: Any, page: str, script: str, wanted: set[str]) -> list[str]:
    """What `script` finds on the page, as soon as all of `wanted` is among it.

    Raises:
        TimeoutError: Some of it never appeared.
    """
    driver.get("about:blank")
    driver.get(page)
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = driver.execute_script(script)
        if wanted <= set(found):
            return found
        time.sleep(0.5)
    raise TimeoutError(f"{page} never showed {sorted(wanted - set(found))}; it showed {found[:80]}")


def main(logs: str, picture: str) -> None:
    """The command; see above."""
    seen = "runFilter=seed_1$&tagFilter=train/loss$|test/accuracy&smoothing=0"
    with dashboard(Path(logs)) as address, browser() as driver:
        driver.set_window_size(1280, 800)
        shown_on(driver, f"{address}/?{seen}#timeseries", VISIBLE_TEXT, {"train/loss", "test/accuracy"})
        time.sleep(5)  # until the lines are drawn
        driver.save_screenshot(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])

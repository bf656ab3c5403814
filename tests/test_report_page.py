"""The page and the Markdown file: self-contained, escaped, readable in light and dark."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from invented_runs import write_run, write_study
from PIL import Image, ImageStat

from lit_mnist.report import main
from lit_mnist.report.drawing import DARK, LIGHT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "img", "source"}


class Page(HTMLParser):
    """Collects what a browser would act on, and makes sure that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, seeds=3)
    assert main([str(folder)]) == 0
    return folder


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    assert page.tags.count("svg") == 4
    assert not {"script", "img", "iframe", "object", "base"} & set(page.tags)
    references = [*page.of("src"), *page.of("href"), *page.of("xlink:href"), *page.of("srcset")]
    assert references
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert not re.search(r"@import|url\((?!#)", (report / "report.html").read_text())


def test_ids_are_unique_and_all_references_are_met(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    ids = page.of("id")
    assert len(ids) == len(set(ids))
    used = [reference[1:] for reference in page.of("href") + page.of("xlink:href") if reference.startswith("#")]
    used += re.findall(r"url\(#([^)]*)\)", (report / "report.html").read_text())
    assert used
    assert set(used) <= set(ids)


def test_every_colour_of_the_page_has_a_light_and_a_dark_value(report: Path) -> None:
    html = (report / "report.html").read_text()
    used = set(re.findall(r"var\((--[^)]*)\)", html))
    light, dark = re.findall(r":root\{([^}]*)\}", html)
    for theme in (light, dark):
        assert used <= {entry.split(":")[0] for entry in theme.split(";")}
    assert light != dark


@pytest.mark.parametrize(("theme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_figures_beside_the_markdown_exist_in_both_themes(report: Path, theme: str, colours: dict[str, str]) -> None:
    text = (report / "report.md").read_text()
    shown = re.findall(r"(?:src|srcset)=\"(figures/[^\"]*)\"", text)
    assert len(shown) == 8
    for path in (report / name for name in shown if theme in name):
        ElementTree.parse(path)
        svg = path.read_text()
        assert "#c0ff" not in svg
        assert any(colour in svg for colour in colours.values())
    names = "".join((report / "figures" / f"test_accuracy-{theme}.svg").read_text())
    assert all(f">{name}<" in names for name in ("lr0.1", "lr0.01", "batch8", "batch128"))


def test_text_from_a_record_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | `x` \"&amp;' ![](http://example.org) $_"
    write_run(tmp_path / "1", hostile, 1, [0.5, 9.0], "diverged")
    write_run(tmp_path / "2", hostile, 2)
    write_run(tmp_path / "3", "mine", 3, lr=0.2)
    file = tmp_path / "1/result.json"
    spiteful = {"reason": "</style><img src=x onerror=alert(2)>\n# Title", "command": "a ``` b | c\n```\n<b>"}
    file.write_text(json.dumps(json.loads(file.read_text()) | spiteful))
    assert main([str(tmp_path)]) == 1
    page = Page((tmp_path / "report.html").read_text())
    assert not {"script", "img", "b"} & set(page.tags)
    assert hostile in page.text
    assert spiteful["command"] in page.text
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "# Title" not in lines
    for first, row in pairwise(lines):
        if first.startswith("|") and row.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", first))
    outside_code = re.sub(r"(?ms)^(`{3,})\n.*?\n\1$|(`+)[^\n]*?(?<!`)\2(?!`)", "", "\n".join(lines))
    assert "alert(2)" in outside_code
    assert not re.search(r"<(script|img src=x|b>)", outside_code)


def browse(page: Path, scheme: int, folder: Path) -> tuple[str, set[str], Path]:
    """What the console said, what the page asked for beyond itself, and a screenshot."""
    picture, net = folder / f"{scheme}.png", folder / f"{scheme}.json"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
    ]
    command += [
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
    ]
    command += [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1000,1600"]
    command += [f"--user-data-dir={folder / str(scheme)}", f"--log-net-log={net}", f"--screenshot={picture}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    said = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE:" in line)
    events = [event.get("params", {}) for event in json.loads(net.read_text())["events"]]
    # what the browser wants for itself has no origin
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return said, {url for url in asked if not url.startswith(("file:", "data:"))}, picture


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_the_page_in_light_and_dark_and_asks_for_nothing(report: Path, tmp_path: Path) -> None:
    brightness = []
    for scheme in (1, 0):  # light, dark
        said, asked, picture = browse(report / "report.html", scheme, tmp_path)
        assert not said
        assert not asked
        with Image.open(picture) as image:
            brightness.append(ImageStat.Stat(image.convert("L")).mean[0])
            assert len(image.convert("RGB").getcolors(1_600_000) or []) > 500  # figures are in it
    assert brightness[0] > 200 > 80 > brightness[1]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_page_that_asks_or_complains_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>')
    said, asked, _ = browse(page, 1, tmp_path)
    assert "no" in said
    assert asked == {"http://127.0.0.1:9/x.png"}

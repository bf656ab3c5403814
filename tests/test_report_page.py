"""The page: short, one file, without requests, and what its first screen says of the committed runs."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_text import first_screen, prose

from lit_mnist.report import write_report
from lit_mnist.report.drawing import colours

REFERENCE = Path(__file__).parent.parent / "logs" / "reference"
VOID = {"meta", "link", "br", "img", "source"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the committed runs."""
    out = tmp_path_factory.mktemp("report")
    _, problems = write_report([REFERENCE], out)
    assert not problems
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_the_first_screen_answers_both_questions_in_at_most_250_words(page: str) -> None:
    screen = first_screen(page)
    assert len(screen.split()) <= 250
    for answer in (
        "100 runs of 5 configurations: 91 trained, 9 failed (4 collapsed, 5 diverged).",
        "More runs fail as the learning rate increases: 0 of 40 from 0.01 to 0.1 and 9 of 20 at 1 (26 to 66 %)",
        "Final training loss is lowest at 0.1: 0.000493. It is 125 times as high at 0.01 (123 to 127) and 322 times",
        "Test accuracy is highest at 0.1: 98.37 %. It is 0.89 points lower at 0.01 (0.84 to 0.93)",
        "After one epoch (equal images), the training loss is 2.85 times as high at 128 as at 8 (2.83 to 2.86).",
        "After 9,380 SGD steps, it is 6.16 times as high at 8 as at 128 (6.03 to 6.30).",
    ):
        assert answer in screen


def test_the_whole_page_has_at_most_2500_words(page: str) -> None:
    assert len(prose(page).split()) <= 2500


def test_the_header_has_one_figure_and_one_line_for_each_configuration(page: str) -> None:
    header = page[: page.index("</header>")]
    assert header.count("<svg") == 1
    assert header.count('<th scope="row">') == 5


def test_the_committed_report_is_that_of_the_committed_runs(folder: Path) -> None:
    for name in ("report.md", "results.csv"):
        assert (folder / name).read_text() == (REFERENCE / name).read_text()


class Balance(HTMLParser):
    """Notices tags that are not closed, ids that are given twice, and links inside the page that lead nowhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name.endswith("href") and value and value.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_tag_is_closed_every_id_unique_and_every_link_leads_somewhere(page: str) -> None:
    found = Balance(page)
    assert not found.open
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for link in found.links} <= set(found.ids)


def test_the_page_needs_no_other_file_and_no_network(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"@import|url\((?!#)|src=", page)
    assert set(re.findall(r'"(https?://[^"]*)"', page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_every_colour_is_a_variable_with_a_light_and_a_dark_value(page: str, folder: Path) -> None:
    names = {f"c{placeholder[-2:]}" for placeholder in colours()}
    assert set(re.findall(r"var\(--([\w]+)\)", page)) <= names | {"ink", "faint", "paper", "soft", "wash"}
    assert "#c0ff" not in page
    light, dark = ((folder / "figures" / f"training_loss-{theme}.svg").read_text() for theme in ("light", "dark"))
    assert "#c0ff" not in light + dark
    assert light != dark


def test_the_curves_show_every_epoch(folder: Path) -> None:
    for name in ("training_loss", "survival"):
        assert ">20</text>" in (folder / "figures" / f"{name}-light.svg").read_text()


def test_every_figure_of_the_markdown_is_a_file(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    named = set(re.findall(r'"(figures/[\w.-]+)"', text))
    assert named == {f"figures/{path.name}" for path in (folder / "figures").iterdir()}


def test_markdown_and_page_say_the_same(folder: Path, page: str) -> None:
    text = re.sub(r"\\(.)", r"\1", (folder / "report.md").read_text())
    for item in re.findall(r"<li>([^<]*)</li>", page):
        assert f"- {unescape(item)}" in text

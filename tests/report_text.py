"""The written report, cut into its parts."""

import html
import re


def section(markdown: str, heading: str) -> str:
    """What stands below a heading of the second level, as far as the next one."""
    return markdown.split(f"## {heading}\n")[1].split("\n## ")[0]


def prose(page: str) -> str:
    """What a reader of the HTML page reads: headings, sentences and captions, without tables, figures and commands."""
    body = page[page.index("<body>") :]
    for tag in ("table", "svg", "pre", "nav"):
        body = re.sub(rf"<{tag}\b.*?</{tag}>", " ", body, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def first_screen(page: str) -> str:
    """The prose of the page's header."""
    return prose(page[: page.index("</header>")])

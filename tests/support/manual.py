"""README.md and the manual in app/docs: the text of each page and its code blocks."""

import re
from collections.abc import Iterator

from tests.support.service import ROOT

PAGES = {
    path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "app/docs").glob("*.md"))
}


def blocks(kind: str, page: str | None = None) -> Iterator[str]:
    """The code blocks of a kind (`bash`, `json`, …) on one page, or on all pages."""
    for text in [PAGES[page]] if page else PAGES.values():
        yield from re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(page: str, heading: str) -> str:
    """The text below `## heading`, up to the next heading of that level."""
    _, found, text = PAGES[page].partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    return text.partition("\n## ")[0]

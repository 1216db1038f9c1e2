"""The page of a study from given parts, and a parser for it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pipeline.report import Metrics
from pipeline.report import render as render_metrics


def render(parts: dict, arrays: dict[str, np.ndarray]) -> str:
    """Render the page of a study with these parts."""
    return render_metrics(Metrics.model_validate({"study": {"name": "default"}} | parts), arrays)


def write_no_svg(patch: pytest.MonkeyPatch) -> None:
    """Let figures be made but not written."""
    patch.setattr(
        FigureCanvasSVG, "print_svg", lambda self, file, **_: file.write('<svg viewBox="0 0 1 1"></svg>')
    )
    patch.setattr(Figure, "draw_without_rendering", lambda self: None)


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Check nesting while parsing; keep text, ids, attributes and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.labels, self.text = [], [], [], [], []
        self.tags: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            elif key in ("href", "xlink:href", "src"):
                self.links.append(value)
            elif key == "aria-label":
                self.labels.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)

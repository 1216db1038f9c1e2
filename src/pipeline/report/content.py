"""The parts of a section of the page: values for the template, free of any HTML but subscripts.

Strings are escaped by the template; the SVG of a :class:`Drawing` passes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.report.drawing import Drawing, Stroke
from pipeline.report.formatting import sentences


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with the study's verdict: "holds", "does not hold", "undecided" or "at chance"."""

    verdict: str
    claim: str


@dataclass(frozen=True)
class CoreAnswer:
    """One core's answer: a title, a headline number with its meaning, one sentence, and verdicts."""

    title: str
    headline: str
    unit: str
    text: str
    findings: tuple[JudgedClaim, ...] = ()


@dataclass(frozen=True)
class Notice:
    """A line on top of the page, with a link to more about it; ``form`` is that of a :class:`Fact`."""

    title: str
    text: str
    link: str = ""
    form: str = ""


@dataclass(frozen=True)
class Prose:
    """A paragraph; ``quiet`` marks notes; ``link`` is the address of another page with the text of the link."""

    text: str
    quiet: bool = False
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    text: str


@dataclass(frozen=True)
class Bar:
    """A bar in a table cell; all positions are fractions of the cell's width in [0, 1].

    ``mark`` is a tick (a prediction), ``reference`` the line of no change, ``interval`` a whisker.
    """

    length: float
    text: str
    series: str = "series-3"
    label: str = ""
    mark: float | None = None
    reference: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Column:
    """A column's header; ``numeric`` aligns right.

    ``compared`` says how a row is compared with a baseline that the reader chooses: by "difference", "ratio", or not.
    """

    title: str
    numeric: bool = False
    compared: str = ""


TableCell = str | tuple[str, ...] | Bar | tuple[Bar, ...]  # several: one a line

#: Number of rows; few readers look up what longer tables hold.
LONGEST_SHOWN = 12


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row heads the row. A table without rows is false, and not on the page.

    A column given by its title alone is numeric, except the first one, which names the rows. ``series`` colors the row
    heads, one per row. ``details``, one per row, are (label, sentence) pairs below the row across the full width. On a
    phone, rows turn into short paragraphs. Long tables, and those with ``fold``, are folded until a reader opens them.
    """

    caption: str
    titles: Sequence[str | Column]
    rows: Sequence[tuple[TableCell, ...]]
    note: str = ""
    series: Sequence[str] = ()
    details: Sequence[tuple[tuple[str, str], ...]] = ()
    fold: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows)

    @cached_property
    def columns(self) -> list[Column]:
        """The headers."""
        return [
            title if isinstance(title, Column) else Column(title, numeric=place > 0)
            for place, title in enumerate(self.titles)
        ]

    @property
    def folded(self) -> bool:
        """Whether the table would bury what comes after it."""
        return self.fold or len(self.rows) > LONGEST_SHOWN


@dataclass(frozen=True)
class Illustration:
    """Panels side by side with one caption; an illustration without panels is false, and not on the page.

    Attributes:
        drawn: The panels; None for a panel that has nothing to draw.
        words: The caption.
        legend: The look and the name of each series.
        described: Whether the caption begins with the panels' own descriptions.
        layout: A class of style.css; by default, one panel is "single" and several are a "pair".
    """

    drawn: Sequence[Drawing | None]
    words: str = ""
    legend: Sequence[tuple[Stroke, str]] = ()
    layout: str = ""
    described: bool = False

    def __bool__(self) -> bool:
        return bool(self.panels)

    @property
    def panels(self) -> list[Drawing]:
        return [drawing for drawing in self.drawn if drawing is not None]

    @property
    def shape(self) -> str:
        return self.layout or ("pair" if len(self.panels) > 1 else "single")

    @property
    def caption(self) -> str:
        descriptions = [panel.description for panel in self.panels if self.described]
        return sentences(*descriptions, self.words)


@dataclass(frozen=True)
class Fact:
    """A named value; ``form`` is a class of style.css: "alarm" (misses what was asked), "wide", "line" (scrolls)."""

    name: str
    text: str
    form: str = ""


@dataclass(frozen=True)
class NamedValues:
    """Named values."""

    rows: tuple[Fact, ...]


@dataclass(frozen=True)
class Verdicts:
    """Claims with their verdicts."""

    rows: tuple[tuple[str, str, str], ...]
    note: str = ""


Block = Prose | JudgedClaim | Heading | Table | Illustration | NamedValues | Verdicts


@dataclass(frozen=True)
class PageSection:
    """A section; ``found`` are its blocks in reading order, where None or a false block stands for a missing one."""

    anchor: str
    title: str
    lead: str
    found: Sequence[Block | None] = ()

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self.found if block]

"""What a section of the page is made of: values for the template, free of any HTML but subscripts.

Strings are escaped by the template; the SVG of a :class:`Drawing` passes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.report.drawing import Drawing, Stroke
from pipeline.report.formatting import sentences


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with what the study makes of it: "holds", "does not hold", "undecided" or "at chance"."""

    verdict: str
    claim: str


@dataclass(frozen=True)
class CoreAnswer:
    """One core's answer: a title, a headline number with what it counts, one sentence, and verdicts."""

    title: str
    headline: str
    unit: str
    text: str
    findings: tuple[JudgedClaim, ...] = ()


@dataclass(frozen=True)
class Notice:
    """A line on top of the page, with a link to where there is more; ``form`` as of a :class:`Fact`."""

    title: str
    text: str
    link: str = ""
    form: str = ""


@dataclass(frozen=True)
class Prose:
    """A paragraph; ``quiet`` for notes; ``link`` is the address of another page and the words that lead to it."""

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

    ``compared`` says how a row is set against a baseline that the reader chooses: by "difference", by "ratio", or not.
    """

    title: str
    numeric: bool = False
    compared: str = ""


TableCell = str | tuple[str, ...] | Bar | tuple[Bar, ...]  # several: one a line


#: Rows; longer tables hold what few readers look up.
LONGEST_SHOWN = 12


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row heads the row. One without rows is false, and not on the page.

    A title alone is that of a numeric column, but for the first, which names the rows. ``series`` colors the row heads,
    one per row. ``details``, one per row, are (label, sentence) pairs below the row across the full width. On a phone,
    rows turn into short paragraphs. Long tables, and those that say so by ``fold``, are folded until a reader opens
    them.
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
    """Panels side by side with one caption; one without panels is false, and not on the page.

    Attributes:
        drawn: The panels; None for what there is nothing to draw of.
        words: The caption.
        legend: How each series looks, and its name.
        described: Whether it begins with the panels' own descriptions.
        layout: A class of style.css; where it is not given, one panel is single and several are a pair.
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
    """A named value; ``form`` is a class of style.css: "alarm" (not as asked), "wide", "line" (scrolls sideways)."""

    name: str
    text: str
    form: str = ""


@dataclass(frozen=True)
class NamedValues:
    """Named values."""

    rows: tuple[Fact, ...]


@dataclass(frozen=True)
class Verdicts:
    """Claims with what the numbers say of them."""

    rows: tuple[tuple[str, str, str], ...]
    note: str = ""


Block = Prose | JudgedClaim | Heading | Table | Illustration | NamedValues | Verdicts


@dataclass(frozen=True)
class PageSection:
    """A section; ``found`` are its blocks in reading order, with None or a false one for what is not there."""

    anchor: str
    title: str
    lead: str
    found: Sequence[Block | None] = ()

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self.found if block]

"""What a section of the page is made of: values for the template, free of any HTML but subscripts.

Strings are escaped by the template; the SVG of a :class:`Drawing` passes through.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.report.drawing import Drawing, Stroke


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
    """A paragraph; ``quiet`` for notes."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Link:
    """A paragraph about another page, with a link to it."""

    text: str
    page: str
    words: str


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
    """A table; the first cell of each row heads the row.

    ``series`` colors the row heads, one per row. ``details``, one per row, are (label, sentence) pairs below the
    row across the full width. On a phone, rows turn into short paragraphs. Long tables, and those that say so by
    ``fold``, are folded until a reader opens them.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str = ""
    series: tuple[str, ...] = ()
    details: tuple[tuple[tuple[str, str], ...], ...] = ()
    fold: bool = False

    @classmethod
    def of(
        cls,
        caption: str,
        titles: Sequence[str | Column],
        rows: Iterable[tuple[TableCell, ...]],
        *,
        note: str = "",
        series: tuple[str, ...] = (),
        details: Iterable[tuple[tuple[str, str], ...]] = (),
        fold: bool = False,
    ) -> "Table":
        """Return a table; a title alone is that of a numeric column, but for the first, which names the rows."""
        columns = (
            title if isinstance(title, Column) else Column(title, numeric=place > 0)
            for place, title in enumerate(titles)
        )
        return cls(caption, tuple(columns), tuple(rows), note, series, tuple(details), fold)

    @property
    def folded(self) -> bool:
        """Whether the table would bury what comes after it."""
        return self.fold or len(self.rows) > LONGEST_SHOWN


@dataclass(frozen=True)
class LegendKey:
    """An entry of a legend: how a series looks, and its name."""

    look: Stroke
    text: str


@dataclass(frozen=True)
class Illustration:
    """Panels side by side with one caption; ``shape`` names the layout in style.css."""

    panels: tuple[Drawing, ...]
    caption: str
    legend: tuple[LegendKey, ...] = ()
    shape: str = "pair"


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


Block = Prose | Link | JudgedClaim | Heading | Table | Illustration | NamedValues | Verdicts


@dataclass(frozen=True)
class PageSection:
    """A section with its blocks in reading order."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = field(default=())

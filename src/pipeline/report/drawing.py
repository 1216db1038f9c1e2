"""Draw with matplotlib, publish as SVG that belongs to the page.

Figures are drawn in the light palette. On the way out every color of the palette becomes a CSS variable with
that color as its fallback, text stays text in the page's own font, and ids get a prefix, so that one drawing
serves light, dark and print, and many drawings fit one page. No global state of matplotlib is changed beyond
the ``with`` block of :func:`canvas`.
"""

import io
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

#: Arrays of a study, by the name of the matrix and of the array: "rain/grid".
Arrays = Mapping[str, NDArray[Any]]

#: CSS variable -> its value on white paper (style.css repeats them and adds the dark ones).
PALETTE = {
    "ink": "#1c2026",
    "muted": "#626a75",
    "rule": "#d5d9de",
    "paper": "#ffffff",
    "series-1": "#59636f",
    "series-2": "#cc5500",
    "series-3": "#0a6cb4",
    "series-4": "#008f6b",
    "series-5": "#a8438f",
    "series-6": "#a67a00",
}
SERIES = tuple(name for name in PALETTE if name.startswith("series-"))
MARKERS = ("o", "s", "^", "D", "v", "P")
#: Lengths of dashes and gaps in line widths; a solid line has none.
DASHES: tuple[tuple[float, ...], ...] = ((), (3.7, 1.6), (6.4, 1.6, 1, 1.6), (1, 1.4))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": PALETTE["ink"],
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["rule"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": PALETTE["rule"],
    "ytick.color": PALETTE["rule"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": PALETTE["ink"],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

AttributeValue = str | float | None

#: Most cells of a grid on the page; of a finer grid only every second, third, ... row and column is shown.
MOST_CELLS = 10_000


@dataclass(frozen=True)
class GridValues:
    """Values on a grid: ``values`` has shape (len(y), len(x)), and ``axes`` are those that they are drawn on."""

    axes: Axes
    x: NDArray[np.floating[Any]]
    y: NDArray[np.floating[Any]]
    values: NDArray[np.floating[Any]]

    def on_page(self, place: Callable[[Axes, float, float], tuple[float, float]]) -> dict[str, Any]:
        """The values with the positions of their columns and rows in the units of the SVG."""
        step = math.ceil(math.sqrt(self.values.size / MOST_CELLS))
        x, y, values = self.x[::step], self.y[::step], self.values[::step, ::step]
        return {
            "x": [_rounded(float(one)) for one in x],
            "y": [_rounded(float(one)) for one in y],
            "values": [[_rounded(float(value), 4) for value in row] for row in values],
            "across": [place(self.axes, float(one), float(y[0]))[0] for one in x],
            "down": [place(self.axes, float(x[0]), float(one))[1] for one in y],
        }


@dataclass
class Data:
    """What a drawing shows, row by row, to be pointed at, read out, and saved as CSV.

    ``places`` has two corners for each row: opposite corners of a rectangle, or twice the position of a mark. Rows that
    are not drawn come last and have no place. The cells of a ``grid`` are rows as well: their first two columns are x
    and y, and the last one is the value.
    """

    columns: tuple[str, ...]
    rows: list[tuple[AttributeValue, ...]] = field(default_factory=list)
    places: list[tuple[Axes, tuple[float, float], tuple[float, float]]] = field(default_factory=list)
    grid: GridValues | None = None

    def add(self, axes: Axes, x: float, y: float, *values: AttributeValue) -> None:
        """Add a row that is drawn at (x, y) in data coordinates."""
        self.add_rectangle(axes, (x, y), (x, y), *values)

    def add_rectangle(
        self, axes: Axes, corner: tuple[float, float], opposite: tuple[float, float], *values: AttributeValue
    ) -> None:
        """Add a row that is drawn as a rectangle between two corners (x, y) in data coordinates."""
        self.rows.append(tuple(_rounded(value) for value in values))
        self.places.append((axes, corner, opposite))

    def on_page(self, figure: Figure) -> dict[str, Any]:
        """The rows with their positions in the units of the SVG, whose y axis points down.

        A position is (x, y) for a mark, or (x, y, half the width, half the height) for a rectangle.
        """
        scale, height = 72.0 / figure.dpi, 72.0 * figure.get_figheight()

        def place(axes: Axes, x: float, y: float) -> tuple[float, float]:
            across, up = axes.transData.transform((x, y)) * scale
            return round(float(across), 1), round(height - float(up), 1)

        def box(axes: Axes, corner: tuple[float, float], opposite: tuple[float, float]) -> tuple[float, ...]:
            (x0, y0), (x1, y1) = place(axes, *corner), place(axes, *opposite)
            extent = (round(abs(x1 - x0) / 2, 1), round(abs(y1 - y0) / 2, 1)) if (x0, y0) != (x1, y1) else ()
            return round((x0 + x1) / 2, 1), round((y0 + y1) / 2, 1), *extent

        found = {"columns": self.columns, "rows": self.rows, "places": [box(*one) for one in self.places]}
        return found if self.grid is None else found | {"grid": self.grid.on_page(place)}


def _rounded(value: AttributeValue, digits: int = 6) -> AttributeValue:
    """Round a number to six digits, more than a reader sees; NaN and infinity become None."""
    if not isinstance(value, float | np.floating):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Drawing:
    """One finished panel: its SVG, the text that replaces it, and its data as :meth:`Data.on_page` gives them."""

    svg: Markup
    description: str
    name: str = ""
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stroke:
    """How a series looks: a CSS variable of the palette, a marker as matplotlib names it, and a pattern of dashes."""

    variable: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def color(self) -> str:
        return PALETTE[self.variable]


def stroke(index: int) -> Stroke:
    """The look of the series with a given index; color and marker repeat after six, dashes tell them apart."""
    cycle, place = divmod(index, len(SERIES))
    return Stroke(SERIES[place], MARKERS[place], DASHES[cycle % len(DASHES)])


def strokes(names: Iterable[str], first: Iterable[str] = ()) -> dict[str, Stroke]:
    """The look of each name; the names in ``first`` look as they do where nothing else is drawn."""
    return {name: stroke(place) for place, name in enumerate(dict.fromkeys([*first, *names]))}


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Open a figure of the page's style, in inches; draw and call :func:`finish` inside the block."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The page's own font draws the text, so a letter that is missing from matplotlib's font does no harm.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def finish(figure: Figure, name: str, description: str, data: Data | None = None) -> Drawing:
    """Turn a figure into inline SVG.

    Args:
        figure: Drawn in the palette's light colors.
        name: Prefix of all ids, unique on the page.
        description: A text for readers who cannot see the drawing.
        data: The data behind the drawing.
    """
    name = identifier(name)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        # `savefig` sets the resolution too, but only after it has drawn everything once for nothing.
        figure.set_dpi(192)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", lambda tag: _adopt(tag.group(), name), text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening)
    svg = Markup(f'{opening} aria-hidden="true" focusable="false">{rest}')
    shown = data is not None and (data.rows or data.grid is not None)
    return Drawing(svg, description, name, data.on_page(figure) if data is not None and shown else None)


def identifier(name: str) -> str:
    """Turn any text into an id; different texts get different ids."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def _adopt(tag: str, name: str) -> str:
    """Fit one tag into the page: colors of the palette as variables, ids with a prefix."""
    for variable, color in PALETTE.items():
        tag = tag.replace(color, f"var(--{variable}, {color})")
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    return re.sub(r'href="#', f'href="#{name}-', tag)

"""Axes with plain numbers: 10k, 1M, 50 %."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from pipeline.report.drawing import PALETTE
from pipeline.report.formatting import count, scientific


def short_number(value: float, _: Any = None) -> str:
    """A tick label: 0.01, 100, 10k, 65,536, 1M, and powers of ten beyond."""
    magnitude = abs(value)
    if magnitude != 0 and not 1e-3 <= magnitude < 1e9:
        return scientific(value, 1)
    for size, least, letter in ((1e6, 1e6, "M"), (1e3, 1e4, "k")):
        if magnitude >= least and f"{value / size:.4g}" == f"{value / size:g}":
            return f"{value / size:g}{letter}".replace("-", "−")
    return count(value) if magnitude >= 1e3 else f"{value:g}".replace("-", "−")


#: Multiples of powers of ten that an axis labels, from the most labels to the fewest.
SUBDIVISIONS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
#: Least room between labels, in points: about the width of a digit.
ROOM = 4.0
#: The style of a line to compare with.
DASHED: dict[str, Any] = {"color": PALETTE["muted"], "linewidth": 1, "linestyle": (0, (4, 3))}


def _apart(axes: Axes, ticks: Sequence[float], text: Callable[[float, Any], str]) -> bool:
    """Whether the labels of a logarithmic x axis would stand apart, in the widest font that a page has."""
    low, high = axes.get_xlim()
    length = 72 * axes.bbox.width / axes.figure.dpi
    shown = [tick for tick in ticks if low <= tick <= high]
    centers = length * np.log10(shown) / np.log10(high / low)
    font = FontProperties(size=matplotlib.rcParams["xtick.labelsize"])
    widths = np.array([TextPath((0, 0), text(tick, None), prop=font).get_extents().width for tick in shown])
    return bool((np.diff(centers) >= (widths[1:] + widths[:-1]) / 2 + ROOM).all())


def logarithmic(axes: Axes, which: str, text: Callable[[float, Any], str] = short_number) -> None:
    """Make an axis logarithmic with plain labels: at powers of ten, and between them if labels stay apart."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = np.log10(high / low)
    subdivisions = SUBDIVISIONS[3 if decades > 2.5 else 1 if decades > 0.9 else 0 :]
    finest_first = [LogLocator(10, subs=subs, numticks=12) for subs in subdivisions]
    finest_first += [LogLocator(10, numticks=most) for most in (6, 4, 3)]
    apart = (one for one in finest_first if which == "y" or _apart(axes, one.tick_values(low, high), text))
    axis.set_major_locator(next(apart, finest_first[-1]))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def percent(axes: Axes, which: str) -> None:
    """Label an axis of fractions in percent."""
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g} %")


def color_bar(
    figure: Figure, picture: ScalarMappable, axes: Any, label: str = "", **options: Any
) -> Colorbar:
    """Put a bar without a frame beside a picture, as the key to its colors."""
    bar = figure.colorbar(picture, ax=axes, label=label, **options)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return bar

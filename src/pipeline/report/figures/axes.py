"""Axes that speak in plain numbers: 10k, 1 M, 50 %."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from pipeline.report.formatting import count, scientific


def short_number(value: float, _: Any = None) -> str:
    """A tick label: 0.01, 100, 10k, 65,536, 1M, and powers of ten beyond."""
    magnitude = abs(value)
    if magnitude != 0 and not 1e-3 <= magnitude < 1e9:
        return scientific(value, 1)
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if (
            magnitude >= size
            and (magnitude >= 1e4 or size > 1e3)
            and f"{value / size:.4g}" == f"{value / size:g}"
        ):
            return f"{value / size:g}{letter}".replace("-", "−")
    return count(value) if magnitude >= 1e3 else f"{value:g}".replace("-", "−")


def logarithmic(axes: Axes, which: str, text: Callable[[float, Any], str] = short_number) -> None:
    """Make an axis logarithmic with plain labels: at powers of ten, or at 1, 2, 5 if there are few of them."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = np.log10(high / low)
    subs = (
        (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def percent(axes: Axes, which: str) -> None:
    """Label an axis of fractions in percent."""
    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter(
        FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %")
    )

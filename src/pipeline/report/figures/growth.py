"""Storage and time against the number of points."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from pipeline.artifacts.results.scaling import ScalingRow
from pipeline.report.drawing import PALETTE, Data, Drawing, canvas, finish, stroke
from pipeline.report.figures.axes import DASHED, logarithmic, short_number
from pipeline.report.formatting import decimal, is_number, n_bytes, seconds, superscript
from pipeline.report.spread import Power, power_law

#: The fields of a row that are drawn, with the page's name of each.
TIMES = {
    "compress_seconds": "compress",
    "factorize_seconds": "factorize",
    "product_seconds": "product",
    "solve_seconds": "solve",
}
SIZES = {"operator_bytes": "H² operator", "factor_bytes": "factorization"}

#: Least ratio of the largest size to the smallest, and least largest size, for a fit of a power to mean anything.
LEAST_SPAN, LEAST_SIZE = 16.0, 10_000


def growth(rows: Sequence[ScalingRow]) -> list[Drawing | None]:
    """Storage and time against N, both logarithmic, with dense storage, and with fitted lines where there are any."""
    if len({row.n for row in rows}) < 2:
        return []
    return [
        _growth(rows, SIZES, "Storage", "bytes", dense=True),
        _growth(rows, TIMES, "Time", "seconds", dense=False),
    ]


def exponents(rows: Sequence[ScalingRow]) -> dict[str, Power]:
    """Fitted powers of N by key, where the sizes allow a fit."""
    sizes = [row.n for row in rows]
    fits = {key: _fit(sizes, [getattr(row, key) for row in rows]) for key in (*SIZES, *TIMES)}
    return {key: fit for key, fit in fits.items() if fit is not None}


def _fit(sizes: Sequence[object], values: Sequence[object]) -> Power | None:
    """The power law through at least four sizes; none where they are too small or too close to each other.

    The first levels of a tree are nearly dense, and the cost of a small matrix is mostly start-up.
    """
    known = [n for n, value in zip(sizes, values, strict=True) if is_number(n) and n > 0 and is_number(value)]
    if not known or max(known) < LEAST_SIZE or max(known) < LEAST_SPAN * min(known):
        return None
    return power_law(sizes, values)


def _growth(
    rows: Sequence[ScalingRow], series: Mapping[str, str], title: str, unit: str, *, dense: bool
) -> Drawing | None:
    sizes = [row.n for row in rows]
    known = np.array(sorted({float(n) for n in sizes}))
    labels: list[tuple[float, str, str]] = []
    words = []
    data = Data(("what", "n", unit))
    with canvas(4.7, 3.4) as figure:
        axes = figure.add_subplot()
        for place, (key, word) in enumerate(series.items()):
            values = [getattr(row, key) for row in rows]
            pairs = [(n, v) for n, v in zip(sizes, values, strict=True) if is_number(v) and v > 0]
            if not pairs:
                continue
            look = stroke(place + 1)
            for n, value in pairs:
                data.add(axes, n, value, word, n, value)
            axes.plot(*np.array(pairs).T, look.marker, markersize=5, color=look.color)
            fit = _fit(sizes, values)
            label = word
            if fit is None:
                axes.plot(*np.array(sorted(pairs)).T, color=look.color, linewidth=1.2)
            else:
                axes.plot(known, fit.constant * known**fit.exponent, color=look.color, linewidth=1.2)
                label = f"{word} N{superscript(decimal(fit.exponent, 2))}"
                words.append(f"{word} grows as N to the power {fit.text}")
            labels.append((max(pairs)[1], label, look.color))
        if not labels:
            return None
        if dense:
            axes.plot(known, 8.0 * known**2, **DASHED)
            labels.append((8.0 * known[-1] ** 2, "dense N²", PALETTE["muted"]))
        axes.margins(x=0.06, y=0.08)
        axes.set_xscale("log")
        write = n_bytes if unit == "bytes" else seconds
        logarithmic(axes, "y", lambda value, _: write(value, 1))
        axes.set_xticks(_spaced(known), [short_number(round(n)) for n in _spaced(known)])
        axes.minorticks_off()
        axes.set(title=title, xlabel="N")
        _label_ends(axes, float(known[-1]), labels)
        description = f"{title} against N: {'; '.join(words) or 'sizes too few or too small for a power'}."
        return finish(figure, f"growth-{unit}", description, data)


def _label_ends(axes: Axes, x: float, labels: list[tuple[float, str, str]]) -> None:
    """Name the curves at their right ends, pushed apart where they would overlap."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    scale = axes.figure.dpi / 72
    floor = -np.inf
    for value, text, color in sorted(labels):
        height = axes.transData.transform((x, value))[1] / scale
        floor = max(height, floor + 11.0)
        axes.annotate(
            text, (x, value), (7, floor - height), textcoords="offset points", color=color, va="center",
            annotation_clip=False,
        )  # fmt: skip


def _spaced(values: np.ndarray, most: int = 6) -> np.ndarray:
    n = len(values)
    return values if n <= most else values[np.linspace(0, n - 1, most).round().astype(int)]

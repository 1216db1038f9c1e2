"""What kriging predicts, and how sure it is: maps, the held-out points, coverage and variograms."""

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.drawing import PALETTE, Arrays, Data, Drawing, GridValues, canvas, finish
from pipeline.report.figures.axes import DASHED, color_bar, logarithmic, short_number
from pipeline.report.formatting import count, decimal, is_number, percent
from pipeline.report.quantity import Quantity

_BEYOND = 0.005  # share of a map that lies below the range of colors, and the same above it
#: matplotlib's words for a color bar with arrows at its ends: 1 if values lie below its range, and 2 more if above.
_EXTEND = ("neither", "min", "max", "both")


def kriging_map(name: str, arrays: Arrays, quantity: Quantity, prefix: str = "map") -> Drawing | None:
    """Draw the predicted field on its grid, with the held-out points on it."""
    title = f"Predicted {quantity.name}"
    return _map(name, arrays, quantity, "grid", title, quantity.label, prefix, "YlGnBu", dots=True)


def has_map(name: str, arrays: Arrays) -> bool:
    """Whether there is a predicted field that :func:`kriging_map` can draw."""
    return _grid(name, arrays, "grid") is not None


def deviation_map(name: str, arrays: Arrays, quantity: Quantity) -> Drawing | None:
    """Draw the standard deviation of the predicted field on its grid."""
    title = f"Standard deviation of the {quantity.name}"
    unit = "" if quantity.logarithmic or not quantity.unit else f" ({quantity.unit})"
    label = f"standard deviation{unit}"
    return _map(name, arrays, quantity, "grid_std", title, label, "std", "YlOrBr", dots=False)


def _axes_of(name: str, arrays: Arrays) -> tuple[bool, tuple[str, str]]:
    """Whether a grid lies on the globe, and the names of its axes."""
    on_globe = f"{name}/grid_longitude" in arrays
    return on_globe, ("longitude", "latitude") if on_globe else ("x", "y")


def _grid(name: str, arrays: Arrays, key: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Longitudes, latitudes and the field on their grid; None if one is missing or no value is finite."""
    shown = *(f"grid_{axis}" for axis in _axes_of(name, arrays)[1]), key
    longitude, latitude, grid = (arrays.get(f"{name}/{array}") for array in shown)
    if longitude is None or latitude is None or grid is None or grid.shape != (len(latitude), len(longitude)):
        return None
    return (longitude, latitude, grid) if np.isfinite(grid).any() else None


def _map(
    name: str, arrays: Arrays, quantity: Quantity, key: str, title: str, label: str, prefix: str, colors: str,
    *, dots: bool,
) -> Drawing | None:  # fmt: skip
    on_globe, names = _axes_of(name, arrays)
    field = _grid(name, arrays, key)
    if field is None:
        return None
    longitude, latitude, grid = field
    finite = grid[np.isfinite(grid)]
    # A few extreme places would use up the range of colors; values beyond its ends get the color of the end.
    low, high = (float(end) for end in np.quantile(finite, [_BEYOND, 1 - _BEYOND]))
    below, above = finite < low, finite > high
    beyond = percent(float((below | above).mean()), 1) if below.any() or above.any() else ""
    order = np.argsort(latitude)[::-1]
    step_x, step_y = (float(np.ptp(axis)) / max(len(axis) - 1, 1) / 2 for axis in (longitude, latitude))
    left, right = longitude.min() - step_x, longitude.max() + step_x
    bottom, top = latitude.min() - step_y, latitude.max() + step_y
    data = Data((*names, f"true {quantity.label}", f"predicted {label}") if dots else (*names, label))
    with canvas(5.2, 2.95) as figure:
        axes = figure.add_subplot()
        picture = axes.imshow(
            grid[np.ix_(order, np.argsort(longitude))], extent=(left, right, bottom, top), cmap=colors, vmin=low,
            vmax=high, interpolation="none", aspect="equal" if not on_globe or right - left <= 360.1 else "auto",
        )  # fmt: skip
        x, y, truth = (arrays.get(f"{name}/{key}") for key in (*names, "values"))
        dots = dots and x is not None
        if dots and x is not None and y is not None and truth is not None:
            axes.scatter(
                x, y, s=5, c=truth, cmap=colors, vmin=low, vmax=high, edgecolors="#1d2733", linewidths=0.25,
                rasterized=True,
            )  # fmt: skip
            predicted = arrays.get(f"{name}/predicted", truth)
            for east, north, true, guess in zip(x, y, truth, predicted, strict=True):
                data.add(axes, east, north, float(east), float(north), float(true), float(guess))
        data.grid = GridValues(axes, longitude, latitude, grid)
        axes.grid(False)
        title_on_top = f"{title}; dots: the truth, held out" if dots else title
        axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=names[0], ylabel=names[1], title=title_on_top)
        degree = "°" if on_globe else ""
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}{degree}".replace("-", "−"))
        bar = color_bar(
            figure, picture, axes, f"{label}\n{beyond} of the map is beyond" if beyond else label, fraction=0.025,
            pad=0.02, aspect=28, shrink=0.7, extend=_EXTEND[int(below.any()) + 2 * int(above.any())],
        )  # fmt: skip
        bar.ax.yaxis.set_major_formatter(short_number)
        span = f"{quantity.error(float(finite.min()))} to {quantity.error(float(finite.max()))}"
        words = f"Map of the {title[0].lower()}{title[1:]}, from {span}."
        if beyond:
            words += f" Colors end at {quantity.error(low)} and {quantity.error(high)}; {beyond} of the map is beyond."
        return finish(figure, f"{prefix}-{name}", words, data)


def held_out_scatter(name: str, arrays: Arrays, quantity: Quantity) -> Drawing | None:
    """Predicted against true values at held-out points."""
    truth, predicted = arrays.get(f"{name}/values"), arrays.get(f"{name}/predicted")
    if truth is None or predicted is None:
        return None
    good = np.isfinite(truth) & np.isfinite(predicted)
    if not good.any():
        return None
    truth, predicted = truth[good], predicted[good]
    low, high = (float(f([f(truth), f(predicted)])) for f in (np.min, np.max))
    with canvas(3.9, 3.9) as figure:
        axes = figure.add_subplot()
        axes.plot([low, high], [low, high], **DASHED)
        std = arrays.get(f"{name}/std")
        if std is not None:
            # Two standard deviations either way: about 95 % of the bars should meet the dashed line.
            axes.errorbar(
                truth, predicted, yerr=2 * std[good], fmt="none", ecolor=PALETTE["series-1"], elinewidth=0.4,
                alpha=0.25, rasterized=True, zorder=1,
            )  # fmt: skip
        look: dict[str, Any] = {"color": PALETTE["series-3"], "markersize": 2.4, "alpha": 0.45}
        axes.plot(truth, predicted, ".", rasterized=True, **look)
        data = Data((f"true {quantity.label}", f"predicted {quantity.label}"))
        for true, guess in zip(truth, predicted, strict=True):
            data.add(axes, true, guess, float(true), float(guess))
        margin = 0.04 * max(high - low, 1e-12)
        ends = (low - margin, high + margin)
        axes.set(aspect="equal", xlim=ends, ylim=ends, title="Held-out points")
        axes.set(xlabel=data.columns[0], ylabel=data.columns[1])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(short_number)
        words = f"{count(len(truth))} held-out points, predicted {quantity.name} against true"
        known = len(truth) > 2 and np.ptp(truth) > 0
        if known and is_number(correlation := np.corrcoef(truth, predicted)[0, 1]):
            words += f"; their correlation is {correlation:.2f}"
        return finish(figure, f"scatter-{name}", f"{words}.", data)


def coverage_plot(name: str, arrays: Arrays) -> Drawing | None:
    """Share of the held-out values inside central intervals, against the intervals' nominal share."""
    level, found = (arrays.get(f"{name}/coverage_{key}") for key in ("level", "found"))
    if level is None or found is None:
        return None
    with canvas(4.7, 3.9) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], **DASHED)
        axes.plot(level, found, "o-", color=PALETTE["series-3"], markersize=3.5, linewidth=1)
        axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1.02), title="Coverage of intervals")
        axes.set(xlabel="nominal probability", ylabel="share of held-out values")
        data = Data(("promised", "found"))
        for promised, held in zip(level, found, strict=True):
            data.add(axes, promised, held, float(promised), float(held))
        last = int(np.argmin(np.abs(level - 0.95)))
        words = (
            f"Intervals that should hold {percent(level[last], 0)} of the held-out values hold "
            f"{percent(found[last], 1)} of them."
        )
        return finish(figure, f"coverage-{name}", words, data)


def variogram_plot(name: str, arrays: Arrays) -> Drawing | None:
    """Semivariance by distance, of the values and of their leave-one-out residuals, both standardized."""
    keys = ("distance", "values", "residuals")
    distance, values, residuals = (arrays.get(f"{name}/variogram_{key}") for key in keys)
    if distance is None or values is None or residuals is None or not distance.size:
        return None
    with canvas(4.7, 3.9) as figure:
        axes = figure.add_subplot()
        data = Data(("distance", "of", "semivariance"))
        for of, series, marker, color in (
            ("values", values, "s-", "series-1"),
            ("errors of prediction", residuals, "o-", "series-3"),
        ):
            axes.plot(distance, series, marker, color=PALETTE[color], markersize=3, linewidth=1, label=of)
            for far, semivariance in zip(distance, series, strict=True):
                data.add(axes, far, semivariance, float(far), of, float(semivariance))
        axes.axhline(1.0, **DASHED)
        logarithmic(axes, "x")
        axes.set_ylim(bottom=0)
        axes.set(title="Variogram", ylabel="semivariance, standardized")
        axes.set_xlabel("distance (radii of the globe)" if f"{name}/longitude" in arrays else "distance")
        axes.legend()
        words = (
            "Variogram: the semivariance of pairs of points by their distance. The errors of prediction are found by "
            "leaving out one known point at a time and predicting it from the rest. If the model is right, the "
            "semivariance of these errors, divided by their standard deviations, is near 1 between distant points. "
            "Between neighbors it is somewhat above 1, because each is predicted from the other. A value well below 1 "
            "shows that neighbors have similar errors, which the model does not explain. Here it "
            f"lies between {decimal(float(residuals.min()), 2)} and {decimal(float(residuals.max()), 2)}."
        )
        return finish(figure, f"variogram-{name}", words, data)

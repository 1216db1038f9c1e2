"""A scattered wave: its field on the surface that scatters it, and far away."""

from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.report.drawing import PALETTE, Arrays, Data, Drawing, canvas, finish
from pipeline.report.figures.axes import color_bar, short_number
from pipeline.report.formatting import significant

_COLORS = "viridis"
#: Triangles on each side whose values are shown and saved; of more, only every second, third, ... is.
_MOST_ROWS = 2500
_PIXELS = 800  # along the longer side of the picture that decides which triangles are covered by others
_FLOOR = 60.0  # decibels below the greatest value: deeper notches cannot be told from errors


def far_field(name: str, arrays: Arrays) -> Drawing | None:
    """Draw the scattered power against the angle from the incident wave, in two perpendicular planes."""
    angles, field = arrays.get(f"{name}/angle"), arrays.get(f"{name}/far_field")
    if angles is None or field is None:
        return None
    sizes = np.abs(field)
    top = float(sizes.max(initial=0.0))
    if not np.isfinite(sizes).all() or top <= 0:
        return None
    decibels = 20 * np.log10(np.maximum(sizes, top * 10 ** (-_FLOOR / 20)))
    data = Data(("plane", "angle in degrees", "|f|"))
    with canvas(5.2, 2.6) as figure:
        axes = figure.add_subplot()
        for plane, color, style in ((0, "series-1", "-"), (1, "series-3", "--")):
            label = f"{('first', 'second')[plane]} plane"
            axes.plot(angles, decibels[plane], style, color=PALETTE[color], linewidth=1.4, label=label)
            for angle, size, height in zip(angles, sizes[plane], decibels[plane], strict=True):
                data.add(axes, angle, height, label, float(angle), float(size))
        axes.set(xlim=(0, 360), xticks=np.arange(0, 361, 60), ylabel="20 log₁₀ |f|", title="Far field")
        axes.set_xlabel("angle from the incident wave (degrees)")
        axes.legend()
        at = float(angles[sizes.max(axis=0).argmax()])
        words = (
            f"Far field f of the scattered wave f exp(i k r)/r, in two perpendicular planes through the direction of "
            f"the incident wave; |f| is greatest at {significant(at)} degrees, {significant(top)} units of the mesh."
        )
        if sizes.min() < top * 10 ** (-_FLOOR / 20):
            words += f" Values more than {_FLOOR:g} decibels lower are drawn as if they were {_FLOOR:g} decibels lower."
        return finish(figure, f"far-field-{name}", words, data)


def has_surface(name: str, arrays: Arrays) -> bool:
    """Whether there is a field that :func:`surface_field` can draw."""
    return _surface(name, arrays) is not None


def _surface(
    name: str, arrays: Arrays
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], str] | None:
    """Vertices, triangles, the wave's direction, the field's size on each triangle, and what the field is."""
    names = ("vertices", "triangles", "solution", "direction")
    vertices, triangles, field, direction = (arrays.get(f"{name}/{key}") for key in names)
    if vertices is None or triangles is None or field is None or direction is None:
        return None
    if field.shape == (len(triangles),):
        sizes, what = np.abs(field), "normal derivative of the pressure"
    elif field.shape == (len(vertices),):
        sizes, what = np.abs(field)[triangles].mean(axis=1), "pressure"
    else:
        return None
    if not len(sizes) or not np.isfinite(sizes).all():
        return None
    return vertices, triangles, direction, sizes, what


def surface_field(name: str, arrays: Arrays, prefix: str = "surface") -> Drawing | None:
    """Draw the field on the surface, seen along the incident wave and against it.

    A soft surface has a normal derivative on each triangle. A hard one has a pressure at each vertex, and the mean of
    its vertices colors a triangle. The back is painted first; a closed surface's triangles that face away are left out.
    """
    surface = _surface(name, arrays)
    if surface is None:
        return None
    vertices, triangles, direction, sizes, what = surface
    across, up = _axes_across(direction)
    top = float(sizes.max())
    centers = vertices[triangles].mean(axis=1)
    data = Data(("x", "y", "z", "side", f"size of the {what}"))
    told = np.zeros(len(triangles), bool)
    with canvas(5.2, 2.7) as figure:
        panels = figure.subplots(1, 2)
        titles = "Seen along the wave", "Seen against the wave"
        for axes, side, title in zip(panels, (1.0, -1.0), titles, strict=True):
            order = seen(vertices, triangles, side * direction)
            flat: Any = vertices @ np.stack([side * across, up], axis=1)
            picture = PolyCollection(
                flat[triangles[order]], array=sizes[order], cmap=_COLORS, edgecolors="face", linewidths=0.2,
                rasterized=True,
            )  # fmt: skip
            picture.set_clim(0.0, top or 1.0)
            axes.add_collection(picture)
            axes.autoscale_view()
            axes.set(aspect="equal", title=title)
            axes.set_axis_off()
            on_top = uncovered(flat[triangles[order]])
            for triangle in order[on_top][:: max(1, -(-len(on_top) // _MOST_ROWS))]:
                middle = centers[triangle]
                x, y = flat[triangles[triangle]].mean(axis=0)
                data.add(axes, x, y, *map(float, middle), title.lower(), float(sizes[triangle]))
                told[triangle] = True
        bar = color_bar(figure, picture, panels, fraction=0.025, pad=0.02, aspect=28, shrink=0.8)
        bar.ax.yaxis.set_major_formatter(short_number)
        if len(triangles) <= _MOST_ROWS:
            for one in np.flatnonzero(~told):
                data.rows.append((*map(float, centers[one]), "not seen", float(sizes[one])))
        words = (
            f"Size of the {what} on the surface, for an incident wave of size 1; it is greatest at "
            f"{significant(top)}. The side that the wave meets first is on the left."
        )
        return finish(figure, f"{prefix}-{name}", words, data)


def _axes_across(direction: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two unit vectors that are perpendicular to a unit vector and to each other, the second upright."""
    upright = np.eye(3)[2 if abs(direction[2]) < 0.9 else 1]
    across = np.cross(direction, upright)
    across /= np.linalg.norm(across)
    return across, np.cross(across, direction)


def seen(vertices: np.ndarray, triangles: np.ndarray, forward: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order the triangles that a viewer who looks forward sees, the farthest first.

    Args:
        vertices: Shape (v, 3).
        triangles: Shape (t, 3). Normals of a closed surface point out; a screen is seen from both sides.
        forward: Unit vector.

    Returns:
        Numbers of triangles.
    """
    corners = vertices[triangles]
    edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    closed = bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = np.flatnonzero((normals @ forward < 0) | (not closed))
    return np.asarray(facing[np.argsort(-(corners.mean(axis=1) @ forward)[facing], kind="stable")])


def uncovered(corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the triangles whose middle stays visible when they are painted one after the other.

    Args:
        corners: Shape (t, 3, 2); later triangles cover earlier ones.

    Returns:
        Places among the t triangles, in their order.
    """
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    scale = (_PIXELS - 1) / max(float((high - low).max()), np.finfo(np.float64).tiny)
    pixels = (corners - low) * scale
    picture = Image.new("I", (_PIXELS, _PIXELS), -1)
    painter = ImageDraw.Draw(picture)
    for place, triangle in enumerate(pixels):
        painter.polygon([tuple(corner) for corner in triangle.tolist()], fill=place)
    column, row = np.rint(pixels.mean(axis=1)).astype(int).T
    return np.flatnonzero(np.asarray(picture)[row, column] == np.arange(len(corners)))

"""The roofline of one core, with every layer on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.artifacts.results.half_network import RoofRow, TimingRow
from pipeline.report.drawing import PALETTE, Data, Drawing, canvas, finish
from pipeline.report.figures.axes import logarithmic
from pipeline.report.formatting import is_number, plural, significant

#: A layer's number, then intensity and GFLOP/s at FP32 and at FP16.
Point = tuple[int, float, float, float, float]

#: The order of memory levels, nearest first.
LEVELS = ("L1", "L2", "L3", "DRAM")
#: Height of a line of small text and width of a level's name, in points.
LINE, ROOM = 10.0, 24.0


def rooflines(run: str, rows: Sequence[TimingRow], roofs: RoofRow) -> list[Drawing]:
    """One roofline per batch size: layers as an arrow from FP32 (hollow) to FP16 (filled), with their number.

    Where layers multiply BF16 pairs, these have a roof too. Layers without intensity or speed are left out.
    """
    numbers = {layer: place for place, layer in enumerate(dict.fromkeys(row.layer for row in rows), 1)}
    points: dict[int, list[Point]] = {batch: [] for batch in sorted({row.batch for row in rows})}
    for row in rows:
        move = _move(row)
        if move is not None:
            points[row.batch].append((numbers[row.layer], *move))
    everything = np.array([point[1:] for group in points.values() for point in group])
    if not len(everything):
        return []
    peaks = arithmetic_peaks(rows, roofs)
    x, y = everything[:, [0, 2]], everything[:, [1, 3]]
    top = max(float(y.max()), *peaks.values(), 0.0)
    extent = float(x.min()) / 2.5, float(x.max()) * 2.5, float(y.min()) / 2.5, top * 2.0
    names = {place: layer for layer, place in numbers.items()}
    drawn = {batch: group for batch, group in points.items() if group}
    return [_roofline(run, *group, roofs, peaks, extent, names) for group in drawn.items()]


def arithmetic_peaks(rows: Sequence[TimingRow], roofs: RoofRow) -> dict[str, float]:
    """The peaks of arithmetic in 1e9 FLOP/s, by name."""
    if not is_number(roofs.gflops):
        return {}
    pairs = any(f"{name} weights" in row.routine_fp16 for row in rows for name in ("bf16", "split"))
    rate = roofs.pair_gflops if is_number(roofs.pair_gflops) and roofs.pair_gflops else 2 * roofs.gflops
    return {"peak": roofs.gflops} | ({"BF16 pairs": rate} if pairs else {})


def _move(row: TimingRow) -> tuple[float, float, float, float] | None:
    """(intensity, GFLOP/s) at FP32, then at FP16: same operations, other bytes and time; None where unknown."""
    if not is_number(row.intensity) or not is_number(row.gflops):
        return None
    sizes = (row.seconds_fp32, row.seconds_fp16, row.bytes_fp32, row.bytes_fp16)
    if min(row.intensity, row.gflops, *sizes) <= 0:
        return None
    before = row.intensity * row.bytes_fp16 / row.bytes_fp32
    return before, row.gflops * row.seconds_fp16 / row.seconds_fp32, row.intensity, row.gflops


def _roofline(
    run: str,
    batch: int,
    points: list[Point],
    roofs: RoofRow,
    peaks: Mapping[str, float],
    extent: tuple[float, float, float, float],
    names: Mapping[int, str],
) -> Drawing:
    with canvas(4.7, 3.6) as figure:
        axes = figure.add_subplot()
        axes.set(xlim=extent[:2], ylim=extent[2:], title=f"Batch {batch}")
        axes.set(xlabel="FLOP per byte", ylabel="GFLOP/s")
        logarithmic(axes, "x")
        logarithmic(axes, "y")
        figure.draw_without_rendering()  # the words below are placed by where the axes really lie
        ceilings = _draw_roofs(axes, roofs, peaks)
        for _, x0, y0, x1, y1 in points:
            axes.annotate(
                "", (x1, y1), (x0, y0),
                arrowprops={"arrowstyle": "-", "color": PALETTE["series-3"], "lw": 0.8, "alpha": 0.7},
            )  # fmt: skip
            axes.plot(x0, y0, "o", markersize=5, color=PALETTE["paper"], markeredgecolor=PALETTE["series-3"])
            axes.plot(x1, y1, "o", markersize=5.5, color=PALETTE["series-3"])
        _number_points(axes, points)
        data = Data(("layer", "precision", "FLOP per byte", "GFLOP/s"))
        for number, x0, y0, x1, y1 in points:
            data.add(axes, x0, y0, f"{number}  {names[number]}", "FP32", x0, y0)
            data.add(axes, x1, y1, f"{number}  {names[number]}", "FP16", x1, y1)
        fastest = max(points, key=lambda point: point[4])
        words = (
            f"Roofline at batch {batch}: {plural(len(points), 'layer')}; the fastest at FP16 is layer {fastest[0]} "
            f"with {fastest[4]:.3g} GFLOP/s{ceilings}."
        )
        return finish(figure, f"roofline-{run}-{batch}", words, data)


def _draw_roofs(axes: Axes, roofs: RoofRow, peaks: Mapping[str, float]) -> str:
    """Draw the roofs within the axes' limits, name them, and return the peaks in words."""
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    bandwidth = {level: speed for level, speed in roofs.bandwidth.items() if speed > 0}
    gray: dict[str, Any] = {"color": PALETTE["muted"], "linewidth": 1.0}
    # A background of its own, since lines of other roofs run through a name.
    ground = {"facecolor": PALETTE["paper"], "edgecolor": "none", "pad": 0.6}
    text: dict[str, Any] = {"color": PALETTE["muted"], "fontsize": 7.5, "bbox": ground}
    for name, peak in peaks.items():
        ridge = max(peak / max(bandwidth.values()) if bandwidth else left, left)
        axes.plot([ridge, right], [peak, peak], **gray)
        axes.annotate(f"{name} {peak:.0f} GFLOP/s", (ridge, peak), (3, 3), textcoords="offset points", **text)
    top = max(peaks.values(), default=None)
    entries: list[tuple[float, float, str]] = []
    for level in sorted(bandwidth, key=lambda name: LEVELS.index(name) if name in LEVELS else len(LEVELS)):
        speed = bandwidth[level]
        end = top / speed if top is not None else right
        x = np.array([max(left, bottom / speed), min(end, right)])
        if x[1] <= x[0]:
            continue
        axes.plot(x, speed * x, **gray)
        entries.append((float(x[0]), float(speed * x[0]), level))
    _name_entries(axes, entries, text)
    if bandwidth:
        told = ", ".join(f"{level} {significant(speed, 3)}" for level, speed in bandwidth.items())
        small: dict[str, Any] = {"fontsize": 7.5, "fontweight": "normal", "color": PALETTE["muted"]}
        axes.set_title(f"{told} GB/s", loc="right", **small)
    said = " and ".join(f"{peak:.0f} GFLOP/s ({name})" for name, peak in peaks.items())
    return f"; the ceiling is {said}" if said else ""


def _name_entries(axes: Axes, entries: list[tuple[float, float, str]], text: dict[str, Any]) -> None:
    """Name the memory levels where their lines come in; lines that nearly coincide share a name."""
    scale = axes.figure.dpi / 72
    groups: list[tuple[float, float, list[str]]] = []
    for x, y, level in entries:
        across, up = axes.transData.transform((x, y)) / scale
        near = groups and abs(across - groups[-1][0]) < ROOM and abs(up - groups[-1][1]) < LINE
        if near:
            groups[-1][2].append(level)
        else:
            groups.append((across, up, [level]))
    inverse = axes.transData.inverted()
    for across, up, levels in groups:
        x, y = inverse.transform((across * scale, up * scale))
        axes.annotate(
            ", ".join(levels), (float(x), float(y)), (11, 6), textcoords="offset points", va="center", **text
        )


def _number_points(axes: Axes, points: list[Point]) -> None:
    """Write each layer's number beside its FP16 point, at the first free one of some places, if any is free."""
    near = ((5, 4), (5, -4), (-5, 4), (-5, -4), (0, 8), (0, -8), (9, 0), (-9, 0))
    offsets = (*near, *((2 * dx, 2 * dy) for dx, dy in near), *((3 * dx, 3 * dy) for dx, dy in near))
    scale = axes.figure.dpi / 72
    ends = [end for _, x0, y0, x1, y1 in points for end in ((x0, y0), (x1, y1))]
    taken = [axes.transData.transform(end) / scale for end in ends]
    for number, _, _, x, y in points:
        here = axes.transData.transform((x, y)) / scale
        wanted = 7.5 if number < 10 else 9.5  # points of the page, for digits 7.5 high
        free = (
            offset
            for offset in offsets
            if min(np.hypot(*(here + np.array(offset) - other)) for other in taken) > wanted
        )
        best = next(free, None)
        if best is None:
            continue
        taken.append(here + np.array(best))
        dx, dy = best
        axes.annotate(
            str(number), (x, y), (dx, dy), textcoords="offset points", fontsize=7.5, fontweight="bold",
            ha="left" if dx > 0 else "right" if dx < 0 else "center", va="center",
        )  # fmt: skip

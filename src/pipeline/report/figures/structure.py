"""The blocks of a hierarchical matrix with their ranks, and the ranks of its far blocks, tree level by tree level."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from pipeline.artifacts.results.operator import Level
from pipeline.report.drawing import Data, Drawing, GridValues, canvas, finish, stroke
from pipeline.report.figures.axes import color_bar
from pipeline.report.formatting import count, decimal, listing, plural

DENSE = "#cc5500"
_PIXELS = 1000
_MOST_LABELS = 160
_MOST_ROWS = 3000
_CELLS = 100  # along each side of the grid that shows the ranks where there are very many blocks


def block_structure(name: str, n: int, blocks: Sequence[Sequence[int]]) -> Drawing | None:
    """Draw the blocks of a hierarchical matrix: dense ones orange, low-rank ones by rank, borders transparent.

    The blocks are painted into one image, so that 10 or 100,000 of them cost the page the same.

    Args:
        name: Makes the ids unique.
        n: Number of rows and columns.
        blocks: Rows of (first row, past last row, first column, past last column, rank or -1).

    Returns:
        The drawing; nothing where there are no blocks, or none is of low rank.
    """
    table = np.asarray(blocks, dtype=np.int64).reshape(-1, 5)
    table = table[(table[:, 1] > table[:, 0]) & (table[:, 3] > table[:, 2])]
    ranks = table[:, 4]
    dense = ranks < 0
    if dense.all() or n < 1:
        return None
    top = max(int(ranks.max()), 1)
    shades = colormaps["GnBu"]
    norm = Normalize(-0.25 * top, 1.15 * top)
    image = _paint(n, table, shades(norm(ranks)))
    with canvas(4.7, 4.9) as figure:
        axes = figure.add_subplot()
        axes.imshow(image, extent=(0, n, n, 0), interpolation="none")
        axes.set_axis_off()
        _write_ranks(axes, n, table)
        color_bar(
            figure, ScalarMappable(norm, shades), axes, "rank (orange: dense)" if dense.any() else "rank",
            orientation="horizontal", fraction=0.035, pad=0.02, aspect=40, boundaries=np.linspace(0, top, 65),
            ticks=np.unique(np.linspace(0, top, 5).round()),
        )  # fmt: skip
        low = ranks[~dense]
        description = (
            f"Block structure of {plural(n, 'row')} in {plural(len(table), 'block')}: {count(int(dense.sum()))} dense "
            f"and {count(len(low))} of low rank (median {decimal(float(np.median(low)), 0)}, largest {top})."
        )
        return finish(figure, f"blocks-{name}", description, _data(axes, n, table))


def _data(axes: Axes, n: int, table: np.ndarray) -> Data:
    """The blocks one by one, or the rank at each cell of a grid where there are very many."""
    if len(table) <= _MOST_ROWS:
        data = Data(("first row", "past last row", "first column", "past last column", "rank (-1: dense)"))
        for block in table.tolist():
            r0, r1, c0, c1, _ = block
            data.add_rectangle(axes, (c0, r0), (c1, r1), *block)
        return data
    data = Data(("column", "row", "rank (-1: dense)"))
    places = (np.arange(_CELLS) + 0.5) * n // _CELLS
    data.grid = GridValues(axes, places, places, _ranks_at(table, places))
    return data


def _ranks_at(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The rank of the block that holds each pair of a row and a column; NaN where no block does."""
    found = np.full((len(places), len(places)), np.nan)
    for row, ranks in zip(places, found, strict=True):
        met = table[(table[:, 0] <= row) & (row < table[:, 1])]
        met = met[np.argsort(met[:, 2])]
        block = np.searchsorted(met[:, 2], places, side="right") - 1
        held = (block >= 0) & (places < met[block, 3]) if len(met) else np.zeros(len(places), bool)
        ranks[held] = met[block[held], 4]
    return found


def _paint(n: int, table: np.ndarray, colors: np.ndarray) -> np.ndarray:
    size = min(_PIXELS, max(n, 64))
    picture = Image.new("RGBA", (size, size))
    painter = ImageDraw.Draw(picture)
    low = np.floor(table[:, [0, 2]] * size / n).astype(int)
    high = np.maximum(np.floor(table[:, [1, 3]] * size / n).astype(int), low + 1)
    fill = (np.where((table[:, 4] < 0)[:, None], to_rgba(DENSE), colors) * 255).astype(np.uint8)
    # A border of a pixel around large blocks.
    last = high - 1 - ((high - low).min(axis=1, keepdims=True) >= 5)
    height, width = (high - low).T
    # Large first: where blocks are smaller than a pixel, the fine structure shows.
    for block in np.lexsort((width, height, -height * width)):
        (top, left), (bottom, right) = low[block].tolist(), last[block].tolist()
        painter.rectangle((left, top, right, bottom), fill=tuple(fill[block].tolist()))
    return np.asarray(picture)


def _write_ranks(axes: Axes, n: int, table: np.ndarray) -> None:
    """Print the rank into blocks that are large enough to hold it."""
    side = np.minimum(table[:, 1] - table[:, 0], table[:, 3] - table[:, 2])
    large = table[(side >= n / 24) & (table[:, 4] >= 0)]
    top = max(int(table[:, 4].max()), 1)
    for r0, r1, c0, c1, rank in large if len(large) <= _MOST_LABELS else ():
        # Always on a painted block, so the color follows the block and not the page's theme.
        axes.text(
            (c0 + c1) / 2, (r0 + r1) / 2, str(rank), ha="center", va="center", fontsize=6.5,
            color="#fefefe" if rank > 0.55 * top else "#102a36",
        )  # fmt: skip


def ranks_by_level(
    name: str, n: int, blocks: Sequence[Sequence[int]], levels: Sequence[Level]
) -> Drawing | None:
    """Draw, for each level, the median rank of its far blocks and the span from the smallest to the largest.

    Storage grows like N only if ranks do not grow with the boxes: the picture shows whether they do.

    Args:
        name: Makes the ids unique.
        n: Number of rows and columns.
        blocks: As of :func:`block_structure`.
        levels: Levels of the tree; a block's level is the one whose boxes have its number of rows.
    """
    table = np.asarray(blocks, dtype=np.int64).reshape(-1, 5)
    table = table[table[:, 4] >= 0]
    if not len(table) or not levels:
        return None
    numbers, sizes = np.array([row.level for row in levels]), np.array([n / row.boxes for row in levels])
    height = (table[:, 1] - table[:, 0])[:, None]
    of_block = numbers[np.abs(np.log(np.maximum(height, 1) / sizes)).argmin(axis=1)]
    found = [int(level) for level in np.unique(of_block)]
    spans = np.array([np.quantile(table[of_block == level, 4], (0.0, 0.5, 1.0)) for level in found])
    look = stroke(1)
    with canvas(4.7, 2.6) as figure:
        axes = figure.add_subplot()
        axes.vlines(found, spans[:, 0], spans[:, 2], color=look.color, linewidth=4, alpha=0.35)
        axes.plot(found, spans[:, 1], color=look.color, marker=look.marker, markersize=5, linewidth=1.2)
        axes.set(xticks=found, ylim=(0, max(1.08 * float(spans[:, 2].max()), 1.0)))
        axes.margins(x=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(title="Rank of far blocks", xlabel="level of the tree (leaves on the right)")
        data = Data(("level", "blocks", "smallest rank", "median rank", "largest rank"))
        for level, (low, middle, high) in zip(found, spans, strict=True):
            n_blocks = int((of_block == level).sum())
            data.add_rectangle(axes, (level, low), (level, high), level, n_blocks, low, middle, high)
        words = []
        for level, (low, middle, high) in zip(found, spans, strict=True):
            ends = f" ({count(int(low))} to {count(int(high))})" if int(low) < int(high) else ""
            words.append(f"{decimal(float(middle), 0)} at level {level}{ends}")
        return finish(figure, f"ranks-{name}", f"Median rank of the far blocks: {listing(words)}.", data)

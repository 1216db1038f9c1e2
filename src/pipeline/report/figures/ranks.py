"""The ranks of a hierarchical matrix's far blocks, tree level by tree level."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.artifacts.results.operator import Level
from pipeline.report.drawing import Data, Drawing, canvas, finish, stroke
from pipeline.report.formatting import count, decimal, listing


def ranks_by_level(
    name: str, n: int, blocks: Sequence[Sequence[int]], levels: Sequence[Level]
) -> Drawing | None:
    """Draw, for each level, the median rank of its far blocks and the span from the smallest to the largest.

    Storage grows like N only if ranks do not grow with the boxes: the picture shows whether they do.

    Args:
        name: Makes the ids unique.
        n: Number of rows and columns.
        blocks: As of :func:`pipeline.report.figures.structure.block_structure`.
        levels: Levels of the tree; a block's level is the one whose boxes have its number of rows.
    """
    table = np.asarray(blocks, dtype=np.int64).reshape(-1, 5)
    table = table[table[:, 4] >= 0]
    known = [(row.level, row.boxes) for row in levels]
    if not len(table) or not known:
        return None
    numbers, sizes = np.array([level for level, _ in known]), np.array([n / boxes for _, boxes in known])
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
        words = listing(
            f"{decimal(float(span[1]), 0)} at level {level}{_span(int(span[0]), int(span[2]))}"
            for level, span in zip(found, spans, strict=True)
        )
        return finish(
            figure, name=f"ranks-{name}", description=f"Median rank of the far blocks: {words}.", data=data
        )


def _span(lowest: int, highest: int) -> str:
    return f" ({count(lowest)} to {count(highest)})" if lowest < highest else ""

"""The structure of an H2 matrix: tables by level, blocks for plots, shares for processes."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.skeleton import unknowns

logger = logging.getLogger("pipeline.hmatrix")

_MOST_BLOCKS = 200_000  # a plot shows no more


def describe(A: H2Form) -> dict[str, Any]:
    """Return structure and sizes, as JSON can hold them.

    Returns:
        `shape`, `n_bytes`, `dense_bytes`, `tolerance`, `admissibility`, `notes`; `largest_rank` of any far block;
        `levels`: a table row per level; `blocks`: dicts with `rows` and `columns` ([start, stop) in tree order),
        `kind` ("near" or "far"), `rank` (None for a near block) and `level`. Beyond 200,000 blocks, those of the finest
        levels are left out, and `blocks_left_out` is their number.
    """
    blocks = []
    ranks = _coupling_ranks(A)
    for kind, part in (("far", A.far), ("near", A.near)):
        levels = _levels(A, part.first)
        for p in np.argsort(levels, kind="stable"):
            b, c = int(part.first[p]), int(part.second[p])
            entry: dict[str, Any] = {
                "rows": [int(A.rows.start[b]), int(A.rows.stop[b])],
                "columns": [int(A.columns.start[c]), int(A.columns.stop[c])],
                "kind": kind,
                "rank": int(ranks[p]) if kind == "far" else None,
                "level": int(levels[p]),
            }
            blocks.append(entry)
            if A.mirrored and b != c:
                blocks.append(entry | {"rows": entry["columns"], "columns": entry["rows"]})
            if len(blocks) >= _MOST_BLOCKS:
                break
    n_blocks = sum(len(part.first) * (2 if A.mirrored else 1) for part in (A.far, A.near))
    if A.mirrored:
        n_blocks -= int((A.near.first == A.near.second).sum() + (A.far.first == A.far.second).sum())
    shown = blocks[:_MOST_BLOCKS]
    return {
        "shape": list(A.shape),
        "n_bytes": A.n_bytes,
        "dense_bytes": A.shape[0] * A.shape[1] * A.dtype.itemsize,
        "tolerance": A.tolerance,
        "admissibility": A.admissibility.name,
        "notes": list(A.notes),
        "largest_rank": int(ranks.max(initial=0)),
        "levels": level_table(A),
        "blocks": shown,
        "blocks_left_out": n_blocks - len(shown),
    }


def level_table(A: H2Form) -> list[dict[str, Any]]:
    """Return a row per level, from the top: boxes, unknowns before and skeletons after compression, pairs, bytes.

    `largest_rank` is that of the level's far blocks, 0 where there is none.
    """
    size = A.near.values.itemsize
    seconds = A.column_basis.seconds
    table = []
    counts = unknowns(A.columns, A.column_basis.rank)
    values = np.diff(A.column_basis.value_start)
    far_levels, near_levels = _levels(A, A.far.first), _levels(A, A.near.first)
    ranks = _coupling_ranks(A)
    far_sizes, near_sizes = np.diff(A.far.start), np.diff(A.near.start)
    for level in range(A.columns.n_levels):
        boxes = slice(*A.columns.level_start[level : level + 2])
        rank = A.column_basis.rank[boxes]
        table.append(
            {
                "level": level,
                "boxes": len(rank),
                "unknowns": int(counts[boxes].sum()),
                "skeletons": int(rank.sum()),
                "largest_rank": int(ranks[far_levels == level].max(initial=0)),
                "near_blocks": int((near_levels == level).sum()),
                "far_blocks": int((far_levels == level).sum()),
                "seconds": float(seconds[level]) if len(seconds) else 0.0,
                "bytes": int(
                    size
                    * (
                        values[boxes].sum()
                        + far_sizes[far_levels == level].sum()
                        + near_sizes[near_levels == level].sum()
                    )
                ),
            }
        )
    return table


def log_levels(A: H2Form) -> None:
    """Log the table, one line per level."""
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info("level   boxes  unknowns  skeletons  largest  seconds       bytes")
    for row in level_table(A):
        logger.info(
            "%5d %7d %9d %10d %8d %8.3f %11d",
            row["level"], row["boxes"], row["unknowns"], row["skeletons"], row["largest_rank"], row["seconds"],
            row["bytes"],
        )  # fmt: skip


def share(A: H2Form, number: int, count: int) -> H2Form:
    """Return share `number` of `count`: consecutive near and far pairs of about equally many entries.

    A share is not a kernel matrix: its entries are the kernel's in its own pairs, and 0 elsewhere.
    """
    if not 0 <= number < count:
        raise ValueError(f"share {number} of {count} does not exist")

    def part(blocks: Blocks) -> Blocks:
        edges = np.searchsorted(blocks.start, blocks.start[-1] * np.arange(count + 1) / count)
        edges[0], edges[-1] = 0, len(blocks.first)
        return blocks.part(int(edges[number]), int(edges[number + 1]))

    return replace(
        A, near=part(A.near), far=part(A.far), diagonal_term=A.diagonal_term if number == 0 else None,
        kernel=A.kernel if count == 1 else None, correction=A.correction if count == 1 else None,
    )  # fmt: skip


def _coupling_ranks(A: H2Form) -> NDArray[Any]:
    """Return the rank of each far block: at most that of either side's basis."""
    return np.asarray(np.minimum(A.row_basis.rank[A.far.first], A.column_basis.rank[A.far.second]))


def _levels(A: H2Form, boxes: NDArray[Any]) -> NDArray[Any]:
    return np.searchsorted(A.rows.level_start, boxes, side="right") - 1

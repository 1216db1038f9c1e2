"""The structure of a divided matrix: sums over the processes for tables, and blocks for plots."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.swap import Array, Ids, exchange, gather, summed
from pipeline.runtime.communicator import Communicator

_MOST_BLOCKS = 200_000  # a plot shows no more
_COUNTS = ("boxes", "unknowns", "skeletons", "near_blocks", "far_blocks", "bytes")


@dataclass(frozen=True, eq=False)
class _Group:
    """Blocks of this process, and whether each stands for its transpose as well.

    Attributes:
        first, second: Boxes of each block.
        sizes: Number of entries of each block.
        twice: Shape (blocks,): whether the block is applied transposed, too.
        counted: Shape (blocks,): whether this process counts the block; one of two that have it does.
        is_far: Whether the blocks are couplings.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    sizes: Ids
    twice: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    is_far: bool


def level_rows(A: OwnForm) -> list[dict[str, Any]]:
    """Return a row per level of what this process holds, from the top.

    Returns:
        `level`; `boxes` that are this process's (those above the cut are process 0's), their `unknowns` before and
        `skeletons` after compression; `near_blocks` and `far_blocks`, counted as the serial matrix keeps them;
        `bytes` of blocks and bases on this process; `product_flops` of one product with a vector; `largest_rank` of a
        far block; `seconds` of building bases.
    """
    division, tree, basis = A.division, A.division.tree, A.column_basis.basis
    mine = division.is_own.copy()
    mine[: division.n_top] = division.rank == 0
    n = tree.n_levels
    size = basis.values.itemsize
    of_box = np.searchsorted(tree.level_start, np.arange(tree.n_boxes), side="right") - 1

    def per_level(weights: Array, of: Array) -> Ids:
        return np.bincount(of, weights=weights, minlength=n).astype(np.int64)

    counts = np.diff(basis.order_start)
    table = {
        "boxes": per_level(mine, of_box),
        "unknowns": per_level(np.where(mine, counts, 0), of_box),
        "skeletons": per_level(np.where(mine, basis.rank, 0), of_box),
        "near_blocks": np.zeros(n, np.int64),
        "far_blocks": np.zeros(n, np.int64),
    }
    sides = {id(side): side.basis for side in (A.row_basis, A.column_basis)}
    numbers = np.zeros(n, np.int64)
    for side in sides.values():
        numbers += per_level(np.diff(side.value_start), of_box)
    # Bases are applied on the way up and on the way down: once for each side, twice where both are the same.
    applied = numbers * (2 if len(sides) == 1 else 1)
    largest = np.zeros(n, np.int64)
    for group in _groups(A):
        levels = of_box[group.first]
        numbers += per_level(group.sizes, levels)
        applied += per_level(group.sizes * (1 + group.twice), levels)
        table["far_blocks" if group.is_far else "near_blocks"] += per_level(group.counted, levels)
        if group.is_far:
            np.maximum.at(largest, levels, _ranks(A, group))
    seconds = basis.seconds if len(basis.seconds) else np.zeros(n)
    flops_of_number = 8 if A.computed.kind == "c" else 2
    return [
        {
            "level": level,
            **{name: int(column[level]) for name, column in table.items()},
            "bytes": int(numbers[level]) * size,
            "product_flops": int(applied[level]) * flops_of_number,
            "largest_rank": int(largest[level]),
            "seconds": float(seconds[level]) if level >= division.cut or division.rank == 0 else 0.0,
        }
        for level in range(n)
    ]


def level_table(A: OwnForm, communicator: Communicator) -> list[dict[str, Any]]:
    """Return the rows of `level_rows` over all processes: sums, the largest rank, the longest seconds; collective."""
    rows = level_rows(A)
    counts = summed(communicator, np.array([[row[name] for name in _COUNTS] for row in rows], np.int64))
    most = np.array([[row["largest_rank"], row["seconds"]] for row in rows], np.float64)
    most = np.max(gather(communicator, most[None]), axis=0)[0]
    return [
        {
            "level": level,
            **dict(zip(_COUNTS, row, strict=True)),
            "largest_rank": int(most[level, 0]),
            "seconds": float(most[level, 1]),
        }
        for level, row in enumerate(counts.tolist())
    ]


def shown_blocks(A: OwnForm, communicator: Communicator) -> tuple[NDArray[np.int32], int]:
    """Return blocks for a plot on process 0, none elsewhere, and how many were left out; collective.

    Returns:
        Shape (blocks, 5): first row, past last row, first column, past last column in tree order, and the rank, or -1
        of a dense block. Whole levels are shown, far blocks from the top and then near ones, up to 200,000 in all.
    """
    tree = A.division.tree
    own: list[list[Array]] = [[] for _ in range(2 * tree.n_levels)]
    for group in _groups(A):
        ranks = _ranks(A, group) if group.is_far else np.full(len(group.first), -1)
        for b, c, chosen in (
            (group.first, group.second, group.counted | ~group.twice & _is_here(A, group.first)),
            (group.second, group.first, group.twice),
        ):
            rows = np.stack([tree.start[b], tree.stop[b], tree.start[c], tree.stop[c], ranks], axis=1)
            levels = (
                np.searchsorted(tree.level_start, b, side="right")
                - 1
                + (0 if group.is_far else tree.n_levels)
            )
            for level in np.unique(levels[chosen]).tolist():
                own[level].append(rows[chosen & (levels == level)])
    counts = summed(communicator, np.array([sum(map(len, parts)) for parts in own], np.int64))
    shown = np.cumsum(counts) <= _MOST_BLOCKS
    parts = [part for parts, fits in zip(own, shown, strict=True) if fits for part in parts]
    rows = np.concatenate([np.zeros((0, 5), np.int64), *parts]).astype(np.int32)
    found = exchange(communicator, {0: rows})
    return np.concatenate([rows[:0], *found.values()]), int(counts[~shown].sum())


def _groups(A: OwnForm) -> Iterator[_Group]:
    for pairs, is_far in ((A.near, False), (A.far, True)):
        for blocks, mirrored in ((pairs.inner, A.mirrored), (pairs.outer, False)):
            first, second = blocks.first, blocks.second
            counted = _is_here(A, first)
            if A.mirrored:
                counted &= first <= second
            twice = np.asarray((first != second) & mirrored)
            yield _Group(first, second, np.diff(blocks.start), twice, counted, is_far)


def _is_here(A: OwnForm, boxes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell which boxes are this process's to count: of those above the cut, the ones whose first leaf is its own."""
    division, tree = A.division, A.division.tree
    level = np.searchsorted(tree.level_start, boxes, side="right") - 1
    down = tree.arity ** np.maximum(division.cut - level, 0)
    at_cut = tree.level_start[division.cut] + (boxes - tree.level_start[level]) * down
    return np.asarray(division.owner[np.where(level < division.cut, at_cut, boxes)] == division.rank)


def _ranks(A: OwnForm, group: _Group) -> Ids:
    """Return the rank of each coupling: at most that of either side's basis."""
    return np.minimum(A.row_basis.rank[group.first], A.column_basis.rank[group.second]).astype(np.int64)

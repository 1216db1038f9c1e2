"""Blocks and bases of an H2 matrix from the sketches of all boxes (`sketching.py`), from the top down."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Interactions, pairs_of
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.near_field import Array
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.sketching import Side

BlocksByPair = dict[tuple[int, int], Array]  # one block per pair of boxes


def unfold(rows: Side, columns: Side, t: int, s: int, between: Array) -> Array:
    """Return the block of a near pair's unknowns from that of their skeletons."""
    row, column = rows.nodes[t], columns.nodes[s]
    block = np.empty((len(row.order), len(column.order)), dtype=between.dtype)
    block[np.ix_(row.kept, column.kept)] = between
    right = between @ column.interpolation + column.residual[:, column.columns[t]][:, row.kept].T
    block[np.ix_(row.kept, column.dropped)] = right
    block[row.dropped] = row.interpolation.T @ block[row.kept] + row.residual[:, row.columns[s]]
    return block


def unfolded(
    rows: Side, columns: Side, lists: Interactions, top: int, between: Array, *, mirrored: bool
) -> tuple[BlocksByPair, BlocksByPair]:
    """Return all near leaf blocks and all couplings, from the matrix of the skeletons of level `top`."""
    far_pairs = set(zip(*(part.tolist() for part in pairs_of(lists.far, mirrored=mirrored)), strict=True))
    near_pairs = set(zip(*(part.tolist() for part in pairs_of(lists.near, mirrored=mirrored)), strict=True))
    near: BlocksByPair = {}
    far: BlocksByPair = {}

    def split(parents_t: range, parents_s: range, block: Array) -> BlocksByPair:
        """Divide a block of skeletons by boxes: keep couplings of far pairs, and return the blocks of near pairs."""
        row_edges = np.cumsum([0, *(rows.nodes[t].rank for t in parents_t)])
        column_edges = np.cumsum([0, *(columns.nodes[s].rank for s in parents_s)])
        going = {}
        for i, t in enumerate(parents_t):
            for j, s in enumerate(parents_s):
                part = block[row_edges[i] : row_edges[i + 1], column_edges[j] : column_edges[j + 1]]
                if (t, s) in far_pairs:
                    far[t, s] = part
                elif (t, s) in near_pairs:
                    going[t, s] = part
        return going

    pending = split(rows.tree.level(top), columns.tree.level(top), between)
    while pending:
        (t, s), part = pending.popitem()
        block = unfold(rows, columns, t, s, part)
        if rows.tree.first_child[t] < 0:
            near[t, s] = block
        else:
            t0, s0, arity = int(rows.tree.first_child[t]), int(columns.tree.first_child[s]), rows.tree.arity
            pending |= split(range(t0, t0 + arity), range(s0, s0 + arity), block)
    return near, far


def as_blocks(blocks: BlocksByPair, stored: np.dtype[Any]) -> Blocks:
    """Return blocks in the flat layout, sorted by pair."""
    pairs = sorted(blocks)
    start = np.cumsum([0, *(blocks[pair].size for pair in pairs)]).astype(np.int64)
    values = np.empty(start[-1], dtype=stored)
    for pair, begin, end in zip(pairs, start, start[1:], strict=False):
        values[begin:end] = blocks[pair].ravel(order="F")
    first, second = (np.array([pair[i] for pair in pairs], dtype=np.int32) for i in range(2))
    return Blocks(first, second, start, values)


def as_basis(side: Side, stored: np.dtype[Any]) -> Basis:
    """Return the bases in the flat layout; boxes above the first far level have none."""
    tree, nodes = side.tree, side.nodes
    points: dict[int, NDArray[np.int64]] = {}
    ranks = np.zeros(tree.n_boxes, dtype=np.int32)
    orders: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * tree.n_boxes
    values: list[Array] = [np.zeros(0)] * tree.n_boxes
    empty = np.zeros(0, dtype=np.int64)
    for box in range(tree.n_boxes - 1, -1, -1):
        first = tree.first_child[box]
        own = (
            np.arange(tree.start[box], tree.stop[box])
            if first < 0
            else np.concatenate([points.get(child, empty) for child in range(first, first + tree.arity)])
        )
        orders[box] = np.arange(len(own))
        if box in nodes:
            node = nodes[box]
            ranks[box], orders[box], values[box] = node.rank, node.order, node.interpolation.ravel()
            points[box] = own[node.kept]
    skeletons = np.concatenate([points.get(box, empty) for box in range(tree.n_boxes)]).astype(np.int32)
    order_start = np.cumsum([0, *(len(order) for order in orders)]).astype(np.int64)
    flat = np.concatenate(values).astype(stored)
    return Basis(ranks, skeletons, np.concatenate(orders).astype(np.int32), flat, order_start)

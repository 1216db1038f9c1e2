"""An H2 matrix from nothing but its products with random vectors.

Given Y = C X for random X, the far field of a box shows in Y P, where P spans the null space of X on the box's near
boxes: their part of the sum vanishes [1]. Its interpolative decomposition chooses skeletons. On what is left of a box's
redundant rows once their skeletons' share is taken off, only near boxes act, so that their blocks follow from least squares. What
remains unknown are blocks between skeletons, for which samples of the next level's, smaller matrix are at hand: the same
step is repeated up to the first level with far boxes, where the matrix of all skeletons is solved for; then all
blocks are unfolded on the way down. The number of vectors is that of the unknowns in a box's near field, whatever n is.

References:
    [1] Levitt, Martinsson, "Linear-complexity black-box randomized compression of rank-structured matrices", SISC 2024:
        the null space and the least squares, there for weak admissibility.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Interactions, Lists, pairs_of
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.skeleton import Basis

Array = NDArray[Any]
Boxes = dict[int, Array]  # one array per box of a level
Pairs = dict[tuple[int, int], Array]  # one block per pair of boxes
Product = Callable[[Array], Array]

_SURPLUS = 1.5  # vectors per unknown of the near field: least squares then at most doubles the error of the bases
_OVERSAMPLING = 12  # vectors beyond 1.5 times a rank


@dataclass(frozen=True, eq=False)
class Node:
    """What one side knows of a box.

    Attributes:
        order: Local unknowns, skeletons first.
        rank: How many skeletons.
        interpolation: T of shape (k, n - k): redundant unknowns through skeletons.
        residual: Shape (n - k, near unknowns): rows of the near blocks of redundant unknowns, less T^T times those of
            the skeletons.
        columns: Where each near box's unknowns are in `residual`.
    """

    order: NDArray[np.int64]
    rank: int
    interpolation: Array
    residual: Array
    columns: dict[int, slice]

    @property
    def kept(self) -> NDArray[np.int64]:
        return self.order[: self.rank]

    @property
    def dropped(self) -> NDArray[np.int64]:
        return self.order[self.rank :]


@dataclass(eq=False)
class Side:
    """One side of the matrix: Y = C X by boxes of the rows, or Z = C^T X by boxes of the columns.

    Attributes:
        tree: Of the boxes whose bases this side gives.
        near: Near boxes, on the other side, of each.
        samples: Y by boxes of the level at work.
        tests: X by boxes of the other side.
        nodes: Of all boxes done.
        weights: How much of a white-noise vector each unknown of a box carries.
    """

    tree: ClusterTree
    near: Lists
    samples: Boxes
    tests: Boxes
    nodes: dict[int, Node]
    weights: Boxes

    def near_boxes(self, box: int) -> list[int]:
        return [int(other) for other in self.near.boxes[self.near.start[box] : self.near.start[box + 1]]]


class TooFewVectors(Exception):
    """The sketch must grow to `needed` vectors."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} vectors are needed")
        self.needed = needed


def skeletonize(side: Side, box: int, budget: float, generator: np.random.Generator, *, complete: bool) -> Node:
    """Choose the skeletons of a box and find the residual of its redundant rows.

    Args:
        budget: Squared Frobenius norm that may be lost.
        complete: The tests are all unit vectors, so that none are missing.

    Raises:
        TooFewVectors: If the near field and the rank together want more tests.
    """
    samples, others = side.samples[box], side.near_boxes(box)
    tests = np.concatenate([side.tests[other] for other in others]) if others else samples[:0]
    n, available = samples.shape
    n_near = len(tests)
    edges = np.cumsum([0, *(len(side.tests[other]) for other in others)])
    columns = {other: slice(edges[i], edges[i + 1]) for i, other in enumerate(others)}
    width = 2 * _OVERSAMPLING
    while True:
        used = available if complete else int(_SURPLUS * n_near) + width
        if used > available:
            raise TooFewVectors(used)
        width = min(width, used - n_near)
        q, r = scipy.linalg.qr(tests[:, :used].conj().T, mode="economic", check_finite=False)
        null = generator.standard_normal((used, width))
        for _ in range(2):  # once leaves rounding errors that a far smaller far field would show
            null = null - q @ (q.conj().T @ null)
        null = scipy.linalg.qr(null, mode="economic", check_finite=False)[0]
        # Normal tests give normal samples of unit variance; unit vectors, a random subspace of the far unknowns.
        scale = np.sqrt(available - n_near) if complete else 1.0
        far = (samples[:, :used] @ null) * (scale * side.weights[box][:, None])
        triangle, order = scipy.linalg.qr(far.T, mode="r", pivoting=True, check_finite=False)
        rank = _rank(triangle, width, budget)
        if rank + _OVERSAMPLING <= width / _SURPLUS or width >= min(n * 2 + _OVERSAMPLING, used - n_near):
            break
        width *= 2
    interpolation = scipy.linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:], check_finite=False)
    kept, dropped = order[:rank], order[rank:]
    interpolation *= side.weights[box][kept, None] / side.weights[box][dropped]
    remainder = (samples[dropped, :used] - interpolation.T @ samples[kept, :used]) @ q
    residual = scipy.linalg.solve_triangular(r, remainder.conj().T, check_finite=False).conj().T
    return Node(order.astype(np.int64), rank, interpolation, residual, columns)


def _rank(triangle: Array, n_samples: int, budget: float) -> int:
    """Return the smallest rank whose lost part, estimated from the samples that are not fitted, is within budget."""
    lost = np.append(np.cumsum((np.abs(triangle) ** 2).sum(axis=1)[::-1])[::-1], 0.0)
    free = np.maximum(n_samples - np.arange(len(lost)), 1)
    return int(np.argmax(lost / free <= budget))


def reduce(side: Side, opposite: Side, samples: Boxes, tests: Boxes) -> tuple[Boxes, Boxes]:
    """Return samples and tests between the skeletons of a level, from those of its unknowns.

    Where side is that of the rows: X^_s = X_s[kept] + T_s X_s[dropped], and
    Y^_t = Y_t[kept] - sum over near s of (C[kept_t, dropped_s] - C[kept_t, kept_s] T_s) X_s[dropped].
    """
    smaller = {}
    for box, sample in samples.items():
        kept = side.nodes[box].kept
        total = sample[kept]
        for other in side.near_boxes(box):
            node = opposite.nodes[other]
            total = total - node.residual[:, node.columns[box]][:, kept].T @ tests[other][node.dropped]
        smaller[box] = total
    nodes = opposite.nodes
    carried = {
        box: test[nodes[box].kept] + nodes[box].interpolation @ test[nodes[box].dropped] for box, test in tests.items()
    }
    return smaller, carried


def merged(tree: ClusterTree, level: int, parts: Boxes) -> Boxes:
    """Return the arrays of the boxes of a level, those of their children one below the other."""
    return {
        box: np.concatenate([parts[child] for child in range(tree.first_child[box], tree.first_child[box] + tree.arity)])
        for box in tree.level(level)
    }


def leaves(tree: ClusterTree, vectors: Array) -> Boxes:
    """Return the rows of vectors in tree order by leaves."""
    return {box: vectors[tree.start[box] : tree.stop[box]] for box in tree.level(tree.n_levels - 1)}


def merged_weights(side: Side, level: int) -> Boxes:
    """Return the weights of the unknowns of a level from those of the one below."""
    carried = {}
    for box, weights in side.weights.items():
        node = side.nodes[box]
        squares = weights[node.kept] ** 2 + np.abs(node.interpolation) ** 2 @ weights[node.dropped] ** 2
        carried[box] = np.sqrt(squares)
    return merged(side.tree, level, carried)


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
) -> tuple[Pairs, Pairs]:
    """Return all near leaf blocks and all couplings, from the matrix of the skeletons of level `top`."""
    far_pairs = set(zip(*(part.tolist() for part in pairs_of(lists.far, mirrored=mirrored)), strict=True))
    near_pairs = set(zip(*(part.tolist() for part in pairs_of(lists.near, mirrored=mirrored)), strict=True))
    near: Pairs = {}
    far: Pairs = {}

    def split(parents_t: range, parents_s: range, block: Array) -> Pairs:
        """Divide a block of skeletons by boxes: couplings are done, near pairs go on."""
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


def as_blocks(blocks: Pairs, stored: np.dtype[Any]) -> Blocks:
    """Return blocks in the flat layout, sorted by pair."""
    pairs = sorted(blocks)
    start = np.cumsum([0, *(blocks[pair].size for pair in pairs)]).astype(np.int64)
    values = np.concatenate([np.zeros(0), *(blocks[pair].ravel(order="F") for pair in pairs)]).astype(stored)
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

"""Places of new points in the boxes of the values' tree.

Each new point belongs to the leaf in which it would have been put. Boxes of new points then lie where boxes of values
do, and near and far boxes are those of a square matrix. New points far from all values have no place there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Interactions, Strong, lists_of, pairs_of
from pipeline.hmatrix.cluster import ClusterTree, Frame, halve
from pipeline.hmatrix.geometry import Geometry

Array = NDArray[np.float64]

_LARGEST_LEAF = 1024  # new points that one leaf takes at a time
_NEARER = 0.4  # times the smaller diameter; values' boxes are far beyond half of it
_OUTSIDE = 0.25  # times the diameter of a leaf or of a typical leaf: new points farther away are outside


@dataclass(frozen=True, eq=False)
class NewPoints:
    """New points with their places among the values.

    Attributes:
        points: Shape (q, d).
        tree: Tree of the values' points.
        interactions: Near and far boxes among the values.
        metric: Factors that scale coordinates as the kernel's length scales do, shape (d,).
        leaves: Leaf of each point, counted from 0, shape (q,).
        inside: Indices of the points that have a place.
        outside: Indices of the points far from all values, in the order of their leaves.
    """

    points: Array
    tree: ClusterTree
    interactions: Interactions
    metric: Array
    leaves: NDArray[np.int64]
    inside: NDArray[np.int64]
    outside: NDArray[np.int64]

    @classmethod
    def of(cls, points: Array, tree: ClusterTree, interactions: Interactions, metric: Array) -> "NewPoints":
        """Find each point's leaf; costs O(q log n)."""
        measured = points * metric
        leaves = _leaves_of(tree, measured, metric)
        boxes = tree.level_start[-2] + leaves
        beyond = np.maximum(np.maximum(tree.lower[boxes] - measured, measured - tree.upper[boxes]), 0.0)
        # Leaves of coincident values, as at the poles of a grid, have no size of their own.
        typical = float(np.median(tree.diameters[tree.level_start[-2] :]))
        strange = np.sqrt((beyond**2).sum(axis=1)) > _OUTSIDE * np.maximum(tree.diameters[boxes], typical)
        outside = np.flatnonzero(strange)
        outside = outside[np.argsort(leaves[outside], kind="stable")]
        return cls(points, tree, interactions, metric, leaves, np.flatnonzero(~strange), outside)

    def parts(self, at_a_time: int) -> Iterator[NDArray[np.int64]]:
        """Divide the points that have a place into parts of neighboring leaves, none with too many points."""
        leaves = self.leaves[self.inside]
        order = np.argsort(leaves, kind="stable")
        in_order = leaves[order]
        first = np.searchsorted(in_order, in_order)
        rounds = (np.arange(len(order)) - first) // _LARGEST_LEAF
        for number in range(int(rounds.max(initial=-1)) + 1):
            members = self.inside[order[rounds == number]]
            yield from np.array_split(members, -(-len(members) // at_a_time))

    def parts_outside(self, at_a_time: int) -> list[NDArray[np.int64]]:
        """Divide the points without a place likewise."""
        return np.array_split(self.outside, -(-len(self.outside) // at_a_time)) if len(self.outside) else []

    def geometry(self, chosen: NDArray[np.int64]) -> Geometry:
        """Return tree and lists of a matrix from the values to some of the points."""
        rows = _tree_of(self.tree, self.points[chosen], self.leaves[chosen], self.metric)
        return Geometry(rows, self.tree, Strong(), _interactions(rows, self.tree, self.interactions))


def _leaves_of(tree: ClusterTree, measured: Array, metric: Array) -> NDArray[np.int64]:
    """Return the leaf in which each new point would have been put, shape (q,): leaves count from 0."""
    points = tree.points * metric
    n_leaves = int(tree.level_start[-1] - tree.level_start[-2])
    ranges = halve(len(points), n_leaves.bit_length() - 1)
    leaves, every = np.zeros(len(measured), np.int64), np.arange(len(measured))
    for start, _ in ranges[1:]:
        # Halves come in pairs, and were divided where the box is widest.
        lower, upper = (
            of.reduceat(points, start).reshape(-1, 2, len(metric)) for of in (np.minimum, np.maximum)
        )
        widest = np.argmax(upper.max(axis=1) - lower.min(axis=1), axis=1)
        box = np.arange(len(widest))
        middle = 0.5 * (upper[box, 0, widest] + lower[box, 1, widest])
        leaves = 2 * leaves + (measured[every, widest[leaves]] > middle[leaves])
    return leaves


def _interactions(rows: ClusterTree, columns: ClusterTree, own: Interactions) -> Interactions:
    """Return the near and far boxes, among the values' boxes, of the boxes of new points.

    Skeletons are accurate for far boxes of values only. A pair may be far if it or a pair of its ancestors is far among
    the values, unless new points that lie outside their box come too near.
    """
    n = columns.n_boxes
    first, second = pairs_of(own.far, mirrored=False)
    known = np.sort(first.astype(np.int64) * n + second)
    child = np.stack(np.meshgrid(np.arange(rows.arity), np.arange(rows.arity), indexing="ij")).reshape(
        2, 1, -1
    )
    top = np.arange(rows.level_start[1])
    pairs = np.stack(np.meshgrid(top, top, indexing="ij")).reshape(2, -1)
    licensed = np.zeros(pairs.shape[1], np.bool_)
    near, far = [], []
    for level in range(rows.n_levels):
        if level:
            parents = np.stack([rows.first_child[pairs[0]], columns.first_child[pairs[1]]])
            pairs = (parents[:, :, None] + child).reshape(2, -1)
            licensed = np.repeat(licensed, rows.arity**2)
        filled = (rows.stop > rows.start)[pairs[0]]
        pairs, licensed = pairs[:, filled], licensed[filled]
        keys = pairs[0].astype(np.int64) * n + pairs[1]
        places = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        licensed = licensed | (known[places] == keys if len(known) else False)
        gaps = np.maximum(
            rows.lower[pairs[0]] - columns.upper[pairs[1]], columns.lower[pairs[1]] - rows.upper[pairs[0]]
        )
        distances = np.sqrt((np.maximum(gaps, 0.0) ** 2).sum(axis=1))
        sizes = np.maximum(rows.diameters[pairs[0]], columns.diameters[pairs[0]])
        is_far = licensed & (distances >= _NEARER * np.minimum(sizes, columns.diameters[pairs[1]]))
        near.append(pairs[:, ~is_far])
        far.append(pairs[:, is_far])
        pairs, licensed = pairs[:, ~is_far], licensed[~is_far]
    close, apart = (np.concatenate(found, axis=1).astype(np.int32) for found in (near, far))
    return Interactions(
        near=lists_of(close[0], close[1], n),
        far=lists_of(apart[0], apart[1], n),
        near_columns=lists_of(close[1], close[0], n),
        far_columns=lists_of(apart[1], apart[0], n),
    )


def _tree_of(tree: ClusterTree, new_points: Array, leaves: NDArray[np.int64], metric: Array) -> ClusterTree:
    """Return a tree of the same boxes over new points in given leaves."""
    order = np.argsort(leaves, kind="stable")
    n_leaves = int(tree.level_start[-1] - tree.level_start[-2])
    edges = np.concatenate([[0], np.cumsum(np.bincount(leaves, minlength=n_leaves))])
    steps = n_leaves // np.diff(tree.level_start)
    frame = Frame(
        halvings=np.zeros(0, np.int64),
        level_start=tree.level_start,
        start=np.concatenate([edges[:-1:step] for step in steps]).astype(np.int32),
        stop=np.concatenate([edges[step::step] for step in steps]).astype(np.int32),
        parent=tree.parent,
        first_child=tree.first_child,
        arity=tree.arity,
    )
    points = np.ascontiguousarray(new_points[order])
    return frame.tree(points, order.astype(np.int64), frame.leaf_bounds(points * metric))

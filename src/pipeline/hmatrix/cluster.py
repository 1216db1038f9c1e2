"""Cluster trees: points ordered so that every box is a contiguous range of them.

Boxes come from halving the points at the median of their widest coordinate, again and again, so that all leaves
hold the same number of points (within one) at the same depth, however clustered the points are. Levels keep
every second or third halving, so that a box has four or eight children.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.threads import n_threads

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounding boxes, lower > upper for an empty one; shapes (boxes, d)."""

    lower: Floats
    upper: Floats

    @cached_property
    def diameters(self) -> Floats:
        """Diagonals, shape (boxes,); 0 for empty boxes."""
        return _diagonals(self.lower, self.upper)

    def parents(self, arity: int) -> "Bounds":
        """Return the bounds of every `arity` consecutive boxes together."""
        shape = len(self.lower) // arity, arity, self.lower.shape[1]
        return Bounds(self.lower.reshape(shape).min(axis=1), self.upper.reshape(shape).max(axis=1))


def _diagonals(lower: Floats, upper: Floats) -> Floats:
    return np.asarray(np.sqrt((np.maximum(upper - lower, 0.0) ** 2).sum(axis=1)))


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """Points in tree order, and boxes numbered level by level from the top.

    Attributes:
        points: Shape (n, d), in tree order.
        permutation: Shape (n,); place i of the tree order is the caller's point permutation[i].
        level_start: Shape (levels + 1,); level l is boxes level_start[l] to level_start[l + 1] - 1.
        start, stop: Shape (boxes,); a box holds points start to stop - 1.
        parent: Shape (boxes,); -1 at the top level, which may have several boxes.
        first_child: Shape (boxes,); children are `arity` consecutive boxes, -1 at the leaves.
        lower, upper: Shape (boxes, d); the bounding box of the points, in the metric of the tree; lower > upper for an
            empty box.
        arity: Children per box.
    """

    points: Floats
    permutation: NDArray[np.int64]
    level_start: Ints
    start: Ints
    stop: Ints
    parent: Ints
    first_child: Ints
    lower: Floats
    upper: Floats
    arity: int

    def __repr__(self) -> str:
        size = int((self.stop - self.start)[self.level_start[-2] :].max(initial=0))
        return (
            f"ClusterTree({self.n_points} points in {self.points.shape[1]} dimensions, {self.n_levels} levels, "
            f"{self.n_boxes} boxes, at most {size} points in a leaf)"
        )

    @property
    def n_points(self) -> int:
        return len(self.points)

    @property
    def n_boxes(self) -> int:
        return len(self.start)

    @property
    def n_levels(self) -> int:
        return len(self.level_start) - 1

    @property
    def diameters(self) -> Floats:
        """Diagonals of the bounding boxes, shape (boxes,); 0 for empty ones."""
        return _diagonals(self.lower, self.upper)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The place in tree order of each of the caller's points, shape (n,)."""
        places = np.empty_like(self.permutation)
        places[self.permutation] = np.arange(len(places))
        return places

    @property
    def fills_space(self) -> bool:
        """Whether the tree divides a volume, where boxes have eight children."""
        return self.arity == 8

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "native"}

    def level(self, number: int) -> range:
        """Return the boxes of a level."""
        return range(int(self.level_start[number]), int(self.level_start[number + 1]))

    @cached_property
    def native(self) -> "_native.Tree":
        """The view that native routines take."""
        return _native.Tree(
            self.level_start,
            self.start,
            self.stop,
            self.parent,
            self.first_child,
            self.lower,
            self.upper,
            self.arity,
        )


def n_halvings(n_points: int, leaf_size: int) -> int:
    """Return how many halvings leave at most `leaf_size` points in a leaf."""
    return max(0, math.ceil(math.log2(n_points / leaf_size))) if n_points > leaf_size else 0


def whole_levels(n_points: int, leaf_size: int, halvings_per_level: int) -> int:
    """Return how many halvings, in whole levels, leave about `leaf_size` points in a leaf."""
    levels = math.log2(max(n_points / leaf_size, 1)) / halvings_per_level
    return halvings_per_level * math.floor(levels + 0.5)


def build_tree(
    points: Floats, *, halvings: int, halvings_per_level: int, metric: Floats | None = None
) -> ClusterTree:
    """Order points into a tree with leaves `halvings` halvings below the top.

    Costs O(n d halvings). Equal coordinates are told apart by index, so the tree is the same on every machine.

    Args:
        points: Shape (n, d), finite.
        halvings: Number of times that the points are halved; more than log2(n) leaves boxes empty.
        halvings_per_level: Halvings between one level and the next: 2 for surfaces and the plane, 3 for volumes.
        metric: Shape (d,), factors that scale the coordinates for the tree and its bounding boxes only.
    """
    measured = points if metric is None else points * metric
    permutation = _native.bisect(np.ascontiguousarray(measured), halvings, n_threads())
    frame = Frame.of(len(points), halvings, halvings_per_level)
    return frame.tree(
        np.ascontiguousarray(points[permutation]),
        permutation.astype(np.int64),
        frame.leaf_bounds(measured[permutation]),
    )


@dataclass(frozen=True, eq=False)
class Frame:
    """The properties of a tree's boxes that follow from the number of points; other attributes as in `ClusterTree`.

    Attributes:
        halvings: Number of times that the points were halved above each level, shape (levels,).
    """

    halvings: NDArray[np.int64]
    level_start: Ints
    start: Ints
    stop: Ints
    parent: Ints
    first_child: Ints
    arity: int

    @classmethod
    def of(cls, n_points: int, halvings: int, halvings_per_level: int) -> "Frame":
        """Number the boxes of n points; arguments as `build_tree` takes them."""
        return _frame(n_points, halvings, halvings_per_level)

    def leaf_bounds(self, points: Floats) -> Bounds:
        """Return the bounds of the leaves, given all points in tree order."""
        leaves = slice(*self.level_start[-2:])
        return leaf_bounds(points, self.start[leaves], self.stop[leaves])

    def tree(self, points: Floats, permutation: NDArray[np.int64], leaves: Bounds) -> ClusterTree:
        """Return the tree, given its points in tree order and the bounds of the leaves."""
        levels = [leaves]
        for _ in range(len(self.level_start) - 2):
            levels.append(levels[-1].parents(self.arity))
        return ClusterTree(
            points=points,
            permutation=permutation,
            level_start=self.level_start,
            start=self.start,
            stop=self.stop,
            parent=self.parent,
            first_child=self.first_child,
            lower=np.concatenate([level.lower for level in levels[::-1]]),
            upper=np.concatenate([level.upper for level in levels[::-1]]),
            arity=self.arity,
        )


def _frame(n_points: int, halvings: int, halvings_per_level: int) -> Frame:
    depths = list(range(halvings % halvings_per_level, halvings + 1, halvings_per_level))
    ranges = [
        (start, stop) for depth, (start, stop) in enumerate(halve(n_points, halvings)) if depth in depths
    ]
    sizes = [len(start) for start, _ in ranges]
    level_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    arity = 2**halvings_per_level
    parent = [np.full(sizes[0], -1)] + [
        first + np.arange(size) // arity for first, size in zip(level_start, sizes[1:], strict=False)
    ]
    first_child = [
        first + np.arange(size) * arity for first, size in zip(level_start[1:], sizes[:-1], strict=False)
    ] + [np.full(sizes[-1], -1)]
    start, stop = (np.concatenate(ends).astype(np.int32) for ends in zip(*ranges, strict=True))
    return Frame(
        halvings=np.array(depths),
        level_start=level_start,
        start=start,
        stop=stop,
        parent=np.concatenate(parent).astype(np.int32),
        first_child=np.concatenate(first_child).astype(np.int32),
        arity=arity,
    )


def halve(n_points: int, halvings: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return starts and stops of the ranges after 0, 1, ... halvings; the first half is the larger."""
    edges = np.array([0, n_points])
    result = [(edges[:-1], edges[1:])]
    for _ in range(halvings):
        start, stop = result[-1]
        middle = start + (stop - start + 1) // 2
        # A range of fewer than two points stays whole, in the first half.
        edges = np.append(np.stack([start, middle], axis=1).ravel(), n_points)
        result.append((edges[:-1], edges[1:]))
    return result


def leaf_bounds(points: Floats, start: NDArray[Any], stop: NDArray[Any]) -> Bounds:
    """Return the bounding boxes of leaves that tile the points; lower > upper for an empty leaf.

    Args:
        points: The points in tree order, shape (n, d).
        start, stop: Each leaf holds places start to stop - 1, counted from any number on.
    """
    lower = np.full((len(start), points.shape[1]), np.inf)
    upper = np.full((len(start), points.shape[1]), -np.inf)
    filled = stop > start
    if filled.any():
        # The filled ranges tile the points, so each ends where the next begins.
        begin = start[filled] - start[filled][0]
        lower[filled] = np.minimum.reduceat(points, begin)
        upper[filled] = np.maximum.reduceat(points, begin)
    return Bounds(lower, upper)

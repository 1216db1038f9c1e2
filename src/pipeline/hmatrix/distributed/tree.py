"""A cluster tree over points that no process has all of: the same tree as one process would build.

The first halvings find medians by counts that are summed over the processes; then points move to the owners of their
boxes, which go on by themselves. Each process owns a range of the boxes of one level, the *cut level*, and all below
them. Of the other boxes it knows those above the cut and the surroundings of its own.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Admissibility, Interactions
from pipeline.hmatrix.cluster import ClusterTree, Floats, Ints, halve, leaf_bounds
from pipeline.hmatrix.distributed.surroundings import OwnBounds, Surroundings
from pipeline.hmatrix.distributed.whole import Ownership, WholeTree
from pipeline.hmatrix.swap import Array, Ids, exchange, gather, summed
from pipeline.hmatrix.threads import n_threads
from pipeline.runtime.communicator import Communicator

_DIGIT = 4  # bits of a median that one sum over the processes finds


@dataclass(frozen=True, eq=False)
class Division(Ownership):
    """Which process owns which boxes, and the boxes that this one knows.

    Attributes:
        tree: The boxes that this process knows, level by level. Its points, and their numbers `permutation` in the
            order of processes and rows, are those that this process owns.
        numbers: Shape (boxes,), the number of each in the whole tree.
        bounds: The bounds of the boxes that this process owns.
    """

    tree: ClusterTree
    numbers: Ids
    bounds: OwnBounds

    def range_of(self, level: int) -> tuple[int, int]:
        """Return first and last + 1 of this process's boxes on a level at or below the cut."""
        low, high = self.whole.level_start[level] + self.edges_on(level)[self.rank : self.rank + 2]
        return int(np.searchsorted(self.numbers, low)), int(np.searchsorted(self.numbers, high))

    def here(self, numbers: Ids) -> Ids:
        """Return where boxes, all of them known, are in `tree`."""
        return np.searchsorted(self.numbers, numbers)

    def is_order_of(self, other: "Division") -> bool:
        """Tell whether this process owns the same points in the same order."""
        return np.array_equal(self.tree.permutation, other.tree.permutation) and np.array_equal(
            self.edges, other.edges
        )

    @cached_property
    def owner(self) -> Ints:
        """The process of each box, shape (boxes,); -1 above the cut."""
        owner = np.full(self.tree.n_boxes, -1, np.int32)
        for level in range(self.cut, self.tree.n_levels):
            boxes = slice(*self.tree.level_start[level : level + 2])
            names = self.numbers[boxes] - self.whole.level_start[level]
            owner[boxes] = np.searchsorted(self.edges_on(level), names, side="right") - 1
        return owner

    @cached_property
    def is_own(self) -> NDArray[np.bool_]:
        """Which boxes this process owns."""
        return np.asarray(self.owner == self.rank)

    @cached_property
    def is_above(self) -> NDArray[np.bool_]:
        """Which boxes above the cut have children that this process owns."""
        above = np.zeros(self.tree.n_boxes, bool)
        first, last = self.range_of(self.cut)
        boxes = np.unique(self.tree.parent[first:last])
        while len(boxes) and boxes[0] >= 0:
            above[boxes] = True
            boxes = np.unique(self.tree.parent[boxes])
        return above


@dataclass(frozen=True, eq=False)
class PlacedPoints:
    """The points that a process owns, in tree order.

    Attributes:
        ownership: Owner of each box.
        points: Shape (n, d).
        numbers: Shape (n,), in the order of processes and rows.
        bounds: The bounds of the boxes that this process owns.
    """

    ownership: Ownership
    points: Floats
    numbers: Ids
    bounds: OwnBounds

    def division(self, rule: Admissibility, communicator: Communicator) -> tuple[Division, Interactions]:
        """Find the boxes to be known, and near and far boxes of own ones and of those above the cut; collective."""
        ownership, whole = self.ownership, self.ownership.whole
        wanted, sampled = [], []
        for level in range(whole.n_levels):
            wanted.append(np.arange(whole.sizes[level]) if level < ownership.cut else ownership.own_on(level))
            own = ownership.own_on(ownership.cut) // whole.arity ** max(ownership.cut - level, 0)
            # Process 0 compresses all boxes above the cut.
            sampled.append(wanted[-1] if level >= ownership.cut or ownership.rank == 0 else np.unique(own))
        found = Surroundings.of(self.bounds, rule, wanted, communicator, sampled=sampled)
        tree = replace(found.tree, points=self.points, permutation=self.numbers)
        division = Division(
            whole, ownership.cut, ownership.cuts, ownership.rank, tree, found.numbers, self.bounds
        )
        return division, found.interactions


@dataclass(frozen=True, eq=False)
class Route:
    """How vectors go from the caller's rows to the tree order and back.

    Attributes:
        leaving: This process's rows for each process, by process.
        counts: How many rows arrive from each process, by process in order.
        order: Shape (owned points,); place i of the tree order is the order[i]-th row to arrive.
        n_rows: Rows of the caller's on this process.
    """

    leaving: dict[int, Ids]
    counts: dict[int, int]
    order: Ids
    n_rows: int

    def there(self, communicator: Communicator, rows: Array) -> Array:
        """Return rows in tree order, given the caller's; collective."""
        arrived = exchange(communicator, {rank: rows[own] for rank, own in self.leaving.items()})
        return np.concatenate([rows[:0], *arrived.values()])[self.order]

    def back(self, communicator: Communicator, rows: Array) -> Array:
        """Return rows in the caller's order, given those in tree order; collective."""
        arrived = np.empty_like(rows)
        arrived[self.order] = rows
        ends = np.cumsum([0, *self.counts.values()])
        sent = {rank: arrived[low:high] for rank, low, high in zip(self.counts, ends, ends[1:], strict=False)}
        result = np.empty((self.n_rows, *rows.shape[1:]), rows.dtype)
        for rank, found in exchange(communicator, sent).items():
            result[self.leaving[rank]] = found
        return result


def build_tree(
    points: Floats,
    communicator: Communicator,
    *,
    halvings: int,
    halvings_per_level: int,
    metric: Floats | None = None,
) -> tuple[PlacedPoints, Route]:
    """Order points into a tree, and give each process a share of its boxes; collective.

    Costs 16 sums over the processes for each of the first halvings, log2(4 processes) of them, then O(n d halvings) for
    the n points of a process. Equal coordinates are told apart by the order of processes and rows: the boxes are those
    of `cluster.build_tree` for all rows one after the other, however these are split.

    Args:
        points: Shape (n, d), finite: this process's rows, perhaps none.
        communicator: The processes.
        halvings, halvings_per_level, metric: See `cluster.build_tree`; they are equal on all processes.
    """
    counts = np.concatenate(gather(communicator, np.array([len(points)])))
    n_points = int(counts.sum())
    ownership = Ownership.of(
        WholeTree(n_points, halvings, halvings_per_level), communicator.size, communicator.rank
    )
    depth = ownership.whole.depths[ownership.cut]
    measured = points if metric is None else points * metric
    box = _halved(measured, communicator, halve(n_points, depth), depth)

    destination = np.searchsorted(ownership.cuts, box, side="right") - 1
    leaving = {int(rank): np.flatnonzero(destination == rank) for rank in np.unique(destination)}
    numbers = np.arange(len(points)) + counts[: communicator.rank].sum()
    arrived = {
        name: exchange(communicator, {rank: values[rows] for rank, rows in leaving.items()})
        for name, values in (("points", points), ("box", box), ("numbers", numbers))
    }
    sizes_arrived = {rank: len(part) for rank, part in arrived["box"].items()}
    own, own_box, own_numbers = (
        np.concatenate([like[:0], *arrived[name].values()])
        for name, like in (("points", points), ("box", box), ("numbers", numbers))
    )
    order = np.argsort(own_box, kind="stable")
    measured = own if metric is None else own * metric
    for rows in np.split(order, np.flatnonzero(np.diff(own_box[order])) + 1):
        rows[:] = rows[_native.bisect(np.ascontiguousarray(measured[rows]), halvings - depth, n_threads())]

    leaves = ownership.whole.n_levels - 1
    start, stop = ownership.whole.places(leaves, ownership.own_on(leaves))
    leaf = np.repeat(np.arange(len(start)), stop - start)
    order = order[np.lexsort((own_numbers[order], leaf))]
    bounds = OwnBounds.of_leaves(ownership, leaf_bounds(measured[order], start, stop), communicator)
    found = PlacedPoints(ownership, np.ascontiguousarray(own[order]), own_numbers[order], bounds)
    return found, Route(leaving, sizes_arrived, order, len(points))


def _halved(points: Floats, communicator: Communicator, ranges: list[tuple[Ids, Ids]], depth: int) -> Ids:
    """Return the box of each point after `depth` halvings, numbered along the tree's order."""
    box = np.zeros(len(points), np.int64)
    for start, stop in ranges[:depth]:
        n_boxes = len(start)
        lower = np.full((n_boxes, points.shape[1]), np.inf)
        upper = -lower
        np.minimum.at(lower, box, points)
        np.maximum.at(upper, box, points)
        lower = np.min(gather(communicator, lower), axis=0)
        upper = np.max(gather(communicator, upper), axis=0)
        widest = np.argmax(upper - lower, axis=1)
        every = np.arange(n_boxes)
        keys = _sortable(points[np.arange(len(points)), widest[box]])
        wanted = (stop - start + 1) // 2
        median = _smallest(
            keys, box, wanted, _sortable(lower[every, widest]), _sortable(upper[every, widest]), communicator
        )
        below, equal = keys < median[box], keys == median[box]
        # Of the points at the median, as many as are wanted go below: the first in the order of processes and rows.
        missing = wanted - summed(communicator, np.bincount(box[below], minlength=n_boxes))
        ties = np.array(gather(communicator, np.bincount(box[equal], minlength=n_boxes)[None]))
        before = ties.reshape(-1, n_boxes)[: communicator.rank].sum(axis=0)
        below[equal] = before[box[equal]] + _turn(box[equal]) < missing[box[equal]]
        box = 2 * box + ~below
    return box


def _sortable(values: Floats) -> Ids:
    """Return integers in the order of the floats."""
    bits = (values + 0.0).view(np.int64)  # -0 becomes 0
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def _smallest(keys: Ids, box: Ids, wanted: Ids, lowest: Ids, highest: Ids, communicator: Communicator) -> Ids:
    """Return for each box the least key that has at least `wanted` of the box's keys at or below it.

    The bits in which it exceeds the lowest key are found from the top, a digit at a time.
    """
    least, every = lowest.view(np.uint64), np.arange(len(wanted))
    beyond = np.maximum(highest, lowest).view(np.uint64) - least  # modulo 2^64, as all differences here
    while beyond.any():
        # A rounded number may have one bit more: then the first digit is less than half of what it may be.
        shift = np.maximum(np.frexp(beyond.astype(np.float64))[1] - _DIGIT, 0).astype(np.uint64)
        digit = ((keys.view(np.uint64) - least[box]) >> shift[box]).astype(np.int64)
        counts = np.bincount(box << _DIGIT | digit, minlength=len(wanted) << _DIGIT)
        until = np.cumsum(summed(communicator, counts.reshape(len(wanted), -1)), axis=1)
        found = np.argmax(until >= wanted[:, None], axis=1)
        wanted = wanted - np.where(found > 0, until[every, found - 1], 0)
        keys, box = keys[digit == found[box]], box[digit == found[box]]
        skipped = found.astype(np.uint64) << shift
        least = least + skipped
        beyond = np.minimum(beyond - skipped, (np.uint64(1) << shift) - np.uint64(1))
    return least.view(np.int64)


def _turn(box: Ids) -> Ids:
    """Number the points of each box one after the other."""
    order = np.argsort(box, kind="stable")
    counts = np.bincount(box)
    turn = np.empty(len(box), np.int64)
    turn[order] = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turn

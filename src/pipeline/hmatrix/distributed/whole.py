"""Numbers of the boxes of a tree that no process knows whole: they follow by arithmetic."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.hmatrix.swap import Ids

_BOXES = 4  # boxes of the cut level per process, so that any number of processes has about equal shares


@dataclass(frozen=True)
class WholeTree:
    """The properties of a tree that follow from the number of points.

    Boxes of a level are numbered from its first; those of the tree level by level, from the top.

    Attributes:
        n_points: Points of all processes.
        halvings: Number of times that the points are halved, in all.
        halvings_per_level: See `cluster.build_tree`.
    """

    n_points: int
    halvings: int
    halvings_per_level: int

    @property
    def arity(self) -> int:
        """Children per box."""
        return int(2**self.halvings_per_level)

    @cached_property
    def depths(self) -> list[int]:
        """How often the points were halved above each level."""
        per_level = self.halvings_per_level
        return list(range(self.halvings % per_level, self.halvings + 1, per_level))

    @property
    def n_levels(self) -> int:
        return len(self.depths)

    @cached_property
    def sizes(self) -> Ids:
        """Number of boxes of each level."""
        return 2 ** np.array(self.depths, np.int64)

    @cached_property
    def level_start(self) -> Ids:
        """The first box of each level, and the number of all boxes, shape (levels + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def n_boxes(self) -> int:
        return int(self.level_start[-1])

    def places(self, level: int, boxes: Ids) -> tuple[Ids, Ids]:
        """Return first and last + 1 of the places of boxes in tree order, as `cluster.halve` divides them."""
        start, stop = np.zeros(len(boxes), np.int64), np.full(len(boxes), self.n_points, np.int64)
        for bit in range(self.depths[level] - 1, -1, -1):
            middle, upper = start + (stop - start + 1) // 2, (boxes >> bit) & 1 == 1
            start, stop = np.where(upper, middle, start), np.where(upper, stop, middle)
        return start, stop

    def largest(self, level: int) -> int:
        """Return the number of points of a level's first box, which has the most."""
        return -(-self.n_points >> self.depths[level])


@dataclass(frozen=True, eq=False)
class Ownership:
    """Which process owns which boxes.

    Attributes:
        whole: All boxes.
        cut: The cut level; every process knows all boxes above it.
        cuts: Shape (processes + 1,); process p owns boxes cuts[p] to cuts[p + 1] - 1 of the cut level, and all below.
        rank: This process.
    """

    whole: WholeTree
    cut: int
    cuts: Ids
    rank: int

    @classmethod
    def of(cls, whole: WholeTree, n_processes: int, rank: int) -> "Ownership":
        """Give all processes about equal numbers of boxes."""
        enough = np.append(whole.sizes[:-1] >= _BOXES * n_processes, True)
        cut = 0 if n_processes == 1 else int(np.argmax(enough))
        cuts = np.round(np.arange(n_processes + 1) * whole.sizes[cut] / n_processes).astype(np.int64)
        return cls(whole, cut, cuts, rank)

    @property
    def n_points(self) -> int:
        """Points of all processes."""
        return self.whole.n_points

    def edges_on(self, level: int) -> Ids:
        """Return where each process's boxes start on a level at or below the cut, shape (processes + 1,)."""
        return np.asarray(self.cuts * self.whole.arity ** (level - self.cut), np.int64)

    def own_on(self, level: int) -> Ids:
        """Return this process's boxes on a level at or below the cut."""
        return np.arange(*self.edges_on(level)[self.rank : self.rank + 2])

    @cached_property
    def edges(self) -> Ids:
        """Shape (processes + 1,); process p owns places edges[p] to edges[p + 1] - 1 of the tree order."""
        start, _ = self.whole.places(self.cut, np.arange(self.whole.sizes[self.cut]))
        return np.append(start, self.n_points)[self.cuts]

    @property
    def first(self) -> int:
        """This process's first place."""
        return int(self.edges[self.rank])

    @property
    def last(self) -> int:
        """The place after this process's last one."""
        return int(self.edges[self.rank + 1])

    @property
    def n_top(self) -> int:
        """Number of boxes above the cut level, which are numbered first."""
        return int(self.whole.level_start[self.cut])

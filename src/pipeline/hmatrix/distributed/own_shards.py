"""The part of a matrix that a process reads from shards, which any number of processes may have written."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.distributed.whole import Ownership
from pipeline.hmatrix.places import is_in
from pipeline.hmatrix.shard_files import Shard, check_shard
from pipeline.hmatrix.shards import BasisParts, Description, FlatBlocks, pairs_of_rows
from pipeline.hmatrix.swap import Array, Ids, gather
from pipeline.runtime.communicator import Communicator

_OF_POINTS, _OF_LEAVES = {"points", "numbers", "diagonal_term"}, {"lower", "upper"}  # arrays of a shard


class OwnShards:
    """Data of a process: from the shards that hold its rows, and bases above the cut from all shards.

    Attributes:
        rows: Own rows of the arrays that shards have by point or by leaf.
        bases: Bases of own boxes and of those above the cut, by side.
        near, far: Blocks of own boxes and of those above the cut, by pairs of numbers in the whole tree.
        stored: Type of the blocks.
        checked: Shards that this process checks: those whose first leaf it owns. It reads these too.
        touched: Shards that this process reads: also those that have other leaves of its own. A process without leaves
            opens the first shard, but takes no rows from it.
    """

    def __init__(self, told: Description, ownership: Ownership) -> None:
        self._told, self._ownership = told, ownership
        self.rows: dict[str, Array] = {}
        self.bases = {
            side: BasisParts({}) for side in (("columns",) if told.mirrored else ("columns", "rows"))
        }
        self.near: FlatBlocks = {}
        self.far: FlatBlocks = {}
        self.stored = np.dtype(told.stored)
        whole, rank = ownership.whole, ownership.rank
        before = Ownership(whole, told.cut, np.array(told.cuts, np.int64), 0)
        leaves = whole.n_levels - 1
        self._edges, self._leaves, edges = before.edges, before.edges_on(leaves), ownership.edges_on(leaves)
        self._first_leaf, self._last_leaf = edges[rank : rank + 2].tolist()
        self._n_common = max(ownership.n_top, before.n_top)
        # The last process that starts at or before the leaf has it: earlier ones that start there have no leaves.
        owner = np.searchsorted(edges, np.minimum(self._leaves[:-1], edges[-1] - 1), side="right") - 1
        self.checked = np.flatnonzero(owner == rank).tolist()
        shared = (self._leaves[:-1] < self._last_leaf) & (self._leaves[1:] > self._first_leaf)
        own = set(np.flatnonzero(shared & (self._last_leaf > self._first_leaf)).tolist())
        self.touched = sorted(own.union(self.checked)) or [0]

    def check(self, path: Path) -> None:
        """Read all bytes of the shards that this process checks.

        Raises:
            ArtifactError: If a shard is missing, or not as it was written.
        """
        for number in self.checked:
            check_shard(path, number, self._told.checksums[number])

    def read(self, path: Path) -> None:
        """Read from the shards, one after the other."""
        told, ownership = self._told, self._ownership
        found: dict[str, list[Array]] = {}
        for number in self.touched:
            of_points = _overlap(self._edges[number : number + 2], ownership.first, ownership.last)
            of_leaves = _overlap(self._leaves[number : number + 2], self._first_leaf, self._last_leaf)
            is_checked = number in self.checked
            with Shard(path, number) as shard:
                for names, part in ((_OF_POINTS, of_points), (_OF_LEAVES, of_leaves)):
                    for name in names:
                        if name in shard:
                            found.setdefault(name, []).append(shard.part(name, *part))
                if of_leaves[0] == of_leaves[1] and not is_checked:
                    continue
                for side, basis in self.bases.items():
                    basis.take(shard, side, self._is_common if is_checked else self._is_below)
                for name, pairs in (("near", self.near), ("far", self.far)):
                    pairs.update(pairs_of_rows(shard, name, self._is_row, mirrored=told.mirrored))
        self.rows = {name: np.concatenate(parts) for name, parts in found.items()}

    def share(self, communicator: Communicator) -> None:
        """Give all processes the bases above either cut, from the process that checked their shard; collective.

        These bases are in the first shard or, if the cut is lower now, in the shards of the boxes' former owners.
        """
        for basis in self.bases.values():
            common = sorted(box for box in basis.lists if box < self._n_common)
            arrays = basis.arrays(common, self.stored)
            for everybodys in zip(*(gather(communicator, part) for part in arrays), strict=True):
                basis.add(*everybodys)
            boxes = np.array(list(basis.lists), np.int64)
            for box in boxes[(boxes >= self._ownership.n_top) & ~self._is_below(boxes)].tolist():
                del basis.lists[box]

    def _is_common(self, boxes: Array) -> NDArray[np.bool_]:
        """Tell which boxes are own ones or above either cut."""
        return self._is_below(boxes) | (boxes < self._n_common)

    def _is_row(self, boxes: Array) -> NDArray[np.bool_]:
        """Tell which boxes are own ones or above own ones."""
        ownership = self._ownership
        found = self._is_below(boxes)
        own = ownership.own_on(ownership.cut)
        for level in range(ownership.cut):
            above = ownership.whole.level_start[level] + np.unique(
                own // ownership.whole.arity ** (ownership.cut - level)
            )
            found |= is_in(boxes, above)
        return found

    def _is_below(self, boxes: Array) -> NDArray[np.bool_]:
        ownership = self._ownership
        found = np.zeros(len(boxes), bool)
        for level in range(ownership.cut, ownership.whole.n_levels):
            low, high = (
                ownership.whole.level_start[level]
                + ownership.edges_on(level)[ownership.rank : ownership.rank + 2]
            )
            found |= (boxes >= low) & (boxes < high)
        return found


def _overlap(edges: Ids, first: int, last: int) -> tuple[int, int]:
    """Return first and last + 1 of a shard's rows among `first` to `last` - 1, counted from the shard's first row."""
    low, high = (int(edge) for edge in edges)
    start = min(max(first - low, 0), high - low)
    return start, max(min(last, high) - low, start)

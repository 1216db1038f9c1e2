"""The matrix between a level's unknowns, on the device: blocks of near boxes, and those that updates have filled.

All blocks lie one after the other in one array; of a symmetric matrix, only those on and above the diagonal. An entry's
place is base[pair] + row[pair] i + column[pair] j, where a pair of boxes refers to its own block or its mirror image,
and i and j are numbers of unknowns within their boxes. Two more places end the array: one that reads as zero, and one
that takes unwanted writes. Blocks of any shape can thus be gathered into padded buckets, and scattered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from pipeline.hmatrix.batched.padding import Integers, buckets, chained, ranges, to_device

TensorEntries = Callable[
    [Tensor, Tensor], Tensor
]  # places (b, m) and (b, n) of the tree order -> blocks (b, m, n)


@dataclass(frozen=True, eq=False)
class Unknowns:
    """Unknowns of each box of a bucket.

    Attributes:
        part: Shape (b, m), which of its row's boxes each unknown belongs to; padding has the number after the last box.
        index: Shape (b, m), numbers in the level; padding has the number after the last unknown.
    """

    part: Tensor
    index: Tensor

    def followed_by(self, other: "Unknowns") -> "Unknowns":
        return Unknowns(torch.cat([self.part, other.part], 1), torch.cat([self.index, other.index], 1))


class LevelMatrix:
    """A symmetric or general matrix between unknowns of boxes, sparse by blocks.

    Attributes:
        points: Shape (unknowns + 1,), place of each unknown in tree order; padding has place `n_points`.
        start: Shape (boxes + 1,), first unknown of each box, on the host.
        size: Shape (boxes,), unknowns that are left, on the host.
        alive: Shape (unknowns + 1,); those left of box b are alive[start[b] : start[b] + size[b]].
        touched: Pairs whose block updates have changed, on the host.
    """

    def __init__(
        self,
        entries: TensorEntries,
        diagonal: Callable[[Tensor], Tensor],
        points: Tensor,
        start: Integers,
        stored: csr_array,
        *,
        symmetric: bool,
        dtype: torch.dtype,
    ) -> None:
        """Fill a matrix with a kernel's entries.

        Args:
            entries: The kernel.
            diagonal: Diagonal term at places of the tree order.
            points, start: See the attributes.
            stored: Pairs of boxes, shape (boxes, boxes), symmetric, which have a block.
            symmetric: Whether the matrix is symmetric.
            dtype: Type of the numbers.
        """
        self.entries, self.diagonal, self.points, self.start = entries, diagonal, points, start
        self.symmetric, self.dtype, self.device = symmetric, dtype, points.device
        self.size = np.diff(start)
        self.n_boxes, self.n_unknowns = len(self.size), int(start[-1])
        self.alive = torch.arange(self.n_unknowns + 1, device=self.device)
        first = np.append(np.repeat(start[:-1], self.size), self.n_unknowns)
        self._local = self.alive - to_device(first, self.device)

        coordinates = stored.tocoo().coords
        present = (self.size[coordinates[0]] > 0) & (self.size[coordinates[1]] > 0)
        self.first, self.second = (axis[present].astype(np.int64) for axis in coordinates)
        self._keys = np.unique(self.first * self.n_boxes + self.second)
        self.first, self.second = np.divmod(self._keys, max(self.n_boxes, 1))
        self.touched = np.zeros(len(self._keys) + 1, dtype=bool)
        n_values = self._number_places()
        self.values = torch.zeros(n_values + 2, dtype=dtype, device=self.device)
        self._fill()

    def _number_places(self) -> int:
        """Lay out the blocks, and return the number of their entries."""
        m, n = self.size[self.first], self.size[self.second]
        self._own = (self.first <= self.second) | (not self.symmetric)
        ends = np.cumsum(np.where(self._own, m * n, 0))
        base, one = ends - m * n, np.ones_like(m)
        total = int(ends[-1]) if len(ends) else 0
        own = np.stack([base, n, one])
        mirrored = np.stack([base[self.pairs(self.second, self.first)], one, m])
        zero, unwanted = (np.array([[total + i], [0], [0]]) for i in (0, 1))
        self._reading, self._writing = (
            to_device(np.append(np.where(self._own, own, others), padding, axis=1), self.device)
            for others, padding in ((mirrored, zero), (unwanted, unwanted))
        )
        return total

    def pairs(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Integers:
        """Return the numbers of pairs of boxes, in any shape; the last number for boxes without a block, or -1."""
        keys = np.where((first < 0) | (second < 0), -1, first * self.n_boxes + second)
        found = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        there = self._keys[found] == keys if len(self._keys) else np.zeros(keys.shape, dtype=bool)
        return np.where(there, found, len(self._keys))

    def table(self, rows: Integers, columns: Integers) -> Integers:
        """Return the pairs of all row and column parts (b, p), (b, q), and of padding: shape (b, p + 1, q + 1)."""
        pad = [(0, 0), (0, 1)]
        rows, columns = (np.pad(parts, pad, constant_values=-1) for parts in (rows, columns))
        return self.pairs(rows[:, :, None], columns[:, None, :])

    def partners(self, boxes: Integers, near: Integers) -> Integers:
        """Return the far boxes of each box whose common block updates have changed: shape (b, q), padded with -1."""
        wanted = self.touched.copy()
        wanted[self.pairs(boxes[:, None], near)] = False
        start, stop = (np.searchsorted(self._keys, (boxes + i) * self.n_boxes) for i in (0, 1))
        pairs = ranges(start, stop - start, len(self._keys))
        there = wanted[pairs]
        order = np.argsort(~there, axis=1, kind="stable")[:, : there.sum(axis=1).max(initial=0)]
        partner = np.append(self.second, -1)[np.take_along_axis(pairs, order, axis=1)]
        return np.where(np.take_along_axis(there, order, axis=1), partner, -1)

    def touch(self, pairs: Integers) -> None:
        """Note that updates have changed blocks."""
        self.touched[pairs] = True
        self.touched[-1] = False

    def unknowns(self, parts: Integers) -> Unknowns:
        """Return the unknowns that are left of the boxes in each row of `parts`, shape (b, p); -1 is no box."""
        counts = np.where(parts >= 0, self.size[parts], 0)
        part, place = chained(counts)
        boxes = np.take_along_axis(np.pad(parts, [(0, 0), (0, 1)], constant_values=-1), part, axis=1)
        slots = np.where(boxes >= 0, self.start[boxes] + place, self.n_unknowns)
        return Unknowns(to_device(part, self.device), self.alive[to_device(slots, self.device)])

    def _places(self, which: Tensor, pairs: Tensor, rows: Unknowns, columns: Unknowns) -> Tensor:
        # First the places of rows, which are few; then those of all entries.
        batch = torch.arange(len(pairs), device=self.device)[:, None]
        base, row, column = which[:, pairs[batch, rows.part]]
        base = base + row * self._local[rows.index][:, :, None]
        part = (columns.part % pairs.shape[2])[:, None, :].expand(-1, base.shape[1], -1)
        places: Tensor = column.gather(2, part).mul_(self._local[columns.index][:, None, :])
        return places.add_(base.gather(2, part))

    def read(self, pairs: Tensor, rows: Unknowns, columns: Unknowns) -> Tensor:
        """Return the blocks between unknowns of each row of a `table`, zero where padding is."""
        return self.values[self._places(self._reading, pairs, rows, columns)]

    def write(self, pairs: Tensor, rows: Unknowns, columns: Unknowns, blocks: Tensor) -> None:
        self.values[self._places(self._writing, pairs, rows, columns)] = blocks

    def subtract(self, pairs: Tensor, rows: Unknowns, columns: Unknowns, blocks: Tensor) -> None:
        """Subtract blocks, of which no two may share a pair."""
        places = self._places(self._writing, pairs, rows, columns)
        self.values[places] = self.values[places].sub_(blocks)

    def left(self) -> Tensor:
        """Return the places of all unknowns that are left, box by box, and of padding."""
        first = np.cumsum(self.size) - self.size
        slots = np.repeat(self.start[:-1] - first, self.size) + np.arange(int(self.size.sum()))
        return self.points[self.alive[to_device(np.append(slots, self.n_unknowns), self.device)]]

    def keep(self, boxes: Integers, counts: Integers, kept: Unknowns) -> None:
        """Leave boxes with counts[b] unknowns, the first of `kept`."""
        slots = ranges(self.start[boxes], counts, self.n_unknowns)
        self.alive[to_device(slots, self.device)] = kept.index[:, : slots.shape[1]]
        self.size[boxes] = counts

    def _fill(self) -> None:
        own = np.flatnonzero(self._own)
        for group in self._groups(own):
            pairs, rows, columns = self._blocks(group)
            self.write(
                pairs, rows, columns, self.entries(self.points[rows.index], self.points[columns.index])
            )
        boxes = np.flatnonzero(self.size > 0)
        base, row, column = self._writing[:, to_device(self.pairs(boxes, boxes), self.device)]
        counts = to_device(self.size[boxes], self.device)
        spread = [
            torch.repeat_interleave(of_box, counts, output_size=self.n_unknowns)
            for of_box in (base, row + column)
        ]
        self.values[spread[0] + spread[1] * self._local[:-1]] += self.diagonal(self.points[:-1])

    def add(self, rows: Integers, columns: Integers, values: NDArray[Any]) -> None:
        """Add numbers to entries, none of them twice, of pairs of boxes that have a block."""
        boxes = [np.searchsorted(self.start, index, side="right") - 1 for index in (rows, columns)]
        pairs = self.pairs(*boxes)
        assert (pairs < len(self._keys)).all()
        base, row, column = self._writing[:, to_device(pairs, self.device)]
        i, j = (self._local[to_device(index, self.device)] for index in (rows, columns))
        self.values[base + row * i + column * j] += to_device(values, self.device).to(self.values.dtype)
        self.touch(pairs)

    def put(self, first: int, second: int, row: int, column: int, block: NDArray[Any]) -> None:
        """Write a piece of the block of two boxes, whose first entry is that of the unknowns `row` and `column`."""
        pair, mirrored = self.pairs(np.array([[first], [second]]), np.array([[second], [first]]))
        if pair[0] == len(self._keys):
            return
        base, down, across = (int(x) for x in self._writing[:, int(pair[0])])
        i = row - int(self.start[first]) + torch.arange(block.shape[0], device=self.device)
        j = column - int(self.start[second]) + torch.arange(block.shape[1], device=self.device)
        places = base + down * i[:, None] + across * j
        self.values[places] = to_device(block, self.device).to(self.values.dtype)
        self.touch(pair)
        self.touch(mirrored)

    def take_over(self, below: "LevelMatrix", parent: Integers, offset: Integers | None = None) -> None:
        """Copy the blocks that updates have changed between the unknowns left of the boxes below.

        Args:
            below: The matrix of the boxes below; box b's parent is parent[b].
            parent: Shape (boxes below,).
            offset: Shape (boxes below,), number of each box's first unknown here; box by box if left out.
        """
        if offset is None:
            offset = np.cumsum(below.size) - below.size
        changed = np.flatnonzero(below.touched[:-1])
        changed = changed[
            self.pairs(parent[below.first[changed]], parent[below.second[changed]]) < len(self._keys)
        ]
        for group in below._groups(changed):
            pairs, rows, columns = below._blocks(group)
            blocks = below.read(pairs, rows, columns)
            our_rows, our_columns = (
                Unknowns(
                    theirs.part,
                    to_device(ranges(offset[boxes], below.size[boxes], self.n_unknowns), self.device),
                )
                for boxes, theirs in ((below.first[group], rows), (below.second[group], columns))
            )
            found = self.pairs(parent[below.first[group]], parent[below.second[group]])
            self.touch(found)
            table = np.pad(found[:, None, None], [(0, 0), (0, 1), (0, 1)], constant_values=len(self._keys))
            self.write(to_device(table, self.device), our_rows, our_columns, blocks)

    def _groups(self, pairs: Integers) -> "list[Integers]":
        m, n = self.size[self.first[pairs]], self.size[self.second[pairs]]
        return [pairs[group] for group in buckets(m, n)]

    def _blocks(self, pairs: Integers) -> tuple[Tensor, Unknowns, Unknowns]:
        """Return a table of one pair in each row, with the unknowns left of its boxes."""
        first, second = self.first[pairs][:, None], self.second[pairs][:, None]
        table = to_device(self.table(first, second), self.device)
        return table, self.unknowns(first), self.unknowns(second)

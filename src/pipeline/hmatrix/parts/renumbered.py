"""A part that knows some of a tree's boxes, addressed by the boxes' numbers in the whole tree."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.parts.stages import Ids, PartsPlan

_HEAD = 5  # length of a record's head; its third number is that of the skeletons, whose places follow


class RenumberedPart:
    """A part, native/eliminate.hpp's or one that works in batches, behind a translation of box numbers."""

    def __init__(self, part: Any, plan: PartsPlan) -> None:
        self._part, self._plan = part, plan

    @property
    def flops(self) -> float:
        """Operations so far."""
        return float(self._part.flops)

    @property
    def peak_bytes(self) -> int:
        """Largest number of bytes of blocks and steps held at a time."""
        return int(self._part.peak_bytes)

    def set_entries(self, matrix: Any, diagonal: NDArray[Any]) -> None:
        """Set the entries of a native part."""
        self._part.set_entries(matrix, diagonal)

    def keep(self, kept: Any, diagonal: NDArray[Any]) -> None:
        """Set the entries of a part that works in batches."""
        self._part.keep(kept, diagonal)

    def own(self, first: int, last: int) -> None:
        """Own the boxes first to last - 1."""
        self._part.own(*self._range(first, last))

    def set_points(self, boxes: Ids, start: NDArray[np.int64], points: Ids) -> None:
        """Learn the unknowns of boxes."""
        self._part.set_points(self._plan.here(boxes), start, points)

    def points(self, boxes: Ids) -> tuple[NDArray[np.int64], Ids]:
        """Return the unknowns of boxes."""
        found: tuple[NDArray[np.int64], Ids] = self._part.points(self._plan.here(boxes))
        return found

    def unknowns(self, first: int, last: int) -> int:
        """Return the number of unknowns of boxes first to last - 1."""
        return int(self._part.unknowns(*self._range(first, last)))

    def arranged(self, boxes: Ids) -> Ids:
        """Return boxes in the order in which a part that works in batches eliminates them."""
        return self._plan.numbers_of(self._part.arranged(self._plan.here(boxes)))

    def eliminate(self, boxes: Ids, told: Ids, watch: Any, watching: bool) -> Any:
        """Eliminate own boxes."""
        return self._part.eliminate(self._plan.here(boxes), told, watch, watching)

    def take(self) -> tuple[Any, Any]:
        """Return steps and records since the last call."""
        steps, (int_start, ints, value_start, values) = self._part.take()
        heads = int_start[:-1][np.diff(int_start) > 0]
        ints = ints.copy()
        ints[heads] = self._plan.numbers_of(ints[heads])
        return steps, (int_start, ints, value_start, values)

    def apply(self, ints: Ids, values: NDArray[Any]) -> None:
        """Apply other parts' records."""
        heads, at = [], 0
        while at < len(ints):
            heads.append(at)
            at += _HEAD + int(ints[at + 2])
        ints = ints.copy()
        ints[heads] = self._plan.here(ints[heads])
        self._part.apply(ints, values)

    def blocks(self, first: int, last: int, not_first: int, not_last: int) -> tuple[Ids, NDArray[Any]]:
        """Return blocks of boxes first to last - 1."""
        ints, values = self._part.blocks(*self._range(first, last), *self._range(not_first, not_last))
        table = ints.reshape(-1, 4).copy()
        table[:, :2] = self._plan.numbers_of(table[:, :2])
        return table.reshape(-1), values

    def add_blocks(self, ints: Ids, values: NDArray[Any]) -> None:
        """Take over blocks."""
        table = ints.reshape(-1, 4).copy()
        table[:, :2] = self._plan.here(table[:, :2])
        self._part.add_blocks(table.reshape(-1), values)

    def merge(self, level: int, parents: Ids, first: int, last: int) -> None:
        """Join the boxes of a level into `parents`, of which the part owns first to last - 1."""
        self._part.merge(level, self._plan.here(parents), *self._range(first, last))

    def finish(self, first: int, last: int) -> Any:
        """Factorize the unknowns left in boxes first to last - 1 densely."""
        return self._part.finish(*self._range(first, last))

    def _range(self, first: int, last: int) -> tuple[int, int]:
        """Return the known boxes of a range, which are neighbors here too."""
        low, high = self._plan.here(np.array([first, last])).tolist()
        return low, high

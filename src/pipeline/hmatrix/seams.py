"""The turns of boxes on seams: near boxes of different parts are eliminated one after the other.

Along the tree's order, a box takes the turn of its part's previous box unless an earlier near box of another part has
that turn, so runs of one turn are long. Each process walks along its own boxes. The walk depends on the turns of
earlier near boxes and on where the previous process ended; a process begins without them, and walks again when what
other processes tell changes. After at most as many rounds as there are processes, and usually after few, nothing
changes any more, and the turns are those that a single process would find.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.ranges import Boxes
from pipeline.hmatrix.swap import Ids


@dataclass(frozen=True)
class _Reached:
    """The state of a walk along the boxes.

    Attributes:
        n_turns: Number of turns.
        part: The part of the last box; -1 if there was none.
        last: The turn of the last box.
        load: Number of the part's boxes that have each turn, from 0 on.
        largest: The largest turn of a box.
    """

    n_turns: int
    part: int = -1
    last: int = 0
    load: tuple[int, ...] = ()
    largest: int = 0

    @property
    def packed(self) -> list[int]:
        """The state as numbers, after their count."""
        return [4 + len(self.load), self.n_turns, self.part, self.last, self.largest, *self.load]


@dataclass(frozen=True, eq=False)
class Seams:
    """The boxes on seams that a process plans for.

    Attributes:
        level: The boxes of the level.
        boxes: Places of the boxes on seams among the known boxes, sorted.
        parts: Part of each.
        start, earlier: earlier[start[i]:start[i + 1]] are the near boxes of other parts that come before box i.
        counts: Shape (parts,), number of boxes on seams of each part, on all processes.
    """

    level: Boxes
    boxes: Ids
    parts: Ints
    start: Ids
    earlier: Ints
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, level: Boxes, owner: Ints, n_parts: int) -> "Seams":
        """Find the boxes on seams, given the part of each known box; collective."""
        columns, rows = level.near.indices[level.entries], level.rows[level.entries]
        crossing = owner[rows] != owner[columns]
        columns, rows = columns[crossing], rows[crossing]
        boxes = rows[np.concatenate([[True], rows[1:] != rows[:-1]])] if len(rows) else rows
        before = columns < rows
        counts = np.bincount(np.searchsorted(boxes, rows[before]), minlength=len(boxes))
        parts = owner[boxes]
        return cls(
            level, boxes, parts, np.concatenate([[0], np.cumsum(counts)]), columns[before].astype(np.int32),
            level.total(np.bincount(parts, minlength=n_parts)),
        )  # fmt: skip

    def turns(self, palettes: tuple[int, ...]) -> list[tuple[Ints, int]]:
        """Return the turn of each known box and the last turn, for each of some numbers of turns; collective.

        Turns count from 1; interior boxes, and boxes two near-steps away, have turn 0. There are more turns than given
        if they are needed.
        """
        level = self.level
        found = np.zeros((len(level.numbers_on_level), len(palettes)), np.int32)
        given = [_Reached(palette) for palette in palettes]
        ends = [self._walk(found[:, i], *pair) for i, pair in enumerate(zip(palettes, given, strict=True))]
        changed = True
        while True:
            told = level.everybodys(np.array([changed, *(n for end in ends for n in end.packed)], np.int64))
            everybodys = [_unpacked(row[1:].tolist()) for row in told]
            if level.communicator.size == 1 or not any(row[0] for row in told):
                largest = [
                    max(end.largest for end in of_palette) for of_palette in zip(*everybodys, strict=True)
                ]
                return [(found[:, i].copy(), last) for i, last in enumerate(largest)]
            following = level.spread(found[level.planned])
            before = [
                self._before([ends[i] for ends in everybodys[: level.communicator.rank]], palette)
                for i, palette in enumerate(palettes)
            ]
            stale = (following != found)[: level.planned.start].any(axis=0)
            found, changed = following, False
            for i, palette in enumerate(palettes):
                if stale[i] or before[i] != given[i]:
                    ends[i] = self._walk(found[:, i], palette, before[i])
                    changed = True
            given = before

    def _before(self, ends: list[_Reached], palette: int) -> _Reached:
        """Return the state at the end of the earlier processes, as far as this process's first box depends on it."""
        n_turns = max((end.n_turns for end in ends), default=palette)
        last = next((end for end in reversed(ends) if end.part >= 0), None)
        if last is None or not len(self.parts) or last.part != self.parts[0]:
            return _Reached(n_turns)
        return replace(last, n_turns=n_turns, largest=0)

    def _walk(self, turn: NDArray[Any], palette: int, reached: _Reached) -> _Reached:
        """Assign turns to the boxes, given those of earlier boxes of other parts, and return the state at the end."""
        found = turn.tolist()
        n_turns, at, last, load = (
            reached.n_turns,
            reached.part,
            reached.last,
            Counter(dict(enumerate(reached.load))),
        )
        largest = 0
        for i, (box, part) in enumerate(zip(self.boxes.tolist(), self.parts.tolist(), strict=True)):
            if part != at:
                at, last, load = part, 0, Counter()
            taken = {found[other] for other in self.earlier[self.start[i] : self.start[i + 1]].tolist()}
            if last == 0 or last in taken or load[last] >= -(-int(self.counts[part]) // palette):
                free = [turn for turn in range(1, n_turns + 1) if turn not in taken]
                if not free:
                    n_turns += 1
                    free = [n_turns]
                last = min(free, key=lambda turn: (load[turn], turn))
            found[box] = last
            load[last] += 1
            largest = max(largest, last)
        turn[:] = found
        return _Reached(n_turns, at, last, tuple(load[turn] for turn in range(n_turns + 1)), largest)


def _unpacked(numbers: list[int]) -> list[_Reached]:
    """Return the states whose `packed` numbers are joined in a list."""
    found = []
    while numbers:
        size, n_turns, part, last, largest = numbers[:5]
        found.append(_Reached(n_turns, part, last, tuple(numbers[5 : 1 + size]), largest))
        numbers = numbers[1 + size :]
    return found

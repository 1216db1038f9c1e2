"""Boxes that a process knows: its own, those near to them or far from them, and those that far-field samples enter.

Bounds of others' boxes come from their owners, level by level from the top. Down to the cut, every process knows all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.hmatrix.admissibility import Admissibility, Interactions, lists_of
from pipeline.hmatrix.cluster import Bounds, ClusterTree, Floats
from pipeline.hmatrix.distributed.whole import Ownership
from pipeline.hmatrix.places import distinct, is_in
from pipeline.hmatrix.swap import Halo, Ids, gather
from pipeline.runtime.communicator import Communicator, on_level

_NOBODY = np.zeros(0, np.int64)
_ROUNDING = 1 + 1e-9  # native/sample.cpp may round the same numbers in another way


@dataclass(frozen=True, eq=False)
class OwnBounds:
    """Bounds of the boxes that a process owns, and of all down to the cut.

    Attributes:
        ownership: Owner of each box.
        levels: Bounds level by level: those of all boxes down to the cut, and of own boxes below it.
    """

    ownership: Ownership
    levels: tuple[Bounds, ...]

    @classmethod
    def of_leaves(cls, ownership: Ownership, leaves: Bounds, communicator: Communicator) -> "OwnBounds":
        """Find the bounds of all levels, given those of own leaves; collective."""
        levels = [leaves]
        for level in range(ownership.whole.n_levels - 1, 0, -1):
            if level == ownership.cut:
                with on_level(communicator, level):
                    levels[-1] = _everybodys(levels[-1], communicator)
            levels.append(levels[-1].parents(ownership.whole.arity))
        if ownership.cut == 0:
            with on_level(communicator, 0):
                levels[-1] = _everybodys(levels[-1], communicator)
        return cls(ownership, tuple(levels[::-1]))

    def of(self, level: int, boxes: Ids, communicator: Communicator) -> Bounds:
        """Return the bounds of some boxes of a level, sorted, from their owners; collective."""
        known = self.levels[level]
        if level <= self.ownership.cut:
            return Bounds(known.lower[boxes], known.upper[boxes])
        with on_level(communicator, level):
            halo = Halo.of(communicator, boxes, self.ownership.edges_on(level))
            return Bounds(*(halo.fetch(communicator, side) for side in (known.lower, known.upper)))


def _everybodys(own: Bounds, communicator: Communicator) -> Bounds:
    return Bounds(*(np.concatenate(gather(communicator, side)) for side in (own.lower, own.upper)))


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Boxes that are known, and lists of some of them.

    Attributes:
        tree: The boxes, without points. Where children are not known, the first boxes of the tree stand for them:
            samples do not enter such boxes.
        numbers: Number in the whole tree of each box.
        interactions: Near and far boxes of the boxes whose lists were wanted.
    """

    tree: ClusterTree
    numbers: Ids
    interactions: Interactions

    @classmethod
    def of(
        cls,
        bounds: OwnBounds,
        rule: Admissibility,
        wanted: Sequence[Ids],
        communicator: Communicator,
        *,
        sampled: Sequence[Ids] | None = None,
        others: Sequence[Ids] | None = None,
    ) -> "Surroundings":
        """Find the boxes from the top down; collective. Costs O(pairs).

        Args:
            bounds: The bounds of the boxes that this process owns.
            rule: Admissibility criterion: it decides which boxes are far.
            wanted: The boxes of each level whose lists are wanted, sorted, their parents among them.
            communicator: The processes.
            sampled: Boxes whose far fields are sampled, for themselves or boxes below; all if left out.
            others: Further boxes of each level to know; their parents are among them.
        """
        whole, cut = bounds.ownership.whole, bounds.ownership.cut
        arity, children = whole.arity, np.arange(whole.arity)
        sampled = wanted if sampled is None else sampled
        others = [_NOBODY] * whole.n_levels if others is None else others
        on_level: list[Ids] = []
        found: list[Bounds] = []
        near, far = (np.zeros((2, 0), np.int64) for _ in range(2))
        near_pairs, far_pairs = [], []
        entered = _Entered.none(bounds.levels[0].lower.shape[1])
        for level in range(whole.n_levels):
            if level <= cut:
                known = np.arange(whole.sizes[level])
            else:
                parents = [wanted[level - 1], near[1], entered.boxes, others[level] // arity]
                known = (distinct(np.concatenate(parents))[:, None] * arity + children).reshape(-1)
            box = bounds.of(level, known, communicator)
            start, stop = whole.places(level, known)
            filled = stop > start
            if level == 0:
                pairs = np.stack(np.meshgrid(known, known, indexing="ij")).reshape(2, -1)
            else:
                first, second = (axis.ravel() for axis in np.meshgrid(children, children, indexing="ij"))
                pairs = (near[:, :, None] * arity + np.stack([first, second])[:, None]).reshape(2, -1)
            pairs = pairs[:, is_in(pairs[0], wanted[level])]
            at = np.searchsorted(known, pairs)
            kept = filled[at].all(axis=0)
            pairs, at = pairs[:, kept], at[:, kept]
            is_far = rule.far(box, box, at[0], at[1])
            near, far = pairs[:, ~is_far], pairs[:, is_far]
            offset = sum(map(len, on_level))
            near_pairs.append(offset + at[:, ~is_far])
            far_pairs.append(offset + at[:, is_far])
            if level < whole.n_levels - 1:
                drawn = is_in(far[0], sampled[level])
                rows = at[0, is_far][drawn]
                entered = entered.below(arity).joined(
                    _Entered(box.lower[rows], box.upper[rows], far[1, drawn])
                )
                entered = entered.opened(known[filled], Bounds(box.lower[filled], box.upper[filled]))
            on_level.append(known)
            found.append(box)
        near, far = (np.concatenate(table, axis=1) for table in (near_pairs, far_pairs))
        n_boxes = sum(map(len, on_level))
        lists = [lists_of(b.astype(np.int32), c.astype(np.int32), n_boxes) for b, c in (near, far)]
        numbers = np.concatenate(
            [first + part for first, part in zip(whole.level_start, on_level, strict=False)]
        )
        return cls(_tree(bounds.ownership, on_level, found), numbers, Interactions(*lists, *lists))


@dataclass(frozen=True, eq=False)
class _Entered:
    """Boxes that samples of the far field may enter, each with bounds of a box whose far field it belongs to.

    native/sample.cpp takes a far box's children in its place if the box is large beside its distance. Boxes below the
    sampled one are smaller and no nearer to the far box: their samples enter no further boxes.
    """

    lower: Floats
    upper: Floats
    boxes: Ids

    @classmethod
    def none(cls, dimension: int) -> "_Entered":
        return cls(np.zeros((0, dimension)), np.zeros((0, dimension)), _NOBODY)

    def below(self, arity: int) -> "_Entered":
        """Return the children of the boxes."""
        boxes = (self.boxes[:, None] * arity + np.arange(arity)).reshape(-1)
        return _Entered(np.repeat(self.lower, arity, axis=0), np.repeat(self.upper, arity, axis=0), boxes)

    def joined(self, more: "_Entered") -> "_Entered":
        """Return these and others."""
        return _Entered(
            np.concatenate([self.lower, more.lower]),
            np.concatenate([self.upper, more.upper]),
            np.concatenate([self.boxes, more.boxes]),
        )

    def opened(self, on_level: Ids, bounds: Bounds) -> "_Entered":
        """Return the boxes whose children may be entered, given the bounds of known boxes, without empty ones."""
        at = np.searchsorted(on_level, self.boxes)
        at[~is_in(self.boxes, on_level)] = -1
        kept = np.flatnonzero(at >= 0)
        at, lower, upper = at[kept], self.lower[kept], self.upper[kept]
        gaps = np.maximum(lower - bounds.upper[at], bounds.lower[at] - upper)
        apart = np.sqrt((np.maximum(gaps, 0.0) ** 2).sum(axis=1))
        large = bounds.diameters[at] * _ROUNDING > apart
        return _Entered(lower[large], upper[large], self.boxes[kept[large]])


def _tree(ownership: Ownership, on_level: list[Ids], bounds: list[Bounds]) -> ClusterTree:
    """Return the tree of known boxes, given their numbers and bounds on each level."""
    whole = ownership.whole
    level_start = np.concatenate([[0], np.cumsum([len(known) for known in on_level])])
    parent, first_child, ends = [], [], []
    for level, known in enumerate(on_level):
        ends.append(whole.places(level, known))
        parent.append(
            np.full(len(known), -1)
            if level == 0
            else level_start[level - 1] + np.searchsorted(on_level[level - 1], known // whole.arity)
        )
        if level == whole.n_levels - 1:
            first_child.append(np.full(len(known), -1))
        else:
            first = known * whole.arity
            at = level_start[level + 1] + np.searchsorted(on_level[level + 1], first)
            first_child.append(np.where(is_in(first, on_level[level + 1]), at, 0))
    start, stop = (np.concatenate(side).astype(np.int32) for side in zip(*ends, strict=True))
    lower = np.concatenate([box.lower for box in bounds])
    return ClusterTree(
        points=np.zeros((0, lower.shape[1])),
        permutation=_NOBODY,
        level_start=level_start.astype(np.int32),
        start=start,
        stop=stop,
        parent=np.concatenate(parent).astype(np.int32),
        first_child=np.concatenate(first_child).astype(np.int32),
        lower=lower,
        upper=np.concatenate([box.upper for box in bounds]),
        arity=whole.arity,
    )

"""Admissibility: far pairs of boxes are compressed; near pairs are divided further or stay dense."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.cluster import Bounds, ClusterTree, Ints
from pipeline.runtime.words import shown

AnyBoxes = ClusterTree | Bounds


@dataclass(frozen=True)
class Strong:
    """Boxes are far if their distance exceeds `separation` times the smaller diameter; ranks then stay bounded.

    A box whose points all coincide is far from every other box: its blocks have rank 1.
    """

    name: ClassVar[str] = "strong"
    separation: float = 0.5

    def far(
        self, rows: AnyBoxes, columns: AnyBoxes, first: NDArray[Any], second: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Return which of the pairs (first[i], second[i]) of boxes are far."""
        gaps = np.maximum(
            rows.lower[first] - columns.upper[second], columns.lower[second] - rows.upper[first]
        )
        distances = np.sqrt((np.maximum(gaps, 0.0) ** 2).sum(axis=1))
        sizes = np.minimum(rows.diameters[first], columns.diameters[second])
        other = (first != second) if rows is columns else np.ones(len(first), dtype=bool)
        return np.asarray((distances > self.separation * sizes) | ((sizes == 0) & other))


@dataclass(frozen=True)
class Weak:
    """Every box is far from every other (HSS): for one dimension, curves, and matrices without a near field."""

    name: ClassVar[str] = "weak"

    def far(
        self, rows: AnyBoxes, columns: AnyBoxes, first: NDArray[Any], second: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Return which of the pairs of boxes are far; two trees are divided as if they were one."""
        return np.asarray(first != second)


Admissibility = Strong | Weak

ADMISSIBILITIES: dict[str, type[Strong] | type[Weak]] = {rule.name: rule for rule in (Strong, Weak)}


def as_admissibility(rule: Admissibility | str | None) -> Admissibility | None:
    """Return the rule, or the rule of this name with its defaults, or None if the points are to decide."""
    if rule is None or isinstance(rule, Strong | Weak):
        return rule
    if not isinstance(rule, str) or rule not in ADMISSIBILITIES:
        raise ConfigError(
            f'admissibility must be Strong(), Weak(), "strong", "weak" or None, not {shown(rule)}'
        )
    return ADMISSIBILITIES[rule]()


@dataclass(frozen=True, eq=False)
class Lists:
    """A list of boxes for every box, in one flat array: box b's is boxes[start[b]:start[b + 1]], sorted."""

    start: NDArray[np.int64]
    boxes: Ints

    def __repr__(self) -> str:
        return f"Lists({len(self.start) - 1} boxes, {len(self.boxes)} members)"

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.start)


@dataclass(frozen=True, eq=False)
class Interactions:
    """Near and far pairs of boxes of two trees with equally many levels.

    Attributes:
        near, far: For every row box, the near or far column boxes of its level. The parents of a far pair are near;
            the near pairs of the leaves and all far pairs tile the matrix.
        near_columns, far_columns: The same for every column box; the same objects where both trees are one.
    """

    near: Lists
    far: Lists
    near_columns: Lists
    far_columns: Lists

    def __repr__(self) -> str:
        return f"Interactions({len(self.near.boxes)} near pairs, {len(self.far.boxes)} far pairs)"

    def first_far_level(self, rows: ClusterTree) -> int:
        """Return the uppermost level that has far pairs, or the number of levels if none has."""
        boxes = np.flatnonzero(self.far.counts)
        if len(boxes) == 0:
            return rows.n_levels
        return int(np.searchsorted(rows.level_start, boxes[0], side="right") - 1)


def interactions(rows: ClusterTree, columns: ClusterTree, admissibility: Admissibility) -> Interactions:
    """Divide near pairs from the top down, and collect the far ones on the way. Costs O(number of pairs).

    Args:
        rows, columns: Trees of equal depth.
        admissibility: Admissibility criterion: it decides which boxes are far.
    """
    if rows.n_levels != columns.n_levels or rows.arity != columns.arity:
        raise ValueError("the two trees differ in depth: build them with the same halvings")
    near: list[NDArray[np.int32]] = []
    far: list[NDArray[np.int32]] = []
    top = np.meshgrid(np.arange(rows.level_start[1]), np.arange(columns.level_start[1]), indexing="ij")
    pairs = np.stack([axis.ravel() for axis in top]).astype(np.int32)
    children = np.stack(np.meshgrid(np.arange(rows.arity), np.arange(rows.arity), indexing="ij"))
    for level in range(rows.n_levels):
        if level > 0:
            parents = np.stack([rows.first_child[near[-1][0]], columns.first_child[near[-1][1]]])
            pairs = (parents[:, :, None] + children.reshape(2, 1, -1)).reshape(2, -1).astype(np.int32)
        filled = (rows.stop > rows.start)[pairs[0]] & (columns.stop > columns.start)[pairs[1]]
        pairs = pairs[:, filled]
        is_far = admissibility.far(rows, columns, pairs[0], pairs[1])
        near.append(pairs[:, ~is_far])
        far.append(pairs[:, is_far])
    near_pairs, far_pairs = np.concatenate(near, axis=1), np.concatenate(far, axis=1)
    by_rows = [lists_of(first, second, rows.n_boxes) for first, second in (near_pairs, far_pairs)]
    if rows is columns:  # near and far are mutual
        return Interactions(*by_rows, *by_rows)
    return Interactions(
        *by_rows, *(lists_of(second, first, columns.n_boxes) for first, second in (near_pairs, far_pairs))
    )


def pairs_of(lists: Lists, *, mirrored: bool) -> tuple[Ints, Ints]:
    """Return a box and a member of its list for all pairs; `mirrored` keeps those with box <= member."""
    first = np.repeat(np.arange(len(lists.counts), dtype=np.int32), lists.counts)
    if not mirrored:
        return first, lists.boxes
    kept = first <= lists.boxes
    return first[kept], lists.boxes[kept]


def lists_of(owners: Ints, members: Ints, n_boxes: int) -> Lists:
    """Collect pairs (owner, member) into one list of members per box."""
    order = np.lexsort((members, owners))
    start = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=n_boxes))]).astype(np.int64)
    return Lists(start=start, boxes=np.ascontiguousarray(members[order], dtype=np.int32))

"""Records of a bucket's eliminations for other parts, and steps in the layout of native/eliminate.hpp."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.padding import Integers, to_host
from pipeline.hmatrix.batched.steps import Elimination
from pipeline.hmatrix.cluster import Ints

StepArrays = tuple[Ints, Ints, NDArray[Any], Ints, NDArray[np.float64], Ints]
RecordArrays = tuple[NDArray[np.int64], Ints, NDArray[np.int64], NDArray[Any]]


def rows_of(rank: int, width: int, padded_rank: int) -> NDArray[np.int64]:
    """Return the rows of a bucket's W that belong to a box: its skeletons and, after padding, its near unknowns."""
    return np.concatenate([np.arange(rank), padded_rank + np.arange(width)])


class Shapes:
    """True sizes of a bucket's boxes: redundant unknowns, skeletons and near unknowns, each of shape (b,)."""

    def __init__(self, d: Integers, k: Integers, width: Integers) -> None:
        self.d, self.k, self.width = d, k, width

    def __iter__(self) -> Any:
        return zip(self.d.tolist(), self.k.tolist(), self.width.tolist(), strict=True)


def native_steps(
    found: list[tuple[Elimination, Shapes]],
    determinant: NDArray[np.float64],
    table: Ints,
    stored: np.dtype[Any],
) -> StepArrays:
    """Return the steps of buckets, one box after the other, without padding."""
    counts: list[int] = []
    index, values, pivots = [np.zeros(0, np.int32)], [np.zeros(0, stored)], [np.zeros(0, np.int32)]
    for step, shapes in found:
        redundant, outer, T, factor, left = (
            to_host(part) for part in (step.redundant, step.outer, step.T, step.factor, step.left)
        )
        right = None if step.right is None else to_host(step.right)
        swaps = None if step.pivots is None else to_host(step.pivots)
        for i, (d, k, width) in enumerate(shapes):
            if d == 0:
                continue
            rows = rows_of(k, width, T.shape[1])
            counts += [d, k, len(rows)]
            index += [redundant[i, :d], outer[i, rows]]
            values.append(T[i, :k, :d].ravel())
            if swaps is None:
                values.append(factor[i, :d, :d].T[np.triu_indices(d)])
            else:
                values.append(factor[i, :d, :d].T.ravel())
                pivots.append(swaps[i, :d])
            values.append(left[i, rows, :d].T.ravel())
            if right is not None:
                values.append(right[i, :d][:, rows].ravel())
    return (
        np.array(counts, np.int32), np.concatenate(index).astype(np.int32), np.concatenate(values).astype(stored),
        np.concatenate(pivots).astype(np.int32), determinant, table.astype(np.int32),
    )  # fmt: skip


class Records:
    """Records of a phase's boxes, as they come; see native/eliminate.hpp."""

    def __init__(self, stored: np.dtype[Any]) -> None:
        self._stored = stored
        self._found: dict[int, tuple[Ints, NDArray[Any]]] = {}
        self._boxes: list[int] = []

    def list(self, boxes: NDArray[Any]) -> None:
        """Expect records of these boxes next, in this order; a box without a record has eliminated nothing."""
        self._boxes += boxes.tolist()

    def add(
        self, boxes: Integers, shapes: Shapes, places: Tensor, update: tuple[Tensor, Tensor | None],
        with_update: NDArray[np.bool_], padded_rank: int,
    ) -> None:  # fmt: skip
        """Write the records of boxes of a bucket.

        Args:
            boxes: Numbers of the boxes in the tree.
            shapes: Sizes of the boxes.
            places: Shape (b, k), places of the skeletons among the unknowns before.
            update: Shapes (b, k + r, d) and (b, d, k + r); for a Cholesky factorization, only the first.
            with_update: Shape (b,), whether a box's update is written too.
            padded_rank: Largest number of skeletons of a box.
        """
        order = to_host(places)
        left, right = (None if side is None else to_host(side) for side in update)
        assert left is not None
        for i, (d, k, width) in enumerate(shapes):
            if d == 0:
                continue
            rows = rows_of(k, width, padded_rank)
            head = [int(boxes[i]), d + k, k, len(rows), int(with_update[i])]
            values = [np.zeros(0, self._stored)]
            if with_update[i]:
                values.append(left[i, rows, :d].T.ravel().astype(self._stored))
                if right is not None:
                    values.append(right[i, :d][:, rows].ravel().astype(self._stored))
            self._found[int(boxes[i])] = (
                np.concatenate([np.array(head, np.int32), order[i, :k].astype(np.int32)]),
                np.concatenate(values),
            )

    def take(self) -> RecordArrays:
        """Return all records as `Part::take` does, and begin anew."""
        nothing = np.zeros(0, np.int32), np.zeros(0, self._stored)
        parts = [self._found.get(box, nothing) for box in self._boxes]
        self._found, self._boxes = {}, []
        int_start, value_start = (
            np.concatenate([[0], np.cumsum([len(part[side]) for part in parts], dtype=np.int64)]).astype(
                np.int64
            )
            for side in (0, 1)
        )
        ints = np.concatenate([nothing[0], *(part[0] for part in parts)])
        return int_start, ints, value_start, np.concatenate([nothing[1], *(part[1] for part in parts)])

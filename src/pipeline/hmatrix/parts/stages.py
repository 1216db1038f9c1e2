"""The problem that parts factorize, and its result: steps by stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.batched.kernel import Kept
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.partition import LevelPartition
from pipeline.hmatrix.skeleton import FarSampling

Ids = NDArray[np.int32]
Moved = dict[tuple[int, int], Ids]
NO_PHASE = -1


def last_dense_level(sizes: NDArray[Any], first_far_level: int, dense_end: int) -> int:
    """Return the last level whose boxes may be left to one dense factorization; `sizes` count the boxes by level."""
    few = int(np.flatnonzero(np.asarray(sizes) <= dense_end).max(initial=-1))
    return max(few, first_far_level - 1)


@dataclass(frozen=True, eq=False)
class PartsPlan:
    """Which part owns which boxes of a tree that this process knows in part.

    Attributes:
        levels: The partition of each level, from the top. Boxes are numbered as in the whole tree.
        numbers: The number of each known box in the whole tree, sorted.
    """

    levels: Sequence[LevelPartition]
    numbers: NDArray[np.int64]

    def here(self, boxes: NDArray[Any]) -> Ids:
        """Return the place of each box among the known ones, or of the next known box if it is unknown."""
        return np.searchsorted(self.numbers, boxes).astype(np.int32)

    def numbers_of(self, boxes: NDArray[Any]) -> Ids:
        """Return the numbers of known boxes."""
        return np.asarray(self.numbers[boxes], np.int32)


@dataclass(frozen=True, eq=False)
class Problem:
    """A matrix to factorize, and how.

    Attributes:
        matrix: Entries, without the diagonal.
        tree: The boxes that this process's parts need to know. Its points are not used.
        near: Boxes near to each box that this process's parts own on any level, and to each of these near boxes.
        far: Boxes far from each box that these parts own, and from the boxes above it.
        diagonal: Diagonal term, in the order in which `matrix` keeps its points, float64 or complex128.
        kind: Number of the kind in native/eliminate.hpp.
        working, stored: Types of arithmetic and of steps.
        sampling: Settings by which far fields are compressed.
        first_far_level: The uppermost level with far pairs; above it everything is dense.
        dense_end: Unknowns that are left to one dense factorization.
        fetch: Function of places, collective, if other processes keep points that this one's `matrix` lacks. Returns
            entries and diagonal for the kept points and those at the places, valid until the next call, and the points
            themselves.
        kept: First and last + 1 of the places that `matrix` always keeps.
        kernel: The kernel of the entries; needed if parts work in batches.
        plan: Which part owns which boxes; None if `tree` and `near` have all boxes.
    """

    matrix: "_native.KernelMatrix"
    tree: ClusterTree
    near: Lists
    far: Lists
    diagonal: NDArray[Any]
    kind: int
    working: np.dtype[Any]
    stored: np.dtype[Any]
    sampling: FarSampling
    first_far_level: int
    dense_end: int
    fetch: Callable[[NDArray[np.int64]], tuple["_native.KernelMatrix", NDArray[Any], Kept]] | None = None
    kept: tuple[int, int] = (0, 0)
    kernel: Kernel | None = None
    plan: PartsPlan | None = None


@dataclass(frozen=True, eq=False)
class Steps:
    """Eliminations of one part in one phase, or a piece of these, in the layout of native/eliminate.hpp."""

    counts: NDArray[np.int32]
    index: NDArray[np.int32]
    values: NDArray[Any]
    pivots: NDArray[np.int32]
    determinant: NDArray[np.float64]  # real and imaginary part of its phase, logarithm of its size
    table: NDArray[np.int32]  # boxes, unknowns, skeletons

    @property
    def n_bytes(self) -> int:
        return self.counts.nbytes + self.index.nbytes + self.values.nbytes + self.pivots.nbytes


@dataclass(frozen=True, eq=False)
class Stage:
    """One phase of a level.

    Attributes:
        plan: The level.
        phase: Number of the phase; `NO_PHASE` if unknowns are only moved.
        steps: Steps of the parts of this process.
        moved: Unknowns, in tree order, that go from one part to another before this phase: at the first of a level.
        dense: Whether the stage is the dense end.
    """

    plan: LevelPartition
    phase: int
    steps: dict[int, list[Steps]]
    moved: Moved
    dense: bool = False


@dataclass(frozen=True, eq=False)
class Eliminated:
    """A factorization by parts, as this process holds it.

    Attributes:
        stages: The stages in order.
        determinant: Phase and logarithm of the absolute value, over all parts.
        table: A row per level, leaves first: boxes, unknowns, skeletons, seconds, bytes; of this process's parts.
        levels: Number of the level of each of these rows; the last row is that of the dense end.
        peak_bytes: Largest number of bytes of blocks and steps that each part of this process held.
    """

    stages: list[Stage]
    determinant: tuple[complex, float]
    table: list[dict[str, Any]]
    levels: list[int]
    peak_bytes: dict[int, int]

    @property
    def n_bytes(self) -> int:
        return sum(row["bytes"] for row in self.table)


def level_table(stages: list[Stage], seconds: list[float]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return `table` and `levels` of `Eliminated`, given the seconds of each row."""
    table: list[dict[str, Any]] = []
    levels: list[int] = []
    last = None
    for stage in stages:
        key = stage.plan.level, stage.dense
        if key != last and stage.phase != NO_PHASE:
            table.append({"boxes": 0, "unknowns": 0, "skeletons": 0, "seconds": 0.0, "bytes": 0})
            levels.append(stage.plan.level)
            last = key
        for pieces in stage.steps.values():
            for piece in pieces:
                for name, value in zip(("boxes", "unknowns", "skeletons"), piece.table, strict=True):
                    table[-1][name] += int(value)
                table[-1]["bytes"] += piece.n_bytes
    for row, took in zip(table, seconds, strict=True):
        row["seconds"] = took
    return table, levels

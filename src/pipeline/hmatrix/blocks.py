"""Dense blocks of pairs of boxes, flat: the near field, and the couplings of skeletons."""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.threads import n_threads

_PIECE = 1 << 22  # entries of blocks in a file that are in memory at a time


@dataclass(frozen=True, eq=False)
class Blocks:
    """One dense block per pair.

    Attributes:
        first, second: Boxes of rows and of columns, shape (pairs,).
        start: Shape (pairs + 1,); block p is values[start[p]:start[p + 1]], column-major.
        values: Flat.
    """

    first: Ints
    second: Ints
    start: NDArray[np.int64]
    values: NDArray[Any]

    def __repr__(self) -> str:
        return f"Blocks({len(self.first)} blocks, {self.values.dtype}, {self.n_bytes / 1e6:.1f} MB)"

    @property
    def n_bytes(self) -> int:
        return self.first.nbytes + self.second.nbytes + self.start.nbytes + self.values.nbytes

    @cached_property
    def native(self) -> Any:
        """The view that native routines take."""
        view = getattr(_native, f"Blocks_{self.values.dtype.name}")
        return view(self.first, self.second, self.start, self.values)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "native"}

    def none(self) -> "Blocks":
        """Return an empty list of blocks of the same type."""
        return Blocks(
            self.first[:0].copy(), self.second[:0].copy(), self.start[:1].copy(), self.values[:0].copy()
        )

    def part(self, first: int, last: int) -> "Blocks":
        """Return pairs first to last - 1, sharing memory."""
        low, high = self.start[first], self.start[last]
        return Blocks(
            self.first[first:last],
            self.second[first:last],
            self.start[first : last + 1] - low,
            self.values[low:high],
        )

    def in_pieces(self) -> Iterator["Blocks"]:
        """Yield all blocks at once or, if they lie in a file, in pieces, of which one at a time is in memory."""
        file: object = self.values.base
        if not isinstance(file, mmap.mmap):
            yield self
            return
        edges = np.searchsorted(self.start, np.arange(0, self.start[-1] + _PIECE, _PIECE))
        for first, last in pairwise(edges.tolist()):
            yield self.part(first, min(last, len(self.first)))
            if hasattr(mmap, "MADV_DONTNEED"):  # Linux
                file.madvise(mmap.MADV_DONTNEED)


PairPlaces = tuple[
    NDArray[np.int64], Ints
]  # lists of places in tree order, one for each box: (start, places)
Evaluate = Callable[[PairPlaces, PairPlaces, tuple[Ints, Ints], np.dtype[Any]], Blocks]


def near_blocks(
    evaluate: Evaluate,
    rows: ClusterTree,
    columns: ClusterTree,
    pairs: tuple[Ints, Ints],
    stored: np.dtype[Any],
) -> Blocks:
    """Evaluate the blocks of leaf pairs."""
    return evaluate(_points(rows), _points(columns), pairs, stored)


def coupling_blocks(
    evaluate: Evaluate,
    rows: Basis,
    columns: Basis,
    pairs: tuple[Ints, Ints],
    stored: np.dtype[Any],
) -> Blocks:
    """Evaluate the blocks between the skeletons of far pairs."""
    return evaluate(
        (rows.skeleton_start, rows.skeletons), (columns.skeleton_start, columns.skeletons), pairs, stored
    )


def _points(tree: ClusterTree) -> PairPlaces:
    """Return the points of the leaves as lists of all boxes, empty for those above."""
    counts = np.where(tree.first_child < 0, tree.stop - tree.start, 0)
    start = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return start, np.arange(tree.n_points, dtype=np.int32)


def evaluate_blocks(
    matrix: "_native.KernelMatrix",
    rows: PairPlaces,
    columns: PairPlaces,
    pairs: tuple[Ints, Ints],
    stored: np.dtype[Any],
) -> Blocks:
    """Evaluate the blocks of pairs of boxes natively."""
    evaluate = getattr(_native, f"evaluate_blocks_{stored.name}")
    first, second = pairs
    sizes = np.diff(rows[0])[first] * np.diff(columns[0])[second]
    start = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Blocks(first, second, start, evaluate(matrix, *rows, *columns, first, second, n_threads()))

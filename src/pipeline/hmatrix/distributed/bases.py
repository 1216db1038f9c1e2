"""Bases of a divided H2 matrix: each process builds those of its own boxes, process 0 also those above the cut.

The skeletons of the boxes at the cut are gathered; process 0 builds the few bases above them and sends these to all.
Boxes sample points of their far fields; if one needs more points than its process has fetched, all processes fetch more
and begin again.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Interactions
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.distributed.form import OwnBasis
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.distributed.tree import Division
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis, FarSampling, require_compressible, unknowns
from pipeline.hmatrix.swap import Array, gather, summed
from pipeline.hmatrix.threads import n_threads, one_blas_thread
from pipeline.runtime.communicator import Communicator, on_level
from pipeline.runtime.together import together

logger = logging.getLogger("pipeline.hmatrix")

_CHECK = 0.4  # rows of a check as a share of the sample's: as in native/adaptive.hpp
_AHEAD = 2  # enlargements of the samples that are fetched in advance: most boxes need no more
_FETCHES = 9  # enlargements at which the build gives up


@dataclass(frozen=True, eq=False)
class DividedBuild:
    """A matrix to compress, and the processes that do so.

    Attributes:
        kernel: The kernel.
        division: The boxes that this process owns and knows.
        lists: Near and far boxes.
        communicator: The processes.
        progress: Called with the number of boxes that this process has compressed, and the number of all.
    """

    kernel: Kernel
    division: Division
    lists: Interactions
    communicator: Communicator
    progress: Progress | None = None

    @property
    def tree(self) -> ClusterTree:
        return self.division.tree

    @property
    def mirrored(self) -> bool:
        return self.kernel.symmetric

    @property
    def computed(self) -> np.dtype[Any]:
        return np.dtype(np.complex128 if self.kernel.is_complex else np.float64)


def build_bases(
    work: DividedBuild, points: KeptPoints, sampling: FarSampling, stored: np.dtype[Any]
) -> tuple[OwnBasis, OwnBasis, KeptPoints]:
    """Return the bases of rows and of columns of own boxes and of those above the cut; collective.

    Args:
        work: The matrix that is compressed.
        points: Points kept so far; the third result has the samples as well.
        sampling: Settings by which far fields are sampled.
        stored: Type of the bases.
    """
    for step in range(_FETCHES):
        points = _with_samples(work, points, sampling.rows * 2**step, step)
        if step < _AHEAD:
            continue
        sides = (False,) if work.mirrored else (False, True)
        found = [_side(work, points, sampling, stored, transposed=transposed) for transposed in sides]
        # If a sample had to grow beyond the points that were fetched, all processes fetch more and begin again.
        if not summed(work.communicator, np.array([int(any(side is None for side in found))]))[0]:
            complete = [side for side in found if side is not None]
            return complete[-1], complete[0], points
        logger.info("samples of the far field grow: fetching more of others' points")
    raise ConvergenceError(
        "no number of samples of the far field reaches the tolerance; ask for a larger one"
    )


def _with_samples(work: DividedBuild, points: KeptPoints, rows: float, step: int) -> KeptPoints:
    """Return `points` and those of the far fields' samples after some enlargements; collective.

    Args:
        work: The matrix that is compressed.
        points: Points kept so far.
        rows: Rows of the sample.
        step: Number of enlargements so far; it numbers sample and check as native/adaptive.hpp does.
    """
    if work.communicator.size == 1:  # all points are here
        return points
    boxes = work.division.is_own & (work.tree.stop > work.tree.start)
    if work.communicator.rank == 0:
        boxes[: work.division.n_top] = True
    chosen = np.flatnonzero(boxes).astype(np.int32)
    far, tree = work.lists.far, work.tree.native
    wanted = [
        _native.sampled_outside(
            tree, tree, far.start, far.boxes, chosen, size, number, points.first, points.last
        )
        for number, size in ((step, rows), (step + 1, _CHECK * rows))
    ]
    return points.fetched(np.concatenate(wanted).astype(np.int64), work.division.edges, work.communicator)


@dataclass(frozen=True, eq=False)
class _Side:
    """Bases of rows or of columns as native routines return them, box after box.

    Attributes:
        rank: Shape (boxes,).
        skeletons, order, values: See `Basis`.
        energy: How much of a white-noise vector each skeleton carries: the standard deviation of its coefficient.
        seconds: Seconds by level.
    """

    rank: Ints
    skeletons: Ints
    order: Ints
    values: Array
    energy: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @classmethod
    def none(cls, n_boxes: int, computed: np.dtype[Any]) -> "_Side":
        """Return the side of boxes without skeletons."""
        empty = np.zeros(0, np.int32)
        return cls(np.zeros(n_boxes, np.int32), empty, empty, np.zeros(0, computed), np.zeros(0), np.zeros(0))

    @property
    def arrays(self) -> tuple[Array, ...]:
        return self.rank, self.skeletons, self.order, self.values, self.energy, self.seconds


@dataclass(frozen=True, eq=False)
class _AtCut:
    """Skeletons of all boxes of the cut.

    Attributes:
        ranks: Shape (boxes of the cut,).
        places: Places of the skeletons in tree order, box after box.
        energy: See `_Side`.
        corners: Coordinates of the skeletons.
    """

    ranks: Ints
    places: Ints
    energy: NDArray[np.float64]
    corners: NDArray[np.float64]

    @classmethod
    def of(cls, work: DividedBuild, points: KeptPoints, below: _Side) -> "_AtCut":
        """Gather the skeletons; collective."""
        division, communicator = work.division, work.communicator
        boxes = slice(*division.range_of(division.cut))
        starts = np.concatenate([[0], np.cumsum(below.rank)])
        own = slice(int(starts[boxes.start]), int(starts[boxes.stop]))
        skeletons = below.skeletons[own]
        told = below.rank[boxes], skeletons, below.energy[own], points.at(skeletons)
        return cls(*(np.concatenate(gather(communicator, part)) for part in told))


def _side(
    work: DividedBuild, points: KeptPoints, sampling: FarSampling, stored: np.dtype[Any], *, transposed: bool
) -> OwnBasis | None:
    """Return one side's bases, or None if a point is missing on this process or process 0; collective."""
    division, communicator = work.division, work.communicator
    below: _Side | None = None
    with together(communicator):
        below = _below(work, points, sampling, transposed=transposed)
    missing = below is None
    below = below or _Side.none(work.tree.n_boxes, work.computed)
    with on_level(communicator, division.cut):
        at_cut = _AtCut.of(work, points, below)
    above: _Side | None = _Side.none(division.n_top, work.computed)
    if division.n_top:
        ready = not summed(communicator, np.array([int(missing)]))[0]
        with together(communicator):
            if communicator.rank == 0 and ready:
                above = _above(work, points, at_cut, sampling, transposed=transposed)
        missing |= above is None
        above = above or _Side.none(division.n_top, work.computed)
        told = (part if communicator.rank == 0 else part[:0] for part in above.arrays)
        with on_level(communicator, division.cut):
            above = _Side(*(gather(communicator, part)[0] for part in told))
    return None if missing or above is None else _joined(work, above, at_cut, below, stored)


def _below(
    work: DividedBuild, points: KeptPoints, sampling: FarSampling, *, transposed: bool
) -> _Side | None:
    """Build the bases of own boxes; None if a point is missing."""
    tree, cut = work.tree, work.division.cut
    hidden = ~work.division.is_own  # others' boxes are leaves without points
    own = replace(
        tree,
        level_start=np.ascontiguousarray(tree.level_start[cut:]),
        start=np.where(hidden, 0, tree.start).astype(np.int32),
        stop=np.where(hidden, 0, tree.stop).astype(np.int32),
        first_child=np.where(hidden, -1, tree.first_child).astype(np.int32),
    )
    matrix = kernel_matrix(work.kernel, points, points)
    return _built(work, matrix, own, sampling, np.zeros(0), transposed=transposed)


def _above(
    work: DividedBuild, points: KeptPoints, at_cut: _AtCut, sampling: FarSampling, *, transposed: bool
) -> _Side | None:
    """Build the bases above the cut; None if a point is missing."""
    tree, n_top, cut = work.tree, work.division.n_top, work.division.cut
    first = int(tree.level_start[cut - 1])
    edges = np.concatenate([[0], np.cumsum(at_cut.ranks)])[:: tree.arity].astype(np.int32)
    start, stop = np.zeros(n_top, np.int32), np.zeros(n_top, np.int32)
    start[first:], stop[first:] = edges[:-1], edges[1:]
    children = tree.first_child[:n_top].copy()
    children[first:] = -1
    own = replace(
        tree,
        level_start=np.ascontiguousarray(tree.level_start[: cut + 1]),
        start=start,
        stop=stop,
        parent=np.ascontiguousarray(tree.parent[:n_top]),
        first_child=children,
        lower=np.ascontiguousarray(tree.lower[:n_top]),
        upper=np.ascontiguousarray(tree.upper[:n_top]),
    )
    sides = (at_cut.corners, points) if transposed else (points, at_cut.corners)
    matrix = kernel_matrix(work.kernel, *sides)
    found = _built(work, matrix, own, sampling, at_cut.energy, transposed=transposed)
    return None if found is None else replace(found, skeletons=at_cut.places[found.skeletons])


def _built(
    work: DividedBuild,
    matrix: "_native.KernelMatrix",
    own: ClusterTree,
    sampling: FarSampling,
    energy: NDArray[np.float64],
    *,
    transposed: bool,
) -> _Side | None:
    """Build the bases of a tree's boxes; None if one of the points that they sample is missing."""
    far = work.lists.far
    build = getattr(_native, f"build_basis_{work.computed.name}")
    try:
        with one_blas_thread():
            rank, skeletons, order, values, seconds, largest, carried = build(
                matrix, own.native, work.tree.native, far.start, far.boxes, transposed, sampling.budget,
                sampling.rows, sampling.largest_box, work.progress, n_threads(), energy,
            )  # fmt: skip
    except IndexError:
        return None
    require_compressible(largest <= sampling.largest_box)
    return _Side(rank, skeletons, order, values, carried, seconds)


def _joined(
    work: DividedBuild, above: _Side, at_cut: _AtCut, below: _Side, stored: np.dtype[Any]
) -> OwnBasis:
    """Return bases above and below the cut as those of one tree."""
    division, tree = work.division, work.tree
    own_ranks = np.concatenate([above.rank, below.rank[division.n_top :]]).astype(np.int32)
    rank = own_ranks.copy()
    rank[slice(*tree.level_start[division.cut : division.cut + 2])] = at_cut.ranks
    counts = np.where(division.is_own, unknowns(tree, own_ranks), 0)
    counts[: division.n_top] = unknowns(tree, rank)[: division.n_top]
    basis = Basis(
        own_ranks,
        np.concatenate([above.skeletons, below.skeletons]).astype(np.int32),
        np.concatenate([above.order, below.order]).astype(np.int32),
        np.concatenate([above.values, below.values]).astype(stored, copy=False),
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        np.concatenate([above.seconds, below.seconds]),
    )
    return OwnBasis(basis, rank)

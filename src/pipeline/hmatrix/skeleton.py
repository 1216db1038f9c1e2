"""Nested interpolative bases: every box's unknowns expressed through a few of them, its skeletons.

For the unknowns of a box in its order (skeletons first), a far block K satisfies K ~ K[:, :k] [I, T]. The unknowns of a
leaf are its points, those of other boxes their children's skeletons, so that skeletons are points throughout and
blocks between skeletons are entries of the matrix. Accuracy is set by a budget per box for the squared Frobenius
norm of its error, with unknowns weighted by how much of a white-noise vector they carry.

The far field of a box enters through a sample of it: evenly chosen points of the far boxes of its own level, fewer of
its ancestors', each weighted by the number of points that it stands for, and all points of large leaves near by. A
second sample checks the result; if its error is larger, or the rank comes near the sample's size, more is sampled.
The skeletons come from a pivoted Cholesky factorization of the sample's Gram matrix and, below its relative accuracy of
about 1e-7, of the residual's Gram matrix. The decomposition is that of [1], at the cost of products of matrices.

References:
    [1] Cheng, Gimbutas, Martinsson, Rokhlin, "On the compression of low rank matrices", SISC 2005.
    [2] Cai, Huang, Chow, Xi, "Data-driven linear complexity low-rank approximation of general kernel matrices: a
        geometric approach", NLAA 2023: the sampling.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.threads import n_threads


@dataclass(frozen=True)
class FarSampling:
    """How a box's far field is compressed.

    Attributes:
        budget: Squared Frobenius norm that one box may lose.
        rows: Number of far points sampled at first; more if a check proves them too few.
        largest_box: Largest number of unknowns of a box that is compressed.
    """

    budget: float
    rows: float
    largest_box: int = 4000

    @classmethod
    def for_tolerance(
        cls, tolerance: float, norm: float, n_boxes: int, *, rows: float = 400.0
    ) -> "FarSampling":
        """Share an error of `tolerance` times `norm`, both Frobenius, among boxes and the two sides of a block."""
        return cls((tolerance * norm) ** 2 / (2 * max(n_boxes, 1)), rows)


@dataclass(frozen=True, eq=False)
class WantedBasis:
    """A request for the bases of a matrix's columns or rows.

    Attributes:
        far: Far boxes of each box, on the other side.
        sampling: Accuracy and effort.
        transposed: Whether rows rather than columns are compressed.
        stored: Type in which T is kept.
        progress: Called with the number of boxes done and of all boxes.
    """

    far: Lists
    sampling: FarSampling
    transposed: bool
    stored: np.dtype[Any]
    progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class Basis:
    """The bases of all boxes of a tree, flat.

    Attributes:
        rank: Shape (boxes,).
        skeletons: Points of all boxes one after the other, in tree order; box b's are
            skeletons[skeleton_start[b]:skeleton_start[b + 1]].
        order: Local unknowns with skeletons first, box b's at order[order_start[b]:order_start[b + 1]].
        values: All T, box b's of shape (k, unknowns - k) at values[value_start[b]:value_start[b + 1]], row-major.
        seconds: Time in which each level was built, shape (levels,).
    """

    rank: Ints
    skeletons: Ints
    order: Ints
    values: NDArray[Any]
    order_start: NDArray[np.int64]
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __repr__(self) -> str:
        return (
            f"Basis({len(self.rank)} boxes, at most {self.rank.max(initial=0)} skeletons in one, {self.values.dtype}, "
            f"{self.n_bytes / 1e6:.1f} MB)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the native view, which is made anew where it is wanted."""
        return {name: value for name, value in vars(self).items() if name != "native"}

    def none(self) -> "Basis":
        """Return the bases of no boxes, of the same type."""
        ints, values = self.rank[:0].copy(), self.values[:0].copy()
        return Basis(ints, ints, ints, values, self.order_start[:1].copy())

    @cached_property
    def skeleton_start(self) -> NDArray[np.int64]:
        return _starts(self.rank)

    @cached_property
    def value_start(self) -> NDArray[np.int64]:
        unknowns = np.diff(self.order_start)
        return _starts(self.rank * (unknowns - self.rank))

    @property
    def n_bytes(self) -> int:
        return self.rank.nbytes + self.skeletons.nbytes + self.order.nbytes + self.values.nbytes

    @cached_property
    def native(self) -> Any:
        """The view that native routines take."""
        view = getattr(_native, f"Basis_{self.values.dtype.name}")
        return view(
            self.rank, self.skeleton_start, self.order_start, self.order, self.value_start, self.values
        )


def nested_basis(
    matrix: "_native.KernelMatrix",
    own: ClusterTree,
    other: ClusterTree,
    wanted: WantedBasis,
    computed: np.dtype[Any],
) -> Basis:
    """Choose skeletons of every box, from the leaves up.

    Args:
        matrix: Entries.
        own: Tree of the boxes: that of the sources, or that of the targets for bases of the rows.
        other: Tree of the other side.
        wanted: Settings of the bases.
        computed: Type of the computation, float64 or complex128.

    Raises:
        ConvergenceError: If boxes grow beyond `sampling.largest_box` unknowns: the far field has no low rank.
    """
    build = getattr(_native, f"build_basis_{computed.name}")
    far, sampling = wanted.far, wanted.sampling
    rank, skeletons, order, values, seconds, largest, _ = build(
        matrix, own.native, other.native, far.start, far.boxes, wanted.transposed, sampling.budget, sampling.rows,
        sampling.largest_box, wanted.progress, n_threads(), np.zeros(0),
    )  # fmt: skip
    require_compressible(largest <= sampling.largest_box)
    order_start = _starts(unknowns(own, rank))
    return Basis(rank, skeletons, order, values.astype(wanted.stored, copy=False), order_start, seconds)


def require_compressible(compresses: bool) -> None:
    """Raise ConvergenceError unless the matrix compresses."""
    if not compresses:
        raise ConvergenceError(
            "the matrix does not compress: boxes of a thousand unknowns and more keep their full rank; "
            "ask for a larger tolerance, or treat a matrix of this kernel and size as dense"
        )


def unknowns(tree: ClusterTree, rank: Ints) -> NDArray[np.int64]:
    """Return how many unknowns each box has: a leaf's points, else the ranks of the children together."""
    counts = (tree.stop - tree.start).astype(np.int64)
    inner = np.flatnonzero(tree.first_child >= 0)
    children = tree.first_child[inner, None] + np.arange(tree.arity)
    counts[inner] = rank[children].sum(axis=1)
    return counts


def _starts(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

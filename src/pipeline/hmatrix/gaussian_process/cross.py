"""Products with the covariances between any number of new points and the values' points.

The skeletons of the values' points are chosen once. New points then come in parts, each with its place in the values'
own tree (`new_points.py`). A part brings rows, couplings and near blocks, which are freed when its product is done:
memory is bounded, whatever the number of new points. New points far from all values get a separate matrix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Interactions, pairs_of
from pipeline.hmatrix.blocks import coupling_blocks, near_blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.exact_rows import typical_norm
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.gaussian_process.new_points import NewPoints
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.hmatrix.product import product
from pipeline.hmatrix.skeleton import Basis, FarSampling, WantedBasis
from pipeline.hmatrix.sources import source_of
from pipeline.hmatrix.threads import one_blas_thread

Array = NDArray[np.float64]

_SHARE = 0.35  # share of the tolerance that the sampled far field must meet
_ENTRIES = 2**22  # entries of an exact product at a time
_NEAR_ENTRIES = 5e8  # entries of near blocks at a time: two gigabytes
_SINGLE = 1e-7  # tolerance from which blocks and bases are kept in single precision
_FLOAT64 = np.dtype(np.float64)


def exactly(kernel: Kernel, new_points: Array, points: Array, x: Array) -> Array:
    """Return k(new_points, points) x for x of shape (n, m), entry by entry in bounded memory: O(q n)."""
    if len(new_points) == 0:
        return np.zeros((0, x.shape[1]))
    n_parts = max(1, -(-len(new_points) * len(points) // _ENTRIES))
    parts = [kernel(part, points) @ x for part in np.array_split(new_points, n_parts)]
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Sources:
    """The values' points, compressed as sources of a kernel.

    Attributes:
        kernel: The kernel.
        tree: Tree of the points.
        basis: Skeletons of the points.
        interactions: Near and far boxes among the values.
        norm: Estimated Frobenius norm of the kernel matrix between them.
        tolerance: Relative error of a product with new points.
    """

    kernel: Kernel
    tree: ClusterTree
    basis: Basis
    interactions: Interactions
    norm: float
    tolerance: float

    @classmethod
    def of(cls, A: H2Form, tolerance: float) -> "Sources":
        """Compress the points of a square, strongly admissible kernel matrix as sources."""
        assert A.kernel is not None
        tree = A.rows
        source = source_of(A.kernel, tree, tree, _FLOAT64, None)
        norm = typical_norm(source, tree, tree.n_points, singular=False, square=False)
        sampling = FarSampling.for_tolerance(_SHARE * tolerance, norm, tree.n_boxes)
        with one_blas_thread():
            far = A.interactions.far_columns
            basis = source.basis(WantedBasis(far, sampling, transposed=False, stored=_stored(tolerance)))
        return cls(A.kernel, tree, basis, A.interactions, norm, tolerance)

    def places_of(self, new_points: Array) -> NewPoints:
        """Find the places of new points among the values."""
        scales = length_scales(self.kernel)
        metric = np.ones(new_points.shape[1]) if scales is None else 1 / np.array(scales)
        return NewPoints.of(new_points, self.tree, self.interactions, metric)

    def product(self, new: NewPoints, chosen: NDArray[np.int64], x: Array) -> Array:
        """Return k(new.points[chosen], points) x for x of shape (n, m), where the chosen points have a place."""
        geometry = new.geometry(chosen)
        rows = geometry.rows
        first, second = pairs_of(geometry.interactions.near, mirrored=False)
        of_leaves = first >= rows.level_start[-2]
        near = first[of_leaves], second[of_leaves]
        sizes = [(tree.stop - tree.start).astype(np.int64) for tree in (rows, self.tree)]
        if len(chosen) > 1 and float(sizes[0][near[0]] @ sizes[1][near[1]]) > _NEAR_ENTRIES:
            return np.concatenate([self.product(new, half, x) for half in np.array_split(chosen, 2)])
        source = source_of(self.kernel, rows, self.tree, _FLOAT64, None)
        stored = _stored(self.tolerance)
        norm = typical_norm(source, rows, self.tree.n_points, singular=False, square=False)
        sampling = FarSampling.for_tolerance(_SHARE * self.tolerance, norm, int(np.count_nonzero(sizes[0])))
        lists = geometry.interactions.far
        with one_blas_thread():
            basis = source.basis(WantedBasis(lists, sampling, transposed=True, stored=stored))
            far = coupling_blocks(source.blocks, basis, self.basis, pairs_of(lists, mirrored=False), stored)
            blocks = near_blocks(source.blocks, rows, self.tree, near, stored)
        form = H2Form(
            geometry, basis, self.basis, blocks, far, mirrored=False, diagonal_term=None, kernel=self.kernel,
            tolerance=self.tolerance, norm=norm, dtype=_FLOAT64,
        )  # fmt: skip
        return product(form, x)

    def apart(self, new_points: Array, x: Array) -> Array:
        """Return the product for new points outside all boxes of values, by a separate matrix."""
        points, in_order = self.tree.points, x[self.tree.permutation]
        if len(new_points) * len(points) <= _ENTRIES:
            return exactly(self.kernel, new_points, points, in_order)
        A = H2Matrix.from_kernel(new_points, self.kernel, sources=points, tolerance=self.tolerance)
        return np.asarray(A @ in_order)


def _stored(tolerance: float) -> "np.dtype[np.float32] | np.dtype[np.float64]":
    return np.dtype(np.float32) if tolerance >= _SINGLE else _FLOAT64

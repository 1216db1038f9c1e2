"""Products with the covariances between any number of new points and the values' points.

The skeletons of the values' points are chosen once. New points then come in parts: each takes its place in a leaf of
the values' own tree, so that boxes of new points lie where boxes of values do, and near and far boxes are those of a
square matrix. A part brings rows, couplings and near blocks, which are given up when its product is done: memory is
bounded, whatever the number of new points. New points far from all values get a matrix of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Interactions, Strong, lists_of, pairs_of
from pipeline.hmatrix.blocks import coupling_blocks, near_blocks
from pipeline.hmatrix.cluster import ClusterTree, Frame, halve, leaf_bounds
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.exact_rows import typical_norm
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.hmatrix.product import product
from pipeline.hmatrix.skeleton import Basis, Sampling
from pipeline.hmatrix.sources import source_of
from pipeline.hmatrix.threads import one_blas_thread

Array = NDArray[np.float64]

_SHARE = 0.35  # of the tolerance, asked of the sampled far field
_LARGEST_LEAF = 1024  # new points that one leaf takes at a time
_ENTRIES = 2**22  # of an exact product at a time
_NEAR_ENTRIES = 5e8  # of near blocks at a time: two gigabytes
_NEARER = 0.4  # of the smaller diameter: values' boxes are far beyond half of it
_OUTSIDE = 0.25  # of a leaf's diameter: new points that are farther from it are strangers to it
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
        tree: Their tree.
        basis: Their skeletons.
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
        sampling = Sampling.for_tolerance(_SHARE * tolerance, norm, tree.n_boxes)
        with one_blas_thread():
            basis = source.basis(
                A.interactions.far_columns,
                sampling,
                transposed=False,
                stored=_stored(tolerance),
                progress=None,
            )
        return cls(A.kernel, tree, basis, A.interactions, norm, tolerance)

    def product(self, new_points: Array, x: Array, *, at_a_time: int) -> Array:
        """Return k(new_points, points) x for x of shape (n, m), so many new points at a time."""
        scales = length_scales(self.kernel)
        metric = np.ones(new_points.shape[1]) if scales is None else 1 / np.array(scales)
        measured = new_points * metric
        leaves = _leaves_of(self.tree, measured, metric)
        result = np.empty((len(new_points), x.shape[1]))
        boxes = self.tree.level_start[-2] + leaves
        beyond = np.maximum(
            np.maximum(self.tree.lower[boxes] - measured, measured - self.tree.upper[boxes]), 0.0
        )
        outside = np.sqrt((beyond**2).sum(axis=1)) > _OUTSIDE * self.tree.diameters[boxes]
        inside = np.flatnonzero(~outside)
        for chosen in _parts(leaves[inside], at_a_time):
            self._fill(result, inside[chosen], new_points, leaves, metric, x)
        strangers = np.flatnonzero(outside)
        strangers = strangers[np.argsort(leaves[strangers], kind="stable")]
        for chosen in np.array_split(strangers, -(-len(strangers) // at_a_time) or 1):
            result[chosen] = self._apart(new_points[chosen], x)
        return result

    def _apart(self, new_points: Array, x: Array) -> Array:
        """Return the product for new points that no box of values has room for: by a matrix of their own."""
        points, in_order = self.tree.points, x[self.tree.permutation]
        if len(new_points) * len(points) <= _ENTRIES:
            return exactly(self.kernel, new_points, points, in_order)
        A = H2Matrix.from_kernel(new_points, self.kernel, sources=points, tolerance=self.tolerance)
        return np.asarray(A @ in_order)

    def _fill(
        self,
        result: Array,
        chosen: NDArray[np.int64],
        new_points: Array,
        leaves: NDArray[np.int64],
        metric: Array,
        x: Array,
    ) -> None:
        """Write the rows of some new points, in halves where their near blocks are too large."""
        rows = _tree_of(self.tree, new_points[chosen], leaves[chosen], metric)
        geometry = Geometry(rows, self.tree, Strong(), _interactions(rows, self.tree, self.interactions))
        first, second = pairs_of(geometry.interactions.near, mirrored=False)
        of_leaves = first >= rows.level_start[-2]
        near = first[of_leaves], second[of_leaves]
        sizes = [(tree.stop - tree.start).astype(np.int64) for tree in (rows, self.tree)]
        if len(chosen) > 1 and float(sizes[0][near[0]] @ sizes[1][near[1]]) > _NEAR_ENTRIES:
            for half in np.array_split(chosen, 2):
                self._fill(result, half, new_points, leaves, metric, x)
            return
        source = source_of(self.kernel, rows, self.tree, _FLOAT64, None)
        stored = _stored(self.tolerance)
        norm = typical_norm(source, rows, self.tree.n_points, singular=False, square=False)
        sampling = Sampling.for_tolerance(_SHARE * self.tolerance, norm, int(np.count_nonzero(sizes[0])))
        lists = geometry.interactions.far
        with one_blas_thread():
            basis = source.basis(lists, sampling, transposed=True, stored=stored, progress=None)
            far = coupling_blocks(source.blocks, basis, self.basis, pairs_of(lists, mirrored=False), stored)
            blocks = near_blocks(source.blocks, rows, self.tree, near, stored)
        form = H2Form(
            geometry, basis, self.basis, blocks, far, mirrored=False, diagonal_term=None, kernel=self.kernel,
            tolerance=self.tolerance, norm=norm, dtype=_FLOAT64,
        )  # fmt: skip
        result[chosen] = product(form, x)


def _stored(tolerance: float) -> "np.dtype[np.float32] | np.dtype[np.float64]":
    return np.dtype(np.float32) if tolerance >= _SINGLE else _FLOAT64


def _leaves_of(tree: ClusterTree, measured: Array, metric: Array) -> NDArray[np.int64]:
    """Return the leaf in which each of new points would have been put, shape (q,): leaves count from 0."""
    points = tree.points * metric
    n_leaves = int(tree.level_start[-1] - tree.level_start[-2])
    ranges = halve(len(points), n_leaves.bit_length() - 1)
    leaves, every = np.zeros(len(measured), np.int64), np.arange(len(measured))
    for start, _ in ranges[1:]:
        # Halves come in pairs, and were divided where the box is widest.
        lower, upper = (
            of.reduceat(points, start).reshape(-1, 2, len(metric)) for of in (np.minimum, np.maximum)
        )
        widest = np.argmax(upper.max(axis=1) - lower.min(axis=1), axis=1)
        box = np.arange(len(widest))
        middle = 0.5 * (upper[box, 0, widest] + lower[box, 1, widest])
        leaves = 2 * leaves + (measured[every, widest[leaves]] > middle[leaves])
    return leaves


def _parts(leaves: NDArray[np.int64], at_a_time: int) -> Iterator[NDArray[np.int64]]:
    """Divide new points into parts of neighboring leaves, none of which takes too many at a time."""
    order = np.argsort(leaves, kind="stable")
    in_order = leaves[order]
    first = np.searchsorted(in_order, in_order)
    rounds = (np.arange(len(order)) - first) // _LARGEST_LEAF
    for number in range(int(rounds.max(initial=-1)) + 1):
        members = order[rounds == number]
        yield from np.array_split(members, -(-len(members) // at_a_time))


def _interactions(rows: ClusterTree, columns: ClusterTree, own: Interactions) -> Interactions:
    """Return near and far boxes of new points' boxes, of a tree of the values' boxes.

    Skeletons serve where far boxes of values are: a pair may be far if it is so among the values, or if its ancestors
    are, and unless new points that lie outside their box come too near.
    """
    n = columns.n_boxes
    first, second = pairs_of(own.far, mirrored=False)
    known = np.sort(first.astype(np.int64) * n + second)
    child = np.stack(np.meshgrid(np.arange(rows.arity), np.arange(rows.arity), indexing="ij")).reshape(
        2, 1, -1
    )
    top = np.arange(rows.level_start[1])
    pairs = np.stack(np.meshgrid(top, top, indexing="ij")).reshape(2, -1)
    licensed = np.zeros(pairs.shape[1], np.bool_)
    near, far = [], []
    for level in range(rows.n_levels):
        if level:
            parents = np.stack([rows.first_child[pairs[0]], columns.first_child[pairs[1]]])
            pairs = (parents[:, :, None] + child).reshape(2, -1)
            licensed = np.repeat(licensed, rows.arity**2)
        filled = (rows.stop > rows.start)[pairs[0]]
        pairs, licensed = pairs[:, filled], licensed[filled]
        keys = pairs[0].astype(np.int64) * n + pairs[1]
        places = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        licensed = licensed | (known[places] == keys if len(known) else False)
        gaps = np.maximum(
            rows.lower[pairs[0]] - columns.upper[pairs[1]], columns.lower[pairs[1]] - rows.upper[pairs[0]]
        )
        distances = np.sqrt((np.maximum(gaps, 0.0) ** 2).sum(axis=1))
        sizes = np.maximum(rows.diameters[pairs[0]], columns.diameters[pairs[0]])
        is_far = licensed & (distances >= _NEARER * np.minimum(sizes, columns.diameters[pairs[1]]))
        near.append(pairs[:, ~is_far])
        far.append(pairs[:, is_far])
        pairs, licensed = pairs[:, ~is_far], licensed[~is_far]
    close, apart = (np.concatenate(found, axis=1).astype(np.int32) for found in (near, far))
    return Interactions(
        near=lists_of(close[0], close[1], n),
        far=lists_of(apart[0], apart[1], n),
        near_columns=lists_of(close[1], close[0], n),
        far_columns=lists_of(apart[1], apart[0], n),
    )


def _tree_of(tree: ClusterTree, new_points: Array, leaves: NDArray[np.int64], metric: Array) -> ClusterTree:
    """Return a tree of the same boxes over new points in given leaves."""
    order = np.argsort(leaves, kind="stable")
    n_leaves = int(tree.level_start[-1] - tree.level_start[-2])
    edges = np.concatenate([[0], np.cumsum(np.bincount(leaves, minlength=n_leaves))])
    steps = n_leaves // np.diff(tree.level_start)
    frame = Frame(
        halvings=np.zeros(0, np.int64),
        level_start=tree.level_start,
        start=np.concatenate([edges[:-1:step] for step in steps]).astype(np.int32),
        stop=np.concatenate([edges[step::step] for step in steps]).astype(np.int32),
        parent=tree.parent,
        first_child=tree.first_child,
        arity=tree.arity,
    )
    points = np.ascontiguousarray(new_points[order])
    return frame.tree(points, order.astype(np.int64), *leaf_bounds(points * metric, frame))

"""Compression of an operator that is known by its products alone: the driver of `sketching.py`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix.admissibility import Admissibility, Interactions, Strong, as_admissibility
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry, trees_of
from pipeline.hmatrix.inputs import as_array, as_points, require_tolerance
from pipeline.hmatrix.product import product as product_of
from pipeline.hmatrix.rounding import narrow_type, sketched_type, wide_type
from pipeline.hmatrix.sketching import (
    BoxArrays,
    Side,
    TooFewVectors,
    leaves,
    merged,
    merged_weights,
    reduce,
    skeletonize,
)
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.threads import one_blas_thread
from pipeline.hmatrix.unfolding import as_basis, as_blocks, unfolded

logger = logging.getLogger("pipeline.hmatrix")

Array = NDArray[Any]
MatrixProduct = Callable[[Array], Array]
EntryFunction = Callable[[Array, Array], Array]

_ATTEMPTS = 4
_AT_A_TIME = 64  # vectors in one product
_MOST = 0.7  # share of n: beyond, all unit vectors cost little more than random ones, and are free of noise


def from_operator(
    tree: ClusterTree | Array,
    product: MatrixProduct,
    entries: EntryFunction | None = None,
    *,
    product_transposed: MatrixProduct | None = None,
    columns: ClusterTree | Array | None = None,
    tolerance: float = 1e-6,
    admissibility: Admissibility | str | None = None,
    seed: int = 0,
) -> H2Form:
    """Compress an operator that is known by its products alone.

    Costs products with a few hundred to two thousand vectors, and O(n) times the square of that number. The number
    follows the unknowns in a box's near field, whatever n is; if it comes near n, all unit vectors are used. Ranks
    adapt to the tolerance.

    Args:
        tree: Tree of the rows, such as `rows` of another matrix, or points of shape (n, d). Also that of the columns
            unless `columns` is given.
        product: X -> C X for arrays X of shape (n, m), in the caller's order of the points.
        entries: (i, j) -> the block C[i, j] for index arrays, in the caller's order. With near blocks from here, about
            as many vectors as the ranks suffice.
        product_transposed: X -> C^T X, not conjugated; left out for a symmetric operator.
        columns: Tree of the columns, as deep as `tree`; points if `tree` is points.
        tolerance: Relative Frobenius error of products with random vectors, checked on fresh ones.
        admissibility: Strong(), Weak(), "strong" or "weak"; Strong() if left out.
        seed: Seed of the random vectors.

    Returns:
        A matrix without kernel; it is factorized from the entries that it represents.

    Raises:
        ConvergenceError: If the error on fresh vectors stays above the tolerance.
        ConfigError: If a product has entries that are NaN or infinite.
        ValueError: If a product has another shape, or two trees are given without `product_transposed`.
        TypeError: If a tree and points are mixed.
    """
    require_tolerance(tolerance)
    tree, columns = _trees(tree, columns)
    product = _checked(product, tree.n_points, "product")
    if product_transposed is not None:
        product_transposed = _checked(product_transposed, columns.n_points, "product_transposed")
    if product_transposed is None and columns is not tree:
        raise ValueError("a matrix over two trees is not symmetric: give product_transposed")
    geometry = Geometry.of(tree, columns, as_admissibility(admissibility) or Strong())
    lists = geometry.interactions
    generator = stream(Purpose.OPERATOR, seed)
    probes = [_Probe(tree, columns, product)]
    if product_transposed is not None:
        probes.append(_Probe(columns, tree, product_transposed))
    check = generator.standard_normal((columns.n_points, 4))
    exact = product(check)
    wide, narrow = wide_type(exact.dtype), narrow_type(exact.dtype)
    dtype = narrow if exact.dtype == narrow else wide
    exact = exact.astype(wide)  # squares leave the range of single precision sooner than entries do
    norm = float(np.linalg.norm(exact)) / 2  # the columns of `check` are four
    stored = sketched_type(tolerance, norm, wide)
    mirrored = product_transposed is None
    share = 0.25 * tolerance
    for _ in range(_ATTEMPTS):
        sides, between, top = _Ascent(probes, lists, 0.5 * (share * norm) ** 2, generator, entries).climb()
        with one_blas_thread():
            near, far = unfolded(sides[0], sides[-1], lists, top, between, mirrored=mirrored)
        row_basis = as_basis(sides[0], stored)
        result = H2Form(
            geometry, row_basis=row_basis,
            column_basis=row_basis if mirrored else as_basis(sides[1], stored),
            near=as_blocks(near, stored), far=as_blocks(far, stored), mirrored=mirrored, diagonal_term=None,
            kernel=None, tolerance=tolerance, norm=norm, dtype=dtype,
        )  # fmt: skip
        size = np.linalg.norm(exact)
        reached = float(np.linalg.norm(product_of(result, check) - exact) / size) if size > 0 else 0.0
        logger.info("%d vectors: relative error %.1e", probes[0].n_vectors, reached)
        if reached <= tolerance:
            return result
        share *= max(0.3 * tolerance / reached, 1e-2)
    raise ConvergenceError(
        f"compression by sketching reached a relative error of {reached:.1e} where {tolerance:.0e} was asked for; "
        "ask for a larger tolerance, no smaller than that of the operator itself"
    )


def _trees(rows: ClusterTree | Array, columns: ClusterTree | Array | None) -> tuple[ClusterTree, ClusterTree]:
    if isinstance(rows, ClusterTree) and isinstance(columns, ClusterTree | None):
        return rows, columns or rows
    if isinstance(rows, ClusterTree) or isinstance(columns, ClusterTree):
        raise TypeError("tree and columns must be two trees or two arrays of points, not one of each")
    return trees_of(as_points(rows, "tree"), None if columns is None else as_points(columns, "columns"))


def _checked(product: MatrixProduct, n: int, what: str) -> MatrixProduct:
    """Return the product with a check that it gives finite numbers of shape (n, m)."""

    def checked(X: Array) -> Array:
        Y = as_array(product(X))
        if Y.shape != (n, X.shape[1]) or Y.dtype.kind not in "biufc":
            raise ValueError(
                f"{what} must give numbers of shape {(n, X.shape[1])} for an array of shape {X.shape}, "
                f"not {Y.dtype} of shape {Y.shape}"
            )
        if not np.isfinite(Y.sum()) and not np.isfinite(Y).all():
            raise ConfigError(f"{what} gave an entry that is NaN or infinite for finite vectors")
        return Y

    return checked


class _Probe:
    """Test vectors X and samples C X of one side, in tree order: as many as have been needed so far."""

    def __init__(self, out_tree: ClusterTree, in_tree: ClusterTree, product: MatrixProduct) -> None:
        self.out_tree, self.in_tree, self.product = out_tree, in_tree, product
        self.complete = False
        self.n_vectors = 0
        # Kept as they were drawn: joining at every growth would copy all vectors for a few new ones.
        self.drawn: list[tuple[Array, Array]] = []

    def joined(self) -> tuple[Array, Array]:
        """Return all tests and samples."""
        if not self.drawn:
            self.drawn = [(np.zeros((self.in_tree.n_points, 0)), np.zeros((self.out_tree.n_points, 0)))]
        if len(self.drawn) > 1:
            tests, samples = zip(*self.drawn, strict=True)
            self.drawn = [(np.hstack(tests), np.hstack(samples))]
        return self.drawn[0]

    def grow(self, needed: int, generator: np.random.Generator) -> tuple[Array, Array]:
        """Draw vectors until there are `needed`; return the new tests and samples."""
        tests = generator.standard_normal((self.in_tree.n_points, needed - self.n_vectors))
        self.drawn.append((tests, self._sampled(tests)))
        self.n_vectors = needed
        return self.drawn[-1]

    def take_all(self) -> None:
        """Replace the vectors by all unit vectors."""
        if not self.complete:
            self.complete = True
            tests = np.eye(self.in_tree.n_points)
            self.drawn = [(tests, self._sampled(tests))]
            self.n_vectors = self.in_tree.n_points

    def _sampled(self, tests: Array) -> Array:
        n_vectors = tests.shape[1]
        samples = np.zeros((self.out_tree.n_points, 0))
        # In pieces: all vectors in three orders would not fit into a cache.
        for start in range(0, n_vectors, _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            sample = self.product(tests[:, part][self.in_tree.places])
            if start == 0:
                samples = np.empty((len(samples), n_vectors), dtype=sample.dtype)
            samples[:, part] = sample[self.out_tree.permutation]
        return samples


def _beside(left: Array, right: Array) -> Array:
    """Return [left, right], without a copy where the left has no columns."""
    return np.hstack([left, right]) if left.shape[1] else right


class _Restart(Exception):
    """All unit vectors are called for: begin again from the leaves."""


@dataclass(eq=False)
class _Ascent:
    """Skeletonization level by level, one side for each probe."""

    probes: list[_Probe]
    lists: Interactions
    budget: float
    generator: np.random.Generator
    entries: EntryFunction | None

    def climb(self) -> tuple[list[Side], Array, int]:
        """Return the sides with all their nodes, the matrix of the top level's skeletons, and that level."""
        try:
            return self._climb()
        except _Restart:
            for probe in self.probes:
                probe.take_all()
            return self._climb()

    def _climb(self) -> tuple[list[Side], Array, int]:
        near = [self.lists.near, self.lists.near_columns]
        self.sides = []
        for i, probe in enumerate(self.probes):
            tests, samples = probe.joined()
            by_leaf = leaves(probe.out_tree, samples)
            weights = {box: np.ones(len(part)) for box, part in by_leaf.items()}
            side = Side(
                probe.out_tree, near[i], by_leaf, leaves(probe.in_tree, tests), {}, weights, probe.complete
            )
            self.sides.append(side)
        # Points that a box's unknowns stand for, which are skeletons of skeletons of ... its leaves.
        self.places = [leaves(probe.out_tree, np.arange(probe.out_tree.n_points)) for probe in self.probes]
        if self.entries is not None:
            for i, side in enumerate(self.sides):
                side.entries = partial(self._block, i)
        tree = self.probes[0].out_tree
        self.done = tree.n_levels  # levels from here on are reduced
        top = min(self.lists.first_far_level(tree), tree.n_levels - 1)
        # The error of a level appears, several times larger, as noise in the samples of the levels above. Each level
        # may therefore lose a quarter as much as the one above; with half as much, noise doubles ranks four levels up.
        shares = {level: 0.25 ** (level - top) for level in range(top, tree.n_levels)}
        for level in reversed(shares):
            budget = self.budget * shares[level] / (sum(shares.values()) * len(tree.level(level)))
            for i, side in enumerate(self.sides):
                self._take(i, side.needed_by(side.tree.level(level)))
                for box in side.tree.level(level):
                    self._skeletonize(i, side, box, budget)
            self._lift_all(level, merge=level > top)
        return self.sides, self._between(top), top

    def _block(self, i: int, box: int, others: list[int]) -> Array:
        """Return the block of a box of side i and boxes of the other side, between the points of their unknowns."""
        there = self.places[len(self.places) - 1 - i]
        own = self.places[i][box]
        far = np.concatenate([there[other] for other in others]) if others else own[:0]
        return self._between_points(far, own).T if i == 1 else self._between_points(own, far)

    def _between_points(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> Array:
        rows, columns = self.probes[0].out_tree, self.probes[0].in_tree
        assert self.entries is not None
        return np.asarray(self.entries(rows.permutation[i], columns.permutation[j]))

    def _skeletonize(self, i: int, side: Side, box: int, budget: float) -> None:
        while True:
            try:
                with one_blas_thread():  # only here: the products choose their own threads
                    side.nodes[box] = skeletonize(side, box, budget)
            except TooFewVectors as few:
                self._take(i, int(1.1 * few.needed) + 1)
            else:
                return

    def _lift_all(self, level: int, *, merge: bool) -> None:
        """Go from the unknowns of a level to those of the next, or to its skeletons if it is the top."""
        self.done = level
        vectors = [(side.samples, side.tests) for side in self.sides]
        for side, opposite, (samples, tests) in zip(self.sides, reversed(self.sides), vectors, strict=True):
            side.samples, side.tests = self._lifted(side, opposite, samples, tests, level, merge=merge)
            if merge:
                side.weights = merged_weights(side, level - 1)
        for i, side in enumerate(self.sides):
            kept = {box: self.places[i][box][side.nodes[box].kept] for box in side.tree.level(level)}
            self.places[i] = merged(side.tree, level - 1, kept) if merge else kept

    def _lifted(
        self, side: Side, opposite: Side, samples: BoxArrays, tests: BoxArrays, level: int, *, merge: bool
    ) -> tuple[BoxArrays, BoxArrays]:
        with one_blas_thread():
            samples, tests = reduce(side, opposite, samples, tests)
        if merge:
            samples, tests = merged(side.tree, level - 1, samples), merged(opposite.tree, level - 1, tests)
        return samples, tests

    def _take(self, i: int, needed: int) -> None:
        """Use `needed` vectors on this level, and draw those that are missing."""
        self._grow(i, needed)
        side = self.sides[i]
        side.taken = self.probes[i].n_vectors if side.unit_vectors else needed
        side.gram = {}

    def _grow(self, i: int, needed: int, *, reduced_top: bool = False) -> None:
        """Draw more vectors for a side and carry them to the level at work."""
        if needed <= self.probes[i].n_vectors or self.probes[i].complete:
            return
        if self.entries is None and needed >= _MOST * self.probes[i].in_tree.n_points:
            raise _Restart
        tests, samples = self.probes[i].grow(needed, self.generator)
        side, opposite = self.sides[i], self.sides[len(self.sides) - 1 - i]
        new_samples, new_tests = leaves(side.tree, samples), leaves(opposite.tree, tests)
        for level in range(side.tree.n_levels - 1, self.done - 1, -1):
            merge = not (reduced_top and level == self.done)
            new_samples, new_tests = self._lifted(side, opposite, new_samples, new_tests, level, merge=merge)
        side.samples = {box: _beside(part, new_samples[box]) for box, part in side.samples.items()}
        side.tests = {box: _beside(part, new_tests[box]) for box, part in side.tests.items()}

    def _between(self, top: int) -> Array:
        """Return the matrix between the skeletons of the top level, from entries or by least squares."""
        if self.entries is not None:
            rows, columns = (np.concatenate(list(self.places[i].values())) for i in (0, -1))
            return self._between_points(rows, columns)
        side = self.sides[0]
        n = sum(len(part) for part in side.tests.values())
        if self.probes[0].n_vectors < 1.3 * n + 10 and not self.probes[0].complete:
            self._grow(0, int(1.3 * n) + 10, reduced_top=True)
        tests = np.concatenate(list(side.tests.values()))
        samples = np.concatenate(list(side.samples.values()))
        q, r = scipy.linalg.qr(tests.conj().T, mode="economic", check_finite=False)
        between = scipy.linalg.solve_triangular(r, (samples @ q).conj().T, check_finite=False)
        return np.asarray(between.conj().T)

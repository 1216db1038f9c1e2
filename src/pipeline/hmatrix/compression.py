"""From points and a kernel to an H2 matrix whose error is checked."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import (
    Admissibility,
    Interactions,
    Lists,
    Strong,
    Weak,
    as_admissibility,
    interactions,
    pairs_of,
)
from pipeline.hmatrix.batched.build import DeviceSource
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.batched.padding import to_device, to_host
from pipeline.hmatrix.blocks import Blocks, Places, coupling_blocks, evaluate_blocks, near_blocks
from pipeline.hmatrix.cluster import ClusterTree, Ints, build_tree, n_halvings, whole_levels
from pipeline.hmatrix.entries import kernel_matrix, length_scales, program
from pipeline.hmatrix.h2 import H2Matrix
from pipeline.hmatrix.inputs import (
    CPU,
    Progress,
    as_diagonal,
    as_points,
    dtype_of,
    require_block,
    require_count,
    require_nugget,
    require_tolerance,
    torch_dtype,
)
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis, Sampling, nested_basis
from pipeline.hmatrix.structure import log_levels
from pipeline.hmatrix.threads import one_blas_thread

logger = logging.getLogger("pipeline.hmatrix")

_SINGLE_SUFFICES = 5e-7  # from this tolerance on, rounding blocks to single precision (6e-8) does not show
_SINGLE_HOLDS = 1e-25, 1e35  # norms of matrices whose entries single precision holds
_CROWDED = 0.4  # share of near leaf pairs from which strong admissibility has lost its point
_SPACE = 3  # coordinates up to which near boxes are boundedly many, whatever their share in a small matrix
_SMALL = 2048  # points of a crowded matrix that is rather kept dense
_TRIED = 32  # points, of a kernel of the user's own
_ATTEMPTS = 5
_LEAF = 64  # points: of the order of a leaf's rank at tolerance 1e-6
_SHARE = 0.35  # of the tolerance, asked of the sampled far field: what was not sampled errs more
_CHECKED_ROWS, _CHECKED_ENTRIES = 128, 8e6  # the more of the two: up to 2800 points, every row is checked
_ENTRIES_AT_A_TIME = 2e6


def compress_kernel(
    points: "NDArray[Any] | Tensor",
    kernel: Kernel,
    *,
    diagonal: "complex | NDArray[Any] | Tensor | None",
    tolerance: float,
    sources: "NDArray[Any] | Tensor | None",
    leaf_size: int | None,
    admissibility: Admissibility | str | None,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> H2Matrix:
    """Do what `H2Matrix.from_kernel` says.

    On the device of the points, if that is no CPU, boxes are compressed in batches; `device` says so of any.
    """
    if device is None and isinstance(points, Tensor) and points.device.type != "cpu":
        device = points.device
    require_tolerance(tolerance)
    if leaf_size is not None:
        require_count(leaf_size, "leaf_size")
    targets = as_points(points, "points")
    others = None if sources is None else as_points(sources, "sources")
    if others is not None and others.shape[1] != targets.shape[1]:
        raise ValueError(
            f"points have {targets.shape[1]} coordinates and sources {others.shape[1]}: they must be equally many"
        )
    term = as_diagonal(diagonal, len(targets))
    if others is not None and term is not None:
        raise ValueError("a rectangular matrix over two point sets takes no diagonal")
    if kernel.positive_definite and not kernel.singular:
        require_nugget(term)

    if len(targets) and not program(kernel, targets.shape[1]):
        few = targets[:: -(-len(targets) // _TRIED)].astype(np.float64)
        require_block(kernel, to_device(few, device or CPU))
    rows, columns, rule, lists, notes = _divide(
        kernel, targets, others, leaf_size, as_admissibility(admissibility)
    )
    dtype = dtype_of(targets, is_complex=kernel.is_complex or (term is not None and term.dtype.kind == "c"))
    with one_blas_thread():
        return _compress(
            kernel, rows, columns, rule, lists, tolerance, dtype,
            None if term is None else term[rows.permutation], notes, progress, device,
        )  # fmt: skip


def _divide(
    kernel: Kernel,
    targets: NDArray[Any],
    sources: NDArray[Any] | None,
    leaf_size: int | None,
    admissibility: Admissibility | None,
) -> tuple[ClusterTree, ClusterTree, Admissibility, Interactions, tuple[str, ...]]:
    """Build trees and lists; where hardly any boxes are far from each other, weak admissibility takes over."""
    scales = length_scales(kernel)
    metric = None if scales is None or len(scales) != targets.shape[1] else 1 / np.array(scales)
    rows, columns = trees_of(targets, sources, leaf_size, metric)
    lists = interactions(rows, columns, admissibility or Strong())
    if admissibility is not None or rows is not columns:
        return rows, columns, admissibility or Strong(), lists, ()
    dimension = targets.shape[1]
    n_leaves = len(rows.level(rows.n_levels - 1))
    near = int(lists.near.counts[rows.level_start[-2] :].sum()) / n_leaves**2
    if dimension <= _SPACE or n_leaves == 1 or near < _CROWDED:
        return rows, columns, Strong(), lists, ()
    crowd = f"{near:.0%} of the leaf pairs of these {dimension}-dimensional points are near"
    if len(targets) <= _SMALL:
        note = f"{crowd}: they stay dense"
        weak = False
    else:
        note = f"{crowd}: every box is taken as far from every other instead (weak admissibility)"
        weak = True
    logger.info(note)
    if not weak:
        return rows, columns, Strong(), lists, (note,)
    return rows, columns, Weak(), interactions(rows, columns, Weak()), (note,)


def trees_of(
    targets: NDArray[Any],
    sources: NDArray[Any] | None,
    leaf_size: int | None = None,
    metric: NDArray[np.float64] | None = None,
) -> tuple[ClusterTree, ClusterTree]:
    """Build the tree of the rows, and that of the columns unless it is the same.

    Args:
        targets: Shape (n, d).
        sources: Shape (m, d); left out for the targets.
        leaf_size: Most points of a leaf; what has been found fastest if left out.
        metric: As `build_tree` takes it.
    """
    volume = _fills_space(targets)
    per_level = 3 if volume else 2
    largest = max(len(targets), 0 if sources is None else len(sources))
    # A box of a volume has up to 26 neighbors if it is a cube, and more if it is not: whole levels make cubes.
    halvings = (
        whole_levels(largest, _LEAF, per_level)
        if volume and leaf_size is None
        else n_halvings(largest, leaf_size or _LEAF)
    )

    def tree(points: NDArray[Any]) -> ClusterTree:
        return build_tree(
            points.astype(np.float64), halvings=halvings, halvings_per_level=per_level, metric=metric
        )

    rows = tree(targets)
    return rows, rows if sources is None else tree(sources)


def _fills_space(points: NDArray[Any]) -> bool:
    """Tell a volume from points on a surface or curve, by how a sample's near distances shrink."""
    if points.shape[1] < 3 or len(points) < 512:
        return False
    sample = points[:: max(1, len(points) // 4096)]
    centers = sample[:: max(1, len(sample) // 64)]
    distances = np.sort(np.sqrt(((centers[:, None] - sample) ** 2).sum(axis=2)), axis=1)
    few, many = 16, 128
    near, wide = distances[:, few], distances[:, many]
    valid = (near > 0) & (wide > near)
    if not valid.any():
        return False
    # Neighbors grow as distance^dimension.
    return bool(np.median(np.log(many / few) / np.log(wide[valid] / near[valid])) > 2.5)


def _compress(
    kernel: Kernel,
    rows: ClusterTree,
    columns: ClusterTree,
    admissibility: Admissibility,
    lists: Interactions,
    tolerance: float,
    dtype: np.dtype[Any],
    term: NDArray[Any] | None,
    notes: tuple[str, ...],
    progress: Progress | None,
    device: torch.device | None,
) -> H2Matrix:
    computed = np.dtype(np.complex128 if kernel.is_complex else np.float64)
    source = _source(kernel, rows, columns, computed, device)
    norm = _norm(source, rows, term)
    narrow = tolerance >= _SINGLE_SUFFICES or dtype.name in ("float32", "complex64")
    narrow &= norm == 0 or _SINGLE_HOLDS[0] <= norm <= _SINGLE_HOLDS[1]
    stored = (
        np.dtype({"float64": "float32", "complex128": "complex64"}[computed.name]) if narrow else computed
    )
    mirrored = kernel.symmetric and rows is columns
    leaves = int(rows.level_start[-2])
    first, second = pairs_of(lists.near, mirrored=mirrored)
    of_leaves = first >= leaves
    near = near_blocks(source.blocks, rows, columns, (first[of_leaves], second[of_leaves]), stored)
    far_pairs = pairs_of(lists.far, mirrored=mirrored)

    sampling = Sampling.for_tolerance(_SHARE * tolerance, norm, rows.n_boxes)
    reached = np.inf
    for attempt in range(_ATTEMPTS):
        column_basis = source.basis(
            lists.far_columns, sampling, transposed=False, stored=stored, progress=progress
        )
        row_basis = (
            column_basis
            if mirrored
            else source.basis(lists.far, sampling, transposed=True, stored=stored, progress=progress)
        )
        result = H2Matrix(
            rows, columns, row_basis, column_basis, near,
            coupling_blocks(source.blocks, row_basis, column_basis, far_pairs, stored),
            mirrored, term, kernel, tolerance, norm, admissibility, lists, dtype, notes, device=device or CPU,
        )  # fmt: skip
        if len(far_pairs[0]) == 0:
            _require_finite(np.abs(near.values).max(initial=0.0))
            break
        reached = sampled_error(result, seed=attempt + 1, n_vectors=8)
        logger.info("checked on exact rows: relative error %.1e (wanted %.0e)", reached, tolerance)
        _require_finite(reached)
        if reached <= tolerance:
            break
        shrink = max(0.3 * tolerance / reached, 1e-3)
        sampling = replace(sampling, budget=sampling.budget * shrink**2, rows=2 * sampling.rows)
    else:
        if reached > 2 * tolerance:
            raise ConvergenceError(
                f"compression reached a relative error of {reached:.1e} where {tolerance:.0e} was asked for; "
                "ask for a larger tolerance"
                + (" or give points in double precision" if dtype.name in ("float32", "complex64") else "")
            )
        note = f"sampled rows have a relative error of {reached:.1e}, above the tolerance of {tolerance:.0e}"
        logger.warning(note)
        result = replace(result, notes=(*notes, note))
    log_levels(result)
    return result


def _require_finite(value: float) -> None:
    """Raise unless what was computed of a kernel's entries is a number."""
    if not math.isfinite(value):
        raise ConvergenceError(
            "the kernel's entries are NaN or infinite, or so large that their squares are; look at what it gives "
            "between points that are equal or far apart"
        )


class _Source(Protocol):
    """Where a matrix's entries and bases come from."""

    def blocks(
        self, rows: Places, columns: Places, pairs: tuple[Ints, Ints], stored: np.dtype[Any]
    ) -> Blocks: ...

    def basis(
        self,
        far: Lists,
        sampling: Sampling,
        *,
        transposed: bool,
        stored: np.dtype[Any],
        progress: Progress | None,
    ) -> Basis: ...

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class _Native:
    """Box by box on the CPU."""

    matrix: "_native.KernelMatrix"
    rows: ClusterTree
    columns: ClusterTree
    computed: np.dtype[Any]

    def blocks(
        self, rows: Places, columns: Places, pairs: tuple[Ints, Ints], stored: np.dtype[Any]
    ) -> Blocks:
        return evaluate_blocks(self.matrix, rows, columns, pairs, stored)

    def basis(
        self,
        far: Lists,
        sampling: Sampling,
        *,
        transposed: bool,
        stored: np.dtype[Any],
        progress: Progress | None,
    ) -> Basis:
        own, other = (self.rows, self.columns) if transposed else (self.columns, self.rows)
        return nested_basis(
            self.matrix, own, other, far, sampling,
            transposed=transposed, computed=self.computed, stored=stored, progress=progress,
        )  # fmt: skip

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]:
        """Return rows of the kernel matrix, in tree order, shape (rows, columns)."""
        evaluate = getattr(_native, f"evaluate_blocks_{self.computed.name}")
        zero, n = np.zeros(1, np.int32), self.columns.n_points
        whole = np.arange(n, dtype=np.int32)
        flat = evaluate(
            self.matrix, np.array([0, len(chosen)]), chosen, np.array([0, n]), whole, zero, zero, 1
        )
        return np.asarray(flat).reshape(n, len(chosen)).T


def _source(
    kernel: Kernel,
    rows: ClusterTree,
    columns: ClusterTree,
    computed: np.dtype[Any],
    device: torch.device | None,
    correction: csr_array | None = None,
) -> _Source:
    if device is None or correction is not None:
        return _Native(kernel_matrix(kernel, rows, columns, correction), rows, columns, computed)
    return DeviceSource(DeviceKernel(kernel, rows, columns, torch_dtype(computed), device))


def _norm(source: _Source, rows: ClusterTree, term: NDArray[Any] | None) -> float:
    """Estimate the Frobenius norm from evenly spread exact rows."""
    n = rows.n_points
    chosen = np.unique(np.linspace(0, n - 1, min(n, 64)).astype(np.int32)) if n else np.zeros(0, np.int32)
    squares = float((np.abs(source.exact_rows(chosen)) ** 2).sum()) * n / max(len(chosen), 1)
    if term is not None:
        squares += float((np.abs(term) ** 2).sum())
    return float(np.sqrt(squares))


def sampled_error(A: H2Matrix, *, seed: int, n_rows: int | None = None, n_vectors: int) -> float:
    """Return the relative error of A X for normal X, in the Frobenius norm of sampled rows."""
    if A.kernel is None:
        raise ValueError("error_estimate needs exact entries, and this matrix was not built from a kernel")
    if 0 in A.shape:
        return 0.0
    generator = np.random.default_rng(seed)
    chosen = sampled_rows(A, generator, n_rows)
    X = generator.standard_normal((A.shape[1], n_vectors))
    exact = exact_product(A, chosen, X)
    found = to_host(A @ to_device(X, A.device))[A.rows.permutation[chosen]]
    norm = np.linalg.norm(exact)
    return float(np.linalg.norm(found - exact) / norm) if norm > 0 else float(np.linalg.norm(found))


def sampled_rows(A: H2Matrix, generator: np.random.Generator, n_rows: int | None = None) -> NDArray[np.int32]:
    """Draw places of the tree order, one from each of equal parts, so that no region goes without."""
    n = A.shape[0]
    n_rows = min(n, n_rows or max(_CHECKED_ROWS, int(_CHECKED_ENTRIES / max(A.shape[1], 1))))
    edges = np.arange(n_rows + 1, dtype=np.int64) * n // max(n_rows, 1)
    return generator.integers(edges[:-1], edges[1:]).astype(np.int32)


def exact_product(A: H2Matrix, chosen: NDArray[np.int32], X: NDArray[Any]) -> NDArray[Any]:
    """Return rows, at places of the tree order, of the product of A's exact entries with X in the caller's order."""
    assert A.kernel is not None
    kind = np.dtype(np.complex128 if A.kernel.is_complex else np.float64)
    in_tree_order = X[A.columns.permutation]
    device = None if A.device.type == "cpu" else A.device
    source = _source(A.kernel, A.rows, A.columns, kind, device, A.correction)
    n_parts = max(math.ceil(len(chosen) * A.shape[1] / _ENTRIES_AT_A_TIME), 1)
    exact = np.concatenate(
        [source.exact_rows(part) @ in_tree_order for part in np.array_split(chosen, n_parts)]
    )
    if A.diagonal_term is not None:
        exact = exact + A.diagonal_term[chosen, None] * in_tree_order[chosen]
    return np.asarray(exact)

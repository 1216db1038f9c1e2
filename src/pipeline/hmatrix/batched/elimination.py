"""Strong recursive skeletonization by level and color: eliminate.cpp's mathematics, a bucket of boxes at once.

Boxes of a color have no near box in common, so that their eliminations write different blocks. They may still be
coupled by what earlier colors and levels left between far boxes: all of a color are compressed, such blocks included,
before the first of them is eliminated. Then redundant unknowns of different boxes are decoupled [1], and the order
within a color does not matter.

The host waits for the device a few times for each bucket, to learn ranks and whether pivots are sound.

References:
    [1] Minden, Ho, Damle, Ying, "A recursive skeletonization factorization based on strong admissibility", MMS 2017.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg.lapack
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from pipeline.hmatrix.admissibility import Interactions
from pipeline.hmatrix.batched.blocks import LevelMatrix
from pipeline.hmatrix.batched.coloring import colors, within_two_steps
from pipeline.hmatrix.batched.compression import BoxBases, FarField, compress
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.batched.padding import Integers, buckets, ranges, to_device, to_host
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.batched.steps import BatchedSteps, Elimination
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Sampling

Failure = tuple[int, int, float]  # level, place in tree order, pivot


@dataclass(frozen=True)
class Problem:
    """What is eliminated, and how.

    Attributes:
        kernel, diagonal: Of the matrix; the diagonal in tree order.
        tree, lists: Of its points.
        kind: "cholesky", "ldlt" or "lu".
        computed, stored: Types.
        sampling: How far fields are sampled.
        dense_end: Unknowns that are left to one dense factorization.
        device: The device that computes.
        progress: Told of the boxes done.
        correction: Sparse entries of near blocks, in tree order, beyond the kernel's.
    """

    kernel: Kernel
    diagonal: NDArray[Any]
    tree: ClusterTree
    lists: Interactions
    kind: str
    computed: torch.dtype
    stored: torch.dtype
    sampling: Sampling
    dense_end: int
    device: torch.device
    progress: Progress | None = None
    correction: csr_array | None = None


class _BrokenDown(Exception):
    """A pivot that is not positive, or vanishes."""

    def __init__(self, place: int, pivot: float) -> None:
        self.place, self.pivot = place, pivot


@full_precision()
def eliminate(problem: Problem) -> tuple[tuple[BatchedSteps, ...], Failure | None]:
    """Factorize k(points, points) + diagonal.

    Returns:
        The levels, leaves first and the dense end last, and None, or what broke down.
    """
    tree, levels = problem.tree, list[BatchedSteps]()
    level, stop = tree.n_levels - 1, problem.lists.first_far_level(tree)
    matrix = _leaves(problem)
    try:
        while level >= stop and matrix.n_unknowns > problem.dense_end:
            begun = time.perf_counter()
            steps = _eliminate_level(problem, matrix, level)
            matrix = _merged(problem, matrix, level)
            levels.append(_steps(steps, begun))
            level -= 1
        begun = time.perf_counter()
        if matrix.n_boxes > 1:
            matrix = _merged(problem, matrix, None)
        levels.append(_steps(_dense_end(problem, matrix), begun))
    except _BrokenDown as failure:
        return tuple(levels), (max(level, 0), failure.place, failure.pivot)
    if problem.progress is not None:
        problem.progress(tree.n_boxes, tree.n_boxes)
    return tuple(levels), None


@dataclass(eq=False)
class _Recorded:
    """What a level leaves, as it grows."""

    eliminations: list[Elimination]
    determinants: list[Tensor]
    table: NDArray[np.int32]


def _steps(recorded: _Recorded, begun: float) -> BatchedSteps:
    parts = to_host(torch.stack(recorded.determinants)) if recorded.determinants else np.zeros((0, 3))
    phase = np.prod(parts[:, 0] + 1j * parts[:, 1])
    determinant = np.array([phase.real, phase.imag, parts[:, 2].sum()])
    return BatchedSteps(
        tuple(recorded.eliminations), determinant, recorded.table, time.perf_counter() - begun
    )


def _near(problem: Problem, level: int) -> csr_array:
    """Return the near boxes of a level, numbered from its first."""
    first, last = (int(problem.tree.level_start[level + i]) for i in (0, 1))
    near = problem.lists.near
    start = near.start[first : last + 1]
    columns = near.boxes[start[0] : start[-1]].astype(np.int64) - first
    shape = (last - first, last - first)
    return csr_array((np.ones(len(columns), np.int64), columns, start - start[0]), shape=shape)


def _leaves(problem: Problem) -> LevelMatrix:
    tree, level = problem.tree, problem.tree.n_levels - 1
    start = np.append(tree.start[tree.level_start[level] :], tree.n_points).astype(np.int64)
    diagonal = to_device(problem.diagonal, problem.device).to(problem.computed)
    points = torch.arange(tree.n_points + 1, device=problem.device)
    stored = within_two_steps(_near(problem, level))
    entries = DeviceKernel(problem.kernel, tree, tree, problem.computed, problem.device)
    matrix = LevelMatrix(entries, diagonal, points, start, stored, symmetric=problem.kind != "lu")
    if problem.correction is not None:
        added = problem.correction.tocoo()
        rows, columns = (index.astype(np.int64) for index in added.coords)
        matrix.add(rows, columns, added.data)
    return matrix


def _merged(problem: Problem, below: LevelMatrix, level: int | None) -> LevelMatrix:
    """Return the matrix of the parents of a level's boxes; without a level, or above the first, all in one box."""
    n_parents = below.n_boxes // problem.tree.arity if level else 1
    parent = np.arange(below.n_boxes) // (below.n_boxes // n_parents)
    ends = np.append(0, np.cumsum(below.size))
    start = ends[np.searchsorted(parent, np.arange(n_parents + 1))]
    changed = below.touched[:-1]
    pairs = parent[below.first[changed]], parent[below.second[changed]]
    stored = csr_array((np.ones(len(pairs[0]), np.int64), pairs), shape=(n_parents, n_parents))
    stored = stored + (within_two_steps(_near(problem, level - 1)) if level else csr_array([[1]]))
    matrix = LevelMatrix(
        below.entries, below.diagonal, below.left(), start, stored, symmetric=below.symmetric
    )
    matrix.take_over(below, parent)
    return matrix


def _eliminate_level(problem: Problem, matrix: LevelMatrix, level: int) -> _Recorded:
    """Eliminate what is redundant in the boxes of a level, color by color."""
    near = _near(problem, level)
    first_box = int(problem.tree.level_start[level])
    field = FarField(problem.tree, problem.tree, problem.lists.far, problem.sampling)
    present = matrix.size > 0
    recorded = _Recorded([], [], np.array([present.sum(), matrix.n_unknowns, 0], np.int32))
    done = problem.tree.n_boxes - int(problem.tree.level_start[level + 1])
    for color in colors(within_two_steps(near), present):
        parts = ranges(near.indptr[color], np.diff(near.indptr)[color], -1)
        parts = np.where(parts >= 0, near.indices[parts], -1)
        n, width = matrix.size[color], np.where(parts >= 0, matrix.size[parts], 0).sum(axis=1)
        groups = list(buckets(n, int(field.sampling.rows) + width))
        # All of a color are compressed before any is eliminated.
        bases = [compress(matrix, color[group], parts[group], field, first_box) for group in groups]
        for group, basis in zip(groups, bases, strict=True):
            outer = width[group] - n[group] + basis.rank
            for bucket in buckets(outer, outer):
                boxes, near_boxes = color[group[bucket]], parts[group[bucket]]
                others = np.where(near_boxes == boxes[:, None], -1, near_boxes)
                _eliminate_bucket(problem, matrix, boxes, others, basis.part(bucket, n[group]), recorded)
        recorded.table[2] += sum(int(basis.rank.sum()) for basis in bases)
        done += len(color)
        if problem.progress is not None:
            problem.progress(done, problem.tree.n_boxes)
    return recorded


def _dense_end(problem: Problem, matrix: LevelMatrix) -> _Recorded:
    """Eliminate all that is left as one box."""
    recorded = _Recorded([], [], np.array([1, matrix.n_unknowns, 0], np.int32))
    if matrix.n_unknowns:
        box, nothing = np.zeros(1, np.int64), np.zeros((1, 0), np.int64)
        whole, none = matrix.unknowns(box[:, None]), matrix.unknowns(nothing)
        T = matrix.values.new_zeros(1, 0, matrix.n_unknowns)
        basis = BoxBases(none, whole, T, np.zeros(1, np.int64))
        _eliminate_bucket(problem, matrix, box, nothing, basis, recorded)
    return recorded


def _eliminate_bucket(
    problem: Problem,
    matrix: LevelMatrix,
    boxes: Integers,
    others: Integers,
    basis: BoxBases,
    recorded: _Recorded,
) -> None:
    """Eliminate the redundant unknowns of boxes, given their bases and near boxes (b, p), -1 for padding.

    With D for redundant unknowns, S for skeletons and N for these and what is left of the near boxes, unknowns D less
    T^T S are free of the far field: W = A_ND - A_NS T, V^T = A_DN - T^T A_SN, X = A_DD - A_DS T - T^T W_S, and the
    others are updated by - W X^-1 V^T.
    """
    general, (_, k, d) = not matrix.symmetric, basis.T.shape
    n = matrix.size[boxes]
    parts = np.concatenate([boxes[:, None], others], axis=1)
    pairs_on_host = matrix.table(parts, parts)
    pairs = to_device(pairs_on_host, matrix.device)
    near = matrix.unknowns(np.where(np.arange(parts.shape[1]) > 0, parts, -1))
    D, S, T = basis.redundant, basis.skeletons, basis.T
    N = S.followed_by(near)
    left = matrix.read(pairs, N, D) - matrix.read(pairs, N, S) @ T
    right = matrix.read(pairs, D, N) - T.mT @ matrix.read(pairs, S, N) if general else left.mT
    across = matrix.read(pairs, D, S) if general else matrix.read(pairs, S, D).mT
    X = matrix.read(pairs, D, D) - across @ T - T.mT @ left[:, :k]
    matrix.keep(boxes, basis.rank, S)
    if d == 0:
        return
    padding = D.index == matrix.n_unknowns
    X.diagonal(dim1=1, dim2=2).add_(padding)
    redundant = matrix.points[D.index]
    if problem.kind == "cholesky":
        factor, pivots = _cholesky(X, redundant), None
        left = torch.linalg.solve_triangular(factor.mT, left, upper=True, left=False)
        matrix.subtract(pairs, N, N, left @ left.mT)
        determinant = _determinant(factor.diagonal(dim1=1, dim2=2).square())
    else:
        factor, pivots = _lu(X, redundant, padding)
        right = torch.linalg.lu_solve(factor, pivots, right)
        matrix.subtract(pairs, N, N, left @ right)
        left = torch.linalg.lu_solve(factor, pivots, left, left=False) if general else right.mT
        swapped = pivots != torch.arange(1, d + 1, device=pivots.device, dtype=pivots.dtype)
        determinant = _determinant(factor.diagonal(dim1=1, dim2=2), swapped.sum())
    matrix.touch(pairs_on_host[n > basis.rank])
    store = problem.stored
    recorded.determinants.append(determinant)
    recorded.eliminations.append(
        Elimination(
            redundant, matrix.points[N.index], T.to(store), factor.to(store), pivots,
            left.to(store).contiguous(), right.to(store) if general else None,
        )
    )  # fmt: skip


def _determinant(pivots: Tensor, n_swaps: Tensor | None = None) -> Tensor:
    """Return real and imaginary part of the phase of a product, and the logarithm of its size."""
    wide = pivots.to(torch.complex128 if pivots.is_complex() else torch.float64)
    phase = torch.sgn(wide).prod()
    if n_swaps is not None:
        phase = phase * (1 - 2 * (n_swaps % 2))
    real = torch.view_as_real(phase) if wide.is_complex() else torch.stack([phase, torch.zeros_like(phase)])
    return torch.cat([real, wide.abs().log().sum()[None]])


def _cholesky(X: Tensor, places: Tensor) -> Tensor:
    """Return L, if the pivots are positive beyond rounding."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(X)
    epsilon = torch.finfo(X.dtype).eps
    roots = factor.diagonal(dim1=1, dim2=2)
    positive = roots.square() > 8 * epsilon * X.diagonal(dim1=1, dim2=2)
    sound = to_host((info == 0) & positive.all(1))
    if not sound.all():
        b = int(np.argmin(sound))
        block = to_host(X[b])
        potrf = {"float32": scipy.linalg.lapack.spotrf, "float64": scipy.linalg.lapack.dpotrf}[
            block.dtype.name
        ]
        found, info = potrf(block, lower=1)
        # Where LAPACK passes what the device did not, the pivot that is least beside its diagonal entry is to blame.
        squares = np.diag(found) ** 2
        bad = np.flatnonzero(~(squares > 8 * epsilon * np.diag(block)))
        i = info - 1 if info > 0 else int(bad[0]) if len(bad) else int(np.argmin(squares / np.diag(block)))
        raise _BrokenDown(int(to_host(places[b, i])), float(found[i, i] if info > 0 else squares[i]))
    return factor


def _lu(X: Tensor, places: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return LU factors and pivots, if no pivot vanishes against the largest."""
    factor, pivots, _ = torch.linalg.lu_factor_ex(X)
    sizes = factor.diagonal(dim1=1, dim2=2).abs()
    largest = sizes.masked_fill(padding, 0).amax(1, keepdim=True)
    sound = to_host((sizes > torch.finfo(X.dtype).eps * largest) | padding)
    if not sound.all():
        b, i = (int(index[0]) for index in np.nonzero(~sound))
        raise _BrokenDown(int(to_host(places[b, i])), float(to_host(sizes[b, i])))
    return factor, pivots

"""Strong recursive skeletonization by level and color: eliminate.cpp's mathematics, a bucket of boxes at once.

Boxes of a color have no near box in common, so that their eliminations write different blocks. They may still be
coupled by blocks that earlier colors and levels filled between far boxes. All boxes of a color are therefore
compressed, such blocks included, before the first of them is eliminated. Then redundant unknowns of different boxes are
decoupled [1], and the order within a color does not matter.

The host waits for the device a few times for each bucket, to learn ranks and whether pivots are sound.

References:
    [1] Minden, Ho, Damle, Ying, "A recursive skeletonization factorization based on strong admissibility", MMS 2017.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.hmatrix.admissibility import Interactions
from pipeline.hmatrix.batched.blocks import LevelMatrix
from pipeline.hmatrix.batched.bucket import BrokenDown, Recorded, eliminate_bucket
from pipeline.hmatrix.batched.coloring import colors, near_of_level, within_two_steps
from pipeline.hmatrix.batched.compression import BoxBases, FarField, compress
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.batched.padding import buckets, ranges, to_device
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.batched.steps import BatchedSteps
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import FarSampling

Failure = tuple[int, int, float]  # level, place in tree order, pivot


@dataclass(frozen=True)
class BatchedProblem:
    """What is eliminated, and how.

    Attributes:
        kernel, diagonal: The matrix, whose diagonal is in tree order.
        tree, lists: Boxes of its points, and which are near and far.
        kind: "cholesky", "ldlt" or "lu".
        computed, stored: Types.
        sampling: Settings by which far fields are sampled.
        dense_end: Unknowns that are left to one dense factorization.
        device: The device that computes.
        progress: Called with the number of boxes done and of all boxes.
        correction: Sparse entries of near blocks, in tree order, beyond the kernel's.
    """

    kernel: Kernel
    diagonal: NDArray[Any]
    tree: ClusterTree
    lists: Interactions
    kind: str
    computed: torch.dtype
    stored: torch.dtype
    sampling: FarSampling
    dense_end: int
    device: torch.device
    progress: Progress | None = None
    correction: csr_array | None = None


@full_precision()
def eliminate(problem: BatchedProblem) -> tuple[tuple[BatchedSteps, ...], Failure | None]:
    """Factorize k(points, points) + diagonal.

    Returns:
        The levels, leaves first and the dense end last, and None or the failure.
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
    except BrokenDown as failure:
        return tuple(levels), (max(level, 0), failure.place, failure.pivot)
    if problem.progress is not None:
        problem.progress(tree.n_boxes, tree.n_boxes)
    return tuple(levels), None


def _steps(recorded: Recorded, begun: float) -> BatchedSteps:
    return BatchedSteps(
        tuple(recorded.eliminations), recorded.determinant, recorded.table, time.perf_counter() - begun
    )


def _leaves(problem: BatchedProblem) -> LevelMatrix:
    tree, level = problem.tree, problem.tree.n_levels - 1
    start = np.append(tree.start[tree.level_start[level] :], tree.n_points).astype(np.int64)
    diagonal = to_device(problem.diagonal, problem.device).to(problem.computed)
    points = torch.arange(tree.n_points + 1, device=problem.device)
    stored = within_two_steps(near_of_level(problem.tree, problem.lists.near, level))
    entries = DeviceKernel(problem.kernel, tree, tree, problem.computed, problem.device)
    matrix = LevelMatrix(
        entries, diagonal.__getitem__, points, start, stored,
        symmetric=problem.kind != "lu", dtype=problem.computed,
    )  # fmt: skip
    if problem.correction is not None:
        added = problem.correction.tocoo()
        rows, columns = (index.astype(np.int64) for index in added.coords)
        matrix.add(rows, columns, added.data)
    return matrix


def _merged(problem: BatchedProblem, below: LevelMatrix, level: int | None) -> LevelMatrix:
    """Return the matrix of the parents of a level's boxes; without a level, or above the first, all in one box."""
    n_parents = below.n_boxes // problem.tree.arity if level else 1
    parent = np.arange(below.n_boxes) // (below.n_boxes // n_parents)
    ends = np.append(0, np.cumsum(below.size))
    start = ends[np.searchsorted(parent, np.arange(n_parents + 1))]
    changed = below.touched[:-1]
    pairs = parent[below.first[changed]], parent[below.second[changed]]
    stored = csr_array((np.ones(len(pairs[0]), np.int64), pairs), shape=(n_parents, n_parents))
    stored = stored + (
        within_two_steps(near_of_level(problem.tree, problem.lists.near, level - 1))
        if level
        else csr_array([[1]])
    )
    matrix = LevelMatrix(
        below.entries,
        below.diagonal,
        below.left(),
        start,
        stored,
        symmetric=below.symmetric,
        dtype=below.dtype,
    )
    matrix.take_over(below, parent)
    return matrix


def _eliminate_level(problem: BatchedProblem, matrix: LevelMatrix, level: int) -> Recorded:
    """Eliminate the redundant unknowns of the boxes of a level, color by color."""
    near = near_of_level(problem.tree, problem.lists.near, level)
    first_box = int(problem.tree.level_start[level])
    field = FarField(problem.tree, problem.tree, problem.lists.far, problem.sampling)
    present = matrix.size > 0
    recorded = Recorded([], [], np.array([present.sum(), matrix.n_unknowns, 0], np.int32))
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
                eliminate_bucket(
                    problem.kind,
                    problem.stored,
                    matrix,
                    boxes,
                    others,
                    basis.part(bucket, n[group]),
                    recorded,
                )
        recorded.table[2] += sum(int(basis.rank.sum()) for basis in bases)
        done += len(color)
        if problem.progress is not None:
            problem.progress(done, problem.tree.n_boxes)
    return recorded


def _dense_end(problem: BatchedProblem, matrix: LevelMatrix) -> Recorded:
    """Eliminate all unknowns that are left as one box."""
    recorded = Recorded([], [], np.array([1, matrix.n_unknowns, 0], np.int32))
    if matrix.n_unknowns:
        box, nothing = np.zeros(1, np.int64), np.zeros((1, 0), np.int64)
        whole, none = matrix.unknowns(box[:, None]), matrix.unknowns(nothing)
        T = matrix.values.new_zeros(1, 0, matrix.n_unknowns)
        basis = BoxBases(none, whole, T, np.zeros(1, np.int64))
        eliminate_bucket(problem.kind, problem.stored, matrix, box, nothing, basis, recorded)
    return recorded

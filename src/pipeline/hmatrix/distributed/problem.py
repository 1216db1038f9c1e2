"""What a process has to know to eliminate its parts of a divided matrix.

A part wants the coordinates of its own points, of the unknowns of its ghosts and of samples of the far field. They are
fetched level by level from their owners (parts/elimination.py says which), and those of the level before are let go.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import interactions
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.plans import NearBoxes, divided_plans
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.distributed.vectors import shifted
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.partition import LevelPartition
from pipeline.hmatrix.parts import Problem, Team
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.ranges import range_edges
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.swap import Array, Halo, Ids, gather
from pipeline.runtime.communicator import Communicator


def divided_problem(
    A: OwnForm,
    own_term: Array,
    team: Team,
    kind: int,
    working: np.dtype[Any],
    stored: np.dtype[Any],
    sampling: FarSampling,
    dense_end: int,
) -> Problem:
    """Return what this process's parts have to know of A; collective.

    Args:
        A: The matrix.
        own_term: What is added to the diagonal of own rows, in tree order.
        team: The parts.
        kind, working, stored, sampling, dense_end: See `Problem`.
    """
    division, communicator = A.division, team.communicator
    tree = division.tree
    near, far, plans, edges = A.interactions.near, A.interactions.far, None, division.edges
    if communicator.size > 1:
        plans, near = divided_plans(NearBoxes(division, near, communicator), team)
        bounds = range_edges(tree, plans[-1].first, plans[-1].cuts)
        edges = bounds[np.searchsorted(team.place, np.arange(communicator.size + 1))]  # of the processes
        far = interactions(tree, tree, A.admissibility, _with_ancestors(tree, plans, team)).far
    ranges = np.stack([edges[:-1], edges[1:]], axis=1)
    points, term = (
        shifted(rows, division.first, ranges, communicator) for rows in (division.tree.points, own_term)
    )
    kept = _Kept(A.kernel, int(edges[communicator.rank]), points, term, edges, communicator)
    matrix, diagonal, _ = kept.fetch(np.zeros(0, np.int64))
    highest = gather(communicator, np.array([A.interactions.first_far_level(tree)]))
    return Problem(
        matrix, tree, near, far, diagonal, kind, working, stored, sampling,
        min(int(level[0]) for level in highest), dense_end, kept.fetch if communicator.size > 1 else None,
        (kept.first, kept.first + len(kept.points)), A.kernel, plans,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Kept:
    """Points of a process's parts, and how to get others.

    Attributes:
        kernel: The kernel.
        first: Place of the first of these points.
        points, diagonal: Coordinates, and what is added to the diagonal.
        edges: Shape (processes + 1,); process p has places edges[p] to edges[p + 1] - 1.
        communicator: The processes.
    """

    kernel: Kernel
    first: int
    points: NDArray[np.float64]
    diagonal: Array
    edges: Ids
    communicator: Communicator

    def fetch(self, wanted: Ids) -> tuple["_native.KernelMatrix", Array, KeptPoints]:
        """Return entries and diagonal of the own points and of those at `wanted`, and all these points; collective."""
        wanted = distinct(wanted[(wanted < self.first) | (wanted >= self.first + len(self.points))])
        halo = Halo.of(self.communicator, wanted, self.edges)
        others, term = (halo.fetch(self.communicator, rows) for rows in (self.points, self.diagonal))
        kept = KeptPoints(self.first, self.points, wanted.astype(np.int32), others)
        matrix = kernel_matrix(self.kernel, kept, kept, is_complex=self.diagonal.dtype.kind == "c")
        return matrix, np.concatenate([self.diagonal, term]), kept


def _with_ancestors(tree: ClusterTree, plans: list[LevelPartition], team: Team) -> NDArray[np.bool_]:
    """Return which boxes this process's parts own on any level, and all above these."""
    wanted = np.zeros(tree.n_boxes, bool)
    for plan in plans:
        for part in team.own:
            wanted[slice(*plan.range_of(part))] = True
    for level in range(tree.n_levels - 1, 0, -1):
        boxes = tree.level(level)
        wanted[tree.parent[np.flatnonzero(wanted[boxes.start : boxes.stop]) + boxes.start]] = True
    return wanted

"""What a process needs to know to eliminate its parts of a divided matrix.

A part needs the coordinates of its own points, of the unknowns of its ghosts and of samples of the far field. These are
fetched from their owners level by level (parts/elimination.py says which); those of the previous level are dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.plans import DividedPlan, NearBoxes, divided_plans
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.distributed.surroundings import Surroundings
from pipeline.hmatrix.distributed.vectors import shifted
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.parts import PartsPlan, Problem, Team, last_dense_level
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.swap import Array, Halo, Ids, gather
from pipeline.runtime.communicator import Communicator


def divided_problem(
    A: OwnForm,
    own_term: Array,
    team: Team,
    communicator: Communicator,
    kind: int,
    working: np.dtype[Any],
    stored: np.dtype[Any],
    sampling: FarSampling,
    dense_end: int,
) -> Problem:
    """Return what this process's parts need to know of A; collective.

    Args:
        A: The matrix.
        own_term: Diagonal term of own rows, in tree order.
        team: The parts; what they fetch while they eliminate passes through the team's communicator.
        communicator: The same processes, as they plan.
        kind, working, stored, sampling, dense_end: See `Problem`.
    """
    division = A.division
    highest = gather(communicator, np.array([A.interactions.first_far_level(division.tree)]))
    first_far_level = min(int(level[0]) for level in highest)
    edges = division.edges
    boxes = PartsBoxes(division.tree, A.interactions.near, A.interactions.far)
    if communicator.size > 1:
        plans = divided_plans(NearBoxes(division, A.interactions.near, communicator), team)
        leaves = plans[-1].partition.places
        edges = leaves[np.searchsorted(team.place, np.arange(communicator.size + 1))]  # of the processes
        boxes = parts_boxes(
            A,
            plans,
            team,
            communicator,
            at_end=last_dense_level(division.whole.sizes, first_far_level, dense_end),
        )
    ranges = np.stack([edges[:-1], edges[1:]], axis=1)
    points, term = (
        shifted(rows, division.first, ranges, communicator) for rows in (division.tree.points, own_term)
    )
    kept = _Kept(A.kernel, int(edges[communicator.rank]), points, term, edges, team.communicator)
    matrix, diagonal, _ = kept.fetch(np.zeros(0, np.int64))
    fetch = kept.fetch if communicator.size > 1 else None
    return Problem(
        matrix, boxes.tree, boxes.near, boxes.far, diagonal, kind, working, stored, sampling, first_far_level,
        dense_end, fetch, (kept.first, kept.first + len(kept.points)), A.kernel, boxes.plan,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class PartsBoxes:
    """Boxes that this process's parts need to know.

    Attributes:
        tree: The boxes.
        near, far: See `Problem`.
        plan: Which part owns which of them; None if all boxes are known.
    """

    tree: ClusterTree
    near: Lists
    far: Lists
    plan: PartsPlan | None = None


def parts_boxes(
    A: OwnForm, plans: list[DividedPlan], team: Team, communicator: Communicator, *, at_end: int
) -> PartsBoxes:
    """Find the surroundings of the boxes that this process's parts own; collective.

    Args:
        A: The matrix.
        plans: The plan of each level.
        team: The parts.
        communicator: The processes.
        at_end: The last of the levels on which eliminations may end: the fastest part then takes all boxes.
    """
    division, whole = A.division, A.division.whole
    takes_all = int(np.argmax(team.speeds)) in team.own
    wanted, others = [], []
    own = known = np.zeros(0, np.int64)
    for level in range(whole.n_levels - 1, -1, -1):
        partition = plans[level].partition
        here = np.arange(partition.low, partition.low + len(partition.phase))
        own = np.union1d(here, own // whole.arity)
        # Children of what the level above knows become its boxes there.
        parents = plans[level - 1].numbers_on_level if level else np.zeros(0, np.int64)
        children = (parents[:, None] * whole.arity + np.arange(whole.arity)).reshape(-1)
        known = distinct(np.concatenate([plans[level].numbers_on_level, children, known // whole.arity]))
        if takes_all and level <= at_end:
            known = np.arange(whole.sizes[level])
        wanted.append(own)
        others.append(known)
    found = Surroundings.of(division.bounds, A.admissibility, wanted[::-1], communicator, others=others[::-1])
    counts = np.zeros(len(found.numbers), np.int64)
    members = []
    for level_plan in plans:
        at = np.searchsorted(found.numbers, level_plan.partition.first + level_plan.numbers_on_level)
        counts[at] = np.diff(level_plan.near.indptr)
        members.append(at[level_plan.near.indices].astype(np.int32))
    near = Lists(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(members))
    plan = PartsPlan([level_plan.partition for level_plan in plans], found.numbers)
    return PartsBoxes(found.tree, near, found.interactions.far, plan)


@dataclass(frozen=True, eq=False)
class _Kept:
    """Points of a process's parts, and how to get others.

    Attributes:
        kernel: The kernel.
        first: Place of the first of these points.
        points, diagonal: Coordinates and diagonal term of these points.
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

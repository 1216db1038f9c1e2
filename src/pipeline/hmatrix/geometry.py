"""Trees and lists of an H2 matrix: which points are together in a box, and which boxes are near or far.

All of it follows from the points alone, before any entry of the matrix is computed.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.admissibility import Admissibility, Interactions, Strong, Weak, interactions
from pipeline.hmatrix.cluster import ClusterTree, build_tree, n_halvings, whole_levels

logger = logging.getLogger("pipeline.hmatrix")

_CROWDED = 0.4  # share of near leaf pairs from which strong admissibility does not pay
_SPACE = 3  # dimensions in which the number of near boxes is bounded, whatever their share in a small matrix
_SMALL = 2048  # points up to which a crowded matrix stays dense
_LEAF = 64  # points: of the order of a leaf's rank at tolerance 1e-6


@dataclass(frozen=True, eq=False)
class Geometry:
    """How the points are divided.

    Attributes:
        rows, columns: Trees of targets and sources; the same object where the matrix is square over one point set.
        admissibility: The rule that tells near from far.
        interactions: Near and far boxes on all levels.
    """

    rows: ClusterTree
    columns: ClusterTree
    admissibility: Admissibility
    interactions: Interactions

    @classmethod
    def of(cls, rows: ClusterTree, columns: ClusterTree, admissibility: Admissibility) -> "Geometry":
        """Build the lists of two trees."""
        return cls(rows, columns, admissibility, interactions(rows, columns, admissibility))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.n_points, self.columns.n_points

    @property
    def is_square(self) -> bool:
        """Whether rows and columns are of one point set."""
        return self.rows is self.columns

    def transposed(self) -> "Geometry":
        """Return the same with rows and columns exchanged."""
        lists = self.interactions
        return Geometry(
            self.columns,
            self.rows,
            self.admissibility,
            Interactions(lists.near_columns, lists.far_columns, lists.near, lists.far),
        )


def divide(
    targets: NDArray[Any],
    sources: NDArray[Any] | None = None,
    *,
    leaf_size: int | None = None,
    admissibility: Admissibility | None = None,
    metric: NDArray[np.float64] | None = None,
) -> tuple[Geometry, tuple[str, ...]]:
    """Build trees and lists; where hardly any boxes are far from each other, weak admissibility takes over.

    Args:
        targets: Shape (n, d).
        sources: Shape (m, d); left out for the targets.
        leaf_size: Largest number of points in a leaf; by default about 64, which was measured to be fastest.
        admissibility: A rule; left out, the points decide.
        metric: See `build_tree`.

    Returns:
        The geometry, and notes for the caller where the points decided against strong admissibility.
    """
    rows, columns = trees_of(targets, sources, leaf_size, metric)
    found = Geometry.of(rows, columns, admissibility or Strong())
    if admissibility is not None or rows is not columns:
        return found, ()
    near = int(found.interactions.near.counts[rows.level_start[-2] :].sum())
    weak, note = crowded(near, len(rows.level(rows.n_levels - 1)), *targets.shape)
    return Geometry.of(rows, columns, Weak()) if weak else found, (note,) if note else ()


def crowded(n_near: int, n_leaves: int, n_points: int, dimension: int) -> tuple[bool, str]:
    """Tell whether so many leaf pairs are near that weak admissibility does better, and return a note about them.

    Args:
        n_near: Near pairs of leaves.
        n_leaves: Leaves.
        n_points: Points.
        dimension: Their coordinates.
    """
    near = n_near / n_leaves**2
    if dimension <= _SPACE or n_leaves == 1 or near < _CROWDED:
        return False, ""
    crowd = f"{near:.0%} of the leaf pairs of these {dimension}-dimensional points are near"
    weak = n_points > _SMALL
    note = (
        f"{crowd}: every box is taken as far from every other instead (weak admissibility)"
        if weak
        else f"{crowd}: they stay dense"
    )
    logger.info(note)
    return weak, note


def trees_of(
    targets: NDArray[Any],
    sources: NDArray[Any] | None,
    leaf_size: int | None = None,
    metric: NDArray[np.float64] | None = None,
) -> tuple[ClusterTree, ClusterTree]:
    """Build the tree of the rows, and that of the columns unless it is the same; arguments as `divide` takes them."""
    volume = fills_space(targets[:: sampling_step(len(targets))], len(targets))
    largest = max(len(targets), 0 if sources is None else len(sources))
    halvings, per_level = depth_of(largest, volume=volume, leaf_size=leaf_size)

    def tree(points: NDArray[Any]) -> ClusterTree:
        return build_tree(
            points.astype(np.float64), halvings=halvings, halvings_per_level=per_level, metric=metric
        )

    rows = tree(targets)
    return rows, rows if sources is None else tree(sources)


def depth_of(n_points: int, *, volume: bool, leaf_size: int | None) -> tuple[int, int]:
    """Return how often points are halved, in all and from level to level."""
    per_level = 3 if volume else 2
    # A box of a volume has up to 26 neighbors if it is a cube, and more if it is not: whole levels make cubes.
    if volume and leaf_size is None:
        return whole_levels(n_points, _LEAF, per_level), per_level
    return n_halvings(n_points, leaf_size or _LEAF), per_level


def sampling_step(n_points: int) -> int:
    """Return the stride of the sample of points that `fills_space` looks at."""
    return max(1, n_points // 4096)


def fills_space(sample: NDArray[Any], n_points: int) -> bool:
    """Tell a volume from points on a surface or curve, by how the number of neighbors grows with the distance."""
    if sample.shape[1] < 3 or n_points < 512:
        return False
    centers = sample[:: max(1, len(sample) // 64)]
    distances = np.sort(np.sqrt(((centers[:, None] - sample) ** 2).sum(axis=2)), axis=1)
    few, many = 16, 128
    near, wide = distances[:, few], distances[:, many]
    valid = (near > 0) & (wide > near)
    if not valid.any():
        return False
    # Neighbors grow as distance^dimension.
    return bool(np.median(np.log(many / few) / np.log(wide[valid] / near[valid])) > 2.5)

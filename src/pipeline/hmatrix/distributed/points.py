"""The points that a process keeps: its own range of the tree order, and others that its blocks and samples touch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.cluster import Floats, Ints
from pipeline.hmatrix.entries import program
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.swap import Array, Halo, Ids
from pipeline.runtime.communicator import Communicator


@dataclass(frozen=True, eq=False)
class KeptPoints:
    """Points by their places in the tree order.

    Attributes:
        first: Place of the first own point.
        own: Coordinates of the own points, shape (n, d).
        places: Places of the others, sorted.
        others: Coordinates of the others.
    """

    first: int
    own: Floats
    places: Ints
    others: Floats

    @property
    def last(self) -> int:
        """The place after the last own point."""
        return self.first + len(self.own)

    def with_others(self, places: Ids, others: Floats) -> "KeptPoints":
        """Return the same with further points, which may be known already."""
        known = np.concatenate([self.places, places.astype(np.int32)])
        found, at = np.unique(known, return_index=True)
        return replace(self, places=found, others=np.concatenate([self.others, others])[at])

    def fetched(self, wanted: Ids, edges: Ids, communicator: Communicator) -> "KeptPoints":
        """Return the same with the points at some places, fetched from their owners; collective.

        Args:
            wanted: Places; those that are kept already cost nothing.
            edges: Shape (processes + 1,); process p owns places edges[p] to edges[p + 1] - 1.
            communicator: The processes.
        """
        wanted = distinct(wanted[(wanted < self.first) | (wanted >= self.last)])
        wanted = np.setdiff1d(wanted, self.places, assume_unique=True)
        return self.with_others(wanted, Halo.of(communicator, wanted, edges).fetch(communicator, self.own))

    def at(self, places: Ints) -> Floats:
        """Return the coordinates at places, all of them kept."""
        is_own = (places >= self.first) & (places < self.last)
        strange = places[~is_own]
        row = np.searchsorted(self.places, strange)
        if not np.array_equal(np.append(self.places, -1)[row], strange):
            raise IndexError("this process does not keep one of the points")
        result = np.empty((len(places), self.own.shape[1]))
        result[is_own] = self.own[places[is_own] - self.first]
        result[~is_own] = self.others[row]
        return result

    @property
    def coordinates(self) -> Floats:
        """All points, the own first, shape (d, points)."""
        return np.ascontiguousarray(np.concatenate([self.own, self.others]).T)


AllOrKeptPoints = KeptPoints | NDArray[np.float64]


def kernel_matrix(
    kernel: Kernel, targets: AllOrKeptPoints, sources: AllOrKeptPoints, *, is_complex: bool = False
) -> "_native.KernelMatrix":
    """Return entries between points for native routines, which number them by place, or plain points by row.

    With `is_complex`, the entries of a real kernel are complex numbers, as for `entries.kernel_matrix`.
    """

    def at(points: AllOrKeptPoints, rows: Ints) -> torch.Tensor:
        return torch.from_numpy(points.at(rows) if isinstance(points, KeptPoints) else points[rows])

    def fill(rows: Ints, columns: Ints, out: Array) -> None:
        out[...] = kernel(at(targets, rows), at(sources, columns)).numpy().T

    def by_coordinate(points: AllOrKeptPoints) -> Floats:
        return points.coordinates if isinstance(points, KeptPoints) else np.ascontiguousarray(points.T)

    rows = by_coordinate(targets)
    columns = rows if sources is targets else by_coordinate(sources)
    steps = [] if is_complex and not kernel.is_complex else program(kernel, len(rows))
    matrix = _native.KernelMatrix(rows, columns, steps, fill)
    for points, as_targets in ((targets, True), (sources, False)):
        if isinstance(points, KeptPoints):
            matrix.keep(points.first, points.last, points.places, as_targets, not as_targets)
    return matrix

"""Functions on a surface whose triangles are divided among processes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.swap import Halo, Ids, exchange
from pipeline.runtime.communicator import Communicator


@dataclass(frozen=True, eq=False)
class KnownFunctions:
    """Functions of a space, whose values are divided by ranges of their numbers.

    Attributes:
        known: Numbers of the functions on own triangles and those near them, sorted.
        edges: Shape (processes + 1,); process p has the values of functions edges[p] to edges[p + 1] - 1.
        halo: Exchange with the owners of the other known functions.
        communicator: The processes.
    """

    known: Ids
    edges: Ids
    halo: Halo
    communicator: Communicator

    @classmethod
    def of(cls, known: Ids, edges: Ids, communicator: Communicator) -> "KnownFunctions":
        """Tell the owners which values will be needed; collective."""
        first, last = edges[communicator.rank :][:2]
        others = known[(known < first) | (known >= last)]
        return cls(known, edges, Halo.of(communicator, others, edges), communicator)

    @property
    def n(self) -> int:
        """Number of values of this process."""
        return int(np.diff(self.edges)[self.communicator.rank])

    def own_columns(self) -> NDArray[np.float64]:
        """Return the rows of the identity matrix for this process's values, shape (n, functions of all processes)."""
        return np.eye(self.n, int(self.edges[-1]), k=int(self.edges[self.communicator.rank]))

    def __getstate__(self) -> None:
        """Raise TypeError: processes cannot be copied."""
        raise TypeError(
            "operators of a divided surface cannot be pickled or copied: make them anew on all processes"
        )

    @cached_property
    def _is_own(self) -> NDArray[np.bool_]:
        first, last = self.edges[self.communicator.rank :][:2]
        return np.asarray((self.known >= first) & (self.known < last))

    @cached_property
    def _own(self) -> Ids:
        return np.asarray(self.known[self._is_own] - self.edges[self.communicator.rank], np.int64)

    def spread(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return values of the known functions, given this process's, shape (n, m); collective."""
        values = np.empty((len(self.known), *own.shape[1:]), own.dtype)
        values[self._is_own] = own[self._own]
        values[~self._is_own] = self.halo.fetch(self.communicator, own)
        return values

    def collect(self, known: NDArray[Any]) -> NDArray[Any]:
        """Return sums over all processes for this process's functions, given its share for known ones; collective."""
        total = np.zeros((self.n, *known.shape[1:]), known.dtype)
        total[self._own] = known[self._is_own]
        ranks = list(self.halo.n_rows)
        ends = np.cumsum([self.halo.n_rows[rank] for rank in ranks])[:-1]
        shares = np.split(known[~self._is_own], ends) if ranks else []
        arrived = exchange(self.communicator, dict(zip(ranks, shares, strict=True)))
        for rank, rows in self.halo.asked.items():
            total[rows] += arrived[rank]
        return total

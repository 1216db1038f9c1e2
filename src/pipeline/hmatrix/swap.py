"""Exchange of arrays between processes: rows that one process owns and others ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.runtime.communicator import Communicator

Array = NDArray[Any]
Ids = NDArray[np.int64]


def exchange(communicator: Communicator, sent: Mapping[int, Array]) -> dict[int, Array]:
    """Send arrays by destination, and return those received by source, sources in order; collective."""
    tensors = {rank: torch.from_numpy(np.ascontiguousarray(array)) for rank, array in sent.items()}
    return {rank: tensor.numpy() for rank, tensor in communicator.exchange(tensors).items()}


def gather(communicator: Communicator, own: Array) -> list[Array]:
    """Return every process's array, in order; the first dimensions may differ; collective."""
    return [part.numpy() for part in communicator.all_gather(torch.from_numpy(np.ascontiguousarray(own)))]


def summed(communicator: Communicator, own: Array) -> Array:
    """Return the sum of the processes' arrays, equal on all of them; collective."""
    total = torch.from_numpy(np.array(own, order="C"))
    communicator.all_reduce(total)
    return np.asarray(total.numpy())


@dataclass(frozen=True, eq=False)
class Halo:
    """Rows of other processes that this process needs repeatedly.

    Attributes:
        asked: Rows of this process that others need, by process.
        n_rows: Number of rows that arrive from each process, in order of the processes.
    """

    asked: dict[int, Ids]
    n_rows: dict[int, int]

    @classmethod
    def of(cls, communicator: Communicator, wanted: Ids, edges: Ids) -> "Halo":
        """Ask for rows; collective.

        Args:
            communicator: The processes.
            wanted: Global numbers of the rows, sorted.
            edges: Shape (processes + 1,); process p owns rows edges[p] to edges[p + 1] - 1.
        """
        ends = np.searchsorted(wanted, edges)
        parts = {
            rank: wanted[ends[rank] : ends[rank + 1]].astype(np.int64)
            for rank in range(communicator.size)
            if ends[rank + 1] > ends[rank]
        }
        asked = exchange(communicator, parts)
        own = int(edges[communicator.rank])
        return cls(
            {rank: rows - own for rank, rows in asked.items()},
            {rank: len(rows) for rank, rows in parts.items()},
        )

    def fetch(self, communicator: Communicator, own: Array) -> Array:
        """Return the rows asked for, in order, given this process's rows; collective."""
        found = exchange(communicator, {rank: own[rows] for rank, rows in self.asked.items()})
        return np.concatenate([own[:0], *(found[rank] for rank in self.n_rows)])

    def fetch_lists(self, communicator: Communicator, start: Ids, own: Array) -> tuple[Ids, Array]:
        """Return where each list asked for starts, and the lists one after the other; collective.

        Args:
            communicator: The processes.
            start: Shape (rows + 1,): row i's list is own[start[i]:start[i + 1]].
            own: The lists of this process's rows.
        """
        counts = self.fetch(communicator, np.diff(start))
        found = exchange(
            communicator,
            {rank: own[chained(start[rows], start[rows + 1])] for rank, rows in self.asked.items()},
        )
        edges = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return edges, np.concatenate([own[:0], *(found[rank] for rank in self.n_rows)])


def chained(start: Array, stop: Array) -> Ids:
    """Return start[0], ..., stop[0] - 1, start[1], ..., one range after the other."""
    counts = (stop - start).astype(np.int64)
    offsets = np.repeat(start.astype(np.int64) - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return offsets + np.arange(len(offsets), dtype=np.int64)

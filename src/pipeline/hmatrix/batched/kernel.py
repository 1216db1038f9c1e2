"""A kernel's entries on a device: blocks of many boxes at once, which are kept in the host's memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.padding import buckets, ranges, to_device, to_host
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.inputs import torch_dtype
from pipeline.hmatrix.kernels import Kernel


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A kernel between the points of two trees, evaluated in double precision on a device."""

    kernel: Kernel
    rows: ClusterTree
    columns: ClusterTree
    computed: torch.dtype
    device: torch.device

    @cached_property
    def _points(self) -> tuple[Tensor, Tensor]:
        rows = to_device(self.rows.points, self.device)
        return rows, rows if self.rows is self.columns else to_device(self.columns.points, self.device)

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the blocks of places (b, m) and (b, n) of the tree orders; places after the last are any points."""
        chosen = (
            points[places.clamp(max=max(len(points) - 1, 0))]
            for points, places in zip(self._points, (rows, columns), strict=True)
        )
        blocks, wanted = self.kernel(*chosen), (*rows.shape, columns.shape[-1])
        if blocks.shape != wanted:
            raise ValueError(
                f"the kernel gave shape {tuple(blocks.shape)} where {wanted} was wanted: on a GPU it is called with "
                "points of many boxes at once, shapes (..., m, d) and (..., n, d)"
            )
        return blocks.to(self.computed)

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]:
        """Return whole rows, shape (rows, columns)."""
        points = self._points
        return to_host(
            self.kernel(points[0][to_device(chosen.astype(np.int64), self.device)], points[1]).to(
                self.computed
            )
        )

    def blocks(
        self,
        rows: tuple[NDArray[np.int64], Ints],
        columns: tuple[NDArray[np.int64], Ints],
        pairs: tuple[Ints, Ints],
        stored: np.dtype[Any],
    ) -> Blocks:
        """Evaluate the blocks of pairs of boxes whose places are given as lists (start, places)."""
        first, second = pairs
        m, n = np.diff(rows[0])[first], np.diff(columns[0])[second]
        start = np.concatenate([[0], np.cumsum(m * n, dtype=np.int64)])
        values = torch.zeros(int(start[-1]) + 1, dtype=torch_dtype(stored), device=self.device)
        places = [
            to_device(np.append(places, 0).astype(np.int64), self.device) for _, places in (rows, columns)
        ]
        for group in buckets(m, n):
            own = to_device(ranges(rows[0][first[group]], m[group], len(rows[1])), self.device)
            others = to_device(ranges(columns[0][second[group]], n[group], len(columns[1])), self.device)
            i, j = (torch.arange(size.shape[1], device=self.device) for size in (own, others))
            begin, height = (to_device(x[group], self.device)[:, None, None] for x in (start[:-1], m))
            at = begin + j[None, :, None] * height + i
            there = (own < len(rows[1]))[:, None, :] & (others < len(columns[1]))[:, :, None]
            blocks = self(places[0][own], places[1][others]).mT
            values[torch.where(there, at, len(values) - 1)] = blocks.to(values.dtype)
        return Blocks(first, second, start, to_host(values[:-1]))


class Kept(Protocol):
    """Points that a process keeps: its own range of the tree order, and others.

    Attributes:
        first: Place of the first own point.
        own: Coordinates of the own points, shape (n, d).
        places: Places of the others, sorted.
        others: Their coordinates.
    """

    @property
    def first(self) -> int: ...
    @property
    def own(self) -> NDArray[np.float64]: ...
    @property
    def places(self) -> Ints: ...
    @property
    def others(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True, eq=False)
class UndividedTree:
    """All points of a tree, kept by one process."""

    tree: ClusterTree

    @property
    def first(self) -> int:
        return 0

    @property
    def own(self) -> NDArray[np.float64]:
        return self.tree.points

    @property
    def places(self) -> Ints:
        return np.zeros(0, np.int32)

    @property
    def others(self) -> NDArray[np.float64]:
        return self.tree.points[:0]


class MissingPoint(Exception):
    """A point that is not kept here."""


class KeptEntries:
    """A kernel between the points that are kept here, and their diagonal term, by places of the tree order."""

    def __init__(
        self,
        kernel: Kernel,
        kept: Kept,
        diagonal: NDArray[Any],
        n_points: int,
        computed: torch.dtype,
        device: torch.device,
    ) -> None:
        """Copy the points to the device.

        Args:
            kernel: The kernel.
            kept: The points.
            diagonal: Diagonal term of own points, then of others.
            n_points: Points of the tree; places from here on are padding, with arbitrary entries.
            computed: Type of the entries.
            device: The device.
        """
        self.kernel, self.computed, self._first, self._n_points = kernel, computed, kept.first, n_points
        self._n_own = len(kept.own)
        self._others = to_device(kept.places.astype(np.int64), device)
        self._points = to_device(np.concatenate([kept.own, kept.others]), device)
        self._diagonal = to_device(diagonal, device).to(computed)

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the blocks of places (b, m) and (b, n).

        Raises:
            MissingPoint: If the point of a place is not kept here.
        """
        return self.kernel(self._points[self._at(rows)], self._points[self._at(columns)]).to(self.computed)

    def diagonal(self, places: Tensor) -> Tensor:
        """Return the diagonal term at places."""
        return self._diagonal[self._at(places)]

    def _at(self, places: Tensor) -> Tensor:
        own = (places >= self._first) & (places < self._first + self._n_own)
        padding = places >= self._n_points
        if len(self._others) == 0:
            if not bool((own | padding).all()):
                raise MissingPoint
            return torch.where(own, places - self._first, 0)
        found = torch.searchsorted(self._others, places.contiguous()).clamp(max=len(self._others) - 1)
        if not bool((own | padding | (self._others[found] == places)).all()):
            raise MissingPoint
        return torch.where(own, places - self._first, torch.where(padding, 0, self._n_own + found))

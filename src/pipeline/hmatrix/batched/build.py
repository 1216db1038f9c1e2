"""Nested bases on a device: build.cpp's mathematics, a bucket of boxes at once.

The bases are kept in the host's memory, as all H2 matrices are.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.compression import BoxBases, FarField, adaptive_bases
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.batched.padding import Integers, buckets, ranges, to_device, to_host
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.blocks import Blocks, PairPlaces
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.skeleton import Basis, WantedBasis, require_compressible, unknowns


@dataclass(frozen=True, eq=False)
class DeviceSource:
    """Entries and bases of a kernel matrix, from a device."""

    kernel: DeviceKernel

    def blocks(
        self, rows: PairPlaces, columns: PairPlaces, pairs: tuple[Ints, Ints], stored: np.dtype[Any]
    ) -> Blocks:
        return self.kernel.blocks(rows, columns, pairs, stored)

    def exact_rows(self, chosen: NDArray[np.int32]) -> NDArray[Any]:
        return self.kernel.exact_rows(chosen)

    def basis(self, wanted: WantedBasis) -> Basis:
        rows, columns = self.kernel.rows, self.kernel.columns
        trees = (rows, columns) if wanted.transposed else (columns, rows)
        return nested_basis(self.kernel, FarField(*trees, wanted.far, wanted.sampling), wanted)


@full_precision()
def nested_basis(kernel: DeviceKernel, field: FarField, wanted: WantedBasis) -> Basis:
    """Choose skeletons of every box, from the leaves up: what `skeleton.nested_basis` does box by box.

    Args:
        kernel: Entries.
        field: Far fields of the boxes: those of the sources, or of the targets for bases of the rows.
        wanted: Settings of the bases.
    """
    tree, most = field.own, field.sampling.largest_box
    rank, seconds = np.zeros(tree.n_boxes, np.int32), np.zeros(tree.n_levels)
    points = torch.arange(tree.n_points + 1, device=kernel.device)
    energy = torch.ones(tree.n_points + 1, dtype=torch.float64, device=kernel.device)
    levels: list[_Level] = []
    for level in range(tree.n_levels - 1, -1, -1):
        begun = time.perf_counter()
        boxes = np.array(tree.level(level), np.int64)
        n = unknowns(tree, rank)[boxes]
        require_compressible(int(n.max(initial=0)) <= most)
        start = np.cumsum(n) - n
        found = []
        for group in buckets(n, np.maximum(n, int(field.sampling.rows))):
            at = ranges(start[group], n[group], len(points) - 1)
            own = to_device(at, kernel.device)
            bases = _bases(kernel, field, boxes[group], n[group], own, points, energy, wanted.transposed)
            rank[boxes[group]] = bases.rank
            full = (n[group] >= most // 8) & (50 * (n[group] - bases.rank) < n[group])
            require_compressible(not full.any())
            found.append((group, bases))
        levels.append(_Level.joined(found, rank[boxes].astype(np.int64), n, start, points, energy))
        points, energy = levels[-1].points, levels[-1].energy
        seconds[level] = time.perf_counter() - begun
        if wanted.progress is not None:
            wanted.progress(tree.n_boxes - int(tree.level_start[level]), tree.n_boxes)
    order_start = np.concatenate([[0], np.cumsum(unknowns(tree, rank), dtype=np.int64)])
    skeletons, order, values = (
        np.concatenate([to_host(array[:-1]) for array in arrays])
        for arrays in zip(*((level.points, level.order, level.T) for level in levels[::-1]), strict=True)
    )
    return Basis(
        rank,
        skeletons.astype(np.int32),
        order.astype(np.int32),
        values.astype(wanted.stored),
        order_start,
        seconds,
    )


def _bases(
    kernel: DeviceKernel,
    field: FarField,
    boxes: Integers,
    n: Integers,
    own: Tensor,
    points: Tensor,
    energy: Tensor,
    transposed: bool,
) -> BoxBases:
    """Compress boxes whose unknowns `own` are points that carry `energy` of a white-noise vector."""
    places = points[own]

    def rows(which: Tensor, far: Tensor) -> Tensor:
        return kernel(places[which], far).mT if transposed else kernel(far, places[which])

    exact = torch.zeros(*own.shape, 0, dtype=kernel.computed, device=kernel.device).mT
    none = np.zeros(len(boxes), np.int64)
    return adaptive_bases(field, boxes, n, own, len(points) - 1, [rows], exact, none, energy[own])


@dataclass(frozen=True, eq=False)
class _Level:
    """Results of a level for the next level and the basis; each array has one more element, for padding.

    Attributes:
        points, energy: Places of all boxes' skeletons, and the standard deviation of a skeleton's coefficient for
            white noise.
        order, T: See `Basis`.
    """

    points: Tensor
    energy: Tensor
    order: Tensor
    T: Tensor

    @classmethod
    def joined(
        cls,
        found: list[tuple[Integers, BoxBases]],
        rank: Integers,
        n: Integers,
        start: Integers,
        points: Tensor,
        energy: Tensor,
    ) -> "_Level":
        """Put bases of buckets into the order of the boxes."""
        device, sizes = points.device, rank * (n - rank)
        first, begin = np.cumsum(rank) - rank, np.cumsum(sizes) - sizes
        dtype = found[0][1].T.dtype if found else torch.float64
        result = cls(
            points.new_zeros(int(rank.sum()) + 1),
            energy.new_zeros(int(rank.sum()) + 1),
            points.new_zeros(int(n.sum()) + 1),
            torch.zeros(int(sizes.sum()) + 1, dtype=dtype, device=device),
        )
        result.points[-1] = points[-1]
        for group, bases in found:
            kept, dropped, k, d = bases.skeletons, bases.redundant, rank[group], (n - rank)[group]
            weighted = bases.T.abs() * energy[dropped.index][:, None, :]
            variance = energy[kept.index] ** 2 + (weighted**2).sum(2)
            at = to_device(ranges(first[group], k, len(result.points) - 1), device)
            result.points[at], result.energy[at] = points[kept.index], variance.sqrt()
            for index, offset, count in ((kept.index, 0, k), (dropped.index, k, d)):
                at = to_device(ranges(start[group] + offset, count, len(result.order) - 1), device)
                result.order[at] = index - to_device(start[group], device)[:, None]
            rows, columns = (np.arange(size, dtype=np.int64) for size in bases.T.shape[1:])
            there = (rows < k[:, None])[:, :, None] & (columns < d[:, None])[:, None, :]
            place = begin[group, None, None] + rows[:, None] * d[:, None, None] + columns
            result.T[to_device(np.where(there, place, len(result.T) - 1), device)] = bases.T
        return result

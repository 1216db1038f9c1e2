"""The bases of a bucket of boxes: adaptive.hpp's mathematics, many boxes at once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.batched.blocks import LevelMatrix, Unknowns
from pipeline.hmatrix.batched.interpolation import Bases, interpolate
from pipeline.hmatrix.batched.padding import Integers, ranges, to_device, to_host
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.skeleton import Sampling

_CHECK = 0.4  # of the rows, for a check
_ALLOWED = 3.0  # times the budget on fresh rows: those of the sample are fitted
_OVERSAMPLED = 5  # rows for each skeleton
_ROUNDING = 2e3  # times epsilon squared and the squared norm: no basis does better


@dataclass(frozen=True)
class FarField:
    """What boxes of a tree have far from them."""

    tree: ClusterTree
    far: Lists
    sampling: Sampling

    def sample(
        self, boxes: Integers, rows: float, number: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Integers, NDArray[np.bool_]]:
        """Return places (b, m) and weights (b, m), 0 for padding, how many there are and whether these are all."""
        native = self.tree.native
        start, points, weights, complete = _native.sample_far(
            native, native, self.far.start, self.far.boxes, boxes.astype(np.int32), rows, number
        )
        counts = np.diff(start)
        at = ranges(start[:-1], counts, len(points))
        places = to_device(np.append(points, 0).astype(np.int64)[at], device)
        return places, to_device(np.append(weights, 0.0)[at], device), counts, complete.astype(bool)


@dataclass(frozen=True, eq=False)
class BoxBases:
    """Bases of a bucket's boxes.

    Attributes:
        skeletons, redundant: Unknowns, padded.
        T: Shape (b, k, d).
        rank: Shape (b,), on the host.
    """

    skeletons: Unknowns
    redundant: Unknowns
    T: Tensor
    rank: Integers


def compress(
    matrix: LevelMatrix, boxes: Integers, near: Integers, field: FarField, first_box: int
) -> BoxBases:
    """Choose skeletons of boxes, none of whose unknowns have been eliminated.

    A sample of the far field and, exactly, the far blocks that updates have touched make a basis, which has to serve
    fresh rows; where it does not, or its rank comes near the number of rows, twice as many are sampled.

    Args:
        matrix: Of the level.
        boxes: Shape (b,), within the level.
        near: Shape (b, p), near boxes of each, -1 for padding.
        field: Of the tree.
        first_box: Of the level, in the tree.
    """
    n = matrix.size[boxes]
    own = matrix.unknowns(boxes[:, None])
    present = to_device(np.arange(n.max()) < n[:, None], matrix.device)
    budget = field.sampling.budget
    epsilon = torch.finfo(matrix.values.dtype).eps
    exact, n_exact = _touched_rows(matrix, boxes, near, own)
    parts: list[tuple[Integers, Bases]] = []
    pending, wanted, number = np.arange(len(boxes)), field.sampling.rows, 0
    while len(pending):
        which = to_device(pending, matrix.device)
        unknowns, there = Unknowns(own.part[which], own.index[which]), present[which]
        places, weights, counts, complete = field.sample(
            boxes[pending] + first_box, wanted, number, matrix.device
        )
        rows = _far_rows(matrix, places, weights, unknowns, there)
        bases = interpolate(torch.cat([rows, exact[which]], 1), budget)
        good = complete | (bases.rank == n[pending])
        if not good.all():
            places, weights, _, _ = field.sample(
                boxes[pending] + first_box, _CHECK * wanted, number + 1, matrix.device
            )
            rows = _far_rows(matrix, places, weights, unknowns, there)
            lost, whole = (block.abs().square().sum((1, 2)) for block in (rows - rows @ bases.P, rows))
            serves = lost <= (_ROUNDING * epsilon**2 * whole).clamp(min=_ALLOWED * budget)
            enough = _OVERSAMPLED * bases.rank < counts + n_exact[pending]
            good |= enough & to_host(serves)
        parts.append((pending[good], _chosen(bases, np.flatnonzero(good))))
        pending, wanted, number = pending[~good], 2 * wanted, number + 2
    return _box_bases(parts, own, present, n, matrix.n_unknowns)


def _far_rows(matrix: LevelMatrix, places: Tensor, weights: Tensor, own: Unknowns, present: Tensor) -> Tensor:
    """Return weighted far rows, and of a general matrix far columns as rows: shape (b, m, n)."""
    points = matrix.points[own.index]
    rows = matrix.entries(places, points)
    if not matrix.symmetric:
        rows = torch.cat([rows, matrix.entries(points, places).mT], 1)
        weights = torch.cat([weights, weights], 1)
    return rows.mul_(weights.sqrt().to(rows.dtype)[:, :, None]).mul_(present[:, None, :])


def _touched_rows(
    matrix: LevelMatrix, boxes: Integers, near: Integers, own: Unknowns
) -> tuple[Tensor, Integers]:
    """Return the rows of far boxes whose blocks are no longer the kernel's, and how many each box has."""
    partners = matrix.partners(boxes, near)
    rows = matrix.unknowns(partners)
    counts = np.where(partners >= 0, matrix.size[partners], 0).sum(axis=1)
    blocks = matrix.read(to_device(matrix.table(partners, boxes[:, None]), matrix.device), rows, own)
    if not matrix.symmetric:
        there = to_device(matrix.table(boxes[:, None], partners), matrix.device)
        blocks = torch.cat([blocks, matrix.read(there, own, rows).mT], 1)
    return blocks, counts


def _chosen(bases: Bases, which: Integers) -> Bases:
    index = to_device(which, bases.P.device)
    return Bases(bases.P[index], bases.turn[index], bases.rank[which])


def _box_bases(
    parts: list[tuple[Integers, Bases]], own: Unknowns, present: Tensor, n: Integers, n_unknowns: int
) -> BoxBases:
    """Put skeletons, in the order of their turns, before the others, and take T from between them."""
    device, (b, width) = own.index.device, own.index.shape
    back = np.argsort(np.concatenate([which for which, _ in parts]), kind="stable")
    P, turn = (
        torch.cat(pieces)[to_device(back, device)]
        for pieces in zip(*((bases.P, bases.turn) for _, bases in parts), strict=True)
    )
    rank = np.concatenate([bases.rank for _, bases in parts])[back]
    order = torch.where(present, turn, width + 1).argsort(dim=1, stable=True)  # padding comes last
    order = torch.cat([order, order.new_zeros(b, 1)], 1)
    index = torch.cat([own.index, own.index.new_full((b, 1), n_unknowns)], 1)

    def chosen(first: Integers, counts: Integers) -> tuple[Tensor, Tensor, Unknowns]:
        slots = to_device(ranges(first, counts, width), device)
        local, padding = order.gather(1, slots), slots == width
        at = torch.where(padding, width, local)
        return local, padding, Unknowns(-padding.long(), index.gather(1, at))

    kept, unkept, skeletons = chosen(np.zeros_like(rank), rank)
    dropped, undropped, redundant = chosen(rank, n - rank)
    T = P.gather(1, kept[:, :, None].expand(-1, -1, width))
    T = T.gather(2, dropped[:, None, :].expand(-1, kept.shape[1], -1))
    return BoxBases(skeletons, redundant, T.masked_fill_(unkept[:, :, None] | undropped[:, None, :], 0), rank)

"""The bases of a bucket of boxes: adaptive.hpp's mathematics, many boxes at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Lists
from pipeline.hmatrix.batched.blocks import LevelMatrix, Unknowns
from pipeline.hmatrix.batched.interpolation import Bases, interpolate
from pipeline.hmatrix.batched.padding import LARGEST, Integers, ranges, to_device, to_host
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.skeleton import FarSampling

_CHECK = 0.4  # share of the rows, for a check
_ALLOWED = 3.0  # times the budget on fresh rows: those of the sample are fitted
_OVERSAMPLED = 5  # rows for each skeleton
_ROUNDING = 2e3  # times epsilon squared and the squared norm: no basis does better

RowEntries = Callable[
    [Tensor, Tensor], Tensor
]  # some boxes of a bucket, places (b, m) far from them -> blocks (b, m, n)


@dataclass(frozen=True)
class FarField:
    """Far fields of a tree's boxes, in another tree or the same."""

    own: ClusterTree
    other: ClusterTree
    far: Lists
    sampling: FarSampling

    def sample(
        self, boxes: Integers, rows: float, number: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Integers, NDArray[np.bool_]]:
        """Return places and weights (b, m), weight 0 for padding, their numbers and whether they are the far field."""
        start, points, weights, complete = _native.sample_far(
            self.own.native, self.other.native, self.far.start, self.far.boxes, boxes.astype(np.int32), rows, number
        )  # fmt: skip
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

    def part(self, which: Integers, n: Integers) -> "BoxBases":
        """Return the bases of some boxes, of n unknowns each, without the padding that only others need."""
        index, rank = to_device(which, self.T.device), self.rank[which]
        k, d = int(rank.max(initial=0)), int((n[which] - rank).max(initial=0))
        skeletons, redundant = (
            Unknowns(unknowns.part[index, :width], unknowns.index[index, :width])
            for unknowns, width in ((self.skeletons, k), (self.redundant, d))
        )
        return BoxBases(skeletons, redundant, self.T[index, :k, :d], rank)


def compress(
    matrix: LevelMatrix, boxes: Integers, near: Integers, field: FarField, first_box: int
) -> BoxBases:
    """Choose skeletons of boxes, none of whose unknowns have been eliminated.

    Far blocks that updates have changed are no longer the kernel's, and are read from the matrix.

    Args:
        matrix: The matrix of the level.
        boxes: Shape (b,), within the level.
        near: Shape (b, p), near boxes of each, -1 for padding.
        field: Far fields of the tree's boxes.
        first_box: Number of the level's first box in the tree.
    """
    own = matrix.unknowns(boxes[:, None])
    points = matrix.points[own.index]
    partners = matrix.partners(boxes, near)
    others = matrix.unknowns(partners)
    n_exact = np.where(partners >= 0, matrix.size[partners], 0).sum(axis=1)
    exact = matrix.read(to_device(matrix.table(partners, boxes[:, None]), matrix.device), others, own)
    if not matrix.symmetric:
        there = to_device(matrix.table(boxes[:, None], partners), matrix.device)
        exact = torch.cat([exact, matrix.read(there, own, others).mT], 1)

    def rows(which: Tensor, places: Tensor) -> Tensor:
        return matrix.entries(places, points[which])

    def columns(which: Tensor, places: Tensor) -> Tensor:
        return matrix.entries(points[which], places).mT

    ways = [rows] if matrix.symmetric else [rows, columns]
    return adaptive_bases(
        field, boxes + first_box, matrix.size[boxes], own.index, matrix.n_unknowns, ways, exact, n_exact
    )


def adaptive_bases(
    field: FarField,
    boxes: Integers,
    n: Integers,
    unknowns: Tensor,
    n_unknowns: int,
    ways: Sequence[RowEntries],
    exact: Tensor,
    n_exact: Integers,
    scale: Tensor | None = None,
) -> BoxBases:
    """Choose skeletons from a sample of the far field, and from rows that are known exactly.

    A basis is checked on fresh rows. If it fails, or its rank comes near the number of rows, twice as many are sampled,
    up to the complete far field. Groups of boxes are halved while their rows have more than `LARGEST` elements.

    Args:
        field: Far fields of the boxes.
        boxes: Their numbers in the tree, shape (b,).
        n: Shape (b,), unknowns of each.
        unknowns: Shape (b, largest n), their numbers in the level, padded with `n_unknowns`.
        ways: Blocks of far rows and the boxes' unknowns, of each matrix that shares the basis.
        exact: Shape (b, m, n), further rows.
        n_exact: Shape (b,), number of further rows.
        scale: Shape (b, n), weights of the columns; 1 if left out.
    """
    device, budget = exact.device, field.sampling.budget
    present = to_device(np.arange(n.max()) < n[:, None], device)
    weight = present if scale is None else scale * present
    epsilon = torch.finfo(exact.dtype).eps
    parts: list[tuple[Integers, Bases]] = []

    def blocks(which: Tensor, places: Tensor, of_row: Tensor) -> Tensor:
        found = torch.cat([way(which, places) for way in ways], 1)
        found.mul_(of_row.sqrt().to(found.dtype).repeat(1, len(ways))[:, :, None])
        return found.mul_(weight[which][:, None, :])

    trials = [
        (np.arange(len(boxes)), field.sampling.rows, 0)
    ]  # boxes of the bucket, rows wanted, number of the sample
    while trials:
        pending, wanted, number = trials.pop()
        places, of_row, counts, complete = field.sample(boxes[pending], wanted, number, device)
        height = places.shape[1] * len(ways) + exact.shape[1]
        if len(pending) > 1 and len(pending) * height * exact.shape[2] > LARGEST:
            trials += [(half, wanted, number) for half in np.array_split(pending, 2)]
            continue
        which = to_device(pending, device)
        bases = interpolate(torch.cat([blocks(which, places, of_row), exact[which]], 1), budget)
        good = complete | (bases.rank == n[pending])
        if not good.all():
            rows = blocks(which, *field.sample(boxes[pending], _CHECK * wanted, number + 1, device)[:2])
            lost, whole = (block.abs().square().sum((1, 2)) for block in (rows - rows @ bases.P, rows))
            serves = to_host(lost <= (_ROUNDING * epsilon**2 * whole).clamp(min=_ALLOWED * budget))
            good |= (_OVERSAMPLED * bases.rank < counts + n_exact[pending]) & serves
        chosen = np.flatnonzero(good)
        index = to_device(chosen, device)
        parts.append((pending[chosen], Bases(bases.P[index], bases.turn[index], bases.rank[chosen])))
        if not good.all():
            trials.append((pending[~good], 2 * wanted, number + 1))
    return _box_bases(_joined(parts), unknowns, n_unknowns, present, n, scale)


def _joined(parts: list[tuple[Integers, Bases]]) -> Bases:
    """Join the bases of parts of a bucket in the bucket's order."""
    back = np.argsort(np.concatenate([which for which, _ in parts]), kind="stable")
    index = to_device(back, parts[0][1].P.device)
    return Bases(
        torch.cat([bases.P for _, bases in parts])[index],
        torch.cat([bases.turn for _, bases in parts])[index],
        np.concatenate([bases.rank for _, bases in parts])[back],
    )


def _box_bases(
    bases: Bases,
    unknowns: Tensor,
    padding_number: int,
    present: Tensor,
    n: Integers,
    scale: Tensor | None,
) -> BoxBases:
    """Order unknowns with skeletons first, by their turns, and take T from between the two."""
    device, (b, width), rank = unknowns.device, unknowns.shape, bases.rank
    order = torch.where(present, bases.turn, width + 1).argsort(dim=1, stable=True)  # padding comes last

    def chosen(first: Integers, counts: Integers) -> tuple[Tensor, Tensor, Unknowns]:
        slots = to_device(ranges(first, counts, -1), device)
        padding = slots < 0
        local = order.gather(1, slots.clamp(min=0))
        return local, padding, Unknowns(-padding.long(), padded.gather(1, local.masked_fill(padding, width)))

    padded = torch.cat([unknowns, unknowns.new_full((b, 1), padding_number)], 1)
    kept, unkept, skeletons = chosen(np.zeros_like(rank), rank)
    dropped, undropped, redundant = chosen(rank, n - rank)
    T = bases.P.gather(1, kept[:, :, None].expand(-1, -1, width))
    T = T.gather(2, dropped[:, None, :].expand(-1, kept.shape[1], -1))
    if scale is not None:
        T = T * scale.gather(1, kept)[:, :, None] / scale.gather(1, dropped)[:, None, :]
    return BoxBases(skeletons, redundant, T.masked_fill(unkept[:, :, None] | undropped[:, None, :], 0), rank)

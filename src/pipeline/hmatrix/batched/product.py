"""The product: batches of blocks on padded buckets, by level and color.

Boxes of a level, and pairs of boxes, are sorted into buckets of similar sizes, rounded up to multiples of 16; a bucket
is one batched product. Pairs of one color have different row boxes, so that no two sums go to one row of the result: it
is the same to the last bit however a device orders its threads. Padding points to a row of zeros after the vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.padding import ranges, to_device
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.inputs import torch_dtype
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.vectors import apply_on_device

BoxRows = tuple[NDArray[Any], NDArray[Any]]  # first place and number of places of every box
Entry = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # a matrix, rows that it reads, rows that it writes

_ROUNDED = 16  # sizes of a bucket are multiples of this


@dataclass(frozen=True, eq=False)
class _Bucket:
    """Matrices of similar sizes with the places that they read and write.

    Attributes:
        matrices: Shape (b, h, w), padded with zeros.
        taken: Shape (b, w): rows of the input; its last row, of zeros, for padding.
        given: Shape (b, h): rows of the output; its last row, never read, for padding.
    """

    matrices: Tensor
    taken: Tensor
    given: Tensor

    def add(self, source: Tensor, target: Tensor) -> None:
        """Add the products to the target. Only its last row may be written twice."""
        target[self.given] += self.matrices @ source[self.taken]

    def add_transposed(self, source: Tensor, target: Tensor) -> None:
        target[self.taken] += self.matrices.mT @ source[self.given]


@dataclass(frozen=True, eq=False)
class _Level:
    """The bases of a level: a box's coefficients are its kept unknowns plus T times its dropped ones."""

    kept: Tensor  # rows of the unknowns
    coefficients: Tensor  # rows of their coefficients
    dropped: list[_Bucket]
    of_points: bool  # the unknowns are points, not coefficients of the level below


@dataclass(frozen=True, eq=False)
class BatchedProduct:
    """A matrix's arrays on a device, ready for products, without the diagonal term."""

    shape: tuple[int, int]
    computed: torch.dtype
    taken: Tensor
    given: Tensor
    near: list[_Bucket]
    far: list[_Bucket]
    up: list[_Level]  # leaves first
    down: list[_Level]  # leaves first
    n_coefficients: tuple[int, int]  # of rows and of columns

    @classmethod
    def of(cls, A: H2Form, device: torch.device) -> "BatchedProduct":
        """Copy A's arrays to a device; of a symmetric matrix, each block with its transpose."""
        computed = torch_dtype(A.computed)

        def buckets(groups: list[Entry]) -> list[_Bucket]:
            return [
                _Bucket(
                    to_device(matrices, device).to(computed),
                    to_device(taken, device),
                    to_device(given, device),
                )
                for matrices, taken, given in groups
            ]

        def levels(tree: ClusterTree, basis: Basis) -> list[_Level]:
            found = []
            for level in range(tree.n_levels - 1, -1, -1):
                kept, coefficients, groups = _basis_level(tree, basis, level)
                of_points = level == tree.n_levels - 1
                places = to_device(kept, device), to_device(coefficients, device)
                found.append(_Level(*places, buckets(groups), of_points))
            return found

        rows, columns = A.rows, A.columns
        points = [(tree.start, tree.stop - tree.start) for tree in (rows, columns)]
        skeletons = [(basis.skeleton_start[:-1], basis.rank) for basis in (A.row_basis, A.column_basis)]
        n_coefficients = int(A.row_basis.skeleton_start[-1]), int(A.column_basis.skeleton_start[-1])
        return cls(
            shape=A.shape,
            computed=computed,
            taken=to_device(columns.permutation, device),
            given=to_device(rows.permutation, device),
            near=_pairs(A.near, points, A.shape, A.mirrored, computed, device),
            far=_pairs(A.far, skeletons, n_coefficients, A.mirrored, computed, device),
            up=levels(columns, A.column_basis),
            down=levels(rows, A.row_basis),
            n_coefficients=n_coefficients,
        )

    def __call__(self, x: Tensor, diagonal: Tensor | None, dtype: np.dtype[Any]) -> Tensor:
        """Return A x for x of shape (n,) or (n, m) on the device, in the caller's order.

        Args:
            x: Vectors.
            diagonal: Diagonal term, shape (n,) in tree order, in the type of the computation.
            dtype: Type of the matrix with this diagonal.
        """
        return apply_on_device(
            x,
            lambda columns: self._product(columns, diagonal),
            taken=self.taken,
            given=self.given,
            computed=self.computed,
            dtype=dtype,
            what="the product",
        )

    @full_precision()
    def _product(self, columns: Tensor, diagonal: Tensor | None) -> Tensor:
        m = columns.shape[1]
        x = torch.cat([columns, columns.new_zeros(1, m)])
        y = x.new_zeros(self.shape[0] + 1, m)
        for bucket in self.near:
            bucket.add(x, y)
        u, v = (x.new_zeros(count + 1, m) for count in self.n_coefficients)
        for level in self.up:
            source = x if level.of_points else v
            v[level.coefficients] = source[level.kept]
            for bucket in level.dropped:
                bucket.add(source, v)
        for bucket in self.far:
            bucket.add(v, u)
        for level in reversed(self.down):
            target = y if level.of_points else u
            target[level.kept] += u[level.coefficients]
            for bucket in level.dropped:
                bucket.add_transposed(u, target)
        y = y[:-1]
        return y if diagonal is None else y + diagonal[:, None] * columns


def _pairs(
    blocks: Blocks,
    sides: list[BoxRows],
    shape: tuple[int, int],
    mirrored: bool,
    computed: torch.dtype,
    device: torch.device,
) -> list[_Bucket]:
    """Sort the blocks, and the transposes of mirrored pairs, by color and size."""
    (row_start, n_rows), (column_start, n_columns) = sides
    twice = np.flatnonzero(blocks.first != blocks.second) if mirrored else np.zeros(0, np.int64)
    pair = np.concatenate([np.arange(len(blocks.first)), twice])
    flipped = np.arange(len(pair)) >= len(blocks.first)
    row = np.where(flipped, blocks.second[pair], blocks.first[pair])
    column = np.where(flipped, blocks.first[pair], blocks.second[pair])
    height, width = n_rows[row].astype(np.int64), n_columns[column].astype(np.int64)
    keys = np.stack([_rounded(width), _rounded(height), _color(row)])
    order = np.lexsort(keys)
    order = order[(height * width > 0)[order]]
    ends = np.flatnonzero((np.diff(keys[:, order], axis=1) != 0).any(axis=0)) + 1
    values = torch.cat([to_device(blocks.values, device), torch.zeros(1, device=device)])
    found = []
    for group in np.split(order, ends) if len(order) else []:
        h, w = (to_device(size[group], device)[:, None, None] for size in (height, width))
        down, across = (torch.arange(int(size), device=device) for size in keys[1::-1, group[0]])
        i, j = down[:, None], across
        begin, turned = (
            to_device(x, device)[:, None, None] for x in (blocks.start[pair[group]], flipped[group])
        )
        # Blocks are kept by columns; a transposed one is read by rows.
        at = begin + torch.where(turned, i * w + j, j * h + i)
        at = torch.where((i < h) & (j < w), at, len(values) - 1)
        taken = ranges(column_start[column[group]], width[group], shape[1], len(across))
        given = ranges(row_start[row[group]], height[group], shape[0], len(down))
        found.append(_Bucket(values[at].to(computed), to_device(taken, device), to_device(given, device)))
    return found


def _rounded(sizes: NDArray[Any]) -> NDArray[Any]:
    return -(-sizes // _ROUNDED) * _ROUNDED


def _color(owners: NDArray[Any]) -> NDArray[np.int64]:
    """Number the pairs of each box one after the other."""
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners)
    color = np.empty(len(owners), np.int64)
    color[order] = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return color


def _basis_level(
    tree: ClusterTree, basis: Basis, level: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Entry]]:
    """Return rows of kept unknowns, of their coefficients, and padded T with rows of dropped unknowns."""
    leaf = level == tree.n_levels - 1
    start = basis.skeleton_start
    kept, coefficients = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    entries = []
    for b in tree.level(level):
        order = basis.order[basis.order_start[b] : basis.order_start[b + 1]]
        k = int(basis.rank[b])
        if k == 0:
            continue
        # Children are numbered one after the other, and so are their skeletons.
        first = int(tree.start[b]) if leaf else int(start[tree.first_child[b]])
        places, own = first + order.astype(np.int64), np.arange(start[b], start[b + 1], dtype=np.int64)
        kept.append(places[:k])
        coefficients.append(own)
        if k < len(order):
            T = basis.values[basis.value_start[b] : basis.value_start[b + 1]].reshape(k, len(order) - k)
            entries.append((T, places[k:], own))
    n_sources = tree.n_points if leaf else int(start[-1])
    groups = list(_padded(entries, (int(start[-1]), n_sources)))
    return np.concatenate(kept), np.concatenate(coefficients), groups


def _padded(entries: list[Entry], shape: tuple[int, int]) -> Iterator[Entry]:
    """Yield matrices, rows taken and rows given of each size; padding is row shape[1] of the input, shape[0] of the
    output."""
    sizes: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        h, w = _rounded(np.array(entry[0].shape)).tolist()
        sizes.setdefault((h, w), []).append(entry)
    for (h, w), group in sorted(sizes.items(), key=lambda item: item[0]):
        matrices = np.zeros((len(group), h, w), group[0][0].dtype)
        taken = np.full((len(group), w), shape[1], np.int64)
        given = np.full((len(group), h), shape[0], np.int64)
        for i, (matrix, read, written) in enumerate(group):
            matrices[i, : matrix.shape[0], : matrix.shape[1]] = matrix
            taken[i, : len(read)], given[i, : len(written)] = read, written
        yield matrices, taken, given

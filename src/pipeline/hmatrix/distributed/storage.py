"""Divided matrices in folders: a shard of each process, read by any number of others.

Each shard's checksum is that of the whole file; one process checks it, and a fault is everyone's. Beyond that a process
reads the rows, bases and blocks of its own boxes from the shards that have these, and nothing of the others.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import kernels
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Bounds, Ints
from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks, OwnForm
from pipeline.hmatrix.distributed.points import KeptPoints
from pipeline.hmatrix.distributed.surroundings import OwnBounds
from pipeline.hmatrix.distributed.tree import Division, PlacedPoints, Route
from pipeline.hmatrix.distributed.whole import Ownership, WholeTree
from pipeline.hmatrix.places import is_in
from pipeline.hmatrix.shard_files import DESCRIPTION, Shard, check_shard, write_shard
from pipeline.hmatrix.shards import (
    BasisParts,
    Description,
    FlatBlocks,
    basis_arrays,
    block_arrays,
    joined,
    pairs_of_rows,
)
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.swap import Array, Halo, Ids, chained, exchange, gather
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together

_OF_POINTS, _OF_LEAVES = {"points", "numbers", "diagonal_term"}, {"lower", "upper"}  # arrays of a shard


def save(A: OwnForm, path: Path, communicator: Communicator) -> None:
    """Write a shard for each process into a folder, and last of all what describes them; collective.

    Raises:
        ConfigError: If the kernel is a Python function, which cannot be written.
    """
    division, tree = A.division, A.division.tree
    with together(communicator):
        kernel = A.kernel.to_dict()
        if communicator.rank == 0:
            path.mkdir(parents=True, exist_ok=True)
            (path / DESCRIPTION).unlink(missing_ok=True)
            for shard in path.glob("shard-*.safetensors"):  # perhaps of more processes than there are now
                shard.unlink()
    mine = division.is_own.copy()
    mine[: division.n_top] = communicator.rank == 0
    boxes = np.flatnonzero(mine).astype(np.int32)
    arrays: dict[str, Array] = {"points": A.points.own, "numbers": tree.permutation}
    leaves = slice(*division.range_of(tree.n_levels - 1))
    arrays |= {"lower": tree.lower[leaves], "upper": tree.upper[leaves]}
    if A.diagonal_term is not None:
        arrays["diagonal_term"] = A.diagonal_term
    sides = {"columns": A.column_basis} | ({} if A.mirrored else {"rows": A.row_basis})
    for name, side in sides.items():
        basis = side.basis if communicator.rank == 0 else _without_top(side.basis, division.n_top)
        arrays |= basis_arrays(name, basis, boxes, division.numbers)
    for name, pairs, heights in (("near", A.near, tree.stop - tree.start), ("far", A.far, A.row_basis.rank)):
        for group in ("inner", "outer"):
            arrays |= block_arrays(f"{name}.{group}", getattr(pairs, group), heights, division.numbers)
    with together(communicator):
        checksum = write_shard(path, communicator.rank, arrays)
    checksums = np.concatenate(gather(communicator, np.array([checksum]))).tolist()
    with together(communicator):
        if communicator.rank == 0:
            rule = A.admissibility
            Description(
                n_points=division.n_points,
                halvings=division.whole.halvings,
                halvings_per_level=division.whole.halvings_per_level,
                cut=division.cut,
                cuts=division.cuts.tolist(),
                checksums=checksums,
                stored=A.near.inner.values.dtype.name,
                kernel=kernel,
                admissibility={"name": rule.name} | {f.name: getattr(rule, f.name) for f in fields(rule)},
                mirrored=A.mirrored,
                tolerance=A.tolerance,
                norm=A.norm,
                dtype=A.dtype.name,
                notes=list(A.notes),
            ).write(path)


def on_disk(A: OwnForm, path: Path, communicator: Communicator) -> OwnForm:
    """Move the blocks into files of a folder, from where products read them; collective.

    They are the greater part of a matrix and a factorization wants none of them. The folder holds a file for each
    process and kind of block, and has to stay as long as the matrix.
    """

    def moved(blocks: Blocks, name: str) -> Blocks:
        if not blocks.values.size:
            return blocks
        file = path / f"{name}-{communicator.rank:05d}.npy"
        np.save(file, blocks.values)
        return replace(blocks, values=np.load(file, mmap_mode="r"))

    with together(communicator):
        path.mkdir(parents=True, exist_ok=True)
        near, far = (
            OwnBlocks(moved(pairs.inner, f"{name}-inner"), moved(pairs.outer, f"{name}-outer"))
            for name, pairs in (("near", A.near), ("far", A.far))
        )
    return replace(A, near=near, far=far)


def _without_top(basis: Basis, n_top: int) -> Basis:
    """Return bases without those above the cut."""
    n_skeletons, n_order = int(basis.rank[:n_top].sum()), int(basis.order_start[n_top])
    rank = basis.rank.copy()
    rank[:n_top] = 0
    return replace(
        basis,
        rank=rank,
        skeletons=basis.skeletons[n_skeletons:],
        order=basis.order[n_order:],
        values=basis.values[int(basis.value_start[n_top]) :],
        order_start=np.maximum(basis.order_start - n_order, 0),
    )


def load(path: Path, communicator: Communicator, n_own_rows: int | None) -> OwnForm:
    """Read what this process shall hold of a matrix from the shards; collective.

    Each process reads what it will hold, and checks about as many shards as others do.

    Args:
        path: The folder.
        communicator: The processes, as many as may be.
        n_own_rows: Rows of this process, process by process in the order of the rows when it was saved; about equally
            many on all if left out.

    Raises:
        ArtifactError: If a file is missing or damaged; all processes raise it.
        ValueError: If they ask for more or fewer rows than the matrix has; all processes raise it.
    """
    with together(communicator):
        told = Description.read(path)
    whole = WholeTree(told.n_points, told.halvings, told.halvings_per_level)
    ownership = Ownership.of(whole, communicator.size, communicator.rank)
    mine = _OwnShards(told, ownership)
    with together(communicator):
        mine.check(path)
    with together(communicator):
        mine.read(path)
    mine.share(communicator)
    points, numbers, lower, upper = (mine.rows[name] for name in ("points", "numbers", "lower", "upper"))
    bounds = OwnBounds.of_leaves(ownership, Bounds(lower, upper), communicator)
    own = PlacedPoints(ownership, np.ascontiguousarray(points), numbers, bounds)
    division, lists = own.division(told.rule, communicator)
    route = _route(division, communicator, n_own_rows)
    tree = division.tree
    near, far = (
        _split(pairs, division, mirrored=told.mirrored, stored=mine.stored) for pairs in (mine.near, mine.far)
    )
    strangers = np.unique(near.outer.second)
    near_places = chained(tree.start[strangers], tree.stop[strangers])
    others: Ids = np.unique(far.outer.second).astype(np.int64)
    others = others[(division.owner[others] >= 0) & ~division.is_own[others]]
    others = others[np.lexsort((others, division.owner[others]))]
    theirs = {p: others[division.owner[others] == p] for p in range(communicator.size)}
    wanted = {p: division.numbers[boxes] for p, boxes in theirs.items() if len(boxes)}
    asked = {p: division.here(boxes) for p, boxes in exchange(communicator, wanted).items()}
    halo = Halo(asked, {p: len(boxes) for p, boxes in wanted.items()})
    column_parts, row_parts = (
        mine.bases[side].joined(division.numbers, mine.stored)
        for side in ("columns", "columns" if told.mirrored else "rows")
    )
    columns = OwnBasis(column_parts, _ranks(column_parts.rank, division, communicator))
    columns.rank[others] = halo.fetch(communicator, column_parts.rank)
    row_basis = (
        columns if told.mirrored else OwnBasis(row_parts, _ranks(row_parts.rank, division, communicator))
    )
    far_halo = Halo(
        {p: chained(columns.start[boxes], columns.start[boxes + 1]) for p, boxes in asked.items()},
        {p: int(columns.rank[theirs[p]].sum()) for p in wanted},
    )
    return OwnForm(
        division,
        route,
        told.rule,
        lists,
        KeptPoints(division.first, tree.points, np.zeros(0, np.int32), np.zeros((0, tree.points.shape[1]))),
        len(near_places),
        row_basis,
        columns,
        near,
        far,
        near_places,
        Halo.of(communicator, near_places, division.edges),
        others,
        far_halo,
        told.mirrored,
        mine.rows.get("diagonal_term"),
        kernels.from_dict(told.kernel),
        told.tolerance,
        told.norm,
        np.dtype(told.dtype),
        tuple(told.notes),
    )


class _OwnShards:
    """What a process takes out of the shards that hold rows of its own, and bases above the cut out of all.

    Attributes:
        rows: Own rows of what shards have for each point, and for each leaf.
        bases: Bases of own boxes and of those above the cut, by side.
        near, far: Blocks of own boxes and of those above the cut, by pairs of numbers in the whole tree.
        stored: Type of the blocks.
        checked: Shards that this process checks: those whose first leaf it owns. It reads these too.
        touched: Shards that it reads: also those that have other leaves of its own. One without leaves looks into the
            first, of which it takes no rows.
    """

    def __init__(self, told: Description, ownership: Ownership) -> None:
        self._told, self._ownership = told, ownership
        self.rows: dict[str, Array] = {}
        self.bases = {
            side: BasisParts({}) for side in (("columns",) if told.mirrored else ("columns", "rows"))
        }
        self.near: FlatBlocks = {}
        self.far: FlatBlocks = {}
        self.stored = np.dtype(told.stored)
        whole, rank = ownership.whole, ownership.rank
        before = Ownership(whole, told.cut, np.array(told.cuts, np.int64), 0)
        leaves = whole.n_levels - 1
        self._edges, self._leaves, edges = before.edges, before.edges_on(leaves), ownership.edges_on(leaves)
        self._first_leaf, self._last_leaf = edges[rank : rank + 2].tolist()
        self._n_common = max(ownership.n_top, before.n_top)
        # The last process that starts at or before the leaf has it: those before, at the same leaf, have none.
        owner = np.searchsorted(edges, np.minimum(self._leaves[:-1], edges[-1] - 1), side="right") - 1
        self.checked = np.flatnonzero(owner == rank).tolist()
        shared = (self._leaves[:-1] < self._last_leaf) & (self._leaves[1:] > self._first_leaf)
        own = set(np.flatnonzero(shared & (self._last_leaf > self._first_leaf)).tolist())
        self.touched = sorted(own.union(self.checked)) or [0]

    def check(self, path: Path) -> None:
        """Read all bytes of the shards that this process checks.

        Raises:
            ArtifactError: If one is missing, or not as it was written.
        """
        for number in self.checked:
            check_shard(path, number, self._told.checksums[number])

    def read(self, path: Path) -> None:
        """Read from the shards, one after the other."""
        told, ownership = self._told, self._ownership
        found: dict[str, list[Array]] = {}
        for number in self.touched:
            of_points = _overlap(self._edges[number : number + 2], ownership.first, ownership.last)
            of_leaves = _overlap(self._leaves[number : number + 2], self._first_leaf, self._last_leaf)
            is_checked = number in self.checked
            with Shard(path, number) as shard:
                for names, part in ((_OF_POINTS, of_points), (_OF_LEAVES, of_leaves)):
                    for name in names:
                        if name in shard:
                            found.setdefault(name, []).append(shard.part(name, *part))
                if of_leaves[0] == of_leaves[1] and not is_checked:
                    continue
                for side, basis in self.bases.items():
                    basis.take(shard, side, self._is_common if is_checked else self._is_below)
                for name, pairs in (("near", self.near), ("far", self.far)):
                    pairs.update(pairs_of_rows(shard, name, self._is_row, mirrored=told.mirrored))
        self.rows = {name: np.concatenate(parts) for name, parts in found.items()}

    def share(self, communicator: Communicator) -> None:
        """Tell all processes the bases above either cut, each told by the one that checked their shard; collective.

        They may lie in the first shard alone, or in one of a process that had more boxes above it than there are now.
        """
        for basis in self.bases.values():
            common = sorted(box for box in basis.lists if box < self._n_common)
            arrays = basis.arrays(common, self.stored)
            for everybodys in zip(*(gather(communicator, part) for part in arrays), strict=True):
                basis.add(*everybodys)
            boxes = np.array(list(basis.lists), np.int64)
            for box in boxes[(boxes >= self._ownership.n_top) & ~self._is_below(boxes)].tolist():
                del basis.lists[box]

    def _is_common(self, boxes: Array) -> NDArray[np.bool_]:
        """Tell which boxes are own ones or above either cut."""
        return self._is_below(boxes) | (boxes < self._n_common)

    def _is_row(self, boxes: Array) -> NDArray[np.bool_]:
        """Tell which boxes are own ones or above these."""
        ownership = self._ownership
        found = self._is_below(boxes)
        own = ownership.own_on(ownership.cut)
        for level in range(ownership.cut):
            above = ownership.whole.level_start[level] + np.unique(
                own // ownership.whole.arity ** (ownership.cut - level)
            )
            found |= is_in(boxes, above)
        return found

    def _is_below(self, boxes: Array) -> NDArray[np.bool_]:
        ownership = self._ownership
        found = np.zeros(len(boxes), bool)
        for level in range(ownership.cut, ownership.whole.n_levels):
            low, high = (
                ownership.whole.level_start[level]
                + ownership.edges_on(level)[ownership.rank : ownership.rank + 2]
            )
            found |= (boxes >= low) & (boxes < high)
        return found


def _overlap(edges: Ids, first: int, last: int) -> tuple[int, int]:
    """Return first and last + 1 of the rows of a shard that are among some, counted from the shard's first."""
    low, high = (int(edge) for edge in edges)
    start = min(max(first - low, 0), high - low)
    return start, max(min(last, high) - low, start)


def _split(found: FlatBlocks, division: Division, *, mirrored: bool, stored: np.dtype[Any]) -> OwnBlocks:
    """Return blocks between own boxes and others apart, boxes numbered as they are known here."""
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    here = division.here(pairs)
    own = (division.owner[here] == division.rank).all(axis=1)
    inner: FlatBlocks = {}
    outer: FlatBlocks = {}
    for (b, c), is_inner, block in zip(here.tolist(), own.tolist(), found.values(), strict=True):
        if not is_inner:
            outer[b, c] = block
        elif b <= c or not mirrored:
            inner[b, c] = block
    return OwnBlocks(joined(inner, stored), joined(outer, stored))


def _ranks(rank: Ints, division: Division, communicator: Communicator) -> Ints:
    """Return the ranks of own boxes and of all down to the cut, given those of own ones; collective."""
    result = rank.copy()
    cut = slice(*division.tree.level_start[division.cut : division.cut + 2])
    result[cut] = np.concatenate(gather(communicator, rank[slice(*division.range_of(division.cut))]))
    return result


def _route(division: Division, communicator: Communicator, n_own_rows: int | None) -> Route:
    """Find where each row of the caller's is in the tree order; collective."""
    n, size = division.n_points, communicator.size
    if n_own_rows is None:
        edges = np.arange(size + 1) * n // size
        n_own_rows = int(edges[communicator.rank + 1] - edges[communicator.rank])
    edges = np.concatenate([[0], np.cumsum(np.concatenate(gather(communicator, np.array([n_own_rows]))))])
    if edges[-1] != n:
        raise ValueError(f"the processes have {edges[-1]} rows together, and the matrix has {n}")
    numbers = division.tree.permutation
    holder = np.searchsorted(edges, numbers, side="right") - 1
    places = {rank: np.flatnonzero(holder == rank) for rank in np.unique(holder).tolist()}
    leaving = exchange(communicator, {rank: numbers[at] - edges[rank] for rank, at in places.items()})
    order = np.empty(len(numbers), np.int64)
    arrived = np.concatenate([np.zeros(0, np.int64), *places.values()])
    order[arrived] = np.arange(len(arrived))
    return Route(leaving, {rank: len(at) for rank, at in places.items()}, order, n_own_rows)

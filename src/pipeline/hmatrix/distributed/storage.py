"""Divided matrices in folders: one shard per process, which any number of processes can read.

Each shard's checksum is that of the whole file; one process checks it, and all processes raise its error. Apart from
that, a process reads the rows, bases and blocks of its own boxes from the shards that have them, and no other shard.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.hmatrix import kernels
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Bounds, Ints
from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks, OwnForm
from pipeline.hmatrix.distributed.own_shards import OwnShards
from pipeline.hmatrix.distributed.points import KeptPoints
from pipeline.hmatrix.distributed.surroundings import OwnBounds
from pipeline.hmatrix.distributed.tree import Division, PlacedPoints, Route
from pipeline.hmatrix.distributed.whole import Ownership, WholeTree
from pipeline.hmatrix.inputs import require_rows
from pipeline.hmatrix.shard_files import (
    DESCRIPTION,
    shard_path,
    unfinished_path,
    write_shard,
)
from pipeline.hmatrix.shards import (
    Description,
    FlatBlocks,
    basis_arrays,
    block_arrays,
    joined,
)
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.storage import remove
from pipeline.hmatrix.swap import Array, Halo, Ids, chained, exchange, gather
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import require_alike, together


def save(A: OwnForm, path: Path | str, communicator: Communicator) -> None:
    """Write a shard for each process into a folder, and then their description; collective.

    A matrix that was in the folder stays until all shards are written, and is kept if one cannot be written.

    Raises:
        ConfigError: If the kernel is a Python function, which cannot be written.
        OSError: If a process cannot write; all of them raise it.
    """
    folder, rank = _one_folder(path, communicator), communicator.rank
    with together(communicator):
        A.require_blocks()
        kernel = A.kernel.to_dict()
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for killed in folder.glob("shard-*.unfinished"):  # perhaps of more processes than there are now
                killed.unlink()
    unfinished = unfinished_path(folder, rank)
    try:
        with together(communicator):
            checksum = write_shard(unfinished, _arrays(A, communicator))
        checksums = np.concatenate(gather(communicator, np.array([checksum]))).tolist()
        with together(communicator):
            if rank == 0:
                remove(folder)
        with together(communicator):
            unfinished.replace(shard_path(folder, rank))
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with together(communicator):
        if rank == 0:
            division, rule = A.division, A.admissibility
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
            ).write(folder)


def _one_folder(path: Path | str, communicator: Communicator) -> Path:
    """Return the folder, or raise on all processes unless they name the same; collective."""
    with together(communicator):
        folder = Path(path)
    require_alike(communicator, {"path": str(folder)})
    return folder


def _arrays(A: OwnForm, communicator: Communicator) -> dict[str, Array]:
    """Return the arrays of this process's shard."""
    division, tree = A.division, A.division.tree
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
    return arrays


def on_disk(A: OwnForm, path: Path | str, communicator: Communicator) -> OwnForm:
    """Move the blocks into files of a folder, from where products read them; collective.

    Blocks are the greater part of a matrix, and a factorization needs none of them. The folder holds a file for each
    process and kind of block, and has to stay as long as the matrix.
    """

    def moved(blocks: Blocks, name: str) -> Blocks:
        if not blocks.values.size:
            return blocks
        file = folder / f"{name}-{communicator.rank:05d}.npy"
        unfinished = file.with_suffix(".unfinished.npy")
        try:
            np.save(unfinished, blocks.values)
            unfinished.replace(file)  # these blocks, or those of another matrix, may be read from there
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return replace(blocks, values=np.load(file, mmap_mode="r"))

    folder = _one_folder(path, communicator)
    with together(communicator):
        folder.mkdir(parents=True, exist_ok=True)
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


def load(path: Path | str, communicator: Communicator, n_own_rows: int | None) -> OwnForm:
    """Read this process's part of a matrix from shards; collective.

    Each process reads what it will hold, and checks about as many shards as others do.

    Args:
        path: The folder.
        communicator: The processes, in any number.
        n_own_rows: Number of rows of this process. Rows are dealt process by process, in the order in which they were
            when the matrix was saved; about equal numbers if left out.

    Raises:
        ArtifactError: If a file is missing or damaged; all processes raise it.
        ConfigError: If processes find different matrices; all of them raise it.
        TypeError, ValueError: If processes ask for more or fewer rows than the matrix has; all of them raise it.
    """
    with together(communicator):
        folder = Path(path)
        told = Description.read(folder)
        if n_own_rows is not None:
            require_rows(n_own_rows)
    require_alike(communicator, {"path": str(folder), f"checksum of {DESCRIPTION}": told.checksum})
    whole = WholeTree(told.n_points, told.halvings, told.halvings_per_level)
    ownership = Ownership.of(whole, communicator.size, communicator.rank)
    mine = OwnShards(told, ownership)
    with together(communicator):
        mine.check(folder)
    with together(communicator):
        mine.read(folder)
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


def _split(found: FlatBlocks, division: Division, *, mirrored: bool, stored: np.dtype[Any]) -> OwnBlocks:
    """Separate blocks between own boxes from others; boxes are numbered as they are known here."""
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
    """Find the place in tree order of each of the caller's rows; collective."""
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

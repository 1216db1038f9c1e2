"""Divided matrices in folders: a shard of each process, read by any number of others."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import interactions
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks, OwnForm
from pipeline.hmatrix.distributed.points import KeptPoints
from pipeline.hmatrix.distributed.tree import Division, Route, cut_of
from pipeline.hmatrix.shards import (
    DESCRIPTION,
    BasisParts,
    Description,
    FlatBlocks,
    basis_arrays,
    block_arrays,
    joined,
    pairs_of_rows,
    read_shard,
    write_shard,
)
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.swap import Array, Halo, Ids, chained, exchange, gather
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together


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
    leaves = slice(*division.range_of(communicator.rank, tree.n_levels - 1))
    arrays |= {"lower": tree.lower[leaves], "upper": tree.upper[leaves]}
    if A.diagonal_term is not None:
        arrays["diagonal_term"] = A.diagonal_term
    sides = {"columns": A.column_basis} | ({} if A.mirrored else {"rows": A.row_basis})
    for name, side in sides.items():
        basis = side.basis if communicator.rank == 0 else _without_top(side.basis, division.n_top)
        arrays |= basis_arrays(name, basis, boxes)
    for name, pairs in (("near", A.near), ("far", A.far)):
        for group in ("inner", "outer"):
            arrays |= block_arrays(f"{name}.{group}", getattr(pairs, group))
    arrays["near.heights"] = tree.stop - tree.start
    arrays["far.heights"] = A.row_basis.rank
    with together(communicator):
        checksum = write_shard(path, communicator.rank, arrays)
    checksums = np.concatenate(gather(communicator, np.array([checksum]))).tolist()
    with together(communicator):
        if communicator.rank == 0:
            rule = A.admissibility
            per_level = int(np.log2(tree.arity))
            Description(
                n_points=division.n_points,
                halvings=int(np.log2(np.diff(tree.level_start)[-1])),
                halvings_per_level=per_level,
                edges=division.edges.tolist(),
                checksums=checksums,
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

    Costs each process one pass through the shards, of which it has one in memory at a time.

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
        frame = told.frame
    sizes = np.diff(frame.level_start)
    cut, cuts = cut_of(sizes, communicator.size)
    n_boxes, rank = len(frame.start), communicator.rank
    tree = ClusterTree(
        np.zeros((0, 1)), np.zeros(0, np.int64), frame.level_start, frame.start, frame.stop, frame.parent,
        frame.first_child, np.zeros((n_boxes, 1)), np.zeros((n_boxes, 1)), frame.arity,
    )  # fmt: skip
    division = Division(tree, cut, cuts, rank, told.n_points)
    first, last = division.first, division.last
    rows = division.is_own | division.is_above
    kept = division.is_own.copy()
    kept[: division.n_top] = True
    sides = ("columns",) if told.mirrored else ("columns", "rows")
    bases = {side: BasisParts(np.zeros(n_boxes, np.int32), {}) for side in sides}
    near: FlatBlocks = {}
    far: FlatBlocks = {}
    own: dict[str, list[Array]] = {name: [] for name in ("points", "numbers", "diagonal_term")}
    corners: list[tuple[Array, Array]] = []
    stored = np.dtype(np.float64)
    with together(communicator):
        for number, checksum in enumerate(told.checksums):
            shard = read_shard(path, number, checksum)
            stored = shard["near.inner.values"].dtype
            corners.append((shard["lower"], shard["upper"]))
            low, high = told.edges[number], told.edges[number + 1]
            for name, found in own.items():
                if name in shard:
                    found.append(shard[name][max(first - low, 0) : max(min(last, high) - low, 0)])
            for side, basis in bases.items():
                basis.take(shard, side, kept)
            for name, pairs in (("near", near), ("far", far)):
                pairs.update(
                    (pair, block.copy())
                    for pair, block in pairs_of_rows(shard, name, rows, mirrored=told.mirrored)
                )
    lower, upper = (np.concatenate([corner[i] for corner in corners]) for i in range(2))
    whole = {name: np.concatenate(found) for name, found in own.items() if found}
    tree = frame.tree(np.ascontiguousarray(whole["points"]), whole["numbers"], lower, upper)
    division = replace(division, tree=tree)
    route = _route(division, communicator, n_own_rows)

    def split(found: FlatBlocks) -> OwnBlocks:
        is_own = division.is_own
        inner = {(b, c): block for (b, c), block in found.items() if is_own[b] and is_own[c]}
        outer = {pair: block for pair, block in found.items() if pair not in inner}
        if told.mirrored:
            inner = {(b, c): block for (b, c), block in inner.items() if b <= c}
        return OwnBlocks(joined(inner, stored), joined(outer, stored))

    near_pairs, far_pairs = split(near), split(far)
    strangers = np.unique(near_pairs.outer.second)
    near_places = chained(tree.start[strangers], tree.stop[strangers])
    others: Ids = np.unique(far_pairs.outer.second).astype(np.int64)
    others = others[(division.owner[others] >= 0) & ~division.is_own[others]]
    others = others[np.lexsort((others, division.owner[others]))]
    known = kept.copy()
    known[slice(*tree.level_start[cut : cut + 2])] = True
    columns = OwnBasis(bases["columns"].joined(n_boxes, stored), _ranks(bases["columns"].rank, known, others))
    row_basis = (
        columns
        if told.mirrored
        else OwnBasis(bases["rows"].joined(n_boxes, stored), _ranks(bases["rows"].rank, known, others[:0]))
    )
    wanted = {p: others[division.owner[others] == p] for p in range(communicator.size)}
    asked = exchange(communicator, {p: boxes for p, boxes in wanted.items() if len(boxes)})
    far_halo = Halo(
        {p: chained(columns.start[boxes], columns.start[boxes + 1]) for p, boxes in asked.items()},
        {p: int(columns.rank[boxes].sum()) for p, boxes in wanted.items() if len(boxes)},
    )
    lists_of = division.is_own.copy()
    lists_of[: division.n_top] = True
    dimension = whole["points"].shape[1]
    return OwnForm(
        division,
        route,
        told.rule,
        interactions(tree, tree, told.rule, lists_of),
        KeptPoints(first, tree.points, np.zeros(0, np.int32), np.zeros((0, dimension))),
        len(near_places),
        row_basis,
        columns,
        near_pairs,
        far_pairs,
        near_places,
        Halo.of(communicator, near_places, division.edges),
        others,
        far_halo,
        told.mirrored,
        whole.get("diagonal_term"),
        kernels.from_dict(told.kernel),
        told.tolerance,
        told.norm,
        np.dtype(told.dtype),
        tuple(told.notes),
    )


def _ranks(rank: Ints, known: NDArray[np.bool_], others: Ids) -> Ints:
    """Return the ranks of known boxes and of others, and 0 for the rest."""
    result = np.where(known, rank, 0).astype(np.int32)
    result[others] = rank[others]
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

"""Blocks of the rows that a process owns: between near leaves, and between the skeletons of far boxes."""

from typing import Any

import numpy as np

from pipeline.hmatrix.admissibility import pairs_of
from pipeline.hmatrix.blocks import Blocks, PairPlaces, evaluate_blocks
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.distributed.bases import DividedBuild
from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.swap import Halo, Ids, chained, exchange
from pipeline.runtime.communicator import on_level
from pipeline.runtime.together import together


def near_blocks(
    work: DividedBuild, points: KeptPoints, stored: np.dtype[Any]
) -> tuple[OwnBlocks, Ids, KeptPoints]:
    """Return the blocks of own leaves, the places of others' points in them, and `points` with these; collective."""
    tree, division = work.tree, work.division
    first, second = pairs_of(work.lists.near, mirrored=False)
    leaves = (first >= tree.level_start[-2]) & division.is_own[first]
    first, second = first[leaves], second[leaves]
    others = distinct(second[~division.is_own[second]])
    near_places = chained(tree.start[others], tree.stop[others])
    with on_level(work.communicator, tree.n_levels - 1):
        points = points.fetched(near_places, division.edges, work.communicator)
    known = division.is_own & (tree.first_child < 0)
    known[others] = True
    counts = np.where(known, tree.stop - tree.start, 0)
    boxes = np.flatnonzero(known)
    lists: PairPlaces = (
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        chained(tree.start[boxes], tree.stop[boxes]).astype(np.int32),
    )
    return _blocks(work, points, lists, lists, (first, second), stored), near_places, points


def couplings(
    work: DividedBuild, points: KeptPoints, row_basis: OwnBasis, column_basis: OwnBasis, stored: np.dtype[Any]
) -> tuple[OwnBlocks, Ids, Halo, OwnBasis, OwnBasis, KeptPoints]:
    """Return the blocks between far boxes, given the bases; collective.

    Returns:
        The blocks; others' boxes in them, in order of their owners; the exchange of these boxes' coefficients; bases
        of rows and of columns that know the ranks of these boxes; `points` with the skeletons of these boxes.
    """
    division, communicator = work.division, work.communicator
    first, second = pairs_of(work.lists.far, mirrored=False)
    held = division.is_own[first] | division.is_above[first]
    first, second = first[held], second[held]
    others = distinct(second[(division.owner[second] >= 0) & ~division.is_own[second]])
    others = others[np.lexsort((others, division.owner[others]))]
    ranks = range(communicator.size)
    wanted = {rank: others[division.owner[others] == rank] for rank in ranks}
    numbers = {rank: division.numbers[boxes] for rank, boxes in wanted.items() if len(boxes)}
    asked = {rank: division.here(boxes) for rank, boxes in exchange(communicator, numbers).items()}
    boxes_halo = Halo(asked, {rank: len(boxes) for rank, boxes in wanted.items() if len(boxes)})

    own = np.concatenate([[0], np.cumsum(column_basis.basis.rank, dtype=np.int64)])
    edges, places = boxes_halo.fetch_lists(communicator, own, column_basis.basis.skeletons)
    needed = places
    if division.n_top:  # skeletons above the cut may be points of any process
        needed = np.concatenate([places, *(side.basis.skeletons for side in (row_basis, column_basis))])
    points = points.fetched(needed.astype(np.int64), division.edges, communicator)
    full = column_basis.rank.copy()
    full[others] = np.diff(edges)
    columns = OwnBasis(column_basis.basis, full)
    rows = columns if row_basis is column_basis else row_basis
    # Each owner knows where the coefficients of its boxes are: these are the rows that others ask for.
    halo = Halo(
        {rank: chained(columns.start[boxes], columns.start[boxes + 1]) for rank, boxes in asked.items()},
        {rank: int(full[boxes].sum()) for rank, boxes in wanted.items() if len(boxes)},
    )
    row_lists = np.concatenate([[0], np.cumsum(rows.basis.rank, dtype=np.int64)]), rows.basis.skeletons
    column_lists = _skeletons(work, columns, others, places)
    blocks = _blocks(work, points, row_lists, column_lists, (first, second), stored)
    return blocks, others.astype(np.int64), halo, rows, columns, points


def _skeletons(work: DividedBuild, columns: OwnBasis, others: Ints, places: Ints) -> PairPlaces:
    """Return the skeletons of own boxes, of those above the cut and of others' boxes, one box after the other.

    Args:
        work: The matrix to compress.
        columns: Bases of columns that know the ranks of all these boxes.
        others: Others' boxes in far blocks, in order of their owners.
        places: Skeletons of `others`.
    """
    division = work.division
    known = columns.rank.copy()
    strangers = np.zeros(len(known), bool)
    cut = slice(*work.tree.level_start[division.cut : division.cut + 2])
    strangers[cut] = ~division.is_own[cut]
    strangers[others] = False
    known[strangers] = 0  # known by rank alone, and in no block
    start = np.concatenate([[0], np.cumsum(known, dtype=np.int64)])
    flat = np.empty(int(start[-1]), np.int32)
    mine = np.flatnonzero(columns.basis.rank)
    flat[chained(start[mine], start[mine + 1])] = columns.basis.skeletons
    flat[chained(start[others], start[others + 1])] = places
    return start, flat


def _blocks(
    work: DividedBuild,
    points: KeptPoints,
    rows: PairPlaces,
    columns: PairPlaces,
    pairs: tuple[Ints, Ints],
    stored: np.dtype[Any],
) -> OwnBlocks:
    """Evaluate the blocks of pairs of boxes, separately for pairs of own boxes; collective."""
    first, second = pairs
    own = work.division.is_own
    inner = own[first] & own[second]
    halves = inner & (first <= second) if work.mirrored else inner
    found: list[Blocks] = []
    with together(work.communicator):
        matrix = kernel_matrix(work.kernel, points, points)
        found += [
            evaluate_blocks(matrix, rows, columns, (first[chosen], second[chosen]), stored)
            for chosen in (halves, ~inner)
        ]
    return OwnBlocks(*found)

"""The product of a matrix that is divided by rows: each process multiplies its own blocks.

Coefficients rise from own leaves to the cut; those of the cut are gathered, and every process lifts them to the top, a
few boxes. Others' x of near leaves and coefficients of far boxes are fetched, to be multiplied by own blocks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix import _native
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.rounding import wide_type
from pipeline.hmatrix.swap import Array, Ids, chained, gather
from pipeline.hmatrix.threads import one_blas_thread
from pipeline.hmatrix.vectors import apply
from pipeline.runtime.communicator import Communicator, on_level


def product(A: OwnForm, x: Array, communicator: Communicator) -> Array:
    """Return own rows of A x, in tree order, given own rows of x in tree order, (n,) or (n, m); collective."""
    A.require_blocks()
    places = np.arange(A.n_own)
    return apply(
        x,
        lambda flat, m: _product(A, flat.reshape(-1, m), communicator).reshape(-1),
        taken=places,
        given=places,
        computed=A.computed,
        dtype=A.dtype,
        what="the product",
    )


def _product(A: OwnForm, x: Array, communicator: Communicator) -> Array:
    kind = wide_type(A.near.inner.values.dtype)
    if x.dtype.kind == "c" and kind.kind != "c":  # the diagonal alone is complex
        both = _blocks_times(A, np.concatenate([x.real, x.imag], axis=1), communicator)
        y = both[:, : x.shape[1]] + 1j * both[:, x.shape[1] :]
    else:
        y = _blocks_times(A, x.astype(kind, copy=False), communicator)
    return y if A.diagonal_term is None else y + A.diagonal_term[:, None] * x


def _blocks_times(A: OwnForm, x: Array, communicator: Communicator) -> Array:
    division, m = A.division, x.shape[1]
    tree, (rows, columns) = division.tree, (A.row_basis, A.column_basis)
    with on_level(communicator, tree.n_levels - 1):
        ghosts = A.near_halo.fetch(communicator, x)
    y = np.zeros(x.shape, x.dtype)
    near_x = np.ascontiguousarray(np.concatenate([x, ghosts])).reshape(-1)
    taken, widths = _near_places(A)
    flat = y.reshape(-1)
    with one_blas_thread():
        for pairs, mirrored in ((A.near.inner, A.mirrored), (A.near.outer, False)):
            for blocks in pairs.in_pieces():
                _add(blocks, near_x, taken, widths, flat, taken, widths, m, mirrored=mirrored)

        v = np.zeros((int(columns.start[-1]), m), x.dtype)
        own = np.flatnonzero(division.is_own).astype(np.int32)
        _rise(A, columns, own[::-1], x, v)
    cut = slice(*tree.level_start[division.cut : division.cut + 2])
    low, high = (int(columns.start[box]) for box in division.range_of(division.cut))
    with on_level(communicator, division.cut):
        at_cut = np.concatenate(gather(communicator, v[low:high]))
    v[columns.start[cut.start] : columns.start[cut.stop]] = at_cut
    v[_places_of(columns.start, A.far_boxes)] = A.far_halo.fetch(communicator, v)
    top = np.arange(division.n_top, dtype=np.int32)
    with one_blas_thread():
        _rise(A, columns, top[::-1], x, v)
        u = np.zeros((int(rows.start[-1]), m), x.dtype)
        for pairs, mirrored in ((A.far.inner, A.mirrored), (A.far.outer, False)):
            for blocks in pairs.in_pieces():
                _add(
                    blocks, v.reshape(-1), columns.start[:-1], columns.rank, u.reshape(-1), rows.start[:-1], rows.rank,
                    m, mirrored=mirrored,
                )  # fmt: skip
        descending = np.concatenate([np.flatnonzero(division.is_above).astype(np.int32), own])
        _native.descend(A.own_tree, rows.native, descending, u.reshape(-1), flat, m)
    return y


def _rise(A: OwnForm, side: Any, boxes: Ints, x: Array, v: Array) -> None:
    _native.rise(
        A.own_tree, side.native, np.ascontiguousarray(boxes), np.ascontiguousarray(x).reshape(-1), v.reshape(-1),
        x.shape[1],
    )  # fmt: skip


def _add(
    blocks: Blocks,
    x: Array,
    taken: Ids,
    widths: Ints,
    y: Array,
    given: Ids,
    heights: Ints,
    m: int,
    *,
    mirrored: bool,
) -> None:
    _native.add_blocks(
        blocks.native,
        mirrored,
        np.ascontiguousarray(taken),
        widths,
        x,
        np.ascontiguousarray(given),
        heights,
        y,
        m,
    )


def _near_places(A: OwnForm) -> tuple[Ids, Ints]:
    """Return where each leaf's points are among own rows and those fetched for near blocks, and their number."""
    tree, first = A.division.tree, A.division.first
    at = np.where(
        A.division.is_own,
        tree.start.astype(np.int64) - first,
        A.n_own + np.searchsorted(A.near_places, tree.start),
    )
    return at, tree.stop - tree.start


def _places_of(start: Ids, boxes: Ids) -> NDArray[np.int64]:
    return chained(start[boxes], start[boxes + 1])

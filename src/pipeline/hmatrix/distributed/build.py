"""How a divided H2 matrix is made from divided points; `compression.py` is the same without parts.

Every process samples, compresses and evaluates for its own boxes, with points fetched from others; process 0 does so
for the few boxes above the cut. Boxes and lists are those of one process; points inside a leaf may be in another order,
so that samples, and with them products, differ within the tolerance.
"""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import (
    Admissibility,
    Interactions,
    Strong,
    Weak,
    pairs_of,
)
from pipeline.hmatrix.blocks import Blocks, PairPlaces, evaluate_blocks
from pipeline.hmatrix.cluster import ClusterTree, Ints
from pipeline.hmatrix.distributed.exact_rows import sampled_error, typical_norm
from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks, OwnForm
from pipeline.hmatrix.distributed.points import KeptPoints, kernel_matrix
from pipeline.hmatrix.distributed.tree import Division, PlacedPoints, Route, build_tree
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.geometry import crowded, depth_of, fills_space, sampling_step
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.places import distinct
from pipeline.hmatrix.rounding import is_narrow, stored_type
from pipeline.hmatrix.skeleton import Basis, FarSampling, require_compressible, unknowns
from pipeline.hmatrix.swap import Array, Halo, Ids, chained, exchange, gather, summed
from pipeline.hmatrix.threads import n_threads, one_blas_thread
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together

logger = logging.getLogger("pipeline.hmatrix")

_ATTEMPTS = 5
_SHARE = 0.35  # of the tolerance, as in compression.py
_CHECK = 0.4  # rows of a check, of those of the sample: as in native/adaptive.hpp
_AHEAD = 2  # enlargements of the samples that are fetched in advance: most boxes need no more
_FETCHES = 9  # enlargements at which the build gives up


def compress(
    points: NDArray[Any],
    kernel: Kernel,
    communicator: Communicator,
    *,
    diagonal: NDArray[Any] | None,
    tolerance: float,
    leaf_size: int | None,
    admissibility: Admissibility | None,
    dtype: np.dtype[Any],
    progress: Progress | None = None,
) -> OwnForm:
    """Do what `DistributedH2Matrix.from_kernel` says, with arguments that have been checked; collective."""
    own, route = _divided(points, kernel, communicator, leaf_size)
    division, rule, lists, notes = _surrounded(own, admissibility, communicator)
    term = None if diagonal is None else route.there(communicator, diagonal)
    kept = KeptPoints(
        division.first, division.tree.points, np.zeros(0, np.int32), np.zeros((0, points.shape[1]))
    )
    work = _Build(kernel, division, lists, kept, communicator, progress)
    norm = typical_norm(kernel, kept, division.n_points, communicator)
    _require_finite(norm)
    stored = stored_type(tolerance, norm, work.computed, dtype)
    near, near_places = work.near_blocks(stored)
    if stored != work.computed and not math.isfinite(work.total(near)):  # entries beyond single precision
        stored = work.computed
        near, near_places = work.near_blocks(stored)
    _require_finite(work.total(near))
    near_halo = Halo.of(communicator, near_places, division.edges)

    sampling = FarSampling.for_tolerance(_SHARE * tolerance, norm, division.whole.n_boxes)
    for attempt in range(_ATTEMPTS):
        column_basis, row_basis = work.bases(sampling, stored)
        far_boxes, far_halo, far, row_basis, column_basis = work.couplings(row_basis, column_basis, stored)
        form = OwnForm(
            division, route, rule, lists, kept, len(work.points.places), row_basis, column_basis, near, far,
            near_places, near_halo, far_boxes, far_halo, work.mirrored, term, kernel, tolerance, norm, dtype, notes,
        )  # fmt: skip
        reached = sampled_error(form, communicator, seed=attempt + 1, n_vectors=8)
        logger.info("checked on exact rows: relative error %.1e (wanted %.0e)", reached, tolerance)
        _require_finite(reached)
        _native.release_memory()
        if reached <= tolerance:
            return form
        shrink = max(0.3 * tolerance / reached, 1e-3)
        sampling = replace(sampling, budget=sampling.budget * shrink**2, rows=2 * sampling.rows)
    if reached > 2 * tolerance:
        raise ConvergenceError(
            f"compression reached a relative error of {reached:.1e} where {tolerance:.0e} was asked for; "
            "ask for a larger tolerance" + (" or give points in double precision" if is_narrow(dtype) else "")
        )
    note = f"sampled rows have a relative error of {reached:.1e}, above the tolerance of {tolerance:.0e}"
    return replace(form, notes=(*notes, note))


def _require_finite(value: float) -> None:
    """Raise unless a number that all processes have, computed of a kernel's entries, is one."""
    if not math.isfinite(value):
        raise ConvergenceError(
            "the kernel's entries are NaN or infinite, or so large that their squares are; look at what it gives "
            "between points that are equal or far apart"
        )


def _divided(
    points: NDArray[Any], kernel: Kernel, communicator: Communicator, leaf_size: int | None
) -> tuple[PlacedPoints, Route]:
    counts = np.concatenate(gather(communicator, np.array([len(points)])))
    n, before = int(counts.sum()), int(counts[: communicator.rank].sum())
    step = sampling_step(n)
    sample = np.concatenate(gather(communicator, points[-before % step :: step].astype(np.float64)))
    halvings, per_level = depth_of(n, volume=fills_space(sample, n), leaf_size=leaf_size)
    scales = length_scales(kernel)
    metric = None if scales is None or len(scales) != points.shape[1] else 1 / np.array(scales)
    return build_tree(
        points.astype(np.float64),
        communicator,
        halvings=halvings,
        halvings_per_level=per_level,
        metric=metric,
    )


def _surrounded(
    own: PlacedPoints, admissibility: Admissibility | None, communicator: Communicator
) -> tuple[Division, Admissibility, Interactions, tuple[str, ...]]:
    """Find the boxes that a process knows, and near and far ones of its own, as `geometry.divide` does for all."""
    rule = admissibility or Strong()
    division, lists = own.division(rule, communicator)
    if admissibility is not None:
        return division, rule, lists, ()
    leaves = slice(*division.range_of(division.whole.n_levels - 1))
    near = int(summed(communicator, lists.near.counts[leaves].sum(keepdims=True))[0])
    weak, note = crowded(near, int(division.whole.sizes[-1]), division.n_points, own.points.shape[1])
    if weak:
        rule = Weak()
        division, lists = own.division(rule, communicator)
    return division, rule, lists, (note,) if note else ()


@dataclass
class _Build:
    """A matrix while it is built: its points become more.

    Attributes:
        kernel: The kernel.
        division: Who owns what.
        lists: Near and far boxes.
        points: Points kept so far.
        communicator: The processes.
        progress: Is told of the boxes that this process has compressed.
    """

    kernel: Kernel
    division: Division
    lists: Interactions
    points: KeptPoints
    communicator: Communicator
    progress: Progress | None = None

    @property
    def tree(self) -> ClusterTree:
        return self.division.tree

    @property
    def mirrored(self) -> bool:
        return self.kernel.symmetric

    @property
    def computed(self) -> np.dtype[Any]:
        return np.dtype(np.complex128 if self.kernel.is_complex else np.float64)

    def near_blocks(self, stored: np.dtype[Any]) -> tuple[OwnBlocks, Ids]:
        """Return the blocks of own leaves, and the places of others' points in them; collective."""
        tree, division = self.tree, self.division
        first, second = pairs_of(self.lists.near, mirrored=False)
        leaves = (first >= tree.level_start[-2]) & division.is_own[first]
        first, second = first[leaves], second[leaves]
        others = distinct(second[~division.is_own[second]])
        near_places = chained(tree.start[others], tree.stop[others])
        self.points = self.points.fetched(near_places, division.edges, self.communicator)
        known = division.is_own & (tree.first_child < 0)
        known[others] = True
        counts = np.where(known, tree.stop - tree.start, 0)
        boxes = np.flatnonzero(known)
        lists: PairPlaces = (
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            chained(tree.start[boxes], tree.stop[boxes]).astype(np.int32),
        )
        with together(self.communicator):
            blocks = self._blocks(lists, lists, first, second, stored)
        return blocks, near_places

    def total(self, pairs: OwnBlocks) -> float:
        """Return the size of the sum of all blocks' entries, which is not finite if one is not; collective."""
        with np.errstate(over="ignore", invalid="ignore"):
            own = abs(pairs.inner.values.sum()) + abs(pairs.outer.values.sum())
        return float(summed(self.communicator, np.array([own], np.float64))[0])

    def _blocks(
        self, rows: PairPlaces, columns: PairPlaces, first: Ints, second: Ints, stored: np.dtype[Any]
    ) -> OwnBlocks:
        matrix = kernel_matrix(self.kernel, self.points, self.points)
        own = self.division.is_own
        inner = own[first] & own[second]
        halves = inner & (first <= second) if self.mirrored else inner
        found: list[Blocks] = [
            evaluate_blocks(matrix, rows, columns, (first[chosen], second[chosen]), stored)
            for chosen in (halves, ~inner)
        ]
        return OwnBlocks(*found)

    def bases(self, sampling: FarSampling, stored: np.dtype[Any]) -> tuple[OwnBasis, OwnBasis]:
        """Return the bases of columns and of rows of own boxes and of those above the cut; collective."""
        for step in range(_FETCHES):
            self._fetch_samples(sampling.rows * 2**step, step)
            if step < _AHEAD:
                continue
            found = [self._basis(sampling, stored, transposed=transposed) for transposed in self._sides]
            # Where a sample had to grow beyond what was fetched, all fetch more and begin again.
            if not summed(self.communicator, np.array([int(any(side is None for side in found))]))[0]:
                sides = [side for side in found if side is not None]
                return sides[0], sides[-1]
            logger.info("samples of the far field grow: fetching more of others' points")
        raise ConvergenceError(
            "more and more samples of the far field are needed and do not suffice; ask for a larger tolerance"
        )

    @property
    def _sides(self) -> tuple[bool, ...]:
        return (False,) if self.mirrored else (False, True)

    def _fetch_samples(self, rows: float, step: int) -> None:
        """Fetch the points of the far fields' samples, as large as they are after some enlargements; collective.

        Args:
            rows: Rows of the sample.
            step: How often samples have been enlarged, which numbers sample and check as native/adaptive.hpp does.
        """
        if self.communicator.size == 1:  # all points are here
            return
        boxes = self.division.is_own & (self.tree.stop > self.tree.start)
        if self.communicator.rank == 0:
            boxes[: self.division.n_top] = True
        chosen = np.flatnonzero(boxes).astype(np.int32)
        far, tree = self.lists.far, self.tree.native
        first, last = self.points.first, self.points.last
        wanted = [
            _native.sampled_outside(tree, tree, far.start, far.boxes, chosen, size, number, first, last)
            for number, size in ((step, rows), (step + 1, _CHECK * rows))
        ]
        self.points = self.points.fetched(
            np.concatenate(wanted).astype(np.int64), self.division.edges, self.communicator
        )

    def _basis(self, sampling: FarSampling, stored: np.dtype[Any], *, transposed: bool) -> OwnBasis | None:
        """Return one side's bases, or None where a point is missing; collective, and None is this process's alone."""
        division, tree, communicator = self.division, self.tree, self.communicator
        hidden = ~division.is_own  # others' boxes are leaves without points
        own_tree = replace(
            tree,
            level_start=np.ascontiguousarray(tree.level_start[division.cut :]),
            start=np.where(hidden, 0, tree.start).astype(np.int32),
            stop=np.where(hidden, 0, tree.stop).astype(np.int32),
            first_child=np.where(hidden, -1, tree.first_child).astype(np.int32),
        )
        missing, below = False, _nothing(tree.n_boxes, self.computed)
        with together(communicator):
            try:
                below = self._built(
                    kernel_matrix(self.kernel, self.points, self.points), own_tree, sampling, np.zeros(0),
                    transposed=transposed,
                )  # fmt: skip
            except IndexError:
                missing = True
        cut = slice(*tree.level_start[division.cut : division.cut + 2])
        own_cut = slice(*division.range_of(division.cut))
        starts = np.concatenate([[0], np.cumsum(below.rank)])
        own = slice(int(starts[own_cut.start]), int(starts[own_cut.stop]))
        ranks = np.concatenate(gather(communicator, below.rank[own_cut]))
        places = np.concatenate(gather(communicator, below.skeletons[own]))
        energy = np.concatenate(gather(communicator, below.energy[own]))
        corners = np.concatenate(gather(communicator, self.points.at(below.skeletons[own])))
        above = _nothing(division.n_top, self.computed)
        if division.n_top:
            ready = not summed(communicator, np.array([int(missing)]))[0]
            with together(communicator):
                if communicator.rank == 0 and ready:
                    try:
                        above = self._top(ranks, places, energy, corners, sampling, transposed=transposed)
                    except IndexError:
                        missing = True
            told = (part if communicator.rank == 0 else part[:0] for part in above.arrays)
            above = _Side(*(gather(communicator, part)[0] for part in told))
        if missing:
            return None
        rank = np.concatenate([above.rank, below.rank[division.n_top :]]).astype(np.int32)
        rank[: cut.start] = above.rank
        own_ranks = rank.copy()
        rank[cut] = ranks
        counts = np.where(division.is_own, unknowns(tree, own_ranks), 0)
        counts[: division.n_top] = unknowns(tree, rank)[: division.n_top]
        order_start = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        basis = Basis(
            own_ranks,
            np.concatenate([above.skeletons, below.skeletons]).astype(np.int32),
            np.concatenate([above.order, below.order]).astype(np.int32),
            np.concatenate([above.values, below.values]).astype(stored, copy=False),
            order_start,
            np.concatenate([above.seconds, below.seconds]),
        )
        return OwnBasis(basis, rank)

    def _built(
        self,
        matrix: "_native.KernelMatrix",
        own: ClusterTree,
        sampling: FarSampling,
        energy: NDArray[np.float64],
        *,
        transposed: bool,
    ) -> "_Side":
        far = self.lists.far
        build = getattr(_native, f"build_basis_{self.computed.name}")
        with one_blas_thread():
            rank, skeletons, order, values, seconds, largest, carried = build(
                matrix, own.native, self.tree.native, far.start, far.boxes, transposed, sampling.budget,
                sampling.rows, sampling.largest_box, self.progress, n_threads(), energy,
            )  # fmt: skip
        require_compressible(largest <= sampling.largest_box)
        return _Side(rank, skeletons, order, values, carried, seconds)

    def _top(
        self,
        ranks: Ints,
        places: Ints,
        energy: NDArray[np.float64],
        corners: NDArray[np.float64],
        sampling: FarSampling,
        *,
        transposed: bool,
    ) -> "_Side":
        """Build the bases above the cut, given the skeletons of the boxes of the cut."""
        tree, n_top, arity = self.tree, self.division.n_top, self.tree.arity
        first = int(tree.level_start[self.division.cut - 1])
        edges = np.concatenate([[0], np.cumsum(ranks)])[::arity].astype(np.int32)
        start, stop = np.zeros(n_top, np.int32), np.zeros(n_top, np.int32)
        start[first:], stop[first:] = edges[:-1], edges[1:]
        children = tree.first_child[:n_top].copy()
        children[first:] = -1
        own = replace(
            tree,
            level_start=np.ascontiguousarray(tree.level_start[: self.division.cut + 1]),
            start=start,
            stop=stop,
            parent=np.ascontiguousarray(tree.parent[:n_top]),
            first_child=children,
            lower=np.ascontiguousarray(tree.lower[:n_top]),
            upper=np.ascontiguousarray(tree.upper[:n_top]),
        )
        sides = (corners, self.points) if transposed else (self.points, corners)
        found = self._built(kernel_matrix(self.kernel, *sides), own, sampling, energy, transposed=transposed)
        return replace(found, skeletons=places[found.skeletons])

    def couplings(
        self, row_basis: OwnBasis, column_basis: OwnBasis, stored: np.dtype[Any]
    ) -> tuple[Ids, Halo, OwnBlocks, OwnBasis, OwnBasis]:
        """Return others' boxes in far blocks, their owners, the blocks, and bases that know ranks; collective."""
        division, communicator = self.division, self.communicator
        first, second = pairs_of(self.lists.far, mirrored=False)
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
        if division.n_top:  # skeletons above the cut are anybody's points
            needed = np.concatenate([places, *(side.basis.skeletons for side in (row_basis, column_basis))])
        self.points = self.points.fetched(needed.astype(np.int64), division.edges, communicator)
        counts = np.diff(edges)
        full = column_basis.rank.copy()
        full[others] = counts
        columns = OwnBasis(column_basis.basis, full)
        rows = columns if row_basis is column_basis else row_basis
        # The coefficients of others' boxes are where theirs are: each owner says which rows it will be asked for.
        halo = Halo(
            {rank: chained(columns.start[boxes], columns.start[boxes + 1]) for rank, boxes in asked.items()},
            {rank: int(full[boxes].sum()) for rank, boxes in wanted.items() if len(boxes)},
        )
        known = full.copy()
        cut = slice(*self.tree.level_start[division.cut : division.cut + 2])
        strangers = np.zeros(len(full), bool)
        strangers[cut] = ~division.is_own[cut]
        strangers[others] = False
        known[strangers] = 0  # known by rank alone, and in no block
        start = np.concatenate([[0], np.cumsum(known, dtype=np.int64)])
        flat = np.empty(int(start[-1]), np.int32)
        mine = np.flatnonzero(column_basis.basis.rank)
        flat[chained(start[mine], start[mine + 1])] = column_basis.basis.skeletons
        flat[chained(start[others], start[others + 1])] = places
        row_lists = np.concatenate([[0], np.cumsum(rows.basis.rank, dtype=np.int64)]), rows.basis.skeletons
        with together(communicator):
            blocks = self._blocks(row_lists, (start, flat), first, second, stored)
        return others.astype(np.int64), halo, blocks, rows, columns


@dataclass(frozen=True, eq=False)
class _Side:
    """Bases as native routines return them."""

    rank: Ints
    skeletons: Ints
    order: Ints
    values: Array
    energy: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @property
    def arrays(self) -> tuple[Array, ...]:
        return self.rank, self.skeletons, self.order, self.values, self.energy, self.seconds


def _nothing(n_boxes: int, computed: np.dtype[Any]) -> _Side:
    empty = np.zeros(0, np.int32)
    return _Side(np.zeros(n_boxes, np.int32), empty, empty, np.zeros(0, computed), np.zeros(0), np.zeros(0))

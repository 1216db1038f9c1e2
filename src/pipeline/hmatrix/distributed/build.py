"""Compression of divided points into a divided H2 matrix; `compression.py` is the same on one process.

Every process samples, compresses and evaluates for its own boxes, with points fetched from others; process 0 does so
for the few boxes above the cut. Boxes and lists are the same as on one process, but points inside a leaf may be in
another order, so that samples, and with them products, differ within the tolerance.
"""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Admissibility, Interactions, Strong, Weak
from pipeline.hmatrix.distributed.bases import DividedBuild, build_bases
from pipeline.hmatrix.distributed.exact_rows import sampled_error, typical_norm
from pipeline.hmatrix.distributed.form import OwnBlocks, OwnForm
from pipeline.hmatrix.distributed.own_blocks import couplings, near_blocks
from pipeline.hmatrix.distributed.points import KeptPoints
from pipeline.hmatrix.distributed.tree import Division, PlacedPoints, Route, build_tree
from pipeline.hmatrix.entries import length_scales
from pipeline.hmatrix.geometry import crowded, depth_of, fills_space, sampling_step
from pipeline.hmatrix.inputs import Progress
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.rounding import is_narrow, stored_type
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.swap import Halo, gather, summed
from pipeline.runtime.communicator import Communicator

logger = logging.getLogger("pipeline.hmatrix")

_ATTEMPTS = 5
_SHARE = 0.35  # share of the tolerance, as in compression.py


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
    """Compress as `DistributedH2Matrix.from_kernel` describes, with checked arguments; collective."""
    own, route = _divided(points, kernel, communicator, leaf_size)
    division, rule, lists, notes = _surrounded(own, admissibility, communicator)
    term = None if diagonal is None else route.there(communicator, diagonal)
    kept = KeptPoints(
        division.first, division.tree.points, np.zeros(0, np.int32), np.zeros((0, points.shape[1]))
    )
    work = DividedBuild(kernel, division, lists, communicator, progress)
    norm = typical_norm(kernel, kept, division.n_points, communicator)
    _require_finite(norm)
    stored = stored_type(tolerance, norm, work.computed, dtype)
    near, near_places, known = near_blocks(work, kept, stored)
    # Entries may be beyond single precision.
    if stored != work.computed and not math.isfinite(_total(near, communicator)):
        stored = work.computed
        near, near_places, known = near_blocks(work, known, stored)
    _require_finite(_total(near, communicator))
    near_halo = Halo.of(communicator, near_places, division.edges)

    sampling = FarSampling.for_tolerance(_SHARE * tolerance, norm, division.whole.n_boxes)
    for attempt in range(_ATTEMPTS):
        row_basis, column_basis, known = build_bases(work, known, sampling, stored)
        far, far_boxes, far_halo, row_basis, column_basis, known = couplings(
            work, known, row_basis, column_basis, stored
        )
        form = OwnForm(
            division, route, rule, lists, kept, len(known.places), row_basis, column_basis, near, far,
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


def _total(pairs: OwnBlocks, communicator: Communicator) -> float:
    """Return a sum over all blocks' entries, which is not finite if an entry is not; collective."""
    with np.errstate(over="ignore", invalid="ignore"):
        own = abs(pairs.inner.values.sum()) + abs(pairs.outer.values.sum())
    return float(summed(communicator, np.array([own], np.float64))[0])


def _require_finite(value: float) -> None:
    """Raise ConvergenceError unless a value computed from the kernel's entries, equal on all processes, is finite."""
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
    """Find the boxes that this process knows, and the near and far boxes of its own, as `geometry.divide` does."""
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

"""Compression of a kernel matrix over points into an H2 matrix whose error is checked."""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.admissibility import Admissibility, as_admissibility, pairs_of
from pipeline.hmatrix.batched.padding import to_device
from pipeline.hmatrix.blocks import coupling_blocks, near_blocks
from pipeline.hmatrix.entries import length_scales, program
from pipeline.hmatrix.exact_rows import sampled_error, typical_norm
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.geometry import Geometry, divide
from pipeline.hmatrix.inputs import (
    CPU,
    Progress,
    as_diagonal,
    as_points,
    dtype_of,
    require_block,
    require_count,
    require_nugget,
    require_progress,
    require_tolerance,
)
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.product import DeviceCopies
from pipeline.hmatrix.rounding import is_narrow, stored_type
from pipeline.hmatrix.skeleton import FarSampling, WantedBasis
from pipeline.hmatrix.sources import source_of
from pipeline.hmatrix.structure import log_levels
from pipeline.hmatrix.threads import one_blas_thread

logger = logging.getLogger("pipeline.hmatrix")

_TRIED = 32  # points at which a user's kernel is tried
_ATTEMPTS = 5
_SHARE = 0.35  # share of the tolerance that the sampled far field must meet: what was not sampled errs more


def compress_kernel(
    points: "NDArray[Any] | Tensor",
    kernel: Kernel,
    *,
    diagonal: "complex | NDArray[Any] | Tensor | None",
    tolerance: float,
    sources: "NDArray[Any] | Tensor | None",
    leaf_size: int | None,
    admissibility: Admissibility | str | None,
    progress: Progress | None = None,
    device: torch.device | None = None,
    copies: DeviceCopies | None = None,
) -> H2Form:
    """Compress a kernel matrix as `H2Matrix.from_kernel` describes.

    Boxes are compressed in batches on `device` or, if it is left out, on the points' device unless that is the CPU.
    `copies` keeps what the check of the result copies to the device.
    """
    if device is None and isinstance(points, Tensor) and points.device.type != "cpu":
        device = points.device
    require_tolerance(tolerance)
    require_progress(progress)
    if leaf_size is not None:
        require_count(leaf_size, "leaf_size")
    targets = as_points(points, "points")
    others = None if sources is None else as_points(sources, "sources")
    if others is not None and others.shape[1] != targets.shape[1]:
        raise ValueError(
            f"points have {targets.shape[1]} coordinates and sources {others.shape[1]}: they must be equally many"
        )
    term = as_diagonal(diagonal, len(targets))
    if others is not None and term is not None:
        raise ValueError("a rectangular matrix over two point sets takes no diagonal")
    if kernel.positive_definite and not kernel.singular:
        require_nugget(term)

    if len(targets) and not program(kernel, targets.shape[1]):
        few = targets[:: -(-len(targets) // _TRIED)].astype(np.float64)
        require_block(kernel, to_device(few, device or CPU))
    scales = length_scales(kernel)
    metric = None if scales is None or len(scales) != targets.shape[1] else 1 / np.array(scales)
    geometry, notes = divide(
        targets, others, leaf_size=leaf_size, admissibility=as_admissibility(admissibility), metric=metric
    )
    dtype = dtype_of(targets, is_complex=kernel.is_complex or (term is not None and term.dtype.kind == "c"))
    with one_blas_thread():
        return _compress(
            kernel, geometry, tolerance, dtype, None if term is None else term[geometry.rows.permutation],
            notes, progress, device, copies or DeviceCopies(),
        )  # fmt: skip


def _compress(
    kernel: Kernel,
    geometry: Geometry,
    tolerance: float,
    dtype: np.dtype[Any],
    term: NDArray[Any] | None,
    notes: tuple[str, ...],
    progress: Progress | None,
    device: torch.device | None,
    copies: DeviceCopies,
) -> H2Form:
    rows, columns, lists = geometry.rows, geometry.columns, geometry.interactions
    computed = np.dtype(np.complex128 if kernel.is_complex else np.float64)
    source = source_of(kernel, rows, columns, computed, device)
    norm = typical_norm(source, rows, columns.n_points, singular=kernel.singular, square=rows is columns)
    _require_finite(norm)
    stored = stored_type(tolerance, norm, computed, dtype)
    mirrored = kernel.symmetric and rows is columns
    leaves = int(rows.level_start[-2])
    first, second = pairs_of(lists.near, mirrored=mirrored)
    of_leaves = first >= leaves
    near = near_blocks(source.blocks, rows, columns, (first[of_leaves], second[of_leaves]), stored)
    total = _sum(near.values)
    if stored != computed and not math.isfinite(total):  # entries beyond single precision
        stored = computed
        near = near_blocks(source.blocks, rows, columns, (first[of_leaves], second[of_leaves]), stored)
        total = _sum(near.values)
    _require_finite(total)
    far_pairs = pairs_of(lists.far, mirrored=mirrored)

    sampling = FarSampling.for_tolerance(_SHARE * tolerance, norm, rows.n_boxes)
    reached = np.inf
    for attempt in range(_ATTEMPTS):
        of_columns = WantedBasis(
            lists.far_columns, sampling, transposed=False, stored=stored, progress=progress
        )
        column_basis = source.basis(of_columns)
        row_basis = (
            column_basis if mirrored else source.basis(replace(of_columns, far=lists.far, transposed=True))
        )
        copies.release()  # those of an earlier attempt
        result = H2Form(
            geometry, row_basis, column_basis, near,
            coupling_blocks(source.blocks, row_basis, column_basis, far_pairs, stored),
            mirrored, term, kernel, tolerance, norm, dtype, notes, device=device or CPU,
        )  # fmt: skip
        if len(far_pairs[0]) == 0:
            break
        reached = sampled_error(result, seed=attempt + 1, copies=copies)
        logger.info("checked on exact rows: relative error %.1e (wanted %.0e)", reached, tolerance)
        _require_finite(reached)
        if reached <= tolerance:
            break
        shrink = max(0.3 * tolerance / reached, 1e-3)
        sampling = replace(sampling, budget=sampling.budget * shrink**2, rows=2 * sampling.rows)
    else:
        if reached > 2 * tolerance:
            raise ConvergenceError(
                f"compression reached a relative error of {reached:.1e} where {tolerance:.0e} was asked for; "
                "ask for a larger tolerance"
                + (" or give points in double precision" if is_narrow(dtype) else "")
            )
        note = f"sampled rows have a relative error of {reached:.1e}, above the tolerance of {tolerance:.0e}"
        logger.warning(note)
        result = replace(result, notes=(*notes, note))
    log_levels(result)
    return result


def _sum(values: NDArray[Any]) -> float:
    """Return the absolute value of the sum, which is not finite if an entry is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.abs(values.sum()))


def _require_finite(value: float) -> None:
    """Raise ConvergenceError unless a value computed from the kernel's entries is finite."""
    if not math.isfinite(value):
        raise ConvergenceError(
            "the kernel's entries are NaN or infinite, or so large that their squares are; look at what it gives "
            "between points that are equal or far apart"
        )

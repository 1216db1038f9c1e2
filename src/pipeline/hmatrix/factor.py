"""Factorization by strong recursive skeletonization, in near-linear time and storage.

Level by level from the leaves, the far field of every box is compressed, from exact rows of those far blocks that
earlier steps have changed and from a sample of the kernel's others. The box's redundant unknowns, then decoupled from
the far field, are eliminated; their Schur complement updates the box's skeletons and near boxes. Skeletons merge into
parents, and a dense factorization ends the process [1, 2]. With weak admissibility a box is near to itself only, and
the same steps are HSS-ULV. On a CPU, boxes are eliminated by parts, one for each thread (parts/elimination.py); on
other devices, by color in batches (batched/elimination.py).

References:
    [1] Minden, Ho, Damle, Ying, "A recursive skeletonization factorization based on strong admissibility", MMS 2017.
    [2] Boukaram, Keyes, Li, Liu, Turkiyyah, arXiv:2509.11152, 2025.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.batched.elimination import BatchedProblem, Failure, eliminate
from pipeline.hmatrix.batched.steps import BatchedSteps
from pipeline.hmatrix.diagonal import diagonal as diagonal_of
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.factorization import KINDS, Factorization
from pipeline.hmatrix.foresight import AIMED, LARGEST_STEP, MANY, look_ahead
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.inputs import (
    CPU,
    Progress,
    require_parts,
    require_progress,
    require_tolerance,
    torch_dtype,
)
from pipeline.hmatrix.parts import Problem, Substitution, Team
from pipeline.hmatrix.parts import eliminate as eliminate_by_parts
from pipeline.hmatrix.represented import represented_matrix
from pipeline.hmatrix.rounding import PIVOT, STEPS_FROM, is_narrow, step_types, wide_type
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.threads import n_threads
from pipeline.hmatrix.trust import TIGHTEST, measure
from pipeline.runtime.words import shown

logger = logging.getLogger("pipeline.hmatrix")

_DENSE_END = 1200  # unknowns that are left to a dense factorization
_ONE_THREAD = (
    "factorized by one thread: a Python function gives the entries, and Python runs in one at a time"
)
_SHARE = 0.18  # share of the tolerance that boxes may lose, because losses add up over later steps
_TIGHTEST_LOOSE = 1e-2  # share of A's tolerance: a preconditioner that breaks down even there is given up
_STEP = 1e-2  # factor of the tolerance after two failures: the error may be far above the eigenvalues
_RESIDUALS = 1e-3, 0.5  # bounds of the largest accepted residual, else the square root of the tolerance
_SEEDS = 4  # measurements of a subset's residual, each of which scatters by a fifth
_ROUNDED = 1e-2  # residual that is accepted where rounding allows no less
_SINGLE_RESIDUAL = 0.1  # residual that is accepted where solutions are rounded to single precision
# Points whose submatrix may prove a kernel indefinite, and share of its largest eigenvalue that rounding may reach.
_SOME, _SURELY = 200, 1e-10
_NUGGET = 1e-9  # share of the norm: on the diagonal, it makes smooth positive definite kernels factorizable


Attempt = Callable[
    [np.dtype[Any], np.dtype[Any], FarSampling],
    tuple[Substitution | tuple[BatchedSteps, ...] | None, Failure | None],
]


def factorize(
    A: H2Form,
    *,
    tolerance: float | None = None,
    kind: str = "auto",
    parts: int | None = None,
    progress: Progress | None = None,
    device: torch.device | None = None,
    checked: bool = True,
) -> Factorization:
    """Factorize A, with a compression of its own, and measure the accuracy of solves.

    At tolerances of 1e-3 and more, all steps compute in single precision, at twice the speed. Double precision takes
    over if rounding may have spoiled a failed pivot, or if A is so small or large that squares leave the range of
    single precision. `computed` of the result tells the type.

    Eigenvalues of A below tolerance times norm differ from those of the factorized matrix, and a solve may then be
    arbitrarily wrong. The factorization is therefore tried on a random right-hand side and exact rows of A. It is
    repeated tighter until the relative residual is at most the square root of the tolerance (between 1e-3 and .5);
    `trust` of the result holds the measurement. From 500,000 unknowns on, small subsets of the points predict whether
    an attempt would fail (`foresight.py`).

    Args:
        A: Square over one point set.
        tolerance: Relative Frobenius error of the matrix that is factorized; A's own by default. Looser ones make
            preconditioners.
        kind: "cholesky", "ldlt" (symmetric, not definite), "lu", or "auto", which follows from the kernel's properties.
        parts: Number of ranges of boxes that the work is divided into on a CPU. The result depends on it, within the
            tolerance, but not on the number of threads. By default the number of torch's threads, or 1 if a Python
            function gives the entries, since only one thread can call it.
        progress: Called with the number of boxes done and of all boxes.
        device: Device that eliminates boxes in batches; A's GPU by default. Matrices on the CPU, and matrices without
            kernel on any device, are eliminated natively on the CPU.
        checked: False for a preconditioner, which the iteration itself judges.

    Raises:
        ConfigError: If there is no such kind, or it does not fit the matrix.
        ConvergenceError: If a pivot fails, or the residual stays large, even at the tightest tolerance.
    """
    if not A.is_square:
        raise ValueError(f"factorize needs a square matrix over one point set, not {A.shape}")
    tolerance = A.tolerance if tolerance is None else tolerance
    require_tolerance(tolerance)
    kind = _choose(A, kind)
    computed = wide_type(A.computed)
    diagonal = np.zeros(A.shape[0], computed) if A.diagonal_term is None else A.diagonal_term.astype(computed)
    require_parts(parts)
    require_progress(progress)
    double = False  # single precision has failed
    notes: tuple[str, ...] = ()
    if device is None and A.device.type != "cpu":
        if A.kernel is None:
            notes = (f"factorized on the CPU: entries of this matrix cannot be evaluated on {A.device}",)
            logger.info(notes[0])
        else:
            device = A.device
    attempt: Attempt
    if device is None:
        matrix = entries_of(A)
        if matrix.calls_python and n_threads() > 1:
            notes = (*notes, _ONE_THREAD)
            logger.info(_ONE_THREAD)
        number = parts or (1 if matrix.calls_python else n_threads())
        attempt = _by_parts(A, matrix, kind, diagonal, number, progress)
    else:
        attempt = _in_batches(A, kind, diagonal, progress, device)
    used, tightest = tolerance, TIGHTEST if checked else _TIGHTEST_LOOSE * min(tolerance, A.tolerance)
    allowed = allowed_residual(A.dtype, tolerance)
    reason, least, step = "", math.inf, 1.0
    if checked and device is None and A.kernel is not None and A.correction is None and A.shape[0] >= MANY:
        used, foreseen = look_ahead(A, tolerance, allowed, lambda part: _residual_of(part, kind, tolerance))
        notes = (*notes, *foreseen)
    while True:
        # Rounding a factor costs accuracy in proportion to the condition number: single precision is for loose factors.
        working, stored = step_types(used, _size(A), computed)
        working = computed if double else working
        steps, failure = attempt(
            working, stored, FarSampling.for_tolerance(_SHARE * used, A.norm, A.rows.n_boxes)
        )
        if steps is not None:
            result = Factorization(
                steps, A.rows.permutation, kind, tolerance, used, A.dtype, working, notes,
                device or CPU,
            )  # fmt: skip
            if checked:
                result = replace(result, trust=measure(A, result.solve))
            residual = 0.0 if result.trust is None else result.trust.residual
            # Residuals fall about as the tolerance does, until only rounding remains.
            stalled = used < STEPS_FROM and not residual < max(0.5, math.sqrt(step)) * least
            final = used <= tightest or stalled
            if residual <= (max(allowed, _ROUNDED) if final else allowed):
                if reason:
                    result = replace(result, notes=(*notes, tightened(tolerance, used, reason)))
                _log(result)
                return result
            del result, steps
            if final:
                raise _not_trusted(A, kind, used, residual, allowed)
            reason, least = (
                reason or f"left solves a relative residual of {residual:.1e}",
                min(least, residual),
            )
            following = used * max(AIMED * allowed / residual, LARGEST_STEP)
        else:
            assert failure is not None
            if working != computed and abs(failure[2]) <= PIVOT * np.abs(diagonal_of(A)).max():
                logger.info("a pivot of %.1e in single precision: factorizing in double", failure[2])
                double = True
                continue
            given_up = used <= tightest or not (checked or kind == "cholesky")
            if not math.isfinite(failure[2]) or given_up or _is_indefinite(A, kind, failure[2], used):
                raise _failed(A, kind, failure, used)
            reason = reason or f"met a pivot of {failure[2]:.1e}"
            following = used * (0.1 if used > 0.05 * tolerance or not checked else _STEP)
            if not checked and following < 0.99 * tightest:
                raise _failed(A, kind, failure, used)
        following = max(following, tightest)
        step = following / used
        logger.info("%s failed at tolerance %.0e: factorizing at %.0e", kind, used, following)
        used = following


def _residual_of(A: H2Form, kind: str, tolerance: float) -> float:
    """Return the residual that a factorization at this tolerance leaves; that of a tightened one is scaled up."""
    F = factorize(A, tolerance=tolerance, kind=kind)
    squares = [measure(A, F.solve, seed=seed).residual ** 2 for seed in range(_SEEDS)]
    return math.sqrt(sum(squares) / _SEEDS) * tolerance / F.used_tolerance


def factorize_even_indefinite(A: H2Form, tolerance: float) -> Factorization:
    """Factorize A without a check of its residual: by LDL^T if a symmetric matrix proves indefinite.

    Raises:
        ConvergenceError: If a pivot vanishes.
    """
    try:
        return factorize(A, tolerance=tolerance, checked=False)
    except ConvergenceError as error:
        if _choose(A, "auto") != "cholesky":
            raise
        logger.info("%s: LDL^T instead", error)
        return factorize(A, tolerance=tolerance, kind="ldlt", checked=False)


def _by_parts(
    A: H2Form,
    matrix: "_native.KernelMatrix",
    kind: str,
    diagonal: NDArray[Any],
    n_parts: int,
    progress: Progress | None,
) -> Attempt:
    """Return the attempt that eliminates by parts on the CPU, in torch's number of threads."""

    def attempt(
        working: np.dtype[Any], stored: np.dtype[Any], sampling: FarSampling
    ) -> tuple[Substitution | None, Failure | None]:
        return factorize_by(
            Team(n_parts), problem_of(A, matrix, kind, diagonal, working, stored, sampling), progress
        )

    return attempt


def problem_of(
    A: H2Form,
    matrix: "_native.KernelMatrix",
    kind: str,
    diagonal: NDArray[Any],
    working: np.dtype[Any],
    stored: np.dtype[Any],
    sampling: FarSampling,
) -> Problem:
    """Return what the parts need to know of A; arguments as `parts.Problem` describes them."""
    lists = A.interactions
    return Problem(
        matrix, A.rows, lists.near, lists.far, diagonal, KINDS[kind], working, stored, sampling,
        lists.first_far_level(A.rows), _DENSE_END, kernel=A.kernel,
    )  # fmt: skip


def factorize_by(
    team: Team, problem: Problem, progress: Progress | None = None
) -> tuple[Substitution | None, Failure | None]:
    """Factorize by the parts of a team; collective. Returns the factorization and None, or None and the failure."""
    eliminated, failure = eliminate_by_parts(problem, team, progress)
    if eliminated is None:
        return None, failure
    return Substitution(eliminated, team, problem.kind, problem.stored), None


def _in_batches(
    A: H2Form, kind: str, diagonal: NDArray[Any], progress: Progress | None, device: torch.device
) -> Attempt:
    """Return the attempt that eliminates color by color on a device."""
    if A.kernel is None:
        raise ValueError("only a kernel's entries can be eliminated in batches")
    kernel = A.kernel

    def attempt(
        working: np.dtype[Any], stored: np.dtype[Any], sampling: FarSampling
    ) -> tuple[tuple[BatchedSteps, ...] | None, Failure | None]:
        types = torch_dtype(working), torch_dtype(stored)
        steps, failure = eliminate(
            BatchedProblem(
                kernel,
                diagonal,
                A.rows,
                A.interactions,
                kind,
                *types,
                sampling,
                _DENSE_END,
                device,
                progress,
                A.correction,
            )
        )
        return (steps if failure is None else None), failure

    return attempt


def allowed_residual(dtype: np.dtype[Any], tolerance: float) -> float:
    """Return the largest relative residual that a factorization of a matrix of this type may leave."""
    least, most = _RESIDUALS
    return min(max(math.sqrt(tolerance), _SINGLE_RESIDUAL if is_narrow(dtype) else least), most)


def tightened(asked: float, used: float, reason: str) -> str:
    """Return the note of a factorization that was repeated at a smaller tolerance."""
    return (
        f"the factorization at tolerance {asked:.0e} {reason}, so it was repeated at {used:.0e}, where it succeeded: "
        "it is more accurate than asked for, and nothing needs to be done"
    )


def _not_trusted(A: H2Form, kind: str, used: float, residual: float, allowed: float) -> ConvergenceError:
    return ConvergenceError(
        f"{kind} at tolerance {used:.0e} leaves solves a relative residual of {residual:.1e} on exact rows (at most "
        f"{allowed:.0e} is accepted): the smallest eigenvalues of the matrix are below what "
        f"{'single' if is_narrow(A.dtype) else 'double'} precision tells from 0; "
        f"add a nugget of {_NUGGET * _size(A):.0e} or more to the diagonal"
    )


def _failed(A: H2Form, kind: str, failure: tuple[int, int, float], used: float) -> ConvergenceError:
    level, place, pivot = failure
    where = f"{kind} met the pivot {pivot:.2e} at point {A.rows.permutation[place]} on level {level}"
    if not math.isfinite(pivot):
        return ConvergenceError(
            f"{where}: the kernel's entries there are NaN or infinite; look at what it gives between points that are "
            "equal or far apart"
        )
    if _is_indefinite(A, kind, pivot, used) and not _has_equal_rows(A):
        return ConvergenceError(
            f'{where}, so the matrix is not positive definite; factorize it with kind="ldlt"'
        )
    lowest = _lowest_eigenvalue(A) if kind == "cholesky" else 0.0
    if lowest < 0:
        return ConvergenceError(
            f"{where}, and the submatrix of a few points has the eigenvalue {lowest:.1e}: the matrix is "
            "not positive definite, whatever its kernel says; leave positive_definite=True out, or factorize with "
            'kind="ldlt"'
        )
    what = "not positive definite" if kind == "cholesky" else "singular"
    return ConvergenceError(
        f"{where} of a matrix of norm {_size(A):.1e}, which is {what} to working accuracy; "
        f"{nugget_for(pivot, _size(A))}"
    )


def nugget_for(pivot: float, size: float) -> str:
    """Return advice on a failed pivot in a matrix of norm `size`: a nugget that outweighs the pivot."""
    nugget = max(_NUGGET * size, 2 * max(-pivot, 0.0))
    return f"add a nugget of {nugget:.0e} or more to the diagonal (duplicate points need one)"


def _lowest_eigenvalue(A: H2Form) -> float:
    """Return the lowest eigenvalue of the exact submatrix of some points; 0 where it is not surely negative.

    The lowest eigenvalue of A is no larger: a negative one proves A not positive definite, whatever compression does.
    """
    if A.kernel is None or A.kernel.is_complex or A.kernel.singular or A.correction is not None:
        return 0.0
    chosen = np.unique(np.linspace(0, A.shape[0] - 1, min(A.shape[0], _SOME)).astype(int))
    points = A.rows.points[chosen]
    block = np.asarray(A.kernel(points, points), np.float64)
    if A.diagonal_term is not None:
        block = block + np.diag(A.diagonal_term[chosen].real)
    if not np.isfinite(block).all():
        return 0.0
    values = np.linalg.eigvalsh(block)
    return float(values[0]) if values[0] < -_SURELY * np.abs(values).max() else 0.0


def _has_equal_rows(A: H2Form) -> bool:
    """Tell whether points at the same place, with nothing on the diagonal, make the matrix singular.

    Their pivot is 0 but for rounding, which may let it pass and spoil the pivots that follow.
    """
    bare = np.ones(A.shape[0], bool) if A.diagonal_term is None else A.diagonal_term == 0
    places = A.rows.points[bare]
    return len(np.unique(places, axis=0)) < len(places)


def _is_indefinite(A: H2Form, kind: str, pivot: float, used: float) -> bool:
    """Tell whether a pivot is so negative that the matrix, and not its compression, is the cause.

    If the kernel and the diagonal term make the matrix definite, compression is the cause of any negative pivot.
    """
    term = A.diagonal_term
    definite = A.kernel is not None and A.kernel.positive_definite and A.correction is None
    if definite and (term is None or (np.asarray(term) >= 0).all()):
        return False
    return kind == "cholesky" and pivot < -used * _size(A)


def _size(A: H2Form) -> float:
    """Return the Frobenius norm, including the diagonal term."""
    term = 0.0 if A.diagonal_term is None else float(np.linalg.norm(A.diagonal_term))
    return float(np.hypot(A.norm, term))


def _choose(A: H2Form, kind: str) -> str:
    is_complex = A.computed.kind == "c"
    definite = A.kernel is not None and A.kernel.positive_definite and not is_complex
    return choose_kind(kind, is_symmetric=A.is_symmetric, is_definite=definite, is_complex=is_complex)


def choose_kind(kind: str, *, is_symmetric: bool, is_definite: bool, is_complex: bool) -> str:
    """Return the kind of factorization; "auto" follows from the properties of the matrix.

    Raises:
        ConfigError: If there is no such kind, or it does not fit the matrix.
    """
    known = ("auto", *KINDS)
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(f"kind: {shown(kind)} is unknown; known are {', '.join(known)}")
    if kind == "auto":
        return ("cholesky" if is_definite else "ldlt") if is_symmetric else "lu"
    if kind != "lu" and not is_symmetric:
        raise ConfigError(f'kind: {kind!r} needs a symmetric matrix, and this one is not; use "lu"')
    if kind == "cholesky" and is_complex:
        raise ConfigError('kind: "cholesky" needs a real matrix, and this one is complex; use "ldlt"')
    return kind


def entries_of(A: H2Form) -> "_native.KernelMatrix":
    """Return A's entries, without the diagonal term, for native routines."""
    if A.kernel is not None:
        return kernel_matrix(A.kernel, A.rows, A.columns, A.correction, is_complex=A.computed.kind == "c")
    return represented_matrix(A)


def _log(F: Factorization) -> None:
    logger.info("%s in %s: boxes  unknowns  skeletons  seconds       bytes", F.kind, F.computed)
    for row in F.level_table():
        logger.info("%26d %9d %10d %8.3f %11d", *row.values())

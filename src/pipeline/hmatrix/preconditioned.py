"""Solution by Krylov iteration on the matrix, preconditioned by a loose factorization: the default way to solve."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix.algebra import recompress
from pipeline.hmatrix.batched.padding import to_host
from pipeline.hmatrix.exact_rows import exact_product, sampled_rows
from pipeline.hmatrix.factor import factorize_even_indefinite
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.inputs import (
    as_array,
    numpy_dtype,
    require_count,
    require_no_gradient,
    require_tolerance,
    torch_dtype,
)
from pipeline.hmatrix.krylov import (
    NotPositiveDefiniteError,
    SolveInfo,
    conjugate_gradient,
    gmres,
    powers_of_two,
)
from pipeline.hmatrix.product import DeviceCopies, product
from pipeline.hmatrix.rounding import is_narrow
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.vectors import Vectors, result_type
from pipeline.runtime.words import shown

logger = logging.getLogger("pipeline.hmatrix")

_LOOSE, _LOOSE_IN_SPACE = 1e-3, 1e-2  # of a preconditioner: in a volume, ranks are costly
_TIGHTENINGS = (1.0, 1e-2, 1e-4)  # factors of the preconditioner's tolerance while progress is too slow
_DOUBLE, _SINGLE = 1e-8, 1e-5  # residuals that rounding lets solutions reach
_Iteration = Callable[[Factorization, int], tuple[torch.Tensor, SolveInfo]]

_RECOMPRESSIONS, _MOST_RECOMPRESSIONS = 2, 5  # at most; the latter with exact=True
_TIGHTER = 1e-2  # share of the tolerance, for another compression
_TIGHTEST = 1e-12
_MEANINGLESS = 0.05  # residual on exact rows from which a solution is meaningless
_DIFFER = 10  # times the residual with the compressed matrix: a larger one on exact rows is warned of
CHECKED_COLUMNS = 4
_CHECKED_ROWS, _CHECKED_ENTRIES = 64, 2e6
_PATIENCE = 50  # iterations from which a tighter preconditioner is faster


def solve(
    A: H2Form,
    b: Vectors,
    *,
    tolerance: float | None,
    factorization: Factorization | None,
    max_iterations: int,
    exact: bool = False,
    copies: DeviceCopies | None = None,
) -> tuple[Vectors, SolveInfo]:
    """Solve A x = b as `H2Matrix.solve` describes."""
    A.require_square("solve")
    if exact and A.kernel is None:
        raise ConfigError(
            "exact: this matrix was not built from a kernel, so its exact rows are not known; leave the option out"
        )
    if tolerance is not None:
        require_tolerance(tolerance)
    require_count(max_iterations, "max_iterations")
    if factorization is not None and not isinstance(factorization, Factorization):
        raise TypeError(f"factorization must be the result of A.factorize(), not {shown(factorization)}")
    if isinstance(b, torch.Tensor):
        require_no_gradient(b)
    else:
        b = as_array(b)
    if isinstance(b, np.ndarray) and b.dtype.kind not in "biufc":
        raise TypeError(f"b must be numbers in an array or a tensor, not {b.dtype}")
    if b.ndim not in (1, 2) or len(b) != A.shape[0]:
        raise ValueError(f"b must have shape ({A.shape[0]},) or ({A.shape[0]}, m), not {tuple(b.shape)}")
    copies = copies or DeviceCopies()
    notes: tuple[str, ...] = ()
    wanted = solution_type(A.dtype, numpy_dtype(b.dtype) if isinstance(b, torch.Tensor) else b.dtype)
    reached = tolerance or within_reach(wanted)
    given = (
        b.detach().to(torch_dtype(wanted))
        if isinstance(b, torch.Tensor)
        else torch.from_numpy(np.array(b, dtype=wanted, order="C"))
    )
    # Iterations stay where the matrix lives; vectors on a GPU stay there in any case.
    tensor = given if A.device.type == "cpu" else given.to(A.device)

    enough = reached if exact else still_an_answer(reached)
    most = _MOST_RECOMPRESSIONS if exact else _RECOMPRESSIONS
    for tightening in range(most + 1):
        iterate = _iteration(A, tensor, reached, copies)
        failed: ConvergenceError
        info: SolveInfo
        try:
            if factorization is not None:
                x, found = iterate(factorization, max_iterations)
            else:
                x, found = _tightening(A, iterate, max_iterations)
            info = _checked(A, tensor, x, found)
        except NotPositiveDefiniteError as error:
            failed, step = error, _TIGHTER
        else:
            if (info.exact_residual or 0.0) <= enough:
                break
            # The error of compression is proportional to its tolerance.
            step = _TIGHTER if not exact else min(0.1, 0.3 * reached / (info.exact_residual or 1.0))
            failed = no_answer(info, A.tolerance)
        tighter = max(step * A.tolerance, _TIGHTEST)
        last = tightening == most or factorization is not None
        if last or A.kernel is None or is_narrow(A.dtype) or tighter >= A.tolerance:
            raise failed
        note = f"compressed anew at tolerance {tighter:.0e}: {failed}"
        logger.warning(note)
        A, copies, notes = recompress(A, tolerance=tighter), DeviceCopies(), (*notes, note)
    info = replace(info, notes=(*notes, *info.notes))
    return (x.to(given.device) if isinstance(b, torch.Tensor) else x.cpu().numpy()), info


def solution_type(matrix: np.dtype[Any], given: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of a solution: the precision of the matrix or of the right-hand side, whichever is higher.

    Vectors of a lower precision would not reach the residual that was asked for.
    """
    wanted = result_type(matrix, np.dtype(np.complex128)) if given.kind == "c" else matrix
    return np.promote_types(wanted, given) if given in (np.float64, np.complex128) else wanted


def within_reach(dtype: np.dtype[Any]) -> float:
    """Return a relative residual that rounding lets solutions of this type reach."""
    return _SINGLE if is_narrow(dtype) else _DOUBLE


def _iteration(A: H2Form, b: torch.Tensor, tolerance: float, copies: DeviceCopies) -> _Iteration:
    """Return the iteration that a factorization preconditions: conjugate gradients for a Cholesky one, else GMRES."""
    # Products that were rounded to a narrower type than b's would end the iteration at that type's rounding.
    A = replace(A, dtype=numpy_dtype(b.dtype))

    def iterate(F: Factorization, most: int) -> tuple[torch.Tensor, SolveInfo]:
        method = conjugate_gradient if F.kind == "cholesky" else gmres
        return method(
            lambda v: product(A, v, copies=copies),
            b,
            preconditioner=F.solve,
            tolerance=tolerance,
            max_iterations=most,
        )

    return iterate


def _checked(A: H2Form, b: torch.Tensor, x: torch.Tensor, info: SolveInfo) -> SolveInfo:
    """Add the residual on sampled exact rows of a kernel matrix, and warn if it is much larger."""
    if A.kernel is None or 0 in b.shape:
        return info
    values, solution = (to_host(vectors.reshape(len(vectors), -1)[:, :CHECKED_COLUMNS]) for vectors in (b, x))
    units = powers_of_two(torch.from_numpy(np.abs(values).max(axis=0))).numpy()
    values, solution = values / units, solution / units  # whose squares neither vanish nor overflow
    n_rows = max(_CHECKED_ROWS, int(_CHECKED_ENTRIES / len(b)))
    chosen = sampled_rows(A, stream(Purpose.ROWS), n_rows)
    wanted = values[A.rows.permutation[chosen]]
    off = np.linalg.norm(
        wanted
        - exact_product(A, chosen, solution.astype(np.promote_types(A.computed, solution.dtype), copy=False)),
        axis=0,
    )
    # The sampled rows stand for the whole column: its norm is scaled to their number.
    sizes = np.linalg.norm(values, axis=0) * np.sqrt(len(chosen) / len(values))
    exact = float((off / np.where(sizes > 0, sizes, 1.0)).max())
    advice = f"compress at a smaller tolerance than {A.tolerance:.0e}, or solve with exact=True"
    return with_exact_residual(info, exact, advice)


def with_exact_residual(info: SolveInfo, exact: float, advice: str, *, aloud: bool = True) -> SolveInfo:
    """Add the residual on exact rows, and warn if it is much larger than that with the compressed matrix.

    Args:
        info: Figures of the solve.
        exact: The residual.
        advice: What to do if the difference is too large.
        aloud: Whether to log the warning, which one of several processes does.
    """
    notes = info.notes
    if exact > _DIFFER * max(info.relative_residual, np.finfo(np.float64).eps):
        note = (
            f"the residual is {info.relative_residual:.1e} with the compressed matrix and {exact:.1e} on exact rows; "
            f"where that is too much, {advice}"
        )
        if aloud:
            logger.warning(note)
        notes = (*notes, note)
    return replace(info, exact_residual=exact, notes=notes)


def still_an_answer(tolerance: float) -> float:
    """Return the largest residual on exact rows with which a solution is returned if `tolerance` was asked for."""
    return max(_MEANINGLESS, _DIFFER * tolerance)


def no_answer(info: SolveInfo, tolerance: float) -> ConvergenceError:
    """Return the error for a solution that is meaningless on exact rows, of a matrix compressed at `tolerance`."""
    return ConvergenceError(
        f"the solution for the matrix compressed at tolerance {tolerance:.0e} leaves a residual of "
        f"{info.exact_residual:.1e} on exact rows; compress it at a smaller tolerance, or add a nugget to the diagonal"
    )


def _loose(A: H2Form) -> float:
    return _LOOSE_IN_SPACE if A.rows.fills_space else _LOOSE


def _tightening(A: H2Form, iterate: _Iteration, most: int) -> tuple[torch.Tensor, SolveInfo]:
    """Iterate with a loose factorization, and with tighter ones if it proves too loose.

    The error of a factorization is a share of A's norm, so it helps little with eigenvalues that are smaller. Products
    of matrices, whose condition numbers multiply, have many of them.
    """
    notes: tuple[str, ...] = ()
    for step in _TIGHTENINGS:
        F = factorize_even_indefinite(A, min(max(A.tolerance, _loose(A)), step * _loose(A)))
        last = step == _TIGHTENINGS[-1] or most <= _PATIENCE
        try:
            x, info = iterate(F, most if last else _PATIENCE)
        except ConvergenceError as error:
            if last or (isinstance(error, NotPositiveDefiniteError) and "the matrix" in str(error)):
                raise
            note = f"the preconditioner at tolerance {F.used_tolerance:.0e} was replaced by a tighter one: {error}"
            logger.info(note)
            notes = (*notes, note)
        else:
            used = f"preconditioned by {F.kind} at tolerance {F.used_tolerance:.0e} in {F.computed}"
            return x, replace(info, notes=(*notes, *F.notes, used))
    raise AssertionError("the last attempt returns or raises")

"""Solution by Krylov iteration on the matrix, preconditioned by a loose factorization: the default way to solve."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.factor import factorize_even_indefinite
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.inputs import numpy_dtype, require_count, require_tolerance, torch_dtype
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient, gmres
from pipeline.hmatrix.product import DeviceCopies, product
from pipeline.hmatrix.vectors import Vectors, result_type

logger = logging.getLogger("pipeline.hmatrix")

_LOOSE, _LOOSE_IN_SPACE = 1e-3, 1e-2  # of a preconditioner; where points fill a volume, ranks are what costs
_TIGHTENINGS = (1.0, 1e-2, 1e-4)  # of the preconditioner, where it makes too little progress
_DOUBLE, _SINGLE = 1e-8, 1e-5  # residuals that rounding leaves within reach
_PATIENCE = 50  # iterations, until a tighter preconditioner is sooner done


def solve(
    A: H2Form,
    b: Vectors,
    *,
    tolerance: float | None,
    factorization: Factorization | None,
    max_iterations: int,
    copies: DeviceCopies | None = None,
) -> tuple[Vectors, SolveInfo]:
    """Do what `H2Matrix.solve` says."""
    if tolerance is not None:
        require_tolerance(tolerance)
    require_count(max_iterations, "max_iterations")
    if factorization is not None and not isinstance(factorization, Factorization):
        raise TypeError(f"factorization wants what A.factorize() returns, not {factorization!r}")
    if not isinstance(b, torch.Tensor):
        b = np.asarray(b)
    if isinstance(b, np.ndarray) and b.dtype.kind not in "biufc":
        raise TypeError(f"b wants numbers in an array or a tensor, not {b.dtype}")
    if b.ndim not in (1, 2) or len(b) != A.shape[0]:
        raise ValueError(f"b wants shape ({A.shape[0]},) or ({A.shape[0]}, m), not {tuple(b.shape)}")
    copies = copies or DeviceCopies()
    is_complex = b.is_complex() if isinstance(b, torch.Tensor) else np.iscomplexobj(b)
    # Residuals as small as asked want vectors as precise as both: one of less than the matrix's would not reach them.
    wanted = result_type(A.dtype, np.dtype(np.complex128)) if is_complex else A.dtype
    kept = numpy_dtype(b.dtype) if isinstance(b, torch.Tensor) else np.asarray(b).dtype
    if kept in (np.float64, np.complex128):
        wanted = np.promote_types(wanted, kept)
    reached = tolerance or (_SINGLE if wanted in (np.float32, np.complex64) else _DOUBLE)
    given = (
        b.detach().to(torch_dtype(wanted))
        if isinstance(b, torch.Tensor)
        else torch.from_numpy(np.array(b, dtype=wanted, order="C"))
    )
    # Iterations stay where the matrix lives; vectors on a GPU stay there in any case.
    tensor = given if A.device.type == "cpu" else given.to(A.device)

    def iterate(F: Factorization, most: int) -> tuple[torch.Tensor, SolveInfo]:
        method = conjugate_gradient if F.kind == "cholesky" else gmres
        return method(
            lambda v: product(A, v, copies=copies),
            tensor,
            preconditioner=F.solve,
            tolerance=reached,
            max_iterations=most,
        )

    x, info = (
        iterate(factorization, max_iterations) if factorization else _tightening(A, iterate, max_iterations)
    )
    return (x.to(given.device) if isinstance(b, torch.Tensor) else x.cpu().numpy()), info


def _loose(A: H2Form) -> float:
    return _LOOSE_IN_SPACE if A.rows.fills_space else _LOOSE


def _tightening(
    A: H2Form, iterate: Callable[[Factorization, int], tuple[torch.Tensor, SolveInfo]], most: int
) -> tuple[torch.Tensor, SolveInfo]:
    """Iterate with a loose factorization, and with tighter ones where it proves too loose.

    What a factorization loses is a share of A's norm, so that it helps little with eigenvalues that are a smaller one:
    of products of matrices, whose condition numbers multiply, there are many.
    """
    notes: tuple[str, ...] = ()
    for step in _TIGHTENINGS:
        F = factorize_even_indefinite(A, min(max(A.tolerance, _loose(A)), step * _loose(A)))
        last = step == _TIGHTENINGS[-1] or most <= _PATIENCE
        try:
            x, info = iterate(F, most if last else _PATIENCE)
        except ConvergenceError as error:
            if last:
                raise
            note = f"the preconditioner at tolerance {F.used_tolerance:.0e} was replaced by a tighter one: {error}"
            logger.info(note)
            notes = (*notes, note)
        else:
            used = f"preconditioned by {F.kind} at tolerance {F.used_tolerance:.0e} in {F.computed}"
            return x, replace(info, notes=(*notes, *F.notes, used))
    raise AssertionError("the last attempt returns or raises")

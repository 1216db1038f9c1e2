"""Solution of a divided system by Krylov iteration, preconditioned by a loose factorization, all of it by rows."""

from typing import Any

import numpy as np
import torch

from pipeline.hmatrix.distributed.factor import DistributedFactorization, factorize
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.product import product
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient, gmres
from pipeline.hmatrix.rounding import is_narrow
from pipeline.hmatrix.swap import Array
from pipeline.hmatrix.vectors import result_type
from pipeline.runtime.communicator import Counting

_LOOSE, _LOOSE_IN_SPACE = 1e-3, 1e-2  # as in preconditioned.py
_DOUBLE, _SINGLE = 1e-8, 1e-5


def solve(
    A: OwnForm,
    b: Array,
    communicator: Counting,
    *,
    tolerance: float | None,
    factorization: DistributedFactorization | None,
    max_iterations: int,
) -> tuple[Array, SolveInfo]:
    """Return the rows that this process owns of x with A x = b, in tree order, and how it went; collective."""
    wanted: np.dtype[Any] = result_type(A.dtype, np.dtype(np.complex128)) if b.dtype.kind == "c" else A.dtype
    if b.dtype in (np.float64, np.complex128):
        wanted = np.promote_types(wanted, b.dtype)
    loose = _LOOSE_IN_SPACE if A.division.tree.fills_space else _LOOSE
    F = factorization or factorize(
        A, communicator, tolerance=max(A.tolerance, loose), checked=False, shifted=True
    )
    method = conjugate_gradient if F.kind == "cholesky" else gmres
    x, info = method(
        lambda v: torch.from_numpy(product(A, v.numpy(), communicator)),
        torch.from_numpy(b.astype(wanted)),
        preconditioner=lambda r: torch.from_numpy(F.solve_in_tree_order(r.numpy())),
        tolerance=tolerance or (_SINGLE if is_narrow(wanted) else _DOUBLE),
        max_iterations=max_iterations,
        communicator=communicator,
    )
    return x.numpy(), info

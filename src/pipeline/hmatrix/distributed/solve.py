"""Solution of a divided system by Krylov iteration, preconditioned by a loose factorization, all of it by rows."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.hmatrix.distributed.exact_rows import exact_products
from pipeline.hmatrix.distributed.factor import DistributedFactorization, factorize
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.product import product
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient, gmres, powers_of_two
from pipeline.hmatrix.preconditioned import (
    CHECKED_COLUMNS,
    no_answer,
    solution_type,
    still_an_answer,
    with_exact_residual,
    within_reach,
)
from pipeline.hmatrix.swap import Array, summed
from pipeline.runtime.communicator import Counting

_LOOSE, _LOOSE_IN_SPACE = 1e-3, 1e-2  # as in preconditioned.py


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
    wanted = solution_type(A.dtype, b.dtype)
    loose = _LOOSE_IN_SPACE if A.division.tree.fills_space else _LOOSE
    F = factorization or factorize(
        A, communicator, tolerance=max(A.tolerance, loose), checked=False, shifted=True
    )
    method = conjugate_gradient if F.kind == "cholesky" else gmres
    reached = tolerance or within_reach(wanted)
    unrounded = replace(A, dtype=wanted)  # as in preconditioned.py
    x, info = method(
        lambda v: torch.from_numpy(product(unrounded, v.numpy(), communicator)),
        torch.from_numpy(b.astype(wanted)),
        preconditioner=lambda r: torch.from_numpy(F.solve_in_tree_order(r.numpy())),
        tolerance=reached,
        max_iterations=max_iterations,
        communicator=communicator,
    )
    used = f"preconditioned by {F.kind} at tolerance {F.used_tolerance:.0e} in {F.computed}"
    info = _checked(A, b, x.numpy(), replace(info, notes=(*info.notes, *F.notes, used)), communicator)
    if (info.exact_residual or 0.0) > still_an_answer(reached):
        raise no_answer(info, A.tolerance)
    return x.numpy(), info


def _checked(A: OwnForm, b: Array, x: Array, info: SolveInfo, communicator: Counting) -> SolveInfo:
    """Add the residual on sampled exact rows, and warn if it is much larger; collective."""
    n = A.division.n_points
    columns, solution = ((v[:, None] if v.ndim == 1 else v[:, :CHECKED_COLUMNS]) for v in (b, x))
    if 0 in (n, columns.shape[1]):
        return info
    largest = np.abs(columns).max(axis=0, initial=0.0)
    gathered = communicator.all_gather(torch.from_numpy(largest))
    units = powers_of_two(torch.stack(gathered).amax(dim=0)).numpy()
    columns, solution = columns / units, solution / units  # whose squares neither vanish nor overflow
    own, exact = exact_products(A, solution, communicator, seed=0)
    off = (np.abs(columns[own] - exact) ** 2).sum(axis=0)
    sizes = (np.abs(columns.astype(x.dtype)) ** 2).sum(axis=0)
    counted = np.full(len(off), len(own) / n)
    off, sizes, share = summed(communicator, np.stack([off, sizes, counted]).astype(np.float64))
    residuals = np.sqrt(off / np.where(sizes > 0, sizes * share, 1.0))
    advice = f"compress at a smaller tolerance than {A.tolerance:.0e}"
    return with_exact_residual(info, float(residuals.max()), advice, aloud=communicator.rank == 0)

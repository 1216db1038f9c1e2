"""Krylov methods for one or several right-hand sides: conjugate gradients and flexible, restarted GMRES.

Matrix and preconditioner are callables on tensors of shape (n, m), one column per right-hand side; columns
advance together, so that a product with many costs little more than with one, and leave when they are done.
With a communicator, every process holds a block of rows of all vectors and inner products are summed over
the processes.

A solution is returned only when the *true* residual |b - A x| is at most `tolerance` times |b|, 2-norm, for
each column; anything else is a `ConvergenceError` that says why.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Communicator

logger = logging.getLogger(__name__)

Action = Callable[[Tensor], Tensor]


class NotPositiveDefiniteError(ConvergenceError):
    """Conjugate gradients met a matrix or a preconditioner that is not positive definite."""


@dataclass(frozen=True)
class SolveInfo:
    """How a solve went.

    Attributes:
        method: "CG" or "GMRES".
        iterations: Products with the matrix that built the Krylov space.
        residuals: Largest relative residual of the columns, at the start and after each iteration; the last
            is the true one.
        converged: Always True when a solver returns; kept for stored records.
        notes: Remarks on the preconditioner.
        exact_residual: The same residual on sampled rows of the exact kernel matrix, which alone shows the error of
            compression; None for other matrices.
    """

    method: str
    iterations: int
    residuals: tuple[float, ...]
    converged: bool
    notes: tuple[str, ...] = ()
    exact_residual: float | None = None

    def __str__(self) -> str:
        exact = "" if self.exact_residual is None else f", {self.exact_residual:.1e} on exact rows"
        counted = "1 iteration" if self.iterations == 1 else f"{self.iterations} iterations"
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{self.method}: {counted}, relative residual {self.relative_residual:.1e}{exact}{notes}"

    @property
    def relative_residual(self) -> float:
        """The true relative residual of the solution, the largest of the columns."""
        return self.residuals[-1]


@dataclass(frozen=True)
class _Rows:
    """Inner products of vectors whose rows are spread over the processes."""

    communicator: Communicator | None

    def inner(self, left: Tensor | Sequence[Tensor], right: Tensor) -> Tensor:
        """Return left^H right column by column: shape (m,), or (k, m) for a sequence of k lefts."""
        lefts = [left] if isinstance(left, Tensor) else left
        local = torch.stack([(vector.conj() * right).sum(dim=0) for vector in lefts])
        if self.communicator is not None:
            self.communicator.all_reduce(local)
        return local[0] if isinstance(left, Tensor) else local

    def norm(self, vectors: Tensor) -> Tensor:
        return self.inner(vectors, vectors).real.sqrt()

    def largest(self, sizes: Tensor) -> Tensor:
        """Return the largest of each column, shape (m,)."""
        local = sizes.amax(dim=0) if len(sizes) else sizes.new_zeros(sizes.shape[1])
        if self.communicator is None:
            return local
        return torch.stack(self.communicator.all_gather(local)).amax(dim=0)


def conjugate_gradient(
    product: Action,
    b: Tensor,
    *,
    preconditioner: Action | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
    start: Tensor | None = None,
    communicator: Communicator | None = None,
) -> tuple[Tensor, SolveInfo]:
    """Solve A x = b for a Hermitian positive definite A by preconditioned conjugate gradients.

    Algorithm 9.1 of [1]. When the recursive residual is small enough the true one is computed, and the
    iteration starts again from it if rounding has driven the two apart.

    Args:
        product: x -> A x.
        b: Right-hand sides, shape (n,) or (n, m); with a communicator, this process's rows.
        preconditioner: r -> M^-1 r with M Hermitian positive definite.
        tolerance: Relative to |b|, 2-norm, of each column.
        max_iterations: Largest number of iterations over all starts.
        start: First guess, zero if left out.
        communicator: The processes among which the rows are divided.

    Returns:
        x in the shape of b, and how the solve went.

    Raises:
        ConvergenceError: If A or the preconditioner proves not positive definite, or the tolerance is not
            reached.

    References:
        [1] Saad, "Iterative Methods for Sparse Linear Systems", SIAM 2003.
    """
    system = _System(product, b, preconditioner, tolerance, max_iterations, start, communicator)
    return _restarted("CG", _descend, system, max_iterations)


def _descend(
    system: "_System", residual: Tensor, norms: Tensor, budget: int, rows: _Rows
) -> tuple[Tensor, list[float]]:
    """Run conjugate gradients from a residual until the recursive one is small or the budget spent.

    Returns:
        The correction of x, and the largest relative residual after each iteration.
    """
    preconditioner, tolerance = system.preconditioner, system.tolerance
    correction = torch.zeros_like(residual)
    relative = rows.norm(residual) / norms
    active = (relative > tolerance).nonzero()[:, 0]
    r = residual[:, active]
    direction, previous = torch.zeros_like(r), torch.ones_like(norms[active])
    steps: list[float] = []
    while len(active) and len(steps) < budget:
        z = r if preconditioner is None else preconditioner(r)
        rho = rows.inner(r, z).real
        _require_positive(rho, "the preconditioner", len(steps))
        direction = z + (rho / previous if steps else torch.zeros_like(rho)) * direction
        image = system.product(direction)
        curvature = rows.inner(direction, image).real
        _require_positive(curvature, "the matrix", len(steps))
        length = rho / curvature
        correction[:, active] += length * direction
        r = r - length * image
        relative[active] = rows.norm(r) / norms[active]
        steps.append(float(relative.max()))
        logger.info("iteration %d, relative residual %.1e", len(steps), steps[-1])
        going = relative[active] > tolerance
        active, r, direction, previous = active[going], r[:, going], direction[:, going], rho[going]
    return correction, steps


def gmres(
    product: Action,
    b: Tensor,
    *,
    preconditioner: Action | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
    restart: int = 50,
    start: Tensor | None = None,
    communicator: Communicator | None = None,
) -> tuple[Tensor, SolveInfo]:
    """Solve A x = b for any invertible A by flexible restarted GMRES [1, algorithm 9.6].

    The preconditioner stands on the right, so that residuals are those of the system itself, and may differ
    from one iteration to the next. Memory is that of 2 `restart` vectors for each right-hand side.

    Arguments, result and errors are those of `conjugate_gradient`, except that A and the preconditioner need only be
    invertible; `restart` is the largest dimension of the Krylov space.

    References:
        [1] Saad, "Iterative Methods for Sparse Linear Systems", SIAM 2003.
    """
    system = _System(product, b, preconditioner, tolerance, max_iterations, start, communicator)
    return _restarted("GMRES", _minimize, system, restart)


def _minimize(
    system: "_System", residual: Tensor, norms: Tensor, budget: int, rows: _Rows
) -> tuple[Tensor, list[float]]:
    """Minimize the residual over one Krylov space of at most `budget` dimensions.

    A column that is done gets zero vectors from then on: they change nothing and keep the columns in step.

    Returns:
        The correction of x, and the largest relative residual after each iteration.
    """
    preconditioner, tolerance = system.preconditioner, system.tolerance
    first = rows.norm(residual)
    basis = [residual * _reciprocal(first)]
    images: list[Tensor] = []
    rotations: list[tuple[Tensor, Tensor]] = []
    triangle: list[Tensor] = []  # column k of R, shape (k + 1, m)
    right = [first.to(residual.dtype)]
    steps: list[float] = []
    while len(steps) < budget:
        z = basis[-1] if preconditioner is None else preconditioner(basis[-1])
        w = system.product(z)
        images.append(z)
        size = rows.norm(w)
        column = torch.zeros(len(basis), w.shape[1], dtype=w.dtype, device=w.device)
        for _ in range(2):  # once is not enough for orthogonality to working precision
            projection = rows.inner(basis, w)
            w = w - sum(c * v for c, v in zip(projection, basis, strict=True))
            column += projection
        last = rows.norm(w)
        last = torch.where(last > torch.finfo(last.dtype).eps * size, last, 0.0)
        entries = list(column)
        for k, (c, s) in enumerate(rotations):
            entries[k], entries[k + 1] = (
                c * entries[k] + s * entries[k + 1],
                c.conj() * entries[k + 1] - s * entries[k],
            )
        radius = torch.sqrt(entries[-1].abs() ** 2 + last**2)
        c = torch.where(radius > 0, entries[-1].conj() * _reciprocal(radius), 1.0)
        s = (last * _reciprocal(radius)).to(w.dtype)
        entries[-1] = radius.to(w.dtype)
        right[-1:] = [c * right[-1], -s * right[-1]]
        rotations.append((c, s))
        triangle.append(torch.stack(entries))
        relative = right[-1].abs() / norms
        steps.append(float(relative.max()))
        logger.info("iteration %d, relative residual %.1e", len(steps), steps[-1])
        if not math.isfinite(steps[-1]):
            raise ConvergenceError(
                f"GMRES met NaN or infinity in iteration {len(steps)}; check that the product and the preconditioner "
                "return finite numbers"
            )
        if steps[-1] <= tolerance:
            break
        basis.append(w * torch.where(relative > tolerance, _reciprocal(last), 0.0))
    return _combine(images, triangle, right[:-1]), steps


def _combine(images: list[Tensor], triangle: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return sum_k y_k images_k with R y = right, R given by its columns."""
    size = len(images)
    matrix = torch.stack([F.pad(column, (0, 0, 0, size - len(column))) for column in triangle], dim=1)
    matrix = matrix.movedim(2, 0)  # (m, k, k)
    pivots = matrix.diagonal(dim1=1, dim2=2)
    pivots[pivots == 0] = 1  # zero vectors only: the value has no effect
    y = torch.linalg.solve_triangular(matrix, torch.stack(right, dim=1)[..., None], upper=True)[..., 0]
    return sum((y[:, k] * image for k, image in enumerate(images)), start=torch.zeros_like(images[0]))


@dataclass(frozen=True)
class _System:
    """The arguments of a solver; see `conjugate_gradient`."""

    product: Action
    b: Tensor
    preconditioner: Action | None
    tolerance: float
    max_iterations: int
    start: Tensor | None
    communicator: Communicator | None


_Descent = Callable[[_System, Tensor, Tensor, int, _Rows], tuple[Tensor, list[float]]]


def _restarted(method: str, descend: _Descent, system: _System, most: int) -> tuple[Tensor, SolveInfo]:
    """Correct x by descents of at most `most` iterations until its true residual is small."""
    rows = _Rows(system.communicator)
    system, units = _in_units(system, rows)
    x, residual, norms = _begin(system.product, system.b, system.start, rows)
    history = [_worst(rows.norm(residual), norms)]
    while history[-1] > system.tolerance:
        before, budget = history[-1], min(most, system.max_iterations - len(history) + 1)
        correction, steps = descend(system, residual, norms, budget, rows)
        x += correction
        residual = _as_columns(system.b) - system.product(x)
        history += [*steps[:-1], _worst(rows.norm(residual), norms)]
        _require_progress(method, before, history, system.tolerance, system.max_iterations)
    return (units * x).reshape(system.b.shape), SolveInfo(
        method, len(history) - 1, tuple(history), converged=True
    )


def _in_units(system: _System, rows: _Rows) -> tuple[_System, Tensor]:
    """Return the system with columns of about size 1, whose squares neither vanish nor overflow, and their units.

    Units are powers of 2, so that nothing is rounded.
    """
    b = _as_columns(system.b)
    units = powers_of_two(rows.largest(b.abs())).to(b.real.dtype)
    scaled = (b / units).reshape(system.b.shape)
    start = None if system.start is None else (_as_columns(system.start) / units).reshape(system.b.shape)
    return replace(system, b=scaled, start=start), units


def powers_of_two(sizes: Tensor) -> Tensor:
    """Return powers of 2 that are at most each size and more than half of it; 1 if it is 0, NaN or infinite."""
    usable = torch.isfinite(sizes) & (sizes > 0)
    _, exponents = torch.frexp(torch.where(usable, sizes.double(), 1.0))
    return torch.ldexp(torch.ones_like(sizes, dtype=torch.float64), exponents - 1)


def _begin(product: Action, b: Tensor, start: Tensor | None, rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first x, its residual, and |b| with 1 in place of 0, all by columns."""
    columns = _as_columns(b)
    norms = rows.norm(columns)
    if not torch.isfinite(norms).all():
        raise ValueError(
            "the right-hand side holds NaN or infinite values; make them finite, or leave their rows out"
        )
    norms = torch.where(norms > 0, norms, 1.0)
    if start is None:
        return torch.zeros_like(columns), columns, norms
    x = _as_columns(start).clone()
    return x, columns - product(x), norms


def _as_columns(vectors: Tensor) -> Tensor:
    return vectors[:, None] if vectors.ndim == 1 else vectors


def _worst(residual_norms: Tensor, norms: Tensor) -> float:
    return float((residual_norms / norms).max()) if len(norms) else 0.0


def _reciprocal(values: Tensor) -> Tensor:
    """Return 1/v, and 0 where v = 0."""
    return torch.where(values == 0, 0.0, 1 / values)


def _require_positive(values: Tensor, what: str, iteration: int) -> None:
    """Raise ConvergenceError if a quadratic form that must be positive is not."""
    smallest = float(values.min())
    if not smallest > 0:
        raise NotPositiveDefiniteError(
            f"CG found {what} not positive definite in iteration {iteration + 1} (x^H A x = {smallest:.1e}); "
            "compress and factorize at a smaller tolerance, or add a nugget to the diagonal"
        )


def _require_progress(
    method: str, before: float, history: list[float], tolerance: float, max_iterations: int
) -> None:
    """Raise ConvergenceError if iterations end or stagnate before the tolerance is reached."""
    residual, n = history[-1], len(history) - 1
    if residual <= tolerance:
        return
    if n >= max_iterations:
        raise ConvergenceError(
            f"{method} stopped at relative residual {residual:.1e} after {n} iterations "
            f"(wanted {tolerance:.0e}); factorize at a smaller tolerance, or raise max_iterations"
        )
    if not residual < 0.99 * before:
        raise ConvergenceError(
            f"{method} stagnated at relative residual {residual:.1e} after {n} iterations "
            f"(wanted {tolerance:.0e}); ask for no more than rounding allows (1e-5 in single precision), "
            "or factorize at a smaller tolerance"
        )

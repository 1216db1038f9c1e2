"""Smooth kernels in many dimensions: exact solves with a randomly pivoted Cholesky preconditioner.

If points have many coordinates, most boxes are near each other and hierarchical compression gains little; but the
matrix of a smooth kernel has few large eigenvalues. A partial Cholesky factorization whose pivots are drawn with
probabilities proportional to the residual diagonal finds them from few columns [1, algorithm 1], block by block;
conjugate gradients on the exact entries do the rest [2].

References:
    [1] Chen, Epperly, Tropp, Webber, "Randomly pivoted Cholesky", CPAM 2025 (arXiv 2207.06503).
    [2] Díaz, Epperly, Frangella, Tropp, Webber, "Robust, randomized preconditioning for kernel ridge regression",
        arXiv 2304.12465, section 2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.inputs import as_diagonal, as_points, require_kernel, require_tolerance
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.vectors import Vectors, arrays_as_tensors
from pipeline.runtime.communicator import Communicator, Serial

Array = NDArray[np.float64]

_BLOCK = 64  # pivots drawn at a time
_ENTRIES = 4_000_000  # entries that are evaluated at a time
_KEPT = 125_000_000  # entries up to which a matrix is evaluated once and kept
_ROWS = 64  # sampled rows, on which the error is measured
_ROUNDING = 1e-12  # share of a block's largest pivot: columns of smaller pivots are combinations of others


@dataclass(frozen=True, eq=False)
class PivotedCholesky:
    """A low-rank factor F with F F' ~ K, from columns of K at pivots. Rows may be divided among processes.

    Attributes:
        factor: Own rows of F, shape (n, rank).
        pivots: Numbers of the points whose columns were taken, process by process, shape (rank,).
        trace: Trace of the residual K - F F', which bounds its norm.
        left: Diagonal of the residual in own rows, shape (n,).
        relative_error: |K - F F'| / |K| in the Frobenius norm off the diagonal, on sampled exact rows.
    """

    factor: Array
    pivots: NDArray[np.int64]
    trace: float
    left: Array
    relative_error: float

    @classmethod
    def of(
        cls,
        points: Any,
        kernel: Kernel,
        *,
        rank: int,
        generator: np.random.Generator,
        trace: float = 0.0,
        tolerance: float = 0.0,
        communicator: Communicator | None = None,
    ) -> "PivotedCholesky":
        """Factorize K partially; costs O(n rank²) and n rank entries of K.

        Args:
            points: This process's points, shape (n, d).
            kernel: A covariance.
            rank: Largest number of columns.
            generator: Draws the pivots; in the same state on all processes.
            trace: Trace of the residual at which the factorization ends earlier.
            tolerance: Relative error on sampled rows at which the factorization ends earlier.
            communicator: The processes among which points are divided.
        """
        require_covariance(kernel)
        group = communicator or Serial()
        places = as_points(points, "points").astype(np.float64)
        counts = np.concatenate(_gathered(group, np.array([len(places)])))
        n, before = int(counts.sum()), int(counts[: group.rank].sum())
        rank = min(rank, n)
        factor, pivots = np.zeros((rank, len(places))), np.zeros(0, np.int64)
        left = kernel.diagonal(places) if len(places) else np.zeros(0)
        sample = _Sample.of(places, kernel, n, before, group)
        first = math.inf
        while True:
            everybodys = np.concatenate(_gathered(group, left))
            remaining = float(everybodys.sum())
            first = min(first, remaining)
            done = remaining <= max(trace, _ROUNDING * first) or sample.relative_error <= tolerance
            if len(pivots) >= rank or done:
                break
            count = min(_BLOCK, rank - len(pivots), int((everybodys > 0).sum()))
            chosen = np.sort(generator.choice(n, count, replace=False, p=everybodys / remaining))
            chosen = _told(group, chosen)
            own = chosen[(chosen >= before) & (chosen < before + len(places))] - before
            known = factor[: len(pivots)]
            there, known_there = (
                np.concatenate(_gathered(group, rows)) for rows in (places[own], known[:, own].T)
            )
            columns = kernel(places, there).T - known_there @ known
            # Pivots near each other have nearly the same column: a pivoted factorization of their block drops them.
            root, order, found = _pivoted(kernel(there, there) - known_there @ known_there.T, group)
            rows = scipy.linalg.solve_triangular(root[:found, :found], columns[order[:found]], lower=True)
            factor[len(pivots) : len(pivots) + found] = rows
            pivots = np.concatenate([pivots, chosen[order[:found]]])
            left = np.maximum(left - (rows**2).sum(axis=0), 0.0)
            left[own] = 0.0
            sample.take_off(rows)
        return cls(
            np.ascontiguousarray(factor[: len(pivots)].T), pivots, remaining, left, sample.relative_error
        )

    @property
    def rank(self) -> int:
        return len(self.pivots)

    def preconditioner(self, diagonal: Array) -> "Woodbury":
        """Return F F' + diagonal, ready to solve with."""
        return Woodbury(self.factor, diagonal)


@dataclass(frozen=True, eq=False)
class Woodbury:
    """F F' + D, solved by the formula of Sherman, Morrison and Woodbury.

    Attributes:
        factor: Own rows of F, shape (n, rank).
        diagonal: Own rows of D, shape (n,), positive.
        communicator: The processes among which rows are divided.
        root: L with L L' = 1 + F' D^-1 F.
    """

    factor: Array
    diagonal: Array
    communicator: Communicator = field(default_factory=Serial)
    root: Array = field(init=False)

    def __post_init__(self) -> None:
        products = _summed(self.communicator, self.factor.T @ (self.factor / self.diagonal[:, None]))
        root = scipy.linalg.cholesky(np.eye(self.factor.shape[1]) + products, lower=True)
        object.__setattr__(self, "root", root)

    def solve(self, b: Array) -> Array:
        """Return own rows of (F F' + D)^-1 b for own rows of b, shape (n, m)."""
        first = b / self.diagonal[:, None]
        inner = scipy.linalg.cho_solve((self.root, True), _summed(self.communicator, self.factor.T @ first))
        return np.asarray(first - (self.factor @ inner) / self.diagonal[:, None])

    def logdet(self) -> float:
        """Return the logarithm of the determinant: that of 1 + F' D^-1 F, and that of D."""
        own = _summed(self.communicator, np.array([np.log(self.diagonal).sum()]))
        return float(own[0]) + 2 * float(np.log(np.diag(self.root)).sum())


@dataclass(frozen=True, eq=False)
class StreamedMatrix:
    """k(points, sources) + diagonal, evaluated in pieces; entries of up to a gigabyte are kept.

    Attributes:
        points, sources: Shapes (n, d) and (m, d).
        kernel: The kernel.
        diagonal: Shape (n,), or None.
    """

    points: Array
    sources: Array
    kernel: Kernel
    diagonal: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.points), len(self.sources)

    def __matmul__(self, x: Any) -> Any:
        """Return the product with x of shape (m,) or (m, k); costs O(n m)."""
        return arrays_as_tensors(self._product)(x)

    def _parts(self) -> Iterator[torch.Tensor]:
        step = max(1, _ENTRIES // max(len(self.sources), 1))
        sources = torch.from_numpy(self.sources)
        for first in range(0, len(self.points), step):
            yield self.kernel(torch.from_numpy(self.points[first : first + step]), sources)

    @cached_property
    def _kept(self) -> list[torch.Tensor]:
        return list(self._parts())

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        columns = x.reshape(len(x), -1)
        parts = self._kept if math.prod(self.shape) <= _KEPT else self._parts()
        y = torch.cat([columns.new_zeros(0, columns.shape[1]), *(part @ columns for part in parts)])
        if self.diagonal is not None:
            y = y + torch.from_numpy(self.diagonal)[:, None] * columns
        return y.reshape(len(self.points), *x.shape[1:])


def solve(
    points: Any,
    kernel: Kernel,
    b: Vectors,
    *,
    diagonal: Any,
    tolerance: float = 1e-6,
    rank: int | None = None,
    max_iterations: int = 200,
    seed: int = 0,
) -> tuple[Vectors, SolveInfo]:
    """Solve (K + diagonal) x = b for a smooth covariance of points in any number of dimensions.

    The partial factorization ends when the residual trace of K is below the least entry of the diagonal, which bounds
    the condition number by 2, or until its rank is `rank`. Each
    iteration takes a product with K, whose entries are evaluated again if they are too many to be kept.

    Args:
        points: Shape (n, d).
        kernel: A covariance.
        b: Shape (n,) or (n, m).
        diagonal: Positive number, or shape (n,): the nugget.
        tolerance: Relative residual |b - A x| / |b|, 2-norm, of each column, with the exact matrix.
        rank: Largest rank of the partial factorization; by default 10 sqrt(n).
        max_iterations: Largest number of products with K.
        seed: Seed of the pivots.

    Returns:
        x in the shape of b, and how the solve went; `info.notes` tell the rank.

    Raises:
        ConfigError: If the diagonal is not positive, or arguments are not usable.
        ConvergenceError: If the tolerance is not reached: the kernel is not smooth enough for the rank.
    """
    require_tolerance(tolerance)
    places = as_points(points, "points").astype(np.float64)
    n = len(places)
    term = as_diagonal(diagonal, n)
    if term is None or term.dtype.kind == "c" or not (term > 0).all():
        raise ConfigError(f"diagonal must be one positive number or {n} of them")
    term = term.astype(np.float64)
    most = rank if rank is not None else math.ceil(10 * math.sqrt(n))
    found = PivotedCholesky.of(
        places,
        kernel,
        rank=most,
        generator=stream(Purpose.PIVOTS, seed),
        trace=float(term.min(initial=math.inf)),
    )
    A, M = StreamedMatrix(places, places, kernel, term), found.preconditioner(term)

    infos: list[SolveInfo] = []

    def product(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = A @ x
        return y

    def iterate(right: torch.Tensor) -> torch.Tensor:
        solution, info = conjugate_gradient(
            product,
            right.double(),
            preconditioner=lambda r: torch.from_numpy(M.solve(r.numpy())),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        infos.append(info)
        return solution

    given: Any = b
    x: Any = arrays_as_tensors(iterate)(given)
    info = infos[0]
    note = f"preconditioned by {found.rank} columns, which leave {found.trace:.1e} of the trace"
    return x, replace(info, notes=(note,), exact_residual=info.relative_residual)


class _Sample:
    """The residual of sampled exact rows of K off the diagonal, in this process's columns."""

    def __init__(self, entries: Array, here: NDArray[np.int64], group: Communicator) -> None:
        """Take entries of the rows in own columns, and for each row the own column of the same point, or -1."""
        self._left, self._here, self._group = entries, here, group
        self._size = self._norm()

    @classmethod
    def of(cls, places: Array, kernel: Kernel, n: int, before: int, group: Communicator) -> "_Sample":
        chosen = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).astype(np.int64)) - before
        inside = (chosen >= 0) & (chosen < len(places))
        rows = np.concatenate(_gathered(group, places[chosen[inside]]))
        return cls(kernel(rows, places), np.where(inside, chosen, -1), group)

    def _norm(self) -> float:
        squares = self._left**2
        rows = np.flatnonzero(self._here >= 0)
        squares[rows, self._here[rows]] = 0.0
        return math.sqrt(float(_summed(self._group, np.array([squares.sum()]))[0]))

    @property
    def relative_error(self) -> float:
        return self._norm() / self._size if self._size else 0.0

    def take_off(self, rows: Array) -> None:
        """Subtract the share of some columns of F, given as rows of F' in own columns."""
        own = np.flatnonzero(self._here >= 0)
        there = np.zeros((len(self._here), len(rows)))
        there[own] = rows[:, self._here[own]].T
        self._left -= _summed(self._group, there) @ rows


def _gathered(group: Communicator, own: NDArray[Any]) -> list[NDArray[Any]]:
    return [part.numpy() for part in group.all_gather(torch.from_numpy(np.ascontiguousarray(own)))]


def _summed(group: Communicator, own: Array) -> Array:
    total = torch.from_numpy(np.array(own, order="C"))
    group.all_reduce(total)
    return np.asarray(total.numpy())


def _told(group: Communicator, own: NDArray[Any]) -> NDArray[Any]:
    """Return process 0's array: processors of different kinds may round differently, but must choose alike."""
    told = torch.from_numpy(np.array(own, order="C"))
    group.broadcast(told, 0)
    return told.numpy()


def _pivoted(block: Array, group: Communicator) -> tuple[Array, NDArray[np.int64], int]:
    """Return L, an order and a rank with block[order][:, order] near L L' in its first `rank` rows and columns."""
    root, order, found, _ = scipy.linalg.lapack.dpstrf(
        block, lower=1, tol=_ROUNDING * max(float(block.diagonal().max(initial=0.0)), 0.0)
    )
    told = _told(group, np.append(order.astype(np.int64) - 1, found))
    return np.tril(_told(group, root)), told[:-1], int(told[-1])


def require_covariance(kernel: Kernel) -> None:
    """Raise ConfigError unless a kernel is a real covariance that is finite between equal points."""
    require_kernel(kernel)
    if not (kernel.symmetric and kernel.positive_definite) or kernel.singular:
        raise ConfigError(
            f"kernel must be a covariance, such as SquaredExponential, not {type(kernel).__name__}"
        )

"""Sums of Galerkin matrices as operators: terms L^T P R with a panel matrix P, and a sparse matrix.

On a surface that is divided among processes, products, sums and multiples are collective: an error in one process's
arguments is raised on all of them.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from pipeline.hmatrix.inputs import as_array
from pipeline.hmatrix.matrix import H2Matrix
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.runtime.together import require_alike, together
from pipeline.runtime.words import shown


class Panels(Protocol):
    """A matrix on functions linear on each triangle, or some of its rows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its entries."""

    def product(self, x: NDArray[Any], *, transposed: bool) -> NDArray[Any]:
        """Return the product with x of shape (3 t, m), or that of the transpose."""

    def near_rows(self, *, transposed: bool) -> Any:
        """Return the sparse part between near triangles, or its transpose."""


class Functions(Protocol):
    """Test or trial functions of an operator: those whose values vectors hold on this process, and other known ones."""

    @property
    def n(self) -> int:
        """Number of values that vectors have on this process."""

    @property
    def communicator(self) -> Communicator:
        """The processes among which values are divided."""

    def own_columns(self) -> NDArray[np.float64]:
        """Return the rows of the identity matrix for the values here, shape (n, functions of all processes)."""

    def spread(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return values of the known functions, given those here, shape (n, m)."""

    def collect(self, known: NDArray[Any]) -> NDArray[Any]:
        """Return sums over all processes for the functions here, given each process's share for those it knows."""


@dataclass(frozen=True)
class AllFunctions:
    """All functions of a space, whose values are all on this process.

    Attributes:
        n: Number of functions.
    """

    n: int

    @property
    def communicator(self) -> Communicator:
        return Serial()

    def own_columns(self) -> NDArray[np.float64]:
        return np.eye(self.n)

    def spread(self, own: NDArray[Any]) -> NDArray[Any]:
        return own

    def collect(self, known: NDArray[Any]) -> NDArray[Any]:
        return known


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """Q^T K Q + Z on functions linear on each triangle.

    Attributes:
        rule: Q, shape (points, 3 t).
        far: K.
        near: Z.
    """

    rule: csr_array
    far: H2Matrix
    near: csr_array

    def product(self, x: NDArray[Any], *, transposed: bool) -> NDArray[Any]:
        """Return the product with x of shape (3 t, m), or that of the transpose."""
        points = self.rule @ x
        far = self.far.product_transposed(points) if transposed else self.far @ points
        return np.asarray(self.rule.T @ far + self.near_rows(transposed=transposed) @ x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its entries."""
        return self.far.dtype

    def near_rows(self, *, transposed: bool) -> Any:
        """Return Z or its transpose."""
        return self.near.T if transposed else self.near


@dataclass(frozen=True, eq=False)
class Term:
    """coefficient · L^T P R, P a panel matrix or its transpose."""

    coefficient: complex
    panels: Panels
    left: csr_array
    right: csr_array
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class BoundaryOperator:
    """A Galerkin matrix: terms with panel matrices, and a sparse one. Sums and multiples are operators again.

    Attributes:
        test: Test functions.
        trial: Trial functions.
        dtype: The type of products with real vectors.
        terms: Terms with panel matrices.
        sparse: A sparse matrix that is added to the terms, or None.
    """

    test: Functions
    trial: Functions
    dtype: np.dtype[Any]
    terms: tuple[Term, ...]
    sparse: csr_array | None = None

    # Makes NumPy's numbers leave their products with an operator to this class.
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of test functions and of trial functions on this process."""
        return self.test.n, self.trial.n

    def __matmul__(self, x: Any) -> Any:
        """Return the product with x of shape (n,) or (n, m): a tensor for a tensor, an array for an array."""
        if isinstance(x, torch.Tensor):
            with together(self.trial.communicator):
                values = as_array(x)
            return torch.from_numpy(self @ values)
        n = self.shape[1]
        with together(self.trial.communicator):
            x = as_array(x)
            if x.dtype.kind not in "biufc":
                raise TypeError(f"the product needs numbers, not {x.dtype}")
            if x.ndim not in (1, 2) or len(x) != n:
                raise ValueError(f"the product needs shape ({n},) or ({n}, m), not {x.shape}")
        require_alike(self.trial.communicator, {"type of x": x.dtype.name, "columns of x": list(x.shape[1:])})
        columns = self.trial.spread(x.reshape(len(x), math.prod(x.shape[1:])))
        m = columns.shape[1]
        kind = np.result_type(self.dtype, x.dtype)
        shares = [] if self.sparse is None else [self.sparse @ columns]
        # Terms with the same panel matrix share one product with more columns.
        waiting = list(self.terms)
        while waiting:
            first = waiting[0]
            alike = [t for t in waiting if (t.panels, t.transposed) == (first.panels, first.transposed)]
            waiting = [t for t in waiting if t not in alike]
            spread = np.concatenate([t.right @ columns for t in alike], axis=1)
            product = first.panels.product(spread, transposed=first.transposed)
            for number, term in enumerate(alike):
                shares.append(term.coefficient * (term.left.T @ product[:, number * m : (number + 1) * m]))
        y = self.test.collect(np.asarray(sum(shares)).astype(kind, copy=False))
        return y.reshape(self.shape[0], *x.shape[1:])

    def matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A x, as `scipy.sparse.linalg.aslinearoperator` asks."""
        return np.asarray(self @ x)

    def rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A^H x, like `matvec`."""
        return np.asarray((self.T @ x.conj()).conj())

    @property
    def T(self) -> "BoundaryOperator":
        """The transpose."""
        terms = tuple(Term(t.coefficient, t.panels, t.right, t.left, not t.transposed) for t in self.terms)
        sparse = None if self.sparse is None else self.sparse.T.tocsr()
        return BoundaryOperator(self.trial, self.test, self.dtype, terms, sparse)

    def __add__(self, other: Any) -> "BoundaryOperator":
        """Return the sum with an operator on the same functions, or with a SciPy sparse matrix on a whole surface."""
        with together(self.test.communicator):
            if isinstance(other, BoundaryOperator):
                terms, sparse = other.terms, other.sparse
                fits = (other.test, other.trial) == (self.test, self.trial)
            elif issparse(other) and isinstance(self.test, AllFunctions):
                terms, sparse = (), csr_array(other)
                fits = other.shape == self.shape
            else:
                raise TypeError(
                    f"{shown(other)} cannot be added to or subtracted from an operator: take other operators of the "
                    "surface, such as identity() for the mass matrix"
                )
            if not fits:
                where = "" if other.shape != self.shape else " on unlike functions"
                raise ValueError(f"operators of shapes {self.shape} and {other.shape}{where} cannot be added")
        parts = [part for part in (self.sparse, sparse) if part is not None]
        total = None if not parts else (parts[0] if len(parts) == 1 else (parts[0] + parts[1]).tocsr())
        return BoundaryOperator(
            self.test, self.trial, np.result_type(self.dtype, other.dtype), (*self.terms, *terms), total
        )

    def __radd__(self, other: Any) -> "BoundaryOperator":
        """Return the sum with a sparse matrix, or with the 0 that `sum` begins with."""
        return self if isinstance(other, int | float) and other == 0 else self + other

    def __mul__(self, factor: complex) -> "BoundaryOperator":
        """Return the operator times a number, the same on all processes."""
        with together(self.test.communicator):
            if not isinstance(factor, int | float | complex | np.number):
                raise TypeError(
                    f"an operator is multiplied and divided by numbers alone, not by {shown(factor)}"
                )
            if not np.isfinite(factor):
                raise ValueError(f"an operator can be multiplied by finite factors, not {factor}")
            factor = np.asarray(factor).item()
        require_alike(self.test.communicator, {"factor": factor})
        terms = tuple(
            Term(factor * t.coefficient, t.panels, t.left, t.right, t.transposed) for t in self.terms
        )
        sparse = None if self.sparse is None else (factor * self.sparse).tocsr()
        kind = np.result_type(self.dtype, np.complex128 if isinstance(factor, complex) else np.float64)
        return BoundaryOperator(self.test, self.trial, kind, terms, sparse)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex) -> "BoundaryOperator":
        """Return the operator divided by a number."""
        with together(self.test.communicator):
            if isinstance(divisor, int | float | complex | np.number) and divisor == 0:
                raise ZeroDivisionError("an operator cannot be divided by 0")
        return self * (1 / divisor if isinstance(divisor, int | float | complex | np.number) else divisor)

    def __neg__(self) -> "BoundaryOperator":
        return -1.0 * self

    def __sub__(self, other: Any) -> "BoundaryOperator":
        return self.__add__(-1.0 * other if isinstance(other, BoundaryOperator) or issparse(other) else other)

    def __rsub__(self, other: Any) -> "BoundaryOperator":
        return self.__neg__().__add__(other)

    def scaling(self) -> NDArray[np.float64]:
        """Return absolute values of the near field's diagonal, to precondition with.

        Raises:
            ValueError: If test and trial functions differ.
        """
        if self.test != self.trial:
            raise ValueError("scaling: an operator whose test and trial functions differ has no diagonal")
        shares = [
            t.coefficient * (t.left * (t.panels.near_rows(transposed=t.transposed) @ t.right)).sum(axis=0)
            for t in self.terms
        ]
        if self.sparse is not None:
            shares.append(self.sparse.diagonal())
        return np.asarray(np.abs(self.test.collect(np.asarray(sum(shares), complex)[:, None])[:, 0]))

    def to_dense(self) -> NDArray[Any]:
        """Return this process's rows of the represented matrix: for tests and small matrices."""
        return np.asarray(self @ self.trial.own_columns())

    def as_linear_operator(self) -> LinearOperator:
        """Return the operator for SciPy, on this process's values: SciPy's dot products do not span processes."""
        return aslinearoperator(self)

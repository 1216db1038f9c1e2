"""`H2Matrix`, the public class: modules of the operations (`product`, `factor`, ...) do the work on `form.H2Form`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from torch import Tensor

from pipeline.hmatrix import algebra, preconditioned, storage, structure
from pipeline.hmatrix.admissibility import Admissibility, Interactions
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.correction import add_sparse, is_near
from pipeline.hmatrix.diagonal import add_diagonal, diagonal, with_diagonal_term
from pipeline.hmatrix.exact_rows import sampled_error
from pipeline.hmatrix.factor import factorize
from pipeline.hmatrix.factorization import Factorization
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.from_operator import from_operator
from pipeline.hmatrix.gradients import linear
from pipeline.hmatrix.inputs import Progress, as_array, require_kernel
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.krylov import SolveInfo
from pipeline.hmatrix.product import DeviceCopies, product
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.transpose import scaled, transpose
from pipeline.hmatrix.vectors import Vectors


@dataclass(frozen=True, eq=False, repr=False)
class H2Matrix:
    """A compressed matrix. Build it with `from_kernel`; products cost O(n).

    Attributes:
        form: The data. All its attributes can be read from the matrix as well.
        copies: Copies that products have made on other devices, kept until `release`.
    """

    form: H2Form
    copies: DeviceCopies = field(default_factory=DeviceCopies)

    # Makes NumPy's numbers leave their products with a matrix to this class.
    __array_ufunc__: ClassVar[None] = None

    @classmethod
    def from_kernel(
        cls,
        points: "NDArray[Any] | Tensor",
        kernel: Kernel,
        *,
        diagonal: "complex | NDArray[Any] | Tensor | None" = None,
        tolerance: float = 1e-6,
        sources: "NDArray[Any] | Tensor | None" = None,
        leaf_size: int | None = None,
        admissibility: Admissibility | str | None = None,
        progress: Progress | None = None,
    ) -> "H2Matrix":
        """Compress the matrix k(points[i], points[j]) + diagonal, or k(points[i], sources[j]).

        Args:
            points: Shape (n, d), any dimension and distribution. The matrix has their precision, and is compressed and
                factorized on their device.
            kernel: The kernel. It is called on blocks if the native loops do not know its closed form.
            diagonal: Number or shape (n,), added to the diagonal: a nugget, or the self term of a singular kernel.
            tolerance: Relative 2-norm error of a product with random vectors, which sampled exact rows check.
            sources: Shape (m, d), for a rectangular matrix.
            leaf_size: Largest number of points in a leaf; by default 64, or about 64 if the points fill a volume.
            admissibility: A rule or its name. The default is Strong(), or Weak() with one of the `notes` if most boxes
                are near each other.
            progress: Called with the number of boxes done and of all boxes, for a progress bar.

        Raises:
            TypeError: If the kernel is not a Kernel, or points or tolerance are not real numbers.
            ValueError: If shapes do not fit, or a custom kernel does not give what it declares.
            ConfigError: If points or tolerance are not usable.
            ConvergenceError: If the tolerance cannot be reached, or the matrix does not compress.
        """
        require_kernel(kernel)
        copies = DeviceCopies()
        form = compress_kernel(
            points,
            kernel,
            diagonal=diagonal,
            tolerance=tolerance,
            sources=sources,
            leaf_size=leaf_size,
            admissibility=admissibility,
            progress=progress,
            copies=copies,
        )
        return cls(form, copies)

    @classmethod
    def from_operator(
        cls,
        tree: ClusterTree | NDArray[Any],
        product: Callable[[NDArray[Any]], NDArray[Any]],
        entries: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None = None,
        **options: Any,
    ) -> "H2Matrix":
        """Compress an operator known by its products; see `from_operator.from_operator`."""
        return cls(from_operator(tree, product, entries, **options))

    @classmethod
    def load(cls, path: Path | str) -> "H2Matrix":
        """Read a matrix that `save` wrote, in any process."""
        return cls(storage.load(Path(path)))

    def save(self, path: Path | str) -> None:
        """Write the matrix into a folder; see `storage.save`."""
        storage.save(self.form, Path(path))

    def __repr__(self) -> str:
        what = "matrix known by its products" if self.kernel is None else type(self.kernel).__name__
        return (
            f"H2Matrix({self.shape[0]} x {self.shape[1]} {self.dtype}, {what}, tolerance {self.tolerance:.0e}, "
            f"{self.n_bytes / 1e6:.1f} MB)"
        )

    @overload
    def __matmul__(self, x: "H2Matrix") -> "H2Matrix": ...

    @overload
    def __matmul__(self, x: Vectors) -> Vectors: ...

    def __matmul__(self, x: Any) -> Any:
        """Return A x for x of shape (n,) or (n, m) in the caller's order of the points, or the product of matrices."""
        if isinstance(x, H2Matrix):
            return H2Matrix(algebra.multiply(self.form, x.form))
        return linear(x, self._product, self._product_transposed)

    def product_transposed(self, x: Vectors) -> Vectors:
        """Return A^T x."""
        return linear(x, self._product_transposed, self._product)

    def _product(self, x: Any) -> Any:
        return product(self.form, x, copies=self.copies)

    def _product_transposed(self, x: Any) -> Any:
        return product(self.form, x, transposed=True, copies=self.copies)

    def __rmatmul__(self, x: Any) -> Any:
        """Return x A for x of shape (n,) or (m, n)."""
        values: Any = x if isinstance(x, Tensor) else as_array(x)
        if values.ndim == 1:
            return self.product_transposed(values)
        return self.product_transposed(values.T).T

    def matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A x for x of shape (n,) or (n, 1), as `scipy.sparse.linalg.aslinearoperator` asks."""
        return self @ x

    def rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A^H x, like `matvec`."""
        return np.asarray(np.conj(self.product_transposed(np.conj(x))))

    def matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return A X for X of shape (n, m)."""
        return self @ X

    def rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return A^H X for X of shape (n, m)."""
        return self.rmatvec(X)

    @property
    def T(self) -> "H2Matrix":
        """The transpose (never conjugated), which shares all arrays except the blocks."""
        return self if self.mirrored else H2Matrix(transpose(self.form))

    def __rmul__(self, factor: complex) -> "H2Matrix":
        """Return factor · A."""
        if not isinstance(factor, int | float | complex | np.number):
            return NotImplemented
        return H2Matrix(scaled(self.form, factor))

    def __mul__(self, factor: complex) -> "H2Matrix":
        """Return A · factor."""
        return self.__rmul__(factor)

    def __truediv__(self, divisor: complex) -> "H2Matrix":
        """Return A / divisor."""
        return (
            self.__rmul__(1 / divisor)
            if isinstance(divisor, int | float | complex | np.number)
            else NotImplemented
        )

    def __neg__(self) -> "H2Matrix":
        return -1.0 * self

    def __add__(self, other: Any) -> "H2Matrix":
        """Return A + B, or A with a SciPy sparse matrix added to its near field (see `add_sparse`)."""
        if isinstance(other, H2Matrix):
            return H2Matrix(algebra.add(self.form, other.form))
        if not issparse(other):
            return NotImplemented
        if other.shape != self.shape:
            raise ValueError(f"matrices of shapes {self.shape} and {other.shape} cannot be added")
        entries = other.tocoo()
        return self.add_sparse(entries.row, entries.col, entries.data)

    def __radd__(self, other: Any) -> "H2Matrix":
        """Return B + A, or A itself as 0 + A, so that `sum` takes matrices."""
        if isinstance(other, int | float) and other == 0:
            return self
        return self.__add__(other)

    def __sub__(self, other: Any) -> "H2Matrix":
        return self + (-other) if isinstance(other, H2Matrix) or issparse(other) else NotImplemented

    def __rsub__(self, other: Any) -> "H2Matrix":
        return (-self).__add__(other)

    def inverse(self, tolerance: float | None = None) -> "H2Matrix":
        """Return the inverse, compressed; see `algebra.inverse`."""
        return H2Matrix(algebra.inverse(self.form, tolerance=tolerance))

    def recompress(self, tolerance: float | None = None) -> "H2Matrix":
        """Return the matrix compressed anew; see `algebra.recompress`."""
        return H2Matrix(algebra.recompress(self.form, tolerance=tolerance))

    def diagonal(self) -> NDArray[Any]:
        """Return the diagonal, shape (n,), in the caller's order."""
        return diagonal(self.form)

    def add_diagonal(self, added: "complex | NDArray[Any] | Tensor") -> "H2Matrix":
        """Return A + added (a number, or shape (n,) in the caller's order); the compression is shared."""
        return H2Matrix(add_diagonal(self.form, added), self.copies.for_another_diagonal())

    def with_diagonal_term(self, term: NDArray[Any] | None) -> "H2Matrix":
        """Return the matrix with another `diagonal_term`; a complex one makes it complex."""
        return H2Matrix(with_diagonal_term(self.form, term), self.copies.for_another_diagonal())

    def add_sparse(self, i: NDArray[np.int64], j: NDArray[np.int64], values: NDArray[Any]) -> "H2Matrix":
        """Return A with values added to entries of its near field; see `correction.add_sparse`."""
        return H2Matrix(add_sparse(self.form, i, j, values))

    def is_near(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which entries (i[k], j[k]) `add_sparse` can correct; see `correction.is_near`."""
        return is_near(self.form, i, j)

    def to(self, device: torch.device | str) -> "H2Matrix":
        """Return the same matrix on another device."""
        return H2Matrix(replace(self.form, device=torch.device(device)), self.copies)

    def release(self) -> None:
        """Free the copies that products have made on other devices, which the next product makes again.

        Matrices that differ in their diagonal alone share them, and lose them together.
        """
        self.copies.release()

    def part(self, number: int, count: int) -> "H2Matrix":
        """Return share `number` of `count`: a range of near and far pairs. Products of all shares add up to A's.

        Shares hold about equally many bytes, in A's memory; the first also holds the diagonal.
        """
        return H2Matrix(structure.share(self.form, number, count))

    def factorize(
        self,
        tolerance: float | None = None,
        kind: str = "auto",
        *,
        parts: int | None = None,
        progress: Progress | None = None,
        checked: bool = True,
    ) -> Factorization:
        """Factorize in near-linear time, and measure the accuracy of solves; see `factor.factorize`."""
        return factorize(
            self.form, tolerance=tolerance, kind=kind, parts=parts, progress=progress, checked=checked
        )

    def solve(
        self,
        b: Vectors,
        tolerance: float | None = None,
        *,
        factorization: Factorization | None = None,
        max_iterations: int = 300,
        exact: bool = False,
    ) -> tuple[Vectors, SolveInfo]:
        """Solve A x = b by Krylov iteration on A, preconditioned by a loose factorization: the default way.

        Args:
            b: Shape (n,) or (n, m). The solution has the precision of the matrix or of b, whichever is higher.
            tolerance: Relative residual |b - A x| / |b|, 2-norm, of each column; by default 1e-8, or 1e-5 for a
                solution in single precision.
            factorization: The preconditioner. By default a loose one is made, in single precision, and a tighter one
                if 50 iterations with it do not suffice; `info.notes` tell. A kernel matrix whose compressed form proves
                not positive definite, or whose solution fails on exact rows, is compressed again, more tightly.
            max_iterations: Largest number of iterations of conjugate gradients, or of GMRES if A is not definite.
            exact: Whether the tolerance is that of the residual on sampled exact rows. The kernel matrix is then
                compressed again until the tolerance is met, which takes minutes at 100,000 points and a condition
                number of 1e8.

        Returns:
            x and how the solve went. `info.relative_residual` is the residual with the compressed matrix,
            `info.exact_residual` the one on sampled exact rows; a warning is logged if it is over ten times larger.

        Raises:
            ConvergenceError: If the tolerance is not reached, or the residual on exact rows makes x meaningless.
        """
        return preconditioned.solve(
            self.form,
            b,
            tolerance=tolerance,
            factorization=factorization,
            max_iterations=max_iterations,
            exact=exact,
            copies=self.copies,
        )

    def error_estimate(
        self, *, seed: int = 0, n_rows: int | None = None, n_vectors: int | None = None
    ) -> float:
        """Return the relative 2-norm error of products with random vectors, on sampled exact rows.

        Args:
            seed: Seed of rows and vectors.
            n_rows: Number of rows, spread over all regions; by default at least 128, and all rows of up to 2,800.
            n_vectors: Random vectors; None takes 8, or 64 where every row is checked.

        Raises:
            ValueError: If the matrix has no kernel to give exact rows.
        """
        return sampled_error(self.form, seed=seed, n_rows=n_rows, n_vectors=n_vectors, copies=self.copies)

    def structure(self) -> dict[str, Any]:
        """Return the data of plots and tables in a form that JSON can hold; see `structure.describe`."""
        return structure.describe(self.form)

    def to_dense(self) -> NDArray[Any]:
        """Return the represented matrix as an array, shape (n, m): for tests and small matrices."""
        return self @ np.eye(self.shape[1], dtype=self.dtype)

    def as_linear_operator(self) -> LinearOperator:
        """Return the matrix as a SciPy operator, for SciPy's iterative methods."""
        return aslinearoperator(self)

    @property
    def rows(self) -> ClusterTree:
        return self.form.rows

    @property
    def columns(self) -> ClusterTree:
        return self.form.columns

    @property
    def row_basis(self) -> Basis:
        return self.form.row_basis

    @property
    def column_basis(self) -> Basis:
        return self.form.column_basis

    @property
    def near(self) -> Blocks:
        return self.form.near

    @property
    def far(self) -> Blocks:
        return self.form.far

    @property
    def mirrored(self) -> bool:
        return self.form.mirrored

    @property
    def diagonal_term(self) -> NDArray[Any] | None:
        return self.form.diagonal_term

    @property
    def kernel(self) -> Kernel | None:
        return self.form.kernel

    @property
    def tolerance(self) -> float:
        return self.form.tolerance

    @property
    def norm(self) -> float:
        return self.form.norm

    @property
    def admissibility(self) -> Admissibility:
        return self.form.admissibility

    @property
    def interactions(self) -> Interactions:
        return self.form.interactions

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.form.dtype

    @property
    def notes(self) -> tuple[str, ...]:
        return self.form.notes

    @property
    def correction(self) -> csr_array | None:
        return self.form.correction

    @property
    def device(self) -> torch.device:
        return self.form.device

    @property
    def computed(self) -> np.dtype[Any]:
        return self.form.computed

    @property
    def shape(self) -> tuple[int, int]:
        return self.form.shape

    @property
    def is_square(self) -> bool:
        return self.form.is_square

    @property
    def is_symmetric(self) -> bool:
        return self.form.is_symmetric

    @property
    def n_bytes(self) -> int:
        return self.form.n_bytes

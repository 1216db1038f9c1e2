"""H2 matrices: near field, nested bases and couplings, in linear storage.

A = diagonal + near blocks of leaf pairs + sum over far pairs of U_b S_bc V_c^T, where bases are nested and
interpolative (`skeleton.py`) and S_bc are entries of A between skeletons, where A is a kernel matrix.

Everything is a flat array with one list per box or pair, numbered level by level: a partition of pairs is a
partition of the matrix. `part` gives such a share; shares sum up to A.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Admissibility, Interactions
from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import ClusterTree
from pipeline.hmatrix.inputs import CPU, Progress, as_diagonal, require_kernel
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.skeleton import Basis
from pipeline.hmatrix.threads import one_blas_thread
from pipeline.hmatrix.vectors import Vectors, apply, result_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.hmatrix.batched import BatchedProduct
    from pipeline.hmatrix.factor import Factorization
    from pipeline.hmatrix.krylov import SolveInfo


@dataclass(frozen=True, eq=False)
class H2Matrix:
    """A compressed matrix. Build it with `from_kernel`; products cost O(n).

    Attributes:
        rows, columns: Trees of targets and sources; the same object where the matrix is square over one point set.
        row_basis, column_basis: Nested bases; the same object where the matrix is symmetric.
        near: Dense blocks of near leaf pairs, without `diagonal_term`.
        far: Couplings of far pairs.
        mirrored: Pairs are kept with row box <= column box only, and stand for their transposes as well.
        diagonal_term: What is added to the diagonal, in tree order, or None.
        kernel: Of the entries, where the matrix is a kernel matrix.
        tolerance: Requested relative error of a product.
        norm: Estimated Frobenius norm, without `diagonal_term`.
        admissibility: How near and far were told apart.
        interactions: Near and far boxes on all levels.
        dtype: Type of the matrix towards the caller; blocks may be kept in a narrower one.
        notes: What the caller should know of how it was built.
        correction: Sparse entries, in tree order, that near blocks hold beyond the kernel's; see `correction.py`.
        device: Where the matrix is factorized: that of the points. Products run where the vectors are. Arrays are kept
            in the host's memory, those of products also on each device that multiplied them, until `release`.
    """

    rows: ClusterTree
    columns: ClusterTree
    row_basis: Basis
    column_basis: Basis
    near: Blocks
    far: Blocks
    mirrored: bool
    diagonal_term: NDArray[Any] | None
    kernel: Kernel | None
    tolerance: float
    norm: float
    admissibility: Admissibility
    interactions: Interactions
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = field(default=())
    correction: csr_array | None = None
    device: torch.device = CPU

    # NumPy's numbers leave their products with a matrix to it.
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
            points: Shape (n, d), any dimension and distribution. The matrix is as precise as they are, and is
                compressed and factorized on their device.
            kernel: Called on blocks where it has no closed form known to the native loops.
            diagonal: Number or shape (n,), added to the diagonal: a nugget, or the self term of a singular kernel.
            tolerance: Relative 2-norm error of a product with random vectors, which sampled exact rows check.
            sources: Shape (m, d), for a rectangular matrix.
            leaf_size: Most points in a leaf; by default 64, or about so many where the points fill a volume.
            admissibility: A rule or its name: Strong() by default; Weak() where the points have no near and far, and
                says so in `notes`.
            progress: Called with how many boxes of how many are done, for a progress bar.

        Raises:
            TypeError: If the kernel is none, or points or tolerance are not real numbers.
            ConfigError: If points or tolerance are not usable.
            ConvergenceError: If the tolerance cannot be reached, or the matrix does not compress.
        """
        from pipeline.hmatrix.compression import compress_kernel

        require_kernel(kernel)
        return compress_kernel(
            points,
            kernel,
            diagonal=diagonal,
            tolerance=tolerance,
            sources=sources,
            leaf_size=leaf_size,
            admissibility=admissibility,
            progress=progress,
        )

    def __repr__(self) -> str:
        what = "matrix known by its products" if self.kernel is None else type(self.kernel).__name__
        return (
            f"H2Matrix({self.shape[0]} x {self.shape[1]} {self.dtype}, {what}, tolerance {self.tolerance:.0e}, "
            f"{self.n_bytes / 1e6:.1f} MB)"
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.n_points, self.columns.n_points

    @property
    def is_square(self) -> bool:
        """Rows and columns are of one point set."""
        return self.rows is self.columns

    @property
    def is_symmetric(self) -> bool:
        return self.mirrored

    @property
    def n_bytes(self) -> int:
        """Bytes of blocks, bases and diagonal: what grows with the matrix, without its tree."""
        bases = self.row_basis.n_bytes + (
            0 if self.column_basis is self.row_basis else self.column_basis.n_bytes
        )
        diagonal = 0 if self.diagonal_term is None else self.diagonal_term.nbytes
        return self.near.n_bytes + self.far.n_bytes + bases + diagonal

    @property
    def computed(self) -> np.dtype[Any]:
        """The type that products are computed in."""
        is_complex = self.near.values.dtype.kind == "c" or (
            self.diagonal_term is not None and self.diagonal_term.dtype.kind == "c"
        )
        return np.dtype(np.complex128 if is_complex else np.float64)

    @property
    def T(self) -> "H2Matrix":
        """The transpose (never conjugated), sharing all bytes but the near field's and couplings' order."""
        if self.mirrored:
            return self
        from pipeline.hmatrix.transpose import transpose

        return transpose(self)

    @overload
    def __matmul__(self, x: "H2Matrix") -> "H2Matrix": ...

    @overload
    def __matmul__(self, x: Vectors) -> Vectors: ...

    def __matmul__(self, x: Any) -> Any:
        """Return A x for x of shape (n,) or (n, m) in the caller's order of the points, or the product of matrices."""
        if isinstance(x, H2Matrix):
            from pipeline.hmatrix.algebra import multiply

            return multiply(self, x)
        return self._apply(x, transposed=False)

    def to(self, device: torch.device | str) -> "H2Matrix":
        """Return the same matrix living on another device."""
        if self.device == torch.device(device):
            return self
        result = replace(self, device=torch.device(device))
        vars(result)["_copies"] = self._copies
        return result

    def product_transposed(self, x: Vectors) -> Vectors:
        """Return A^T x."""
        return self._apply(x, transposed=True)

    def _apply(self, x: Vectors, *, transposed: bool) -> Vectors:
        if isinstance(x, Tensor) and x.device.type != "cpu":
            transposed = transposed and not self.mirrored
            return self._copy(x.device, transposed=transposed)(x, self._diagonal(x.device), self.dtype)

        near_type = np.dtype(np.complex128 if self.near.values.dtype.kind == "c" else np.float64)

        def product(flat: NDArray[Any], m: int) -> NDArray[Any]:
            with one_blas_thread():
                return np.asarray(
                    _native.product(
                        self.rows.native, self.columns.native, self.row_basis.native, self.column_basis.native,
                        self.near.native, self.far.native, self.mirrored, transposed, flat, m,
                    )
                )  # fmt: skip

        def action(flat: NDArray[Any], m: int) -> NDArray[Any]:
            if flat.dtype.kind == "c" and near_type.kind != "c":  # the diagonal alone is complex
                parts = [product(np.ascontiguousarray(part), m) for part in (flat.real, flat.imag)]
                out = parts[0] + 1j * parts[1]
            else:
                out = product(flat.astype(near_type, copy=False), m)
            if self.diagonal_term is not None:
                out = out + (flat.reshape(-1, m) * self.diagonal_term[:, None]).reshape(-1)
            return out

        sides = (self.rows, self.columns) if transposed else (self.columns, self.rows)
        return apply(
            x,
            action,
            taken=sides[0].permutation,
            given=sides[1].permutation,
            computed=self.computed,
            dtype=self.dtype,
            what="the product",
        )

    def release(self) -> None:
        """Free the copies that products have made on other devices, which the next product makes again.

        Matrices that differ in their diagonal alone share them, and lose them together.
        """
        self._copies.clear()
        self._diagonals.clear()

    def _copy(self, device: torch.device, *, transposed: bool) -> "BatchedProduct":
        """Return the product on another device, without the diagonal term; the copy is made once."""
        from pipeline.hmatrix.batched import BatchedProduct

        key = device, transposed, self.computed
        if key not in self._copies:
            self._copies[key] = BatchedProduct.of(self.T if transposed else self, device)
        return self._copies[key]

    def _diagonal(self, device: torch.device) -> Tensor | None:
        if self.diagonal_term is None:
            return None
        if device not in self._diagonals:
            self._diagonals[device] = torch.from_numpy(self.diagonal_term.astype(self.computed)).to(device)
        return self._diagonals[device]

    @cached_property
    def _copies(self) -> "dict[tuple[torch.device, bool, np.dtype[Any]], BatchedProduct]":
        return {}

    @cached_property
    def _diagonals(self) -> dict[torch.device, Tensor]:
        return {}

    def __rmul__(self, factor: complex) -> "H2Matrix":
        """Return factor · A."""
        if not isinstance(factor, int | float | complex | np.number):
            return NotImplemented
        if not np.isfinite(factor):
            raise ValueError(f"a matrix takes finite factors, not {factor}")
        from pipeline.hmatrix.transpose import scaled

        return scaled(self, np.asarray(factor).item())

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

    def diagonal(self) -> NDArray[Any]:
        """Return the diagonal, shape (n,), in the caller's order."""
        self._require_square("diagonal")
        from pipeline.hmatrix.structure import near_diagonal

        values = near_diagonal(self)
        if self.diagonal_term is not None:
            values = values + self.diagonal_term
        result = np.empty(len(values), dtype=self.dtype)
        result[self.rows.permutation] = values
        return result

    def add_diagonal(self, diagonal: "complex | NDArray[Any] | Tensor") -> "H2Matrix":
        """Return A + diagonal (a number, or shape (n,) in the caller's order); the compression is shared."""
        self._require_square("add_diagonal")
        added = as_diagonal(diagonal, self.shape[0])
        if added is None:
            return self
        added = added[self.rows.permutation]
        return self.with_diagonal_term(added if self.diagonal_term is None else self.diagonal_term + added)

    def with_diagonal_term(self, term: NDArray[Any] | None) -> "H2Matrix":
        """Return the matrix with another `diagonal_term`; a complex one makes it complex."""
        dtype = self.dtype if term is None else result_type(self.dtype, term.dtype)
        result = replace(self, diagonal_term=term, dtype=dtype)
        vars(result)["_copies"] = self._copies
        return result

    def add_sparse(self, i: NDArray[np.int64], j: NDArray[np.int64], values: NDArray[Any]) -> "H2Matrix":
        """Return A with values added to entries of its near field; see `correction.add_sparse`."""
        from pipeline.hmatrix.correction import add_sparse

        return add_sparse(self, i, j, values)

    def to_dense(self) -> NDArray[Any]:
        """Return the matrix as it is represented, shape (n, m): for tests and small ones."""
        return self @ np.eye(self.shape[1], dtype=self.dtype)

    def error_estimate(self, *, seed: int = 0, n_rows: int | None = None, n_vectors: int = 8) -> float:
        """Return the relative 2-norm error of products with random vectors, on sampled exact rows.

        Args:
            seed: Of rows and vectors.
            n_rows: Spread over all regions; by default at least 128, and all of up to 2,800.
            n_vectors: Random vectors.

        Raises:
            ValueError: If the matrix has no kernel to give exact rows.
        """
        from pipeline.hmatrix.compression import sampled_error

        return sampled_error(self, seed=seed, n_rows=n_rows, n_vectors=n_vectors)

    def factorize(
        self, tolerance: float | None = None, kind: str = "auto", *, progress: Progress | None = None
    ) -> "Factorization":
        """Factorize in near-linear time; see `factor.factorize`."""
        from pipeline.hmatrix.factor import factorize

        return factorize(self, tolerance=tolerance, kind=kind, progress=progress)

    def solve(
        self,
        b: Vectors,
        tolerance: float | None = None,
        *,
        factorization: "Factorization | None" = None,
        max_iterations: int = 300,
    ) -> "tuple[Vectors, SolveInfo]":
        """Solve A x = b by Krylov iteration on A, preconditioned by a loose factorization: the default way.

        Args:
            b: Shape (n,) or (n, m). The solution is as precise as the matrix, or as b where that is more.
            tolerance: Relative residual |b - A x| / |b|, 2-norm, of each column; if left out 1e-8, or 1e-5 where the
                solution is of single precision.
            factorization: To precondition with. Otherwise a loose one is made, in single precision, and a tighter one
                if 50 iterations with it do not suffice; `info.notes` tell.
            max_iterations: Of conjugate gradients, or of GMRES where A is not positive definite.

        Raises:
            ConvergenceError: If the tolerance is not reached.
        """
        from pipeline.hmatrix.preconditioned import solve

        return solve(self, b, tolerance=tolerance, factorization=factorization, max_iterations=max_iterations)

    def part(self, number: int, count: int) -> "H2Matrix":
        """Return share `number` of `count` whose products sum up to A's: a share of near and far pairs.

        Shares hold about equally many bytes and share memory with A; the first also holds the diagonal.
        """
        from pipeline.hmatrix.structure import share

        return share(self, number, count)

    def structure(self) -> dict[str, Any]:
        """Return what plots and tables show, as JSON can hold it; see `structure.describe`."""
        from pipeline.hmatrix.structure import describe

        return describe(self)

    def save(self, path: "Path | str") -> None:
        """Write the matrix into a folder; see `storage.save`."""
        from pipeline.hmatrix.storage import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: "Path | str") -> "H2Matrix":
        """Read a matrix that `save` wrote, in any process."""
        from pipeline.hmatrix.storage import load

        return load(Path(path))

    def as_linear_operator(self) -> LinearOperator:
        """Return the same for SciPy's iterative methods."""
        return LinearOperator(
            self.shape,
            matvec=lambda x: self @ x.reshape(-1),
            rmatvec=lambda x: np.conj(self.product_transposed(np.conj(x.reshape(-1)))),
            matmat=lambda x: self @ x,
            rmatmat=lambda x: np.conj(self.product_transposed(np.conj(x))),
            dtype=self.dtype,
        )

    @classmethod
    def from_operator(
        cls,
        tree: "ClusterTree | NDArray[Any]",
        product: "Callable[[NDArray[Any]], NDArray[Any]]",
        entries: "Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] | None" = None,
        **options: Any,
    ) -> "H2Matrix":
        """Compress an operator known by its products; see `from_operator.from_operator`."""
        from pipeline.hmatrix.from_operator import from_operator

        return from_operator(tree, product, entries, **options)

    def __add__(self, other: "H2Matrix") -> "H2Matrix":
        if not isinstance(other, H2Matrix):
            return NotImplemented
        from pipeline.hmatrix.algebra import add

        return add(self, other)

    def __sub__(self, other: "H2Matrix") -> "H2Matrix":
        return self + (-other) if isinstance(other, H2Matrix) else NotImplemented

    def inverse(self, *, tolerance: float | None = None) -> "H2Matrix":
        """Return the inverse, compressed; see `algebra.inverse`."""
        from pipeline.hmatrix.algebra import inverse

        return inverse(self, tolerance=tolerance)

    def recompress(self, *, tolerance: float | None = None) -> "H2Matrix":
        """Return the matrix compressed anew; see `algebra.recompress`."""
        from pipeline.hmatrix.algebra import recompress

        return recompress(self, tolerance=tolerance)

    def _require_square(self, what: str) -> None:
        if not self.is_square:
            raise ValueError(f"{what} wants a square matrix over one point set, not {self.shape}")

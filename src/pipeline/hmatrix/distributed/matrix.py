"""`DistributedH2Matrix`, the public class of H2 matrices that are divided among processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from pipeline.hmatrix.admissibility import Admissibility, as_admissibility
from pipeline.hmatrix.batched.padding import to_device
from pipeline.hmatrix.distributed.build import compress
from pipeline.hmatrix.distributed.diagonal import add_diagonal, common_term, own_diagonal
from pipeline.hmatrix.distributed.exact_rows import require_alike_entries, sampled_error
from pipeline.hmatrix.distributed.factor import DistributedFactorization, factorize
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.multiples import divided, scaled
from pipeline.hmatrix.distributed.product import product
from pipeline.hmatrix.distributed.solve import solve
from pipeline.hmatrix.distributed.statistics import of_matrix
from pipeline.hmatrix.distributed.storage import load, on_disk, save
from pipeline.hmatrix.distributed.structure import level_table, shown_blocks
from pipeline.hmatrix.distributed.vectors import act
from pipeline.hmatrix.entries import program
from pipeline.hmatrix.inputs import (
    CPU,
    Progress,
    as_array,
    as_diagonal,
    as_points,
    described,
    dtype_of,
    require_block,
    require_count,
    require_kernel,
    require_nugget,
    require_progress,
    require_seed,
    require_tolerance,
)
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.krylov import SolveInfo
from pipeline.hmatrix.vectors import Vectors
from pipeline.runtime.communicator import Communicator, Counting, counting_of
from pipeline.runtime.together import require_alike, together
from pipeline.runtime.words import shown

_TRIED = 32  # points at which a user's kernel is tried


@dataclass(frozen=True, eq=False, repr=False)
class DistributedH2Matrix:
    """A compressed matrix of which each process holds its rows. Every method is collective.

    Vectors are divided as the caller divided the points: each process has the entries of the points that it passed.

    Attributes:
        form: This process's part of the matrix.
        communicator: The processes, and counts of their messages.
    """

    form: OwnForm
    communicator: Counting

    # Makes NumPy's arrays and numbers leave their products with a matrix to this class.
    __array_ufunc__: ClassVar[None] = None

    @classmethod
    def from_kernel(
        cls,
        own_points: "NDArray[Any] | Tensor",
        kernel: Kernel,
        communicator: Communicator,
        *,
        diagonal: "complex | NDArray[Any] | Tensor | None" = None,
        tolerance: float = 1e-6,
        leaf_size: int | None = None,
        admissibility: Admissibility | str | None = None,
        progress: Progress | None = None,
    ) -> "DistributedH2Matrix":
        """Compress the matrix k(points[i], points[j]) + diagonal over the points of all processes.

        Args:
            own_points: This process's points, shape (n, d), in any split; perhaps none. Rows of the matrix are numbered
                process by process.
            kernel: The kernel, the same on all processes.
            communicator: The processes.
            diagonal: A number, the same on all processes, or shape (n,) for the own rows.
            tolerance, leaf_size, admissibility: See `H2Matrix.from_kernel`; they are the same on all processes.
            progress: Called with the number of boxes that this process has compressed, and the number of all.

        Raises:
            ConfigError, ConvergenceError, TypeError, ValueError: As for `H2Matrix.from_kernel`, or if processes pass
                different arguments. An error of one process is raised on all.
        """
        counting = counting_of(communicator)
        with together(communicator):
            require_kernel(kernel)
            require_progress(progress)
            require_tolerance(tolerance)
            if leaf_size is not None:
                require_count(leaf_size, "leaf_size")
            points = as_points(own_points, "own_points")
            rule = as_admissibility(admissibility)
            term = as_diagonal(diagonal, len(points))
            if kernel.positive_definite and not kernel.singular:
                require_nugget(term)
            if len(points) and not program(kernel, points.shape[1]):
                few = points[:: -(-len(points) // _TRIED)].astype(np.float64)
                require_block(kernel, to_device(few, CPU))
        require_alike(
            communicator,
            {
                "kernel": described(kernel),
                "tolerance": float(tolerance),
                "dtype": points.dtype.name,
                "number of coordinates": points.shape[1],
                "leaf_size": leaf_size,
                "admissibility": None if rule is None else repr(rule),
            },
        )
        require_alike_entries(kernel, points.astype(np.float64), communicator)
        term = common_term(diagonal, term, len(points), communicator)
        dtype = dtype_of(
            points, is_complex=kernel.is_complex or (term is not None and term.dtype.kind == "c")
        )
        form = compress(
            points, kernel, counting,
            diagonal=term, tolerance=tolerance, leaf_size=leaf_size, admissibility=rule, dtype=dtype,
            progress=progress,
        )  # fmt: skip
        return cls(form, counting)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied.

        Raises:
            TypeError: If the matrix is spread over processes, which cannot be copied together.
        """
        if self.communicator.size > 1:
            raise TypeError(
                "a matrix that is spread over processes cannot be pickled or copied; A.save(folder) writes it"
            )
        return vars(self)

    def __repr__(self) -> str:
        n = self.shape[0]
        return (
            f"DistributedH2Matrix({n} x {n} {self.dtype}, {type(self.form.kernel).__name__}, tolerance "
            f"{self.form.tolerance:.0e}, process {self.communicator.rank} of {self.communicator.size}: "
            f"{self.form.route.n_rows} rows, {self.n_bytes / 1e6:.1f} MB)"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of all processes."""
        return self.form.division.n_points, self.form.division.n_points

    @property
    def n_own_rows(self) -> int:
        """Number of entries of a vector on this process."""
        return self.form.route.n_rows

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.form.dtype

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know about the construction."""
        return self.form.notes

    @property
    def n_bytes(self) -> int:
        """Bytes of blocks, bases and diagonal on this process."""
        return self.form.n_bytes

    def __matmul__(self, own_x: Vectors) -> Vectors:
        """Return own rows of A x for own rows of x, shape (own rows,) or (own rows, m)."""
        return act(
            self.form,
            own_x,
            lambda rows: product(self.form, rows, self.communicator),
            self.communicator,
            "the product",
        )

    def __rmatmul__(self, own_x: Any) -> Any:
        """Return own columns of x A for own columns of x, shape (own rows,) or (m, own rows)."""
        values: Any = own_x if isinstance(own_x, Tensor) else as_array(own_x)
        return self.T @ values if values.ndim == 1 else (self.T @ values.T).T

    @property
    def T(self) -> "DistributedH2Matrix":
        """The matrix itself, which has to be symmetric."""
        if not self.form.mirrored:
            raise ValueError(
                "a divided matrix has a transpose only if it is symmetric; compress the kernel k(y, x) instead"
            )
        return self

    def __mul__(self, factor: complex) -> "DistributedH2Matrix":
        """Return A · factor; the factor is the same on all processes."""
        return DistributedH2Matrix(scaled(self.form, factor, self.communicator.inner), self.communicator)

    def __rmul__(self, factor: complex) -> "DistributedH2Matrix":
        """Return factor · A."""
        return self * factor

    def __truediv__(self, divisor: complex) -> "DistributedH2Matrix":
        """Return A / divisor."""
        return DistributedH2Matrix(divided(self.form, divisor, self.communicator.inner), self.communicator)

    def __neg__(self) -> "DistributedH2Matrix":
        return self * -1.0

    def __add__(self, other: object) -> None:
        """Raise TypeError on all processes: kernels can be added instead."""
        with together(self.communicator.inner):
            raise TypeError(
                f"{shown(other)} cannot be added to or subtracted from a divided matrix: compress the sum of the "
                "kernels, k1 + k2; A.add_diagonal(number) adds to the diagonal"
            )

    __radd__ = __sub__ = __rsub__ = __add__

    def diagonal(self) -> NDArray[Any]:
        """Return the own entries of the diagonal."""
        own = own_diagonal(self.form).astype(self.dtype)
        return self.form.route.back(self.communicator, own)

    def add_diagonal(self, added: "complex | NDArray[Any] | Tensor | None") -> "DistributedH2Matrix":
        """Return A + added: a number, the same on all processes, or numbers for own rows; the compression is shared."""
        form = add_diagonal(self.form, added, self.communicator.inner)
        return DistributedH2Matrix(form, self.communicator)

    def factorize(
        self,
        tolerance: float | None = None,
        kind: str = "auto",
        *,
        parts: int | None = None,
        device: torch.device | str | None = None,
        speeds: str | Sequence[float] | None = None,
        progress: Progress | None = None,
    ) -> DistributedFactorization:
        """Factorize by parts, some on each process.

        All data is divided; of others' boxes, a process knows a few per process and the surroundings of its own boxes.

        Args:
            tolerance, kind, parts, progress: See `H2Matrix.factorize`; they are the same on all processes.
            device: Device on which this process eliminates its boxes in batches, such as its GPU; other processes may
                work natively.
            speeds: Relative number of boxes that each process should own: one number per process, the same list on all,
                or "measured" to time a few boxes of each level on all processes first. `speeds` of the result has the
                measurements; their numbers (`boxes_per_second`) give the same division again.
        """
        return factorize(
            self.form, self.communicator,
            tolerance=tolerance, kind=kind, parts=parts, device=device, speeds=speeds, progress=progress,
        )  # fmt: skip

    def solve(
        self,
        own_b: Vectors,
        tolerance: float | None = None,
        *,
        factorization: DistributedFactorization | None = None,
        max_iterations: int = 300,
    ) -> tuple[Vectors, SolveInfo]:
        """Solve A x = b by Krylov iteration, preconditioned by a loose factorization; both divided by rows.

        Args:
            own_b: Shape (own rows,) or (own rows, m).
            tolerance: Relative residual of each column, 2-norm; if left out 1e-8, or 1e-5 in single precision.
            factorization: The preconditioner; by default a loose one is made.
            max_iterations: Largest number of iterations of conjugate gradients, or of GMRES if A is not definite.

        Returns:
            Own rows of x, and how the solve went. `info.relative_residual` is the residual with the compressed matrix,
            `info.exact_residual` the one on sampled exact rows; a warning is logged if it is over ten times larger.

        Raises:
            ConvergenceError: If the tolerance is not reached, or the residual on exact rows makes x meaningless; all
                processes raise it.
        """
        with together(self.communicator.inner):
            if tolerance is not None:
                require_tolerance(tolerance)
            require_count(max_iterations, "max_iterations")
            if factorization is not None and not isinstance(factorization, DistributedFactorization):
                raise TypeError(
                    f"factorization must be the result of A.factorize(), not {shown(factorization)}"
                )
            if factorization is not None and not self.form.division.is_order_of(factorization.form.division):
                raise ValueError(
                    "factorization is that of a matrix with other points, or whose boxes have other sizes"
                )
        given = None if factorization is None else "given"
        alike = {"tolerance": tolerance, "max_iterations": max_iterations, "factorization": given}
        require_alike(self.communicator.inner, alike)
        told: list[SolveInfo] = []

        def solved(b: NDArray[Any]) -> NDArray[Any]:
            x, info = solve(
                self.form, b, self.communicator,
                tolerance=tolerance, factorization=factorization, max_iterations=max_iterations,
            )  # fmt: skip
            told.append(info)
            return x

        return act(self.form, own_b, solved, self.communicator, "solve"), told[0]

    def save(self, path: Path | str) -> None:
        """Write the matrix into a folder, a shard for each process; see `storage.save`."""
        save(self.form, path, self.communicator)

    def on_disk(self, path: Path | str) -> "DistributedH2Matrix":
        """Return the same matrix with its blocks in files of a folder, from which products read them.

        Once `self` is deleted, the memory of the blocks is free for a factorization. The folder has to stay as long as
        the matrix is used.
        """
        return DistributedH2Matrix(on_disk(self.form, path, self.communicator), self.communicator)

    @classmethod
    def load(
        cls, path: Path | str, communicator: Communicator, *, n_own_rows: int | None = None
    ) -> "DistributedH2Matrix":
        """Read a matrix that any number of processes saved; see `storage.load`. `H2Matrix.load` reads it whole."""
        counting = counting_of(communicator)
        return cls(load(path, counting, n_own_rows), counting)

    def error_estimate(self, *, seed: int = 0, n_vectors: int = 8) -> float:
        """Return the relative 2-norm error of products with random vectors, on sampled exact rows.

        Seed and number of vectors are the same on all processes.
        """
        with together(self.communicator.inner):
            require_count(n_vectors, "n_vectors")
            require_seed(seed)
        require_alike(self.communicator.inner, {"seed": seed, "n_vectors": n_vectors})
        return sampled_error(self.form, self.communicator, seed=seed, n_vectors=n_vectors)

    def statistics(self) -> dict[str, Any]:
        """Return what each process holds, has computed and has sent, in a form that JSON can hold.

        Returns:
            Lists with an entry for each process: `rows`, `n_bytes` of the matrix, `points_of_others` that its blocks
            and samples have touched; since the build began, `sent_bytes` and `calls` of the communicator and the
            `waiting_seconds` inside them. `levels` is a list of rows, one for each process and level: `boxes`,
            `bytes`, `product_flops` of one product with a vector, `seconds` of building bases; `messages` (calls),
            `sent_bytes` and `waiting_seconds` of what is exchanged for this level alone, since the build began.

            Messages of a single level have the bounds of its boxes, and everything of a factorization: its plan,
            points, records and solves. On the lowest level they also have the points of near leaves and, in a product,
            their x; on the level at which boxes are dealt to processes, the bases above it and, in a product, their
            coefficients. Other messages are of all levels at once, and count in the sums alone: the points of samples,
            the skeletons and coefficients of far boxes, the rows of checks, and vectors between the caller's order and
            the tree's.
        """
        return of_matrix(self.form, self.communicator)

    def level_table(self) -> list[dict[str, Any]]:
        """Return a row per level over all processes, from the top; see `structure.level_rows`."""
        return level_table(self.form, self.communicator)

    def shown_blocks(self) -> tuple[NDArray[np.int32], int]:
        """Return blocks for a plot on process 0 and how many were left out; see `structure.shown_blocks`."""
        return shown_blocks(self.form, self.communicator)

    def as_linear_operator(self) -> LinearOperator:
        """Return the matrix as a SciPy operator on own rows; SciPy's dot products do not span processes."""
        shape = (self.n_own_rows, self.n_own_rows)
        return LinearOperator(
            shape, matvec=lambda x: self @ x.reshape(-1), matmat=lambda x: self @ x, dtype=self.dtype
        )

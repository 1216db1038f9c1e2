"""`DistributedLowRank`: a smooth covariance of points in many dimensions as F F' + D, divided among processes by rows.

In many dimensions most boxes are near each other, and a hierarchical form gains little over the dense one; but the
matrix of a smooth kernel has few large eigenvalues, and columns at pivots drawn at random find them (`pivoted.py`).
The residual diagonal is kept, so that the matrix stays positive definite and has errors only off the diagonal. Storage
is n times the rank. A solve by the formula of Sherman, Morrison and Woodbury needs no tolerance; its rounding error
grows with |K| / diagonal.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ArtifactError, ConfigError, ConvergenceError
from pipeline.hmatrix.checked_files import CheckedFiles
from pipeline.hmatrix.distributed.vectors import checked
from pipeline.hmatrix.inputs import as_points, described, require_rows, require_seed, require_tolerance
from pipeline.hmatrix.kernels import Kernel
from pipeline.hmatrix.pivoted import PivotedCholesky, Woodbury, require_covariance
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.swap import Array, gather, summed
from pipeline.hmatrix.vectors import Vectors
from pipeline.runtime.communicator import Communicator, Counting, counting_of
from pipeline.runtime.predicted_memory import MOST_COLUMNS
from pipeline.runtime.together import require_alike, together
from pipeline.runtime.words import shown

_FILES = CheckedFiles("low_rank", what="matrix of low rank", version=1, again="compress the matrix again")


@dataclass(frozen=True, eq=False, repr=False)
class DistributedLowRank:
    """A matrix F F' + D of which each process holds its rows, in the caller's order. Every method is collective.

    Attributes:
        factor: Own rows of F, shape (n, rank).
        diagonal: Own rows of D, shape (n,).
        communicator: The processes, and counts of their messages.
        tolerance: Relative error that was asked for.
        relative_error: Relative error on sampled exact rows.
        seconds: Time of building.
    """

    factor: Array
    diagonal: Array
    communicator: Counting
    tolerance: float
    relative_error: float
    seconds: float = 0.0

    @classmethod
    def from_kernel(
        cls,
        own_points: "NDArray[Any] | Tensor",
        kernel: Kernel,
        communicator: Communicator,
        *,
        diagonal: float,
        tolerance: float = 1e-6,
        seed: int = 0,
    ) -> "DistributedLowRank":
        """Compress the matrix k(points[i], points[j]) + diagonal over the points of all processes.

        Costs O(n rank²) and n rank entries. The error is that of products with random vectors, on 64 exact rows.

        Args:
            own_points: Shape (n, d), this process's.
            kernel: A covariance, the same on all processes.
            communicator: The processes.
            diagonal: Number above 0 that is added to the diagonal.
            tolerance: Relative error of products, without the diagonal.
            seed: Seed of the pivots.

        Raises:
            ConfigError: If the kernel is no covariance, or the diagonal not above 0.
            ConvergenceError: If a quarter of all columns does not reach the tolerance.
        """
        counting, start = counting_of(communicator), time.perf_counter()
        with together(communicator):
            require_covariance(kernel)
            require_tolerance(tolerance)
            require_seed(seed)
            is_number = isinstance(diagonal, int | float | np.number) and not np.iscomplexobj(diagonal)
            if not is_number or not 0 < diagonal < math.inf:
                raise ConfigError(f"diagonal must be a number above 0, found {shown(diagonal)}")
            points = as_points(own_points, "own_points").astype(np.float64)
        alike = {
            "kernel": described(kernel), "tolerance": float(tolerance), "diagonal": float(diagonal), "seed": seed,
            "number of coordinates": points.shape[1],
        }  # fmt: skip
        require_alike(communicator, alike)
        n = sum(_counts(counting, len(points)))
        found = PivotedCholesky.of(
            points, kernel, rank=math.ceil(MOST_COLUMNS * n), generator=stream(Purpose.PIVOTS, seed),
            tolerance=tolerance, communicator=counting,
        )  # fmt: skip
        if found.relative_error > tolerance:
            raise ConvergenceError(
                f"{found.rank} columns of {n} leave a relative error of {found.relative_error:.1e} where "
                f"{tolerance:.0e} was asked for: the kernel is not smooth enough for a low rank; ask for a larger "
                "tolerance, or take the hierarchical form (compress.form in a study, DistributedH2Matrix in Python)"
            )
        return cls(
            found.factor, found.left + diagonal, counting, tolerance, found.relative_error,
            time.perf_counter() - start,
        )  # fmt: skip

    @property
    def rank(self) -> int:
        """Number of columns of F."""
        return int(self.factor.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of all processes."""
        n = sum(_counts(self.communicator, len(self.factor)))
        return n, n

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know about the construction."""
        return (
            f"{self.rank} columns at pivots drawn at random and the rest of the diagonal stand for the matrix",
        )

    @property
    def n_bytes(self) -> int:
        """Bytes on this process."""
        return int(self.factor.nbytes + self.diagonal.nbytes)

    def __matmul__(self, own_x: Vectors) -> Vectors:
        """Return own rows of A x for own rows of x, shape (own rows,) or (own rows, m)."""
        return self.acted(
            own_x, lambda x: self.factor @ self._total(self.factor.T @ x) + self.diagonal[:, None] * x
        )

    def factorize(self) -> "LowRankFactorization":
        """Return a factorization by the formula of Sherman, Morrison and Woodbury, which needs no tolerance.

        Costs O(n rank²). The residual |A x - b| / |b| is about the unit roundoff times |K| / diagonal.
        """
        return LowRankFactorization(self, Woodbury(self.factor, self.diagonal, self.communicator))

    def error_estimate(self) -> float:
        """Return the relative error of products with random vectors, without the diagonal, on exact rows."""
        return self.relative_error

    def level_table(self) -> list[dict[str, Any]]:
        """Return a table with a single level, as `DistributedH2Matrix.level_table` does."""
        n = self.shape[0]
        n_bytes = int(self._total(np.array([float(self.n_bytes)]))[0])
        return [
            {
                "level": 0, "boxes": 1, "unknowns": n, "skeletons": self.rank, "near_blocks": 0, "far_blocks": 1,
                "bytes": n_bytes, "largest_rank": self.rank, "seconds": self.seconds,
            }
        ]  # fmt: skip

    def shown_blocks(self) -> tuple[NDArray[np.int32], int]:
        """Return an empty list of blocks and 0: the matrix has no structure to show."""
        return np.zeros((0, 5), np.int32), 0

    def statistics(self) -> dict[str, Any]:
        """Return what `DistributedH2Matrix.statistics` does."""
        own = np.array(
            [
                [
                    len(self.factor),
                    self.n_bytes,
                    sum(self.communicator.n_bytes.values()),
                    sum(self.communicator.n_calls.values()),
                    sum(self.communicator.waiting.values()),
                ]
            ],
            np.float64,
        )
        table = np.concatenate(gather(self.communicator.inner, own))
        levels = [
            {
                "process": process, "level": 0, "boxes": 1, "bytes": int(n_bytes),
                "product_flops": 4 * int(rows) * self.rank, "seconds": self.seconds,
            }
            for process, (rows, n_bytes, *_) in enumerate(table.tolist())
        ]  # fmt: skip
        names = ("rows", "n_bytes", "sent_bytes", "calls")
        return {name: table[:, i].astype(int).tolist() for i, name in enumerate(names)} | {
            "waiting_seconds": table[:, 4].tolist(),
            "levels": levels,
        }

    def save(self, path: Path | str) -> None:
        """Write own rows into a subfolder of `path`, which is the same for all processes."""
        with together(self.communicator.inner):
            folder = Path(path)
        require_alike(self.communicator.inner, {"path": str(folder)})
        sizes = _counts(self.communicator, len(self.factor))
        with together(self.communicator.inner):
            _FILES.write(
                _part(folder, self.communicator.rank),
                {
                    "sizes": sizes,
                    "tolerance": self.tolerance,
                    "relative_error": self.relative_error,
                    "seconds": self.seconds,
                },
                {"factor": self.factor, "diagonal": self.diagonal},
            )

    @classmethod
    def load(cls, path: Path | str, communicator: Communicator, *, n_own_rows: int) -> "DistributedLowRank":
        """Read rows that any number of processes saved: n_own_rows for each process in turn.

        Raises:
            ArtifactError: If a file is missing or damaged, or the processes' rows are not those of the matrix.
            ConfigError, TypeError, ValueError: If an argument of one process does not fit; all processes raise it.
        """
        counting = counting_of(communicator)
        with together(communicator):
            folder = Path(path)
            require_rows(n_own_rows)
        require_alike(communicator, {"path": str(folder)})
        counts = _counts(counting, n_own_rows)
        first = sum(counts[: communicator.rank])
        last = first + n_own_rows
        with together(communicator):
            about, arrays = _FILES.read(_part(folder, 0))
            edges = np.append(0, np.cumsum(about["sizes"]))
            if sum(counts) != edges[-1]:
                raise ArtifactError(
                    f"{path} holds a matrix of {edges[-1]} rows, and {sum(counts)} were asked for"
                )
            factors, diagonals = [arrays["factor"][:0]], [arrays["diagonal"][:0]]
            for part, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
                if low < last and first < high:
                    _, arrays = _FILES.read(_part(folder, part))
                    rows = slice(max(first - low, 0), last - low)
                    factors.append(arrays["factor"][rows])
                    diagonals.append(arrays["diagonal"][rows])
        return cls(
            np.concatenate(factors), np.concatenate(diagonals), counting, about["tolerance"],
            about["relative_error"], about["seconds"],
        )  # fmt: skip

    def _total(self, own: Array) -> Array:
        return summed(self.communicator, own)

    def acted(self, own_x: Vectors, action: Callable[[Array], Array]) -> Vectors:
        """Apply an action to own rows of vectors, shape (own rows,) or (own rows, m)."""
        values = checked(len(self.factor), own_x, self.communicator.inner, "the matrix")
        columns = values if values.ndim == 2 else values[:, None]
        result = action(columns).reshape(values.shape)
        return torch.from_numpy(result) if isinstance(own_x, Tensor) else result


def _counts(communicator: Communicator, n_own: int) -> list[int]:
    return [int(part[0]) for part in gather(communicator, np.array([n_own]))]


def _part(folder: Path, process: int) -> Path:
    return folder / f"rows-{process:05d}"


@dataclass(frozen=True, eq=False)
class LowRankFactorization:
    """A factorization of a matrix of low rank plus a diagonal. Every method is collective.

    Attributes:
        matrix: The matrix.
        inverse: The inverse of the matrix.
        kind, notes, speeds: As a `DistributedFactorization` has them.
    """

    matrix: DistributedLowRank
    inverse: Woodbury
    kind: str = "cholesky"
    notes: tuple[str, ...] = ()
    speeds: tuple[Any, ...] = ()

    @property
    def used_tolerance(self) -> float:
        """The tolerance of the matrix, to which solves add rounding errors only."""
        return self.matrix.tolerance

    def solve(self, own_b: Vectors) -> Vectors:
        """Return own rows of A^-1 b for own rows of b, shape (own rows,) or (own rows, m)."""
        return self.matrix.acted(own_b, self.inverse.solve)

    def logdet(self) -> float:
        """Return log det A."""
        return self.inverse.logdet()

    def statistics(self) -> list[dict[str, Any]]:
        """Return a row per process, as `DistributedFactorization.statistics` does."""
        rank = self.matrix.rank
        return [
            {
                "process": row["process"], "level": 0, "boxes": 1, "unknowns": 0, "skeletons": rank,
                "bytes": 8 * rank**2, "flops": row["product_flops"] * rank // 2, "messages": 0, "sent_bytes": 0,
                "seconds": 0.0, "waiting_seconds": 0.0,
            }
            for row in self.matrix.statistics()["levels"]
        ]  # fmt: skip

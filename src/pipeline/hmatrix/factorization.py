"""A factorized matrix: its elimination steps, and solves, roots and determinants from them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import factor_storage
from pipeline.hmatrix.batched.steps import (
    MULTIPLY_ROOT,
    MULTIPLY_ROOT_TRANSPOSED,
    SOLVE,
    SOLVE_TRANSPOSED,
    BatchedSteps,
    act,
)
from pipeline.hmatrix.gradients import linear
from pipeline.hmatrix.inputs import CPU, require_draws, torch_dtype
from pipeline.hmatrix.parts import Substitution
from pipeline.hmatrix.rounding import wide_type
from pipeline.hmatrix.trust import TIGHTEST, Trust
from pipeline.hmatrix.vectors import Vectors, apply, apply_on_device, to_tensor

KINDS = {"cholesky": 0, "ldlt": 1, "lu": 2}  # as native/eliminate.hpp numbers them


@dataclass(frozen=True, eq=False)
class Factorization:
    """A factorized matrix.

    Attributes:
        steps: Eliminations by parts on the CPU, or the batches of each level, leaves first, on a device.
        permutation: The tree's order of the points; vectors come and go in the caller's order.
        kind: "cholesky", "ldlt" or "lu".
        tolerance: Tolerance that was asked for.
        used_tolerance: Tolerance that was used, after any tightening.
        dtype: Type of the solutions.
        computed: Type of the elimination: single precision at loose tolerances.
        notes: Remarks for the caller, such as tightenings.
        device: The device that holds the factors and solves.
        trust: Measured accuracy; None if it was not measured.
    """

    steps: Substitution | tuple[BatchedSteps, ...]
    permutation: NDArray[np.int64]
    kind: str
    tolerance: float
    used_tolerance: float
    dtype: np.dtype[Any]
    computed: np.dtype[Any]
    notes: tuple[str, ...] = field(default=())
    device: torch.device = CPU
    trust: Trust | None = None

    def __repr__(self) -> str:
        n = len(self.permutation)
        return (
            f"Factorization({n} x {n} {self.dtype}, {self.kind}, tolerance {self.used_tolerance:.0e} "
            f"in {self.computed}, {self.n_bytes / 1e6:.1f} MB)"
        )

    def save(self, path: Path | str) -> None:
        """Write the factorization into a folder; see `factor_storage.save`."""
        factor_storage.save({f.name: getattr(self, f.name) for f in fields(self)}, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> "Factorization":
        """Read a factorization that `save` wrote, in any process; see `factor_storage.load`."""
        return cls(**factor_storage.load(Path(path), KINDS))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.permutation), len(self.permutation)

    @property
    def n_bytes(self) -> int:
        if isinstance(self.steps, Substitution):
            return self.steps.n_bytes
        return sum(level.n_bytes for level in self.steps)

    @property
    def n_parts(self) -> int:
        """Number of parts. It and the matrix determine every bit of a result."""
        return self.steps.n_parts if isinstance(self.steps, Substitution) else 1

    def solve(self, b: Vectors) -> Vectors:
        """Return A^-1 b for b of shape (n,) or (n, m)."""
        return linear(b, self._solve, self._solve_transposed)

    def solve_transposed(self, b: Vectors) -> Vectors:
        """Return A^-T b, not conjugated."""
        return linear(b, self._solve_transposed, self._solve)

    def _solve(self, b: Any) -> Any:
        return self._act(b, "solve", batched=SOLVE)

    def _solve_transposed(self, b: Any) -> Any:
        return self._act(b, "solve_transposed", batched=SOLVE if self.kind != "lu" else SOLVE_TRANSPOSED)

    def multiply_root(self, z: Vectors) -> Vectors:
        """Return L z, where L L^T = A, for z of shape (n,) or (n, m). Cholesky only."""
        self._require_root()
        return self._act(z, "multiply_root", batched=MULTIPLY_ROOT)

    def multiply_root_transposed(self, x: Vectors) -> Vectors:
        """Return L^T x, whose squares add up to x^T A x, for x of shape (n,) or (n, m). Cholesky only."""
        self._require_root()
        return self._act(x, "multiply_root_transposed", batched=MULTIPLY_ROOT_TRANSPOSED)

    def _require_root(self) -> None:
        if self.kind != "cholesky":
            raise ValueError(f"only a Cholesky factorization has a root, and this is {self.kind}")

    def sample(
        self, generator: torch.Generator | np.random.Generator, n_samples: int | None = None
    ) -> torch.Tensor:
        """Draw from the normal distribution of covariance A: shape (n,), or (n, n_samples)."""
        require_draws(generator, n_samples)
        shape = (len(self.permutation),) if n_samples is None else (len(self.permutation), n_samples)
        normal = (
            torch.from_numpy(generator.standard_normal(shape))
            if isinstance(generator, np.random.Generator)
            else torch.randn(*shape, generator=generator, device=generator.device, dtype=torch.float64)
        )
        return self.multiply_root(normal.to(self.device))

    def slogdet(self) -> tuple[complex, float]:
        """Return sign (or phase) and logarithm of the absolute value of the determinant.

        The logarithm is within `trust.logdet_error` of the matrix's.

        Raises:
            ConvergenceError: If the error of compression may have changed the sign of an eigenvalue; never for a
                Cholesky factorization.
        """
        if self.trust is not None and self.kind != "cholesky" and not self.trust.sign_is_sure:
            raise ConvergenceError(
                f"the sign of the determinant is not known: the error of {self.kind} at tolerance "
                f"{self.used_tolerance:.0e} may move eigenvalues across 0; factorize at tolerance "
                f"{max(self.used_tolerance * 0.1 / self.trust.change, TIGHTEST):.0e}"
            )
        if isinstance(self.steps, Substitution):
            phase, size = self.steps.determinant
        else:
            phase = complex(np.prod([complex(*level.determinant[:2]) for level in self.steps]))
            size = float(sum(level.determinant[2] for level in self.steps))
        return (phase if self.dtype.kind == "c" else phase.real), size

    def logdet(self) -> float:
        """Return log det A.

        Raises:
            ValueError: If the determinant is not positive.
            ConvergenceError: See `slogdet`.
        """
        sign, size = self.slogdet()
        if self.dtype.kind == "c" or sign.real < 0:
            raise ValueError(
                "the determinant is not positive, so its logarithm is no real number; use slogdet"
            )
        return size

    def level_table(self) -> list[dict[str, Any]]:
        """Return a row per level, leaves first: boxes, unknowns, skeletons, seconds, bytes."""
        if isinstance(self.steps, Substitution):
            return [dict(row) for row in self.steps.table]
        return [
            {
                "boxes": int(level.table[0]),
                "unknowns": int(level.table[1]),
                "skeletons": int(level.table[2]),
                "seconds": float(level.seconds),
                "bytes": level.n_bytes,
            }
            for level in self.steps
        ]

    def _act(self, x: Vectors, what: str, *, batched: int) -> Vectors:
        computed, steps = wide_type(self.computed), self.steps
        if not isinstance(steps, Substitution):
            return self._act_on_device(
                x, lambda columns: act(steps, batched, columns), torch_dtype(computed), what
            )
        actions = {
            "solve": steps.solve,
            "solve_transposed": steps.solve if self.kind != "lu" else steps.solve_transposed,
            "multiply_root": steps.multiply_root,
            "multiply_root_transposed": steps.multiply_root_transposed,
        }
        return apply(
            x,
            actions[what],
            taken=self.permutation,
            given=self.permutation,
            computed=computed,
            dtype=self.dtype,
            what=what,
        )

    def _act_on_device(
        self, x: Vectors, action: Callable[[torch.Tensor], torch.Tensor], computed: torch.dtype, what: str
    ) -> Vectors:
        tensor = x if isinstance(x, torch.Tensor) else to_tensor(x)
        result = apply_on_device(
            tensor.to(self.device),
            action,
            taken=self._permutation_on_device,
            given=self._permutation_on_device,
            computed=computed,
            dtype=self.dtype,
            what=what,
        )
        return result.to(tensor.device) if isinstance(x, torch.Tensor) else result.cpu().numpy()

    @cached_property
    def _permutation_on_device(self) -> torch.Tensor:
        return torch.from_numpy(self.permutation).to(self.device)

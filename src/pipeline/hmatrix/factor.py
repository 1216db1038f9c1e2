"""Factorization by strong recursive skeletonization, in near-linear time and storage.

Level by level from the leaves, the far field of every box is compressed (exact rows of far blocks that earlier steps
have touched, a sample of the kernel's others); its redundant unknowns, free of the far field then, are eliminated by a
true Schur update of the box's skeletons and near boxes; skeletons merge into parents; a dense factorization ends it
[1, 2]. With weak admissibility near boxes are the box alone, and the same steps are HSS-ULV. On a CPU boxes are
eliminated one after the other (native/eliminate.cpp), elsewhere by color in batches (batched/elimination.py).

References:
    [1] Minden, Ho, Damle, Ying, "A recursive skeletonization factorization based on strong admissibility", MMS 2017.
    [2] Boukaram, Keyes, Li, Liu, Turkiyyah, arXiv:2509.11152, 2025.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.batched.elimination import Failure, Problem, eliminate
from pipeline.hmatrix.batched.steps import BatchedSteps, act
from pipeline.hmatrix.entries import kernel_matrix, represented_matrix
from pipeline.hmatrix.h2 import H2Matrix
from pipeline.hmatrix.inputs import CPU, Progress, require_tolerance, torch_dtype
from pipeline.hmatrix.skeleton import Sampling
from pipeline.hmatrix.threads import one_blas_thread
from pipeline.hmatrix.vectors import Vectors, apply, apply_on_device, to_tensor

logger = logging.getLogger("pipeline.hmatrix")

KINDS = {"cholesky": 0, "ldlt": 1, "lu": 2}
_SOLVE, _SOLVE_TRANSPOSED, _MULTIPLY_ROOT = 0, 1, 2
# From this tolerance on, rounding every step to single precision (6e-8) does not show.
_SINGLE_COMPUTES = 1e-3
# Norms whose squares, and the shares of them that boxes may lose, do not underflow.
SINGLE_HOLDS = (1e-12, 1e15)
_ROUNDING = 1e-3  # of the diagonal: a smaller pivot may be single precision's fault
_DENSE_END = 1200  # unknowns that are left to a dense factorization
_SHARE = 0.18  # of the tolerance that boxes may lose: what they lose meets in the steps that follow
_TIGHTEST = 1e-2  # of the matrix's own tolerance: a breakdown beyond is not the compression's


@dataclass(frozen=True, eq=False)
class Steps:
    """The eliminations of one level, flat, in the layout of native/eliminate.hpp; the last "level" is the dense end."""

    counts: NDArray[np.int32]
    index: NDArray[np.int32]
    values: NDArray[Any]
    pivots: NDArray[np.int32]
    determinant: NDArray[np.float64]  # real and imaginary part of its phase, logarithm of its size
    table: NDArray[np.int32]  # boxes, unknowns, skeletons
    seconds: float

    @property
    def n_bytes(self) -> int:
        return self.counts.nbytes + self.index.nbytes + self.values.nbytes + self.pivots.nbytes

    def __repr__(self) -> str:
        boxes, unknowns, skeletons = self.table
        return (
            f"Steps({boxes} boxes, {unknowns} unknowns, {skeletons} skeletons, {self.n_bytes / 1e6:.1f} MB)"
        )

    @cached_property
    def native(self) -> Any:
        """The same for native routines."""
        view = getattr(_native, f"Level_{self.values.dtype.name}")
        return view(self.counts, self.index, self.values, self.pivots)


@dataclass(frozen=True, eq=False)
class Factorization:
    """A factorized matrix.

    Attributes:
        levels: Steps of each level, leaves first.
        permutation: Of the tree; vectors come and go in the caller's order.
        kind: "cholesky", "ldlt" or "lu".
        tolerance: Asked for.
        used_tolerance: Used, after any tightening.
        dtype: Of solutions.
        computed: Type in which it was eliminated: single precision for loose ones.
        notes: What the caller should know, such as tightenings.
        device: Where it is, and acts.
    """

    levels: tuple[Steps, ...] | tuple[BatchedSteps, ...]
    permutation: NDArray[np.int64]
    kind: str
    tolerance: float
    used_tolerance: float
    dtype: np.dtype[Any]
    computed: np.dtype[Any]
    notes: tuple[str, ...] = field(default=())
    device: torch.device = CPU

    def __repr__(self) -> str:
        n = len(self.permutation)
        return (
            f"Factorization({n} x {n} {self.dtype}, {self.kind}, tolerance {self.used_tolerance:.0e} "
            f"in {self.computed}, {self.n_bytes / 1e6:.1f} MB)"
        )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.permutation), len(self.permutation)

    @property
    def n_bytes(self) -> int:
        return sum(level.n_bytes for level in self.levels)

    def solve(self, b: Vectors) -> Vectors:
        """Return A^-1 b for b of shape (n,) or (n, m)."""
        return self._act(b, _SOLVE, "solve")

    def solve_transposed(self, b: Vectors) -> Vectors:
        """Return A^-T b, not conjugated."""
        return self._act(b, _SOLVE if self.kind != "lu" else _SOLVE_TRANSPOSED, "solve_transposed")

    def multiply_root(self, z: Vectors) -> Vectors:
        """Return L z, with L L^T = A: of shape (n,) or (n, m) like z. Cholesky only."""
        if self.kind != "cholesky":
            raise ValueError(f"a root is that of a Cholesky factorization, not of {self.kind}")
        return self._act(z, _MULTIPLY_ROOT, "multiply_root")

    def sample(
        self, generator: torch.Generator | np.random.Generator, n_samples: int | None = None
    ) -> torch.Tensor:
        """Draw from the normal distribution of covariance A: shape (n,), or (n, n_samples)."""
        if not isinstance(generator, torch.Generator | np.random.Generator):
            raise TypeError(
                f"sample wants a generator, such as torch.Generator().manual_seed(0) or numpy.random.default_rng(0), "
                f"not {generator!r}"
            )
        shape = (len(self.permutation),) if n_samples is None else (len(self.permutation), n_samples)
        normal = (
            torch.from_numpy(generator.standard_normal(shape))
            if isinstance(generator, np.random.Generator)
            else torch.randn(*shape, generator=generator, device=generator.device, dtype=torch.float64)
        )
        return self.multiply_root(normal.to(self.device))

    def slogdet(self) -> tuple[complex, float]:
        """Return sign (or phase) and logarithm of the absolute value of the determinant."""
        phase = complex(
            np.prod([complex(level.determinant[0], level.determinant[1]) for level in self.levels])
        )
        size = float(sum(level.determinant[2] for level in self.levels))
        return (phase if self.dtype.kind == "c" else phase.real), size

    def logdet(self) -> float:
        """Return log det A of a matrix whose determinant is positive."""
        sign, size = self.slogdet()
        if self.dtype.kind == "c" or sign.real < 0:
            raise ValueError("log det of a matrix whose determinant is not positive; use slogdet")
        return size

    def level_table(self) -> list[dict[str, Any]]:
        """Return a row per level, leaves first: boxes, unknowns, skeletons, seconds, bytes."""
        return [
            {
                "boxes": int(level.table[0]),
                "unknowns": int(level.table[1]),
                "skeletons": int(level.table[2]),
                "seconds": float(level.seconds),
                "bytes": level.n_bytes,
            }
            for level in self.levels
        ]

    def _act(self, x: Vectors, action: int, what: str) -> Vectors:
        is_complex = self.computed.kind == "c"
        computed = np.dtype(np.complex128 if is_complex else np.float64)
        if isinstance(self.levels[0], BatchedSteps):
            levels = tuple(level for level in self.levels if isinstance(level, BatchedSteps))
            return self._act_on_device(
                x, lambda columns: act(levels, action, columns), torch_dtype(computed), what
            )
        views = [level.native for level in self.levels if isinstance(level, Steps)]

        def run(flat: NDArray[Any], m: int) -> NDArray[Any]:
            with one_blas_thread():
                return np.asarray(_native.act(views, KINDS[self.kind], action, flat, m))

        return apply(
            x,
            run,
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


Attempt = Callable[
    [np.dtype[Any], np.dtype[Any], Sampling],
    tuple[tuple[Steps, ...] | tuple[BatchedSteps, ...], Failure | None],
]


def factorize(
    A: H2Matrix,
    *,
    tolerance: float | None = None,
    kind: str = "auto",
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> Factorization:
    """Factorize A, with compression of its own.

    From a tolerance of 1e-3 on, all steps compute in single precision, at twice the speed; double precision takes over
    where a pivot fails that rounding may have spoiled, or where A is so small or large that squares leave the range of
    single precision. `computed` of the result tells which.

    Args:
        A: Square over one point set.
        tolerance: Relative Frobenius error of the matrix that is factorized; A's own by default. Looser ones make
            preconditioners.
        kind: "cholesky", "ldlt" (symmetric, not definite), "lu", or "auto": by what the kernel says of itself.
        progress: Told of the boxes done.
        device: Where batches of boxes are eliminated: the GPU that A lives on. Left out for a matrix on the CPU, boxes
            are eliminated natively, and so are those of matrices without kernel anywhere.

    Raises:
        ConvergenceError: If Cholesky meets a pivot that is not positive even after tightening, or a pivot vanishes.
    """
    if not A.is_square:
        raise ValueError(f"factorize wants a square matrix over one point set, not {A.shape}")
    tolerance = A.tolerance if tolerance is None else tolerance
    require_tolerance(tolerance)
    kind = _choose(A, kind)
    computed = np.dtype(np.complex128 if A.computed.kind == "c" else np.float64)
    # Rounding a factor costs accuracy in proportion to the condition number: single precision is for loose ones.
    diagonal = np.zeros(A.shape[0], computed) if A.diagonal_term is None else A.diagonal_term.astype(computed)
    held = SINGLE_HOLDS[0] <= np.hypot(A.norm, np.linalg.norm(diagonal)) <= SINGLE_HOLDS[1]
    narrow = np.dtype({"c": np.complex64, "f": np.float32}[computed.kind])
    stored = narrow if tolerance >= 1e-7 and held else computed
    single = tolerance >= _SINGLE_COMPUTES and held
    notes: tuple[str, ...] = ()
    if device is None and A.device.type != "cpu":
        if A.kernel is None:
            notes = (f"factorized on the CPU: entries of this matrix cannot be evaluated on {A.device}",)
            logger.info(notes[0])
        else:
            device = A.device
    attempt = (
        _natively(A, kind, diagonal, progress)
        if device is None
        else _in_batches(A, kind, diagonal, progress, device)
    )
    used = tolerance
    while True:
        working = stored if single else computed
        steps, failure = attempt(
            working, stored, Sampling.for_tolerance(_SHARE * used, A.norm, A.rows.n_boxes)
        )
        if failure is None:
            if used != tolerance:
                notes = (*notes, _tightened(tolerance, used))
            result = Factorization(
                steps, A.rows.permutation, kind, tolerance, used, A.dtype, working, notes,
                device or CPU,
            )  # fmt: skip
            _log(result)
            return result
        if single and abs(failure[2]) <= _ROUNDING * np.abs(A.diagonal()).max():
            logger.info("a pivot of %.1e in single precision: factorizing in double", failure[2])
            single = False
            continue
        if kind != "cholesky" or used / 10 < _TIGHTEST * min(tolerance, A.tolerance):
            raise _failed(A, kind, failure)
        logger.info("a pivot of %.1e at tolerance %.0e: factorizing at %.0e", failure[2], used, used / 10)
        used /= 10


def factorize_even_indefinite(A: H2Matrix, tolerance: float) -> Factorization:
    """Factorize A for what needs no Cholesky factor: by LDL^T where a symmetric matrix proves indefinite.

    Raises:
        ConvergenceError: If a pivot vanishes.
    """
    try:
        return factorize(A, tolerance=tolerance)
    except ConvergenceError as error:
        if _choose(A, "auto") != "cholesky":
            raise
        logger.info("%s: LDL^T instead", error)
        return factorize(A, tolerance=tolerance, kind="ldlt")


def _natively(A: H2Matrix, kind: str, diagonal: NDArray[Any], progress: Progress | None) -> Attempt:
    """Return what eliminates box by box on the CPU."""
    matrix, lists = entries_of(A), A.interactions

    def attempt(
        working: np.dtype[Any], stored: np.dtype[Any], sampling: Sampling
    ) -> tuple[tuple[Steps, ...], Failure | None]:
        eliminate = getattr(_native, f"eliminate_{working.name}_{stored.name}")
        with one_blas_thread():
            levels, failure = eliminate(
                matrix, A.rows.native, lists.near.start, lists.near.boxes, lists.far.start, lists.far.boxes, diagonal,
                KINDS[kind], sampling.budget, sampling.rows, lists.first_far_level(A.rows),
                _DENSE_END, progress,
            )  # fmt: skip
        return tuple(Steps(*level) for level in levels), failure

    return attempt


def _in_batches(
    A: H2Matrix, kind: str, diagonal: NDArray[Any], progress: Progress | None, device: torch.device
) -> Attempt:
    """Return what eliminates color by color on a device."""
    if A.kernel is None:
        raise ValueError("only a kernel's entries can be eliminated in batches")
    kernel = A.kernel

    def attempt(
        working: np.dtype[Any], stored: np.dtype[Any], sampling: Sampling
    ) -> tuple[tuple[BatchedSteps, ...], Failure | None]:
        types = torch_dtype(working), torch_dtype(stored)
        return eliminate(
            Problem(
                kernel,
                diagonal,
                A.rows,
                A.interactions,
                kind,
                *types,
                sampling,
                _DENSE_END,
                device,
                progress,
                A.correction,
            )
        )

    return attempt


def _tightened(asked: float, used: float) -> str:
    return (
        f"compression at tolerance {asked:.0e} left the matrix indefinite, so the factorization was repeated at "
        f"{used:.0e}, where it succeeded: it is more accurate than asked for, and nothing needs to be done"
    )


def _failed(A: H2Matrix, kind: str, failure: tuple[int, int, float]) -> ConvergenceError:
    level, place, pivot = failure
    where = f"at point {A.rows.permutation[place]} on level {level}"
    if not math.isfinite(pivot):
        return ConvergenceError(
            f"{kind} met the pivot {pivot} {where}: the kernel's entries there are NaN or infinite; look at what it "
            "gives between points that are equal or far apart"
        )
    if kind == "cholesky":
        return ConvergenceError(
            f"Cholesky met the pivot {pivot:.2e} {where}, so the matrix is not positive definite to working accuracy; "
            'add a nugget to the diagonal (duplicate points need one) or factorize with kind="lu"'
        )
    return ConvergenceError(
        f"{kind} met the pivot {pivot:.2e} {where}, so the matrix is singular to working accuracy; "
        "add something to the diagonal (duplicate points need it) or remove duplicates"
    )


def _choose(A: H2Matrix, kind: str) -> str:
    known = ("auto", *KINDS)
    if kind not in known:
        raise ConfigError(f"kind: no {kind!r}; known are {', '.join(known)}")
    definite = A.kernel is not None and A.kernel.positive_definite and A.computed.kind == "f"
    if kind == "auto":
        return ("cholesky" if definite else "ldlt") if A.is_symmetric else "lu"
    if kind != "lu" and not A.is_symmetric:
        raise ConfigError(f'kind: {kind!r} wants a symmetric matrix, and this one is not; use "lu"')
    if kind == "cholesky" and A.computed.kind == "c":
        raise ConfigError('kind: "cholesky" wants a real matrix, and this one is complex; use "ldlt"')
    return kind


def entries_of(A: H2Matrix) -> "_native.KernelMatrix":
    """Return A's entries, without the diagonal term, for native routines."""
    if A.kernel is not None:
        return kernel_matrix(A.kernel, A.rows, A.columns, A.correction, is_complex=A.computed.kind == "c")
    return represented_matrix(A)


def _log(F: Factorization) -> None:
    logger.info("%s in %s: boxes  unknowns  skeletons  seconds       bytes", F.kind, F.computed)
    for row in F.level_table():
        logger.info("%26d %9d %10d %8.3f %11d", *row.values())

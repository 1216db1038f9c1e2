"""Factorization of a divided matrix by parts, some of them on each process.

Points, boxes, lists, plans, blocks, records and factors are divided among the processes. Of the whole tree, each
process knows a few boxes per process, and the surroundings of its own boxes.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import _native
from pipeline.hmatrix.distributed.diagonal import own_diagonal
from pipeline.hmatrix.distributed.exact_rows import exact_products
from pipeline.hmatrix.distributed.foresight import Start, foreseen_start
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.problem import divided_problem
from pipeline.hmatrix.distributed.speeds import MEASURED, Speed, as_speeds, measured_speeds, shares_of
from pipeline.hmatrix.distributed.statistics import of_factorization
from pipeline.hmatrix.distributed.vectors import act, shifted
from pipeline.hmatrix.entries import program
from pipeline.hmatrix.factor import allowed_residual, choose_kind, nugget_for, tightened
from pipeline.hmatrix.factorization import KINDS
from pipeline.hmatrix.foresight import MANY
from pipeline.hmatrix.inputs import (
    Progress,
    require_draws,
    require_parts,
    require_progress,
    require_tolerance,
)
from pipeline.hmatrix.parts import Substitution, Team, eliminate
from pipeline.hmatrix.rounding import PIVOT, step_types, wide_type
from pipeline.hmatrix.skeleton import FarSampling
from pipeline.hmatrix.streams import Purpose, stream
from pipeline.hmatrix.swap import Array, Ids, gather, summed
from pipeline.hmatrix.threads import n_threads
from pipeline.hmatrix.vectors import Vectors, apply
from pipeline.runtime.communicator import Counting
from pipeline.runtime.together import require_alike, together

logger = logging.getLogger("pipeline.hmatrix")

_DENSE_END = 1200  # this and the next two are as in factor.py
_SHARE = 0.18
_STEP = 1e-2
_GENTLE = 0.3  # the step if the tolerance to begin with was predicted
_TIGHTEST = 1e-13


@dataclass(frozen=True, eq=False)
class DistributedFactorization:
    """A factorized matrix of which each process holds its parts. Every method is collective.

    Attributes:
        form: The matrix.
        communicator: The processes.
        steps: Eliminations of this process's parts.
        ranges: Shape (processes, 2): places in tree order whose entries each process solves for.
        kind: "cholesky", "ldlt" or "lu".
        tolerance: Tolerance that was asked for.
        used_tolerance: Tolerance that was used, after any tightening.
        computed: Type of the elimination.
        residual: |b - A x| / |b| of a random right-hand side on exact rows; None if it was not measured.
        notes: Remarks for the caller, such as tightenings.
        speeds: Measured speed of each process, if boxes are divided by it.
    """

    form: OwnForm
    communicator: Counting
    steps: Substitution
    ranges: Ids
    kind: str
    tolerance: float
    used_tolerance: float
    computed: np.dtype[Any]
    residual: float | None = None
    notes: tuple[str, ...] = ()
    speeds: tuple[Speed, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied.

        Raises:
            TypeError: If the parts are spread over processes, which cannot be copied together.
        """
        if self.communicator.size > 1:
            raise TypeError(
                "a factorization whose parts are spread over processes cannot be pickled or copied"
            )
        return vars(self)

    def __repr__(self) -> str:
        n = self.form.division.n_points
        return (
            f"DistributedFactorization({n} x {n} {self.form.dtype}, {self.kind}, tolerance {self.used_tolerance:.0e}, "
            f"{self.steps.n_parts} parts, {self.n_bytes / 1e6:.1f} MB on this process)"
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of this process's factors."""
        return self.steps.n_bytes

    def solve(self, own_b: Vectors) -> Vectors:
        """Return own rows of A^-1 b for own rows of b, shape (own rows,) or (own rows, m)."""
        return act(self.form, own_b, self.solve_in_tree_order, self.communicator, "solve")

    def solve_in_tree_order(self, rows: Array) -> Array:
        """Return A^-1 b for the rows that this process owns in tree order."""
        return self._act(rows, self.steps.solve, "solve")

    def multiply_root(self, own_z: Vectors) -> Vectors:
        """Return own rows of L z with L L^T = A. Cholesky only."""
        return self._by_root(own_z, self.steps.multiply_root, "multiply_root")

    def multiply_root_transposed(self, own_x: Vectors) -> Vectors:
        """Return own rows of L^T x, whose squares add up to x^T A x over all processes. Cholesky only."""
        return self._by_root(own_x, self.steps.multiply_root_transposed, "multiply_root_transposed")

    def _by_root(self, own_x: Vectors, action: Callable[[Array, int], Array], what: str) -> Vectors:
        if self.kind != "cholesky":
            raise ValueError(f"only a Cholesky factorization has a root, and this is {self.kind}")
        return act(self.form, own_x, lambda rows: self._act(rows, action, what), self.communicator, what)

    def sample(self, generator: np.random.Generator | torch.Generator, n_samples: int | None = None) -> Array:
        """Draw own rows of vectors from the normal distribution of covariance A: shape (own rows,) or with n_samples.

        Args:
            generator: Must be in the same state on all processes. One number is taken from it, which seeds each
                process's own generator together with its rank.
            n_samples: Number of vectors; None for one vector of shape (own rows,).
        """
        with together(self.communicator.inner):
            require_draws(generator, n_samples)
            seed = (
                int(generator.integers(2**62))
                if isinstance(generator, np.random.Generator)
                else int(torch.randint(2**62, (1,), generator=generator))
            )
        require_alike(self.communicator.inner, {"state of generator": seed, "n_samples": n_samples})
        n = self.form.route.n_rows
        own = np.random.default_rng((seed, self.communicator.rank))
        return self.multiply_root(own.standard_normal((n,) if n_samples is None else (n, n_samples)))

    def slogdet(self) -> tuple[complex, float]:
        """Return sign (or phase) and logarithm of the absolute value of the determinant."""
        phase, size = self.steps.determinant
        return (phase if self.form.dtype.kind == "c" else phase.real), size

    def logdet(self) -> float:
        """Return log det A.

        Raises:
            ValueError: If the determinant is not positive.
        """
        sign, size = self.slogdet()
        if self.form.dtype.kind == "c" or sign.real < 0:
            raise ValueError(
                "the determinant is not positive, so its logarithm is no real number; use slogdet"
            )
        return size

    def as_linear_operator(self) -> LinearOperator:
        """Return A^-1 as a SciPy operator on own rows, which all processes must apply together."""
        n = self.form.route.n_rows
        return LinearOperator(
            (n, n), matvec=lambda b: self.solve(b.reshape(-1)), matmat=self.solve, dtype=self.form.dtype
        )

    def statistics(self) -> list[dict[str, Any]]:
        """Return a row per process and level, leaves first, in a form that JSON can hold.

        Returns:
            `process`, `level`; `boxes`, `unknowns`, `skeletons` and `bytes` of the process's factors; `flops` and
            `seconds` of the factorization; `messages` (calls), `sent_bytes` and `waiting_seconds`, solves included.
            Messages before the first level, which plan all levels, count in `DistributedH2Matrix.statistics`.
        """
        return of_factorization(self.steps, self.communicator.inner)

    def _act(self, rows: Array, action: Any, what: str) -> Array:
        first = self.form.division.first
        edges = self.form.division.edges
        here = np.stack([edges[:-1], edges[1:]], axis=1)
        start = int(self.ranges[self.communicator.rank, 0])

        def acted(flat: Array, m: int) -> Array:
            there = shifted(flat.reshape(-1, m), first, self.ranges, self.communicator)
            found = action(np.ascontiguousarray(there).reshape(-1), m).reshape(-1, m)
            return shifted(found, start, here, self.communicator).reshape(-1)

        places = np.arange(self.form.n_own)
        return apply(
            rows, acted, taken=places, given=places, computed=wide_type(self.computed), dtype=self.form.dtype, what=what
        )  # fmt: skip


def factorize(
    A: OwnForm,
    communicator: Counting,
    *,
    tolerance: float | None = None,
    kind: str = "auto",
    parts: int | None = None,
    device: torch.device | str | None = None,
    speeds: str | Sequence[float] | None = None,
    checked: bool = True,
    shifted: bool = False,
    progress: Progress | None = None,
) -> DistributedFactorization:
    """Factorize a divided matrix; collective. Arguments as `factor.factorize` takes them, the same on all processes.

    Only `device` may differ: the device on which this process eliminates its boxes in batches, as one part if `parts`
    is left out. With `shifted`, a preconditioner for many points is that of A + s I if that of A would have to be too
    tight (`foresight.py`): its determinant and its root are not A's. With `speeds`, boxes are divided in proportion to
    one number per process, or to speeds that are "measured" first.

    Raises:
        ConvergenceError: If a pivot fails or solves leave a large residual at the tightest tolerance; all processes
            raise it.
    """
    tolerance = A.tolerance if tolerance is None else tolerance
    with together(communicator.inner):
        require_tolerance(tolerance)
        require_parts(parts)
        require_progress(progress)
        device = None if device is None else _as_device(device)
        definite = A.kernel.positive_definite and A.computed.kind == "f"
        kind = choose_kind(
            kind, is_symmetric=A.mirrored, is_definite=definite, is_complex=A.computed.kind == "c"
        )
        told = as_speeds(speeds, communicator.size)
    alike = {"tolerance": float(tolerance), "kind": kind, "parts": parts, "speeds": told}
    require_alike(communicator.inner, alike)
    computed = wide_type(A.computed)
    own_term = np.zeros(A.n_own, computed) if A.diagonal_term is None else A.diagonal_term.astype(computed)
    squares = float(summed(communicator, np.array([(np.abs(own_term) ** 2).sum()]))[0])
    size = float(np.hypot(A.norm, math.sqrt(squares)))
    widened = computed.kind == "c" and not A.kernel.is_complex
    calls_python = widened or not program(A.kernel, A.points.own.shape[1])
    threads = 1 if calls_python or device is not None else n_threads()
    counts = np.concatenate(gather(communicator, np.array([threads])))
    if parts is not None:
        counts = np.bincount(np.arange(parts) * len(counts) // parts, minlength=len(counts))
    n_parts, before = int(counts.sum()), int(counts[: communicator.rank].sum())
    own_parts = range(before, before + int(counts[communicator.rank]))
    devices = {} if device is None else dict.fromkeys(own_parts, device)
    measured: list[Speed] = []
    shares = None if told is None or isinstance(told, str) else shares_of(told, counts)
    start, double = Start(tolerance), False
    tightest = _TIGHTEST if checked else 1e-2 * min(tolerance, A.tolerance)
    if shifted and kind == "cholesky" and A.division.n_points >= MANY:
        start = foreseen_start(
            A, own_term, tolerance, share=_SHARE, tightest=tightest, communicator=communicator
        )  # fmt: skip
    used = start.tolerance
    while True:
        working, stored = step_types(used, size, computed)
        working = computed if double else working
        sampling = FarSampling.for_tolerance(_SHARE * used, A.norm, A.division.whole.n_boxes)
        if told == MEASURED and not measured:
            at_once = min(threads, max(len(own_parts), 1))
            measured = measured_speeds(
                A, own_term, communicator,
                kind=KINDS[kind], types=(working, stored), sampling=sampling, device=device, threads=at_once,
            )  # fmt: skip
            shares = shares_of([speed.boxes_per_second for speed in measured], counts)
        team = Team(n_parts, threads, Counting(communicator), shares, devices=devices, counts=counts)
        problem = divided_problem(
            A, own_term + start.shift, team, communicator, KINDS[kind], working, stored, sampling, _DENSE_END,
        )  # fmt: skip
        eliminated, failure = eliminate(problem, team, progress)
        number_of_kind = problem.kind
        del problem  # its points and lists
        _native.release_memory()
        if eliminated is not None:
            steps = Substitution(eliminated, team, number_of_kind, stored)
            del eliminated
            ranges = np.stack(gather(communicator, np.array([steps.own_range]))).reshape(-1, 2)
            notes = () if used == start.tolerance else (tightened(tolerance, used, "failed"),)
            result = DistributedFactorization(
                A,
                communicator,
                steps,
                ranges,
                kind,
                tolerance,
                used,
                working,
                notes=notes,
                speeds=tuple(measured),
            )
            if not checked:
                return result
            residual = _residual(result)
            if residual <= allowed_residual(A.dtype, tolerance):
                return replace(result, residual=residual)
            if used <= tightest:
                raise ConvergenceError(
                    f"{kind} at tolerance {used:.0e} leaves solves a relative residual of {residual:.1e} on exact "
                    f"rows: add a nugget of {1e-9 * size:.0e} or more to the diagonal"
                )
            del result, steps  # frees memory for the next attempt
        else:
            assert failure is not None
            level, place, pivot = failure
            logger.info("%s met the pivot %.1e on level %d in %s", kind, pivot, level, working)
            if working != computed and math.isfinite(pivot):
                # A pivot far below zero is not the fault of rounding.
                double = kind != "cholesky" or abs(pivot) <= PIVOT * _largest_diagonal(A, communicator)
                if double:
                    continue
            if not math.isfinite(pivot) or used <= tightest or kind != "cholesky":
                number = _number(A, communicator, place)
                raise ConvergenceError(_failed(number, team.failed or 0, level, pivot, kind, size))
        factor = _GENTLE if start.shift else 0.1 if used > 0.05 * tolerance or not checked else _STEP
        following = max(used * factor, tightest)
        logger.info("%s failed at tolerance %.0e: factorizing at %.0e", kind, used, following)
        used = following


def _as_device(device: torch.device | str) -> torch.device:
    """Return a device, or raise ConfigError unless it takes numbers and gives them back."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device: {device} takes no numbers: {str(error).splitlines()[0]}") from error
    return torch.device(device)


def _largest_diagonal(A: OwnForm, communicator: Counting) -> float:
    """Return the largest size of a diagonal entry; collective."""
    own = np.abs(own_diagonal(A)).max(initial=0.0)
    return float(np.max(np.concatenate(gather(communicator, np.array([own])))))


def _number(A: OwnForm, communicator: Counting, place: int) -> int:
    """Return the number of the caller's point at a place of the tree order; collective."""
    division = A.division
    own = division.first <= place < division.last
    number = int(division.tree.permutation[place - division.first]) if own else 0
    return int(summed(communicator, np.array([number]))[0])


def _failed(point: int, process: int, level: int, pivot: float, kind: str, size: float) -> str:
    where = f"process {process}: {kind} met the pivot {pivot:.2e} at point {point} on level {level}"
    if not math.isfinite(pivot):
        return f"{where}: the kernel's entries there are NaN or infinite; look at what it gives between such points"
    what = "not positive definite" if kind == "cholesky" else "singular"
    return f"{where} of a matrix of norm {size:.1e}, which is {what} to working accuracy; {nugget_for(pivot, size)}"


def _residual(F: DistributedFactorization) -> float:
    """Return the relative residual of one solve with a random right-hand side, on exact rows; collective."""
    form, communicator = F.form, F.communicator
    b = stream(Purpose.TRUST, 0, communicator.rank).standard_normal((form.n_own, 1))
    x = F.solve_in_tree_order(b)
    own, exact = exact_products(form, x, communicator, seed=0)
    squares = summed(communicator, np.array([(np.abs(b[own] - exact) ** 2).sum(), (b[own] ** 2).sum()]))
    return float(np.sqrt(squares[0] / squares[1])) if squares[1] > 0 else 0.0

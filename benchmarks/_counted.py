"""Operations, bytes and messages of a factorization by parts, which are the same on every machine."""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.data import load_points
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.parts import Tally

NUGGET = 1e-2


@dataclass(frozen=True)
class Counted:
    """Cost of a factorization by parts and of one solve with it."""

    flops: float
    critical: float
    peak: int
    sent: dict[str, float]
    residual: float
    logdet: float
    tally: Tally


@cache
def matrix(name: str, n: int, tolerance: float) -> H2Matrix:
    """The compressed matrix."""
    points = load_points(name, n_points=n, seed=1).points
    return H2Matrix.from_kernel(
        points, kernels.Matern(nu=0.5, length_scale=0.1), diagonal=NUGGET, tolerance=tolerance
    )


def most_sent(n_bytes: Counter[tuple[str, int, int]], what: set[str]) -> float:
    """Return the megabytes that were sent by the part which sends most."""
    sent: dict[int, float] = {}
    for (kind, _, part), count in n_bytes.items():
        if kind in what:
            sent[part] = sent.get(part, 0.0) + count / 1e6
    return max(sent.values(), default=0.0)


def critical(tally: Tally, speeds: NDArray[np.float64] | None = None) -> float:
    """Return the sum over supersteps of the slowest part's operations over its speed."""
    return sum(
        max((flops / (1 if speeds is None else speeds[part]) for part, flops in step.items()), default=0.0)
        for step in tally.flops.values()
    )


@cache
def counted(name: str, n: int, tolerance: float, n_parts: int) -> Counted:
    """Factorize and solve with so many parts."""
    A = matrix(name, n, tolerance)
    b = np.random.default_rng(5).standard_normal(n)
    F = A.factorize(tolerance, parts=n_parts)
    steps, tally = F.steps, F.steps.tally
    before = Counter(tally.n_bytes)  # includes the solve by which a factorization checks itself
    x = F.solve(b)
    sent = {
        "factorization": most_sent(before, {"records", "ghosts", "blocks"}),
        "solve": most_sent(Counter(tally.n_bytes) - before, {"vectors"}),
    }
    return Counted(
        sum(sum(step.values()) for step in tally.flops.values()),
        critical(tally),
        max(steps.peak_bytes.values()),
        sent,
        float(np.linalg.norm(A @ x - b) / np.linalg.norm(b)),
        F.logdet(),
        tally,
    )

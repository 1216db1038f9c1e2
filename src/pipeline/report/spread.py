"""Mean and spread over a few seeds, and whether a difference is larger than chance explains."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.report.formatting import decimal, is_number

#: One-sided confidence of every verdict.
CONFIDENCE = 0.95
#: Distinct sizes through which a power may be fitted.
LEAST_SIZES = 4


@dataclass(frozen=True)
class Spread:
    """The values of one quantity over seeds; what is not a finite number is left out."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[object]) -> "Spread":
        return cls(tuple(float(value) for value in values if is_number(value)))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return math.fsum(self.values) / self.n if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (divisor n - 1); ``None`` for one value."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else None


@dataclass(frozen=True)
class Difference:
    """A difference of two means, and the half width of its two-sided 90 % interval.

    ``half_width`` is ``None`` where no run has two seeds: then nothing can be said.
    """

    mean: float
    half_width: float | None

    def exceeds(self, threshold: float) -> bool | None:
        """Whether the difference is above a threshold: yes, no, or ``None`` if the spread leaves it open."""
        if self.half_width is None:
            return None
        if self.mean - self.half_width > threshold:
            return True
        return False if self.mean + self.half_width < threshold else None


def difference(first: Spread, second: Spread) -> Difference | None:
    """Compare two means by Welch's t interval: each run has its own variance [1].

    Runs of one study scatter very differently (a large batch that nearly diverges beside one that does not), so
    their variances are not pooled. A run of one seed borrows the other's.

    Args:
        first: Values of the run whose mean is taken positive.
        second: Values of the run whose mean is subtracted.

    Returns:
        The difference, or ``None`` if either side has no value.

    References:
        [1] Welch, "The generalization of Student's problem when several different population variances are
            involved", Biometrika 1947.
    """
    if first.mean is None or second.mean is None:
        return None
    known = [side.sd for side in (first, second) if side.sd is not None]
    half_width = None
    if known:
        squares = [(side.sd if side.sd is not None else known[0]) ** 2 / side.n for side in (first, second)]
        total = math.fsum(squares)
        degrees = [
            (square, side.n - 1) for square, side in zip(squares, (first, second), strict=True) if side.n > 1
        ]
        spread = math.fsum(square**2 / n for square, n in degrees)
        freedom = total**2 / spread if spread > 0 else 1.0
        half_width = float(stats.t.ppf(CONFIDENCE, freedom)) * math.sqrt(total)
    return Difference(first.mean - second.mean, half_width)


def paired_difference(
    first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> Difference | None:
    """Compare two runs seed by seed: Student's interval of the differences of those seeds that both have.

    Args:
        first: Values by seed of the run whose mean is taken positive.
        second: Values by seed of the other run.

    Returns:
        The difference, without a width for one seed; None where no seed is common.
    """
    apart = [
        one - other
        for seed, one in first.items()
        if one is not None and (other := second.get(seed)) is not None
    ]
    spread = Spread.of(apart)
    if spread.mean is None:
        return None
    half_width = None
    if spread.sd is not None:
        half_width = float(stats.t.ppf(CONFIDENCE, spread.n - 1)) * spread.sd / math.sqrt(spread.n)
    return Difference(spread.mean, half_width)


@dataclass(frozen=True)
class Power:
    """A fitted law ``constant * size ** exponent``; ``half_width`` is that of the exponent's 95 % interval."""

    exponent: float
    constant: float
    half_width: float

    @property
    def text(self) -> str:
        """The exponent with its interval: 1.08 (1.04 to 1.12)."""
        low, high = (decimal(self.exponent + sign * self.half_width, 2) for sign in (-1, 1))
        return f"{decimal(self.exponent, 2)} ({low} to {high})"


def power_law(sizes: Sequence[object], values: Sequence[object]) -> Power | None:
    """Fit ``value = constant * size ** exponent`` by least squares of the logarithms.

    The interval is Student's t with n - 2 degrees of freedom, from the scatter around the line.

    Returns:
        The law, or ``None`` with fewer than four distinct sizes: the scatter of three has one degree of freedom, and
        its interval tells nothing.
    """
    pairs = [
        (math.log(size), math.log(value))
        for size, value in zip(sizes, values, strict=True)
        if is_number(size) and is_number(value) and size > 0 and value > 0
    ]
    if len({x for x, _ in pairs}) < LEAST_SIZES:
        return None
    x, y = np.array(pairs).T
    squares = float(np.sum((x - x.mean()) ** 2))
    exponent = float(np.sum((x - x.mean()) * (y - y.mean()))) / squares
    start = float(y.mean() - exponent * x.mean())
    freedom = len(pairs) - 2
    error = math.sqrt(float(np.sum((y - start - exponent * x) ** 2)) / freedom / squares)
    return Power(exponent, math.exp(start), float(stats.t.ppf(0.975, freedom)) * error)

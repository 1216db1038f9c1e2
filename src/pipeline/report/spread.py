"""Mean and spread over a few seeds, and whether a difference is larger than chance explains."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pipeline.report.formatting import decimal, is_number
from pipeline.runtime.words import counted

#: One-sided confidence of every verdict.
CONFIDENCE = 0.95
#: Least number of distinct sizes for the fit of a power.
LEAST_SIZES = 4


@dataclass(frozen=True)
class Spread:
    """The values of one quantity by the seeds that have it; where seeds have no names, by their positions."""

    by_seed: Mapping[str, float]

    @classmethod
    def of(cls, values: Iterable[object] | Mapping[str, object]) -> "Spread":
        """Keep the finite numbers among the seeds' values, given in order or by name."""
        named = values if isinstance(values, Mapping) else {str(n): value for n, value in enumerate(values)}
        return cls({seed: float(value) for seed, value in named.items() if is_number(value)})

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def n(self) -> int:
        return len(self.by_seed)

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

    ``half_width`` is ``None``, and nothing can be said, where the runs share fewer than two seeds, or where all their
    common seeds differ equally.
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


def paired(first: Spread, second: Spread) -> tuple[Spread, Spread]:
    """The values of the seeds that both runs have, in the same order, or all values where the runs share no seed."""
    one, other = first.by_seed, second.by_seed
    common = [seed for seed in one if seed in other]
    if not common:
        return first, second
    return Spread({seed: one[seed] for seed in common}), Spread({seed: other[seed] for seed in common})


def said_of_seeds(first: Spread, second: Spread) -> str:
    """The clause that names the seeds behind the means of :func:`paired`; empty where both runs have the same seeds."""
    common = len(first.by_seed.keys() & second.by_seed.keys())
    if not first.n or not second.n or common == first.n == second.n:
        return ""
    if not common:
        return f" (over {first.n} and {second.n} seeds, none of them in common)"
    return f" (over the {counted(common, 'seed')} in common of {first.n} and {second.n})"


def difference(first: Spread, second: Spread) -> Difference | None:
    """Compare two runs seed by seed: Student's interval of the differences over the seeds that both have.

    Runs of one study with the same seed share the initial weights and the order of the data. Their results are not
    independent, as an interval from two separate variances would require. The page shows only this interval for
    differences between runs.

    Equal differences have no interval. Accuracies come in steps of one sample, so seeds may differ equally by chance,
    and a deviation of zero would be mistaken for certainty.

    Args:
        first: Values of the run whose mean counts positive.
        second: Values of the run whose mean is subtracted.

    Returns:
        The difference. It has no width where fewer than two seeds are common or all differ equally, and it is that of
        the means where no seed is common. ``None`` if either side has no value.
    """
    if first.mean is None or second.mean is None:
        return None
    if not first.by_seed.keys() & second.by_seed.keys():
        return Difference(first.mean - second.mean, None)
    first, second = paired(first, second)
    apart = Spread.of(one - other for one, other in zip(first.values, second.values, strict=True))
    half_width = None
    # Equal except for the rounding of the differences themselves.
    rounding = 1e-12 * max(abs(value) for value in first.values + second.values)
    if apart.sd is not None and max(apart.values) - min(apart.values) > rounding:
        half_width = float(stdtrit(apart.n - 1, CONFIDENCE)) * apart.sd / math.sqrt(apart.n)
    return Difference(math.fsum(apart.values) / apart.n, half_width)


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
        The law, or ``None`` with fewer than four distinct sizes: three sizes leave one degree of freedom, and the
        interval would tell nothing.
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
    return Power(exponent, math.exp(start), float(stdtrit(freedom, 0.975)) * error)

"""Which figures changed by more than past runs differ among themselves.

Runs are comparable if they had the same specs and the same machine. A figure is judged by the prediction interval of
Student's t for one more value after n: the mean of the past values plus or minus ``t * s * sqrt(1 + 1 / n)`` [1].
Positive figures are judged by their logarithms, so that noise is relative. Figures that every past run repeated to the
last digit have no noise of their own; for them the floors below decide.

References:
    [1] Hahn, "Finding an interval for the next observation", Journal of Quality Technology 1969.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

#: Two-sided confidence: of a hundred figures in which nothing changed, one is flagged.
CONFIDENCE = 0.99


@dataclass(frozen=True)
class ChangeRule:
    """How figures of a kind are judged.

    Attributes:
        names: Patterns of the last words of the figures' names.
        better: The better direction: -1 down, 1 up, 0 neither.
        floor: Relative change that is never flagged.
        least: Number of past runs below which nothing is said.
    """

    names: tuple[str, ...]
    better: int
    floor: float
    least: int


RULES = (
    # Measured anew each time: at least three runs are needed to tell how much they scatter.
    ChangeRule(("*speedup",), 1, 0.10, 3),
    ChangeRule(("*seconds*", "*rss_mb", "*memory*", "*joules*"), -1, 0.10, 3),
    # Rounding errors change when the order of a sum does.
    ChangeRule(("*residual", "*error"), -1, 1.0, 1),
    # Computed: the value repeats unless something changed.
    ChangeRule(("*accuracy*", "fp16", "fp32"), 1, 1e-6, 1),
    ChangeRule(("*bytes", "*loss", "*rmse", "iterations"), -1, 1e-6, 1),
    ChangeRule(("*",), 0, 1e-6, 1),
)


@dataclass(frozen=True)
class Change:
    """A figure beyond the noise of past runs.

    Attributes:
        low: Lower end of the prediction interval from past runs.
        high: Upper end.
        n: Number of past runs.
        verdict: "better", "worse", or "different" where neither direction is better or there is only one past run.
    """

    artefact: str
    figure: str
    value: float
    typical: float
    low: float
    high: float
    n: int
    verdict: str

    @property
    def size(self) -> float:
        """Size of the change: the logarithm of a factor where there is one."""
        if self.value > 0 and self.typical > 0:
            return abs(math.log(self.value / self.typical))
        return math.inf


@dataclass(frozen=True)
class Comparison:
    """All figures of an artefact against past runs: how many were judged, and which of them changed."""

    n_figures: int
    n_runs: int
    changes: tuple[Change, ...]


def rule_of(figure: str) -> ChangeRule:
    """Return the rule for a figure of that name."""
    last = figure.rpartition(".")[2]
    return next(rule for rule in RULES if any(fnmatch.fnmatchcase(last, name) for name in rule.names))


def compare(artefact: str, current: Mapping[str, float], past: Sequence[Mapping[str, float]]) -> Comparison:
    """Judge the figures of an artefact by those of comparable past runs, oldest first."""
    n_figures, changes = 0, []
    for figure, value in current.items():
        before = [run[figure] for run in past if figure in run]
        rule = rule_of(figure)
        if len(before) < rule.least:
            continue
        n_figures += 1
        low, high = expected(before, rule.floor)
        if low <= value <= high:
            continue
        up = value > high
        # One past run shows that a computed figure differs now, and nothing of its noise.
        judged = rule.better != 0 and len(before) > 1
        verdict = ("better" if up == (rule.better > 0) else "worse") if judged else "different"
        typical = float(np.median(before))
        changes.append(Change(artefact, figure, value, typical, low, high, len(before), verdict))
    return Comparison(n_figures, len(past), tuple(sorted(changes, key=lambda change: -change.size)))


def expected(before: Sequence[float], floor: float) -> tuple[float, float]:
    """Prediction interval for the next value.

    Args:
        before: Past values; from a single one no scatter is known, and the floor is used.
        floor: Least half width of the interval, relative to the value.
    """
    values = np.asarray(before, dtype=np.float64)
    logarithmic = bool(np.all(values > 0))
    if logarithmic:
        values = np.log(values)
    n = len(values)
    center, half_width = float(values.mean()), 0.0
    if n > 1:
        deviation = float(values.std(ddof=1))
        half_width = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * deviation * math.sqrt(1 + 1 / n)
    half_width = max(half_width, math.log1p(floor) if logarithmic else floor * abs(center))
    low, high = center - half_width, center + half_width
    return (math.exp(low), math.exp(min(high, 700.0))) if logarithmic else (low, high)

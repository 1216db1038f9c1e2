"""Trials of a method: options drawn from ranges, the same way for every method, and the choice among them.

The points are those of a Sobol sequence, shifted by a random vector modulo one, so that few trials cover the ranges
evenly [1]. An option is drawn uniformly in its logarithm; a decay d, such as momentum, is drawn uniformly in the
logarithm of 1 - d. Methods that are searched with the same seed and the same number of options get the same points.

Every trial is trained with one seed, and the best of them, the finalists, with further seeds. The best mean is chosen.

References:
    [1] Bousquet, Gelly, Kurach, Teytaud, Vincent, "Critical hyper-parameters: no random, no cry", 2017,
        arXiv:1706.03200.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from pipeline.options import Decay, type_hints
from pipeline.training.optimizers import Optimizer
from pipeline.training.randomness import Purpose, generator
from pipeline.training.smoothing import Smoothing

#: Bounds by option, such as "lr" of the optimizer or "mixup.alpha" of a smoothing.
Ranges = Mapping[str, tuple[float, float]]
SearchedValues = Mapping[str, float]

#: Number of the best trials, which are compared with further seeds.
N_FINALISTS = 2


@dataclass(frozen=True)
class Outcome:
    """What a trial has reached on the validation samples.

    Attributes:
        accuracies: Share of right answers with each seed so far, in [0, 1]; empty where the first one diverged.
        losses: Mean loss with each of these seeds, in nats.
        diverged: Whether training diverged with one of its seeds.
    """

    accuracies: Sequence[float]
    losses: Sequence[float]
    diverged: bool = False


def drawn(ranges: Ranges, n_trials: int, *, seed: int, optimizer: Optimizer) -> list[dict[str, float]]:
    """Draw the options of every trial.

    Args:
        ranges: Positive bounds by option.
        n_trials: Number of trials.
        seed: Seed of the shift of the sequence.
        optimizer: The optimizer that the options belong to.
    """
    n_options = len(ranges)
    # SciPy has the same sequence, but importing scipy.stats would slow down every plan of a study.
    engine = SobolEngine(n_options)  # type: ignore[no-untyped-call]
    points = engine.draw(n_trials, dtype=torch.float64).numpy()
    shifted = (points + generator(seed, Purpose.SEARCH).random(n_options)) % 1.0
    decays = {name for name, hint in type_hints(type(optimizer)).items() if hint == Decay} | {"momentum"}
    return [
        {
            name: _between(*ranges[name], float(u), short_of_one=name in decays)
            for name, u in zip(ranges, point, strict=True)
        }
        for point in shifted
    ]


def next_training(outcomes: Sequence[Outcome], *, n_trials: int, n_repeats: int) -> tuple[int, int] | None:
    """Name what is to be trained next: first each trial with the first seed, then the finalists with further seeds.

    Where a finalist diverges with a further seed, the next best trial takes its place.

    Args:
        outcomes: Outcomes so far, in the order of the trials.
        n_trials: Number of trials.
        n_repeats: Number of further seeds.

    Returns:
        The numbers of the trial and of the seed, from 0; None when all are trained.
    """
    if len(outcomes) < n_trials:
        return len(outcomes), 0
    for number in finalists(outcomes):
        n_seeds = len(outcomes[number].accuracies)
        if n_seeds <= n_repeats:
            return number, n_seeds
    return None


def finalists(outcomes: Sequence[Outcome]) -> list[int]:
    """Return the best trials by the accuracy of the first seed, among those that diverged with no seed.

    At equal accuracies, the lower loss is better.
    """
    firsts = [Outcome(o.accuracies[:1], o.losses[:1], o.diverged) for o in outcomes]
    return sorted(_from_the_best(firsts)[:N_FINALISTS])


def best(outcomes: Sequence[Outcome]) -> int | None:
    """Return the trial with the best mean accuracy among those with most seeds; None where all diverged.

    At equal accuracies, the lower mean loss is better.
    """
    order = _from_the_best(outcomes)
    most = max((len(outcomes[number].accuracies) for number in order), default=0)
    return next((number for number in order if len(outcomes[number].accuracies) == most), None)


def _from_the_best(outcomes: Sequence[Outcome]) -> list[int]:
    """Sort the trials that did not diverge; a loss that is not finite is worse than all others."""

    def key(number: int) -> tuple[float, float]:
        loss = fmean(outcomes[number].losses)
        return -fmean(outcomes[number].accuracies), loss if math.isfinite(loss) else math.inf

    return sorted((n for n, outcome in enumerate(outcomes) if not outcome.diverged), key=key)


def with_values(
    optimizer: Optimizer, smoothing: Sequence[Smoothing], values: SearchedValues
) -> tuple[Optimizer, tuple[Smoothing, ...]]:
    """Return an optimizer and smoothings with these options in place of their own.

    Raises:
        ValueError: If there is no such option, or a value is out of its bounds.
    """
    known = known_options(optimizer, smoothing)
    for name in values:
        if name not in known:
            raise ValueError(f"there is no option {name!r}; known are {', '.join(known)}")
    own: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    return replace(optimizer, **own), tuple(_with_own(s, values) for s in smoothing)


def _with_own(smoothing: Smoothing, values: SearchedValues) -> Smoothing:
    prefix = f"{smoothing.name}."
    own: dict[str, Any] = {
        name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)
    }
    return replace(smoothing, **own)


def known_options(optimizer: Optimizer, smoothing: Sequence[Smoothing]) -> list[str]:
    """Name the options that can be searched: those that are real numbers."""
    found = [field.name for field in fields(optimizer) if _is_real(getattr(optimizer, field.name))]
    for s in smoothing:
        found += [f"{s.name}.{field.name}" for field in fields(s) if _is_real(getattr(s, field.name))]
    return found


def _is_real(value: object) -> bool:
    return isinstance(value, float)


def _between(low: float, high: float, u: float, *, short_of_one: bool) -> float:
    if short_of_one:
        return 1 - _between(1 - low, 1 - high, u, short_of_one=False)
    return float(low * (high / low) ** u)

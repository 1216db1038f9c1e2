"""Judge six claims about large batches, curvature and smoothing by the study's seeds.

The claims: a large batch costs plain SGD accuracy; a second-order method needs few steps; alone it generalizes worse;
a smoothed objective brings it to the level of the small batch; the minima it then finds are flatter; its few steps take
less time, too. Each gets one of three verdicts from the spread over seeds (see
:func:`pipeline.report.spread.difference`), never from a mean alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pipeline.report import runs as of
from pipeline.report.formatting import count, decimal, plural, seconds, significant, times, with_percent
from pipeline.report.metrics import RoleMetrics, RunMetrics
from pipeline.report.runs import Runs
from pipeline.report.spread import Difference, Spread, difference, paired, said_of_seeds

Standing = Literal["holds", "does not hold", "undecided"]

#: "At the level of" means: at most this many percentage points of test accuracy below.
MARGIN = 0.3

#: The claims on which the study's headline rests.
SMOOTHING_RESTORES = (
    f"A smoothed objective brings it to the level of the small batch (at most {MARGIN:g} points below, at no "
    "higher loss)."
)
SOONER = "The second-order method reaches an equal training loss sooner than the small batch, by the clock."

_BESIDE = "; other jobs of the study ran on the same machine meanwhile, so that either may be too long"
_POINTS, _THREE_DECIMALS = partial(decimal, decimals=2), partial(decimal, decimals=3)
_PERCENT, _THREE_DIGITS = partial(with_percent, decimals=2), partial(significant, digits=3)


@dataclass(frozen=True)
class Claim:
    """A statement, whether the study bears it out, and the numbers that say so."""

    statement: str
    verdict: Standing
    evidence: str


def judge_claims(training: Runs, roles: RoleMetrics | None) -> tuple[Claim, ...]:
    """Judge every claim whose runs the study has, in the order of the argument; none without roles."""
    runs = of.runs_of(training, roles)
    # Each judge with the run that its claim favors, and the other runs that it compares.
    judges: tuple[tuple[Callable[..., Claim | None], str, tuple[str, ...]], ...] = (
        (_large_batch_loses, "reference", ("large_batch",)),
        (_second_order_is_fast, "second_order", ("large_batch",)),
        (_second_order_generalizes_worse, "reference", ("second_order",)),
        (_smoothing_restores, "smoothed", ("reference",)),
        (_smoothing_flattens, "smoothed", ("second_order",)),
        (_second_order_is_sooner, "second_order", ("reference", "large_batch")),
    )
    compared = (
        (judge, [runs[role] for role in (favored, *others)])
        for judge, favored, others in judges
        if {favored, *others} <= runs.keys()
    )
    judged = ((judge(*chosen), chosen) for judge, chosen in compared)
    return tuple(_with_divergence(claim, chosen) for claim, chosen in judged if claim is not None)


def _with_divergence(claim: Claim, compared: Sequence[RunMetrics]) -> Claim:
    """Tell which seeds diverged; a claim that holds becomes undecided if seeds of its own run, the first, diverged."""
    told = [f"{run.label}: {diverged}" for run in compared if (diverged := of.diverged_text(run))]
    if not told:
        return claim
    survived = claim.verdict == "holds" and of.seeds_that_diverged(compared[0])
    return replace(
        claim,
        verdict="undecided" if survived else claim.verdict,
        evidence=f"{claim.evidence} {'; '.join(told)}; means are those of the other seeds.",
    )


def _large_batch_loses(reference: RunMetrics, large: RunMetrics) -> Claim | None:
    loss = _compare(reference, large, of.accuracy_on_test)
    if loss is None:
        return None
    small = f"batch {count(reference.batch_size)}"
    return Claim(
        "A large batch costs plain SGD test accuracy.",
        _verdict([loss.exceeds(0.0)]),
        f"Batch {count(large.batch_size)} is "
        f"{_moved(loss, _POINTS, f'points below {small}', f'points above {small}')}: "
        f"{_means(large, reference, of.accuracy_on_test, _PERCENT)}{_apart(large, reference)}.",
    )


def _second_order_is_fast(ours: RunMetrics, large: RunMetrics) -> Claim | None:
    """Count steps to the training loss that large-batch SGD ends with: optimization, not generalization."""
    target, allowed = of.target_loss(large), of.n_steps(large).mean
    ends = [of.reached(seed, target) for seed in ours.seeds.values()] if target is not None else []
    if not ends or allowed is None:
        return None
    fast = {end is not None and end.steps < allowed for end in ends}
    # One seed decides nothing; several decide if they agree.
    verdict: Standing = _verdict([*fast]) if len(ends) > 1 and len(fast) == 1 else "undecided"
    after = f"after {plural(allowed, 'step')} ({significant(target, 3)})"
    goal = f"the training loss with which large-batch SGD ends {after}"
    steps = Spread.of(end.steps for end in ends if end)
    evidence = f"No seed reaches {goal}."
    if steps.mean is not None:
        reach = "reaches" if steps.n == 1 else "reach"
        who = "Every seed reaches" if steps.n == len(ends) else f"{steps.n} of {len(ends)} seeds {reach}"
        fewer = times(allowed / steps.mean)
        evidence = f"{who} {goal} within {count(max(steps.values))}: {fewer} fewer on average."
    return Claim("A second-order method converges in few steps.", verdict, evidence)


def _second_order_generalizes_worse(reference: RunMetrics, alone: RunMetrics) -> Claim | None:
    quantities = {"test loss": of.loss_on_test, "gap between test and training loss": of.loss_gap}
    found = _differences(alone, reference, quantities)
    below = _compare(reference, alone, of.accuracy_on_test)
    if not found or below is None:
        return None
    words = "; ".join(
        f"the {name} is {_moved(by, _THREE_DECIMALS, 'higher', 'lower')}: "
        f"{_means(alone, reference, quantities[name], _THREE_DIGITS)}"
        for name, by in found.items()
    )
    lower = _moved(below, _POINTS, "points lower", "points higher")
    return Claim(
        "Alone, it generalizes worse than the small batch (in test loss, gap and accuracy).",
        _verdict([by.exceeds(0.0) for by in (*found.values(), below)]),
        f"Beside the small batch, {words}; the test accuracy is {lower}.",
    )


def _smoothing_restores(smoothed: RunMetrics, reference: RunMetrics) -> Claim | None:
    gain = _compare(smoothed, reference, of.accuracy_on_test)
    if gain is None:
        return None
    saved = _compare(reference, smoothed, of.loss_on_test)
    steps, instead = (of.n_steps(run).mean for run in (smoothed, reference))
    spent = f", in {plural(steps, 'step')} instead of {count(instead)}" if steps and instead else ""
    loss = f"; the test loss is {_moved(saved, _THREE_DECIMALS, 'lower', 'higher')}" if saved else ""
    return Claim(
        SMOOTHING_RESTORES,
        _verdict([gain.exceeds(-MARGIN), *([saved.exceeds(0.0)] if saved else [])]),
        f"{_moved(gain, _POINTS, 'points above the small batch', 'points below the small batch')}: "
        f"{_means(smoothed, reference, of.accuracy_on_test, _PERCENT)}{spent}{loss}.",
    )


def _smoothing_flattens(smoothed: RunMetrics, alone: RunMetrics) -> Claim | None:
    """Two measures must agree: curvature shrinks with the training loss, the rise under noise with its slope too."""
    quantities = {
        "largest eigenvalue of the Hessian": of.curvature,
        "rise of the training loss under relative weight noise": of.noise_rise,
    }
    found = _differences(alone, smoothed, quantities)
    if not found:
        return None
    words = [
        f"the {name} is {_moved(by, _THREE_DIGITS, 'lower', 'higher')}: "
        f"{_means(smoothed, alone, quantities[name], _THREE_DIGITS)}"
        for name, by in found.items()
    ]
    return Claim(
        "Smoothed minima are flatter.",
        _verdict([by.exceeds(0.0) for by in found.values()]),
        f"Beside the second-order method alone, {'; '.join(words)}.",
    )


def _second_order_is_sooner(run: RunMetrics, reference: RunMetrics, large: RunMetrics) -> Claim | None:
    """Compare seconds to the same training loss: fewer steps may be longer steps."""
    target = of.target_loss(large)
    if target is None:
        return None
    ours, theirs = (of.time_until(one, target) for one in (run, reference))
    saved = difference(theirs, ours)
    n_seeds, n_theirs = len(run.seeds), len(reference.seeds)
    goal = f"a training loss of {significant(target, 3)}"
    if theirs.n and not ours.n:
        missed = f"No seed reaches {goal}; of the small batch, {_there(theirs.n, n_theirs)}."
        return Claim(SOONER, "does not hold", missed)
    if ours.n and not theirs.n:
        missed = f"No seed of the small batch reaches {goal}; of the second-order method, {_there(ours.n, n_seeds)}."
        return Claim(SOONER, "undecided", missed)
    if saved is None:
        return None
    mine, its = paired(ours, theirs)
    beside = "" if of.alone(run) and of.alone(reference) else _BESIDE
    # A difference and its interval are written in one unit.
    in_one_unit = partial(seconds, like=abs(saved.mean) + (saved.half_width or 0.0))
    evidence = (
        f"To {goal} it takes {seconds(mine.mean)}, the small batch {seconds(its.mean)}{said_of_seeds(ours, theirs)}: "
        f"{_moved(saved, in_one_unit, 'sooner', 'later')}{beside}."
    )
    if ours.n < n_seeds:
        evidence += f" Only {_there(ours.n, n_seeds)}."
    if theirs.n < n_theirs:
        evidence += f" Of the small batch, only {_there(theirs.n, n_theirs)}."
    # The mean of a run leaves out seeds that never reach the loss, so nothing is decided in favor of such a run.
    complete = ours.n == n_seeds if saved.mean >= 0 else theirs.n == n_theirs
    return Claim(SOONER, _verdict([saved.exceeds(0.0) if complete else None]), evidence)


def _compare(first: RunMetrics, second: RunMetrics, quantity: of.OverSeeds) -> Difference | None:
    return difference(quantity(first), quantity(second))


def _differences(
    first: RunMetrics, second: RunMetrics, quantities: Mapping[str, of.OverSeeds]
) -> dict[str, Difference]:
    """Return the differences in those quantities that both runs have, by name."""
    found = {name: _compare(first, second, quantity) for name, quantity in quantities.items()}
    return {name: by for name, by in found.items() if by is not None}


def _verdict(answers: list[bool | None]) -> Standing:
    if all(answers):
        return "holds"
    return "does not hold" if any(answer is False for answer in answers) else "undecided"


def _moved(by: Difference, write: Callable[[float], str], more: str, less: str) -> str:
    """A difference without its sign, which way it goes in words, and its two-sided 90 % interval."""
    size = abs(by.mean)
    text = f"{write(size)} {more if by.mean >= 0 else less}"
    if by.half_width is None:
        return text
    low, high = (write(size + sign * by.half_width) for sign in (-1, 1))
    return f"{text} (90 % interval {low} to {high})"


def _apart(lower: RunMetrics, upper: RunMetrics) -> str:
    """Say so where the seeds of two runs do not overlap; one outlier can hide this in an interval."""
    below, above = of.accuracy_on_test(lower).values, of.accuracy_on_test(upper).values
    if min(len(below), len(above)) < 2 or max(below) >= min(above):
        return ""
    best, worst = _PERCENT(max(below)), _PERCENT(min(above))
    return f"; its best seed, {best}, is below the small batch's worst, {worst}"


def _there(n: int, n_seeds: int) -> str:
    """How many of a run's seeds reach a loss."""
    return f"{n} of {n_seeds} seeds {'gets' if n == 1 else 'get'} there"


def _means(
    one: RunMetrics, other: RunMetrics, quantity: of.OverSeeds, write: Callable[[float | None], str]
) -> str:
    """Write both means over the seeds that both runs have; the difference is taken over the same seeds."""
    spreads = quantity(one), quantity(other)
    mean, against = (write(spread.mean) for spread in paired(*spreads))
    return f"{mean} against {against}{said_of_seeds(*spreads)}"

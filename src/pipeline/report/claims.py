"""Do the study's seeds bear out what is claimed of large batches, curvature and smoothing?

Six claims: a large batch costs plain SGD accuracy; a second-order method needs few steps; alone it generalizes worse;
a smoothed objective brings it to the level of the small batch; the minima it then finds are flatter; its few steps take
less time, too. Each gets one of three verdicts from the spread over seeds (see
:func:`pipeline.report.spread.difference`), never from a mean alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.report.formatting import count, decimal, plural, seconds, significant, times, with_percent
from pipeline.report.metrics import RoleMetrics, RunMetrics
from pipeline.report.runs import (
    Runs,
    accuracy_on_test,
    alone,
    curvature,
    diverged_text,
    loss_gap,
    loss_on_test,
    n_steps,
    noise_rise,
    reached,
    runs_of,
    seeds_of,
    seeds_that_diverged,
    target_loss,
    time_until,
)
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


@dataclass(frozen=True)
class Claim:
    """A statement, whether the study bears it out, and the numbers that say so."""

    statement: str
    verdict: Standing
    evidence: str


def judge_claims(training: Runs, roles: RoleMetrics | None) -> tuple[Claim, ...]:
    """Judge every claim whose runs the study has.

    Args:
        training: Runs by name.
        roles: Which run plays which part.

    Returns:
        The claims in the order of the argument; empty without roles.
    """
    runs = runs_of(training, roles)
    # Each judge with the run that its claim favors, and the others that it compares.
    judges: tuple[tuple[Callable[..., Claim | None], str, tuple[str, ...]], ...] = (
        (_large_batch_loses, "reference", ("large_batch",)),
        (_second_order_is_fast, "second_order", ("large_batch",)),
        (_second_order_generalizes_worse, "reference", ("second_order",)),
        (_smoothing_restores, "smoothed", ("reference",)),
        (_smoothing_flattens, "smoothed", ("second_order",)),
        (_second_order_is_sooner, "second_order", ("reference", "large_batch")),
    )
    judged = (
        (judge(runs), runs[favored], [runs[role] for role in others])
        for judge, favored, others in judges
        if favored in runs and all(role in runs for role in others)
    )
    return tuple(
        _with_divergence(claim, favored, others) for claim, favored, others in judged if claim is not None
    )


def _with_divergence(claim: Claim, favored: RunMetrics, others: Sequence[RunMetrics]) -> Claim:
    """Tell which seeds diverged; a claim does not hold for a run by the seeds that survived alone."""
    told = [f"{run.label}: {diverged}" for run in (favored, *others) if (diverged := diverged_text(run))]
    if not told:
        return claim
    survived = claim.verdict == "holds" and seeds_that_diverged(favored)
    return replace(
        claim,
        verdict="undecided" if survived else claim.verdict,
        evidence=f"{claim.evidence} {'; '.join(told)}; means are those of the other seeds.",
    )


def _large_batch_loses(runs: Mapping[str, RunMetrics]) -> Claim | None:
    loss = _compare(runs["reference"], runs["large_batch"], accuracy_on_test)
    if loss is None:
        return None
    return Claim(
        "A large batch costs plain SGD test accuracy.",
        _verdict([loss.exceeds(0.0)]),
        f"Batch {count(runs['large_batch'].batch_size)} is {_points(loss)} "
        f"{'below' if loss.mean >= 0 else 'above'} batch {count(runs['reference'].batch_size)}"
        f"{_interval(loss, 2)}: {_means(runs['large_batch'], runs['reference'], accuracy_on_test, _percent)}"
        f"{_apart(runs['large_batch'], runs['reference'])}.",
    )


def _second_order_is_fast(runs: Mapping[str, RunMetrics]) -> Claim | None:
    """Count steps to the training loss that large-batch SGD ends with: optimization, not generalization."""
    target, allowed = target_loss(runs["large_batch"]), n_steps(runs["large_batch"]).mean
    if target is None or allowed is None:
        return None
    ends = [reached(seed, target) for seed in seeds_of(runs["second_order"])]
    if not ends:
        return None
    faster = [end is not None and end.steps < allowed for end in ends]
    statement = "A second-order method converges in few steps."
    goal = f"the training loss with which large-batch SGD ends after {plural(allowed, 'step')}"
    goal = f"{goal} ({significant(target, 3)})"
    steps = Spread.of(end.steps for end in ends if end)
    if steps.mean is None:
        return Claim(statement, _verdict_of_seeds(faster), f"No seed reaches {goal}.")
    who = (
        "Every seed reaches"
        if steps.n == len(ends)
        else f"{steps.n} of {len(ends)} seeds {'reaches' if steps.n == 1 else 'reach'}"
    )
    evidence = (
        f"{who} {goal} within {count(max(steps.values))}: {times(allowed / steps.mean)} fewer on average."
    )
    return Claim(statement, _verdict_of_seeds(faster), evidence)


def _second_order_generalizes_worse(runs: Mapping[str, RunMetrics]) -> Claim | None:
    alone, reference = runs["second_order"], runs["reference"]
    quantities = {"test loss": loss_on_test, "gap between test and training loss": loss_gap}
    found = {name: _compare(alone, reference, of) for name, of in quantities.items()}
    present = {name: by for name, by in found.items() if by is not None}
    below = _compare(reference, alone, accuracy_on_test)
    if not present or below is None:
        return None
    words = [
        f"the {name} is {decimal(abs(by.mean), 3)} {'higher' if by.mean >= 0 else 'lower'}{_interval(by, 3)}: "
        f"{_means(alone, reference, quantities[name], _three_digits)}"
        for name, by in present.items()
    ]
    words.append(
        f"the test accuracy is {_points(below)} {'lower' if below.mean >= 0 else 'higher'}{_interval(below, 2)}"
    )
    return Claim(
        "Alone, it generalizes worse than the small batch (in test loss, gap and accuracy).",
        _verdict([by.exceeds(0.0) for by in (*present.values(), below)]),
        f"Beside the small batch, {'; '.join(words)}.",
    )


def _smoothing_restores(runs: Mapping[str, RunMetrics]) -> Claim | None:
    gain = _compare(runs["smoothed"], runs["reference"], accuracy_on_test)
    if gain is None:
        return None
    saved = _compare(runs["reference"], runs["smoothed"], loss_on_test)
    steps, reference_steps = n_steps(runs["smoothed"]).mean, n_steps(runs["reference"]).mean
    spent = (
        f", in {plural(steps, 'step')} instead of {count(reference_steps)}"
        if steps and reference_steps
        else ""
    )
    loss = ""
    if saved is not None:
        loss = (
            f"; the test loss is {decimal(abs(saved.mean), 3)} {'lower' if saved.mean >= 0 else 'higher'}"
            f"{_interval(saved, 3)}"
        )
    return Claim(
        SMOOTHING_RESTORES,
        _verdict([gain.exceeds(-MARGIN), *([saved.exceeds(0.0)] if saved is not None else [])]),
        f"{_points(gain)} {'above' if gain.mean >= 0 else 'below'} the small batch{_interval(gain, 2)}: "
        f"{_means(runs['smoothed'], runs['reference'], accuracy_on_test, _percent)}{spent}{loss}.",
    )


def _smoothing_flattens(runs: Mapping[str, RunMetrics]) -> Claim | None:
    """Two measures must agree: curvature shrinks with the training loss, the rise under noise with its slope too."""
    alone, smoothed = runs["second_order"], runs["smoothed"]
    quantities = {
        "largest eigenvalue of the Hessian": curvature,
        "rise of the training loss under relative weight noise": noise_rise,
    }
    found = {name: _compare(alone, smoothed, of) for name, of in quantities.items()}
    present = {name: by for name, by in found.items() if by is not None}
    if not present:
        return None
    words = [
        f"the {name} is {significant(abs(by.mean), 3)} {'lower' if by.mean >= 0 else 'higher'}{_interval(by)}: "
        f"{_means(smoothed, alone, quantities[name], _three_digits)}"
        for name, by in present.items()
    ]
    return Claim(
        "Smoothed minima are flatter.",
        _verdict([by.exceeds(0.0) for by in present.values()]),
        f"Beside the second-order method alone, {'; '.join(words)}.",
    )


def _second_order_is_sooner(runs: Mapping[str, RunMetrics]) -> Claim | None:
    """Compare seconds to the same training loss: what fewer steps are worth if each of them takes longer."""
    target = target_loss(runs["large_batch"])
    if target is None:
        return None
    ours, theirs = (time_until(runs[role], target) for role in ("second_order", "reference"))
    saved = difference(theirs, ours)
    n_seeds, n_theirs = len(runs["second_order"].seeds), len(runs["reference"].seeds)
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
    beside = "" if alone(runs["second_order"]) and alone(runs["reference"]) else _BESIDE
    evidence = (
        f"To {goal} it takes {seconds(mine.mean)}, the small batch {seconds(its.mean)}{said_of_seeds(ours, theirs)}: "
        f"{seconds(abs(saved.mean))} {'sooner' if saved.mean >= 0 else 'later'}{_interval(saved, unit=' s')}{beside}."
    )
    if ours.n < n_seeds:
        evidence += f" Only {_there(ours.n, n_seeds)}."
    if theirs.n < n_theirs:
        evidence += f" Of the small batch, only {_there(theirs.n, n_theirs)}."
    # Seeds that never get there would lengthen the mean of their run: nothing is decided in its favor.
    complete = ours.n == n_seeds if saved.mean >= 0 else theirs.n == n_theirs
    sooner = saved.exceeds(0.0) if complete else None
    return Claim(SOONER, _verdict([sooner]), evidence)


def _compare(
    first: RunMetrics,
    second: RunMetrics,
    quantity: Callable[[RunMetrics], Spread],
) -> Difference | None:
    return difference(quantity(first), quantity(second))


def _verdict(answers: list[bool | None]) -> Standing:
    if all(answers):
        return "holds"
    return "does not hold" if any(answer is False for answer in answers) else "undecided"


def _verdict_of_seeds(answers: list[bool]) -> Standing:
    """One seed decides nothing; several decide if they agree."""
    if len(answers) < 2 or len(set(answers)) > 1:
        return "undecided"
    return "holds" if answers[0] else "does not hold"


def _points(by: Difference) -> str:
    """A difference of accuracies, without its sign, in percentage points."""
    return f"{decimal(abs(by.mean), 2)} points"


def _interval(by: Difference, decimals: int | None = None, unit: str = "") -> str:
    """The two-sided 90 % interval around a difference whose sign its sentence says in words.

    Without a number of decimals it has three significant digits, for quantities of any size.
    """
    if by.half_width is None:
        return ""
    ends = (abs(by.mean) - by.half_width, abs(by.mean) + by.half_width)
    low, high = (significant(end, 3) if decimals is None else decimal(end, decimals) for end in ends)
    return f" (90 % interval {low} to {high}{unit})"


def _apart(lower: RunMetrics, upper: RunMetrics) -> str:
    """Say so where the seeds of two runs do not overlap, which one seed that goes astray hides in an interval."""
    below, above = accuracy_on_test(lower).values, accuracy_on_test(upper).values
    if min(len(below), len(above)) < 2 or max(below) >= min(above):
        return ""
    best, worst = with_percent(max(below), 2), with_percent(min(above), 2)
    return f"; its best seed, {best}, is below the small batch's worst, {worst}"


def _there(n: int, n_seeds: int) -> str:
    """How many of a run's seeds reach a loss."""
    return f"{n} of {n_seeds} seeds {'gets' if n == 1 else 'get'} there"


def _means(
    one: RunMetrics,
    other: RunMetrics,
    quantity: Callable[[RunMetrics], Spread],
    written: Callable[[float | None], str],
) -> str:
    """Both means over the seeds that both runs have, which are those of the difference."""
    spreads = quantity(one), quantity(other)
    mean, against = (written(spread.mean) for spread in paired(*spreads))
    return f"{mean} against {against}{said_of_seeds(*spreads)}"


def _percent(mean: float | None) -> str:
    return with_percent(mean, 2)


def _three_digits(mean: float | None) -> str:
    return significant(mean, 3)

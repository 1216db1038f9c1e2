"""Fewer steps: who reaches an equal loss sooner, by the clock and in steps, and what becomes of the accuracy."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.report import formatting as f
from pipeline.report import runs as of
from pipeline.report.claims import MARGIN, SMOOTHING_RESTORES, SOONER, Claim, judge_claims
from pipeline.report.content import CoreAnswer, JudgedClaim
from pipeline.report.metrics import RoleMetrics, RunMetrics
from pipeline.report.runs import Runs
from pipeline.report.spread import paired, said_of_seeds

TITLE = "Fewer steps"


def answer_steps(
    training: Runs,
    roles: RoleMetrics | None,
    n_classes: int = 0,
    elsewhere: Mapping[str, Mapping[str, Claim]] | None = None,
) -> CoreAnswer | None:
    """Compare the second-order run with the small batch at an equal training loss.

    ``elsewhere`` has the claims of the studies beside this one. Its keys are the page's names of these studies, then
    the claims' statements.
    """
    runs = of.runs_of(training, roles)
    reference, ours = runs.get("reference"), runs.get("second_order") or runs.get("smoothed")
    if reference is None or ours is None:
        return _best_run(training, n_classes)
    findings = _findings(training, roles, runs, n_classes, elsewhere or {})
    target = of.target_loss(runs["large_batch"]) if "large_batch" in runs else None
    at_equal_loss = _at_equal_loss(ours, reference, target, findings) if target is not None else None
    return at_equal_loss or _at_the_end(ours, reference, findings)


def _at_equal_loss(
    ours: RunMetrics, reference: RunMetrics, target: float, findings: tuple[JudgedClaim, ...]
) -> CoreAnswer | None:
    """Lead with time, then steps, until a loss; None where not every seed of both runs reaches it."""
    spent = [of.time_until(run, target) for run in (ours, reference)]
    if any(spread.n < len(run.seeds) for spread, run in zip(spent, (ours, reference), strict=True)):
        return None
    mine, theirs = (spread.mean for spread in paired(*spent))
    if not mine or not theirs:
        return None
    counted = paired(of.steps_until(ours, target), of.steps_until(reference, target))
    steps, reference_steps = (spread.mean for spread in counted)
    alone = of.alone(ours) and of.alone(reference)
    beside = "" if alone else " (other jobs ran meanwhile: times may be too long)"
    fewer = f" and {f.times(steps / reference_steps)} the steps" if steps and reference_steps else ""
    return CoreAnswer(
        TITLE,
        f.times(mine / theirs),
        f"the time{fewer} of {_subject(reference)} to an equal training loss",
        f"{_subject(ours)} needs {f.seconds(mine)} and {_steps(steps)} to reach a training loss of "
        f"{f.significant(target, 3)}, and {_subject(reference)} needs {f.seconds(theirs)} and "
        f"{_steps(reference_steps)}{beside}.",
        findings,
    )


def _at_the_end(ours: RunMetrics, reference: RunMetrics, findings: tuple[JudgedClaim, ...]) -> CoreAnswer:
    """Tell where both runs end, for studies in which they reach no common loss."""
    places = of.common_decimals([of.accuracy_on_test(ours), of.accuracy_on_test(reference)], 2)
    accuracy = f.with_percent(of.accuracy_on_test(ours).mean, places)
    runs = (ours, reference)
    ends = (f"{_subject(run)} ends at {of.accuracy_text(run, places)}{_spent(run)}" for run in runs)
    return CoreAnswer(TITLE, accuracy, "test accuracy", f"{'; '.join(ends)}.", findings)


def _findings(
    training: Runs,
    roles: RoleMetrics | None,
    runs: Mapping[str, RunMetrics],
    n_classes: int,
    elsewhere: Mapping[str, Mapping[str, Claim]],
) -> tuple[JudgedClaim, ...]:
    """The verdicts on the time and on what smoothing restores, if they were judged."""
    if any(of.run_at_chance(run, n_classes) for role, run in runs.items() if role != "large_batch"):
        claim = f"An accuracy near {f.percent(1 / n_classes, 0)} is that of guessing: nothing was learned."
        return (JudgedClaim("at chance", claim),)
    judged = {claim.statement: claim for claim in judge_claims(training, roles)}
    found = {}
    if SOONER in judged:
        found[SOONER] = JudgedClaim(judged[SOONER].verdict, "The second-order method gets there sooner.")
    if SMOOTHING_RESTORES in judged:
        found[SMOOTHING_RESTORES] = _restored(judged[SMOOTHING_RESTORES], runs["smoothed"], runs["reference"])
    for statement, finding in found.items():
        there = {study: claims[statement] for study, claims in elsewhere.items() if statement in claims}
        said = f.listing(f"{study}: {claim.verdict}" for study, claim in there.items())
        if said:
            found[statement] = replace(finding, claim=f"{finding.claim} Elsewhere: {said}.")
    return tuple(found.values())


def _restored(claim: Claim, smoothed: RunMetrics, reference: RunMetrics) -> JudgedClaim:
    all_seeds = of.accuracy_on_test(smoothed), of.accuracy_on_test(reference)
    spreads = paired(*all_seeds)
    places = of.common_decimals(spreads, 2)
    at, against = map(of.accuracy_text, (smoothed, reference), (places, places), spreads)
    return JudgedClaim(
        claim.verdict,
        f"Smoothed, the large batch is as accurate as the small one, or at most {MARGIN:g} points below: "
        f"{at} against {against}{said_of_seeds(*all_seeds)}.",
    )


def _subject(run: RunMetrics) -> str:
    return f"{of.method_of(run)} with batch {f.count(run.batch_size)}"


def _steps(n: float | None) -> str:
    return f.plural(n, "step") if n is not None else f"{f.count(n)} steps"


def _spent(run: RunMetrics) -> str:
    """Steps and seconds of training, as far as they are known."""
    steps, wall = of.n_steps(run).mean, of.wall_seconds(run).mean
    beside = "" if of.alone(run) else " (beside other jobs)"
    parts = [_steps(steps)] if steps is not None else []
    parts += [f"{f.seconds(wall)}{beside}"] if wall is not None else []
    return f" in {' and '.join(parts)}" if parts else ""


def _best_run(training: Runs, n_classes: int) -> CoreAnswer | None:
    means = {name: of.accuracy_on_test(run).mean for name, run in training.items()}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if not known:
        return None
    name = max(known, key=lambda key: known[key])
    run, several = training[name], len(training) > 1
    label, end = of.label_of(name, run), f"{of.accuracy_text(run)}{_spent(run)}."
    unit, text = "test accuracy", f"{label} ends at {end}"
    if of.run_at_chance(run, n_classes):
        who = f"None of {f.plural(len(training), 'run')} gets" if several else "The run does not get"
        unit = "test accuracy, no better than chance"
        text = (
            f"{who} above chance, which is {f.percent(1 / n_classes, 0)} "
            f"with {f.plural(n_classes, 'class', 'classes')}: {text}"
        )
    elif several:
        unit = "best test accuracy"
        text = f"{label} reaches the best test accuracy of {f.plural(len(training), 'run')}: {end}"
    return CoreAnswer(TITLE, f.with_percent(known[name], 2), unit, text)

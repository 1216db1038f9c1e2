"""Fewer steps: who reaches an equal loss sooner, by the clock and in steps, and what becomes of the accuracy."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.report.claims import MARGIN, SMOOTHING_RESTORES, SOONER, Claim, judge_claims
from pipeline.report.content import CoreAnswer, JudgedClaim
from pipeline.report.formatting import (
    count,
    listing,
    percent,
    plural,
    seconds,
    significant,
    times,
    with_percent,
)
from pipeline.report.metrics import RoleMetrics, RunMetrics
from pipeline.report.runs import (
    Runs,
    accuracy_on_test,
    accuracy_text,
    alone,
    common_decimals,
    label_of,
    method_of,
    n_steps,
    run_at_chance,
    runs_of,
    steps_until,
    target_loss,
    time_until,
    wall_seconds,
)
from pipeline.report.spread import paired, said_of_seeds

TITLE = "Fewer steps"


def answer_steps(
    training: Runs,
    roles: RoleMetrics | None,
    n_classes: int = 0,
    elsewhere: Mapping[str, Mapping[str, Claim]] | None = None,
) -> CoreAnswer | None:
    """Compare the second-order run with the small batch at an equal training loss.

    Args:
        training: Runs by name.
        roles: Which run plays which part.
        n_classes: Number of classes of the images.
        elsewhere: The claims of the studies beside this one, by their statements, each study by what the page calls it.
    """
    runs = runs_of(training, roles)
    reference, ours = runs.get("reference"), runs.get("second_order") or runs.get("smoothed")
    if reference is None or ours is None:
        return _best_run(training, n_classes)
    findings = _findings(training, roles, runs, n_classes, elsewhere or {})
    target = target_loss(runs["large_batch"]) if "large_batch" in runs else None
    at_equal_loss = _at_equal_loss(ours, reference, target, findings) if target is not None else None
    return at_equal_loss or _at_the_end(ours, reference, findings)


def _at_equal_loss(
    ours: RunMetrics, reference: RunMetrics, target: float, findings: tuple[JudgedClaim, ...]
) -> CoreAnswer | None:
    """Lead with time, then steps, until a loss; None where not every seed of both runs reaches it."""
    if any(time_until(run, target).n < len(run.seeds) for run in (ours, reference)):
        return None
    mine, theirs = (spread.mean for spread in paired(*(time_until(run, target) for run in (ours, reference))))
    if not mine or not theirs:
        return None
    steps, reference_steps = (
        spread.mean for spread in paired(*(steps_until(run, target) for run in (ours, reference)))
    )
    beside = "" if alone(ours) and alone(reference) else " (other jobs ran meanwhile: times may be too long)"
    fewer = f" and {times(steps / reference_steps)} the steps" if steps and reference_steps else ""
    return CoreAnswer(
        TITLE,
        times(mine / theirs),
        f"the time{fewer} of {_subject(reference)} to an equal training loss",
        f"{_subject(ours)} needs {seconds(mine)} and {_steps(steps)} to reach a training loss of "
        f"{significant(target, 3)}, and {_subject(reference)} needs {seconds(theirs)} and "
        f"{_steps(reference_steps)}{beside}.",
        findings,
    )


def _at_the_end(ours: RunMetrics, reference: RunMetrics, findings: tuple[JudgedClaim, ...]) -> CoreAnswer:
    """Tell where both runs end, for studies in which no loss is reached by both."""
    places = common_decimals([accuracy_on_test(ours), accuracy_on_test(reference)], 2)
    words = [
        f"{_subject(run)} ends at {accuracy_text(run, places)}{_spent(run)}" for run in (ours, reference)
    ]
    accuracy = with_percent(accuracy_on_test(ours).mean, places)
    return CoreAnswer(TITLE, accuracy, "test accuracy", f"{'; '.join(words)}.", findings)


def _findings(
    training: Runs,
    roles: RoleMetrics | None,
    runs: Mapping[str, RunMetrics],
    n_classes: int,
    elsewhere: Mapping[str, Mapping[str, Claim]],
) -> tuple[JudgedClaim, ...]:
    """The verdicts on the time and on what smoothing restores, if they were judged."""
    if any(run_at_chance(run, n_classes) for role, run in runs.items() if role != "large_batch"):
        claim = f"An accuracy near {percent(1 / n_classes, 0)} is that of guessing: nothing was learned."
        return (JudgedClaim("at chance", claim),)
    judged = {claim.statement: claim for claim in judge_claims(training, roles)}
    found = []
    if SOONER in judged:
        found.append(
            (SOONER, JudgedClaim(judged[SOONER].verdict, "The second-order method gets there sooner."))
        )
    if SMOOTHING_RESTORES in judged:
        restored = _restored(judged[SMOOTHING_RESTORES], runs["smoothed"], runs["reference"])
        found.append((SMOOTHING_RESTORES, restored))
    return tuple(
        replace(finding, claim=f"{finding.claim}{_elsewhere(statement, elsewhere)}")
        for statement, finding in found
    )


def _elsewhere(statement: str, elsewhere: Mapping[str, Mapping[str, Claim]]) -> str:
    """What the studies beside this one say of a claim that they judge."""
    said = [
        f"{study}: {claims[statement].verdict}" for study, claims in elsewhere.items() if statement in claims
    ]
    return f" Elsewhere: {listing(said)}." if said else ""


def _restored(claim: Claim, smoothed: RunMetrics, reference: RunMetrics) -> JudgedClaim:
    spreads = paired(accuracy_on_test(smoothed), accuracy_on_test(reference))
    places = common_decimals(spreads, 2)
    at, against = (
        accuracy_text(run, places, spread) for run, spread in zip((smoothed, reference), spreads, strict=True)
    )
    seeds = said_of_seeds(accuracy_on_test(smoothed), accuracy_on_test(reference))
    return JudgedClaim(
        claim.verdict,
        f"Smoothed, the large batch is as accurate as the small one, or at most {MARGIN:g} points below: "
        f"{at} against {against}{seeds}.",
    )


def _subject(run: RunMetrics) -> str:
    return f"{method_of(run)} with batch {count(run.batch_size)}"


def _steps(n: float | None) -> str:
    return plural(n, "step") if n is not None else f"{count(n)} steps"


def _spent(run: RunMetrics) -> str:
    """Steps and seconds of training, as far as they are known."""
    steps, wall = n_steps(run).mean, wall_seconds(run).mean
    parts = [_steps(steps)] if steps is not None else []
    parts += [f"{seconds(wall)}{'' if alone(run) else ' (beside other jobs)'}"] if wall is not None else []
    return f" in {' and '.join(parts)}" if parts else ""


def _best_run(training: Runs, n_classes: int) -> CoreAnswer | None:
    known = {name: accuracy_on_test(run).mean for name, run in training.items()}
    ranked = {name: mean for name, mean in known.items() if mean is not None}
    if not ranked:
        return None
    name = max(ranked, key=lambda key: ranked[key])
    run = training[name]
    accuracy = with_percent(ranked[name], 2)
    if run_at_chance(run, n_classes):
        who = f"None of {plural(len(training), 'run')} gets" if len(training) > 1 else "The run does not get"
        text = (
            f"{who} above chance, which is {percent(1 / n_classes, 0)} "
            f"with {plural(n_classes, 'class', 'classes')}: {label_of(name, run)} ends at "
            f"{accuracy_text(run)}{_spent(run)}."
        )
        return CoreAnswer(TITLE, accuracy, "test accuracy, no better than chance", text)
    if len(training) == 1:
        text = f"{label_of(name, run)} ends at {accuracy_text(run)}{_spent(run)}."
        return CoreAnswer(TITLE, accuracy, "test accuracy", text)
    text = (
        f"{label_of(name, run)} reaches the best test accuracy of {plural(len(training), 'run')}: "
        f"{accuracy_text(run)}{_spent(run)}."
    )
    return CoreAnswer(TITLE, accuracy, "best test accuracy", text)

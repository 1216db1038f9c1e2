"""Fewer steps: how many fewer, at which accuracy, and whether the study bears the claim out."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.claims import MARGIN, SMOOTHING_RESTORES, judge_claims
from pipeline.report.content import Answer
from pipeline.report.formatting import DASH, count, is_number, percent, plural, seconds, times, with_percent
from pipeline.report.runs import (
    accuracy_on_test,
    accuracy_text,
    common_decimals,
    label_of,
    method_of,
    n_steps,
    run_at_chance,
    wall_seconds,
)


def answer_steps(
    training: Mapping[str, Any], roles: Mapping[str, Any] | None, n_classes: int = 0
) -> Answer | None:
    """Compare the smoothed large-batch run (else the second-order one) with the small batch."""
    parts = {role: training[name] for role, name in (roles or {}).items() if name in training}
    reference, large = parts.get("reference"), parts.get("large_batch")
    ours = parts.get("smoothed") or parts.get("second_order")
    if reference is None or ours is None:
        return _best_run(training, n_classes)
    places = common_decimals([accuracy_on_test(run) for run in (reference, large, ours) if run], 2)
    found = "; ".join(
        f"{_subject(run)}: {accuracy_text(run, places)}{_spent(run)}"
        for run in (reference, large, ours)
        if run
    )
    text = f"Test accuracy. {found}."
    steps, reference_steps = n_steps(ours).mean, n_steps(reference).mean
    headline, unit = DASH, "fewer training steps"
    if steps and reference_steps:
        fewer = reference_steps >= steps
        headline = times(reference_steps / steps if fewer else steps / reference_steps)
        unit = unit if fewer else "more training steps"
        text += _by_construction(ours, reference, reference_steps / steps)
    if accuracy_on_test(ours).n and accuracy_on_test(reference).n:
        at, against = (with_percent(accuracy_on_test(run).mean, places) for run in (ours, reference))
        unit = f"{unit}, at {at} test accuracy against {against}"
    verdict, claim = _verdict(training, roles)
    if any(run_at_chance(run, n_classes) for run in (ours, reference)):
        verdict = "at chance"
        claim = f"An accuracy near {percent(1 / n_classes, 0)} is that of guessing: nothing was learned."
    return Answer("Fewer steps", headline, unit, text, verdict, claim)


def _subject(run: Mapping[str, Any]) -> str:
    batch = f" with a batch of {count(run['batch_size'])}" if is_number(run.get("batch_size")) else ""
    return f"{method_of(run)}{batch}"


def _spent(run: Mapping[str, Any]) -> str:
    """Steps and seconds of training, as far as they are known."""
    steps, wall = n_steps(run).mean, wall_seconds(run).mean
    parts = [f"{count(steps)} steps"] if steps is not None else []
    parts += [seconds(wall)] if wall is not None else []
    return f" in {' and '.join(parts)}" if parts else ""


def _by_construction(ours: Mapping[str, Any], reference: Mapping[str, Any], ratio: float) -> str:
    """Say so where the number of steps follows from the batch sizes alone."""
    epochs, batch, small = ours.get("epochs"), ours.get("batch_size"), reference.get("batch_size")
    if not is_number(batch) or not is_number(small) or not small > 0 or not is_number(epochs):
        return ""
    if epochs != reference.get("epochs") or abs(ratio * small / batch - 1) > 0.1:
        return ""
    return (
        f" At equal epochs ({count(epochs)}) the ratio of steps is that of the batches; what the study asks is "
        "whether the accuracy survives it."
    )


def _verdict(training: Mapping[str, Any], roles: Mapping[str, Any] | None) -> tuple[str, str]:
    """The verdict of the claim that smoothing restores the accuracy, if that was judged."""
    for claim in judge_claims(training, roles):
        if claim.statement == SMOOTHING_RESTORES:
            margin = f"at most {MARGIN:g} points below"
            return (
                claim.verdict,
                f"Smoothing brings the large batch to the level of the small one ({margin}).",
            )
    return "", ""


def _best_run(training: Mapping[str, Any], n_classes: int) -> Answer | None:
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
            f"with {count(n_classes)} classes: {label_of(name, run)} ends at {accuracy_text(run)}{_spent(run)}."
        )
        return Answer("Fewer steps", accuracy, "test accuracy, no better than chance", text)
    if len(training) == 1:
        text = f"{label_of(name, run)} ends at {accuracy_text(run)}{_spent(run)}."
        return Answer("Fewer steps", accuracy, "test accuracy", text)
    text = (
        f"{label_of(name, run)} reaches the best test accuracy of {plural(len(training), 'run')}: "
        f"{accuracy_text(run)}{_spent(run)}."
    )
    return Answer("Fewer steps", accuracy, "best test accuracy", text)

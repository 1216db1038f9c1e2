"""Fewer bits: how much faster half precision is, and what it does to the answers."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.content import Answer
from pipeline.report.formatting import DASH, count, is_number, listing, percent, relative, times
from pipeline.report.runs import at_chance, method_of

TITLE = "Fewer bits"


def answer_bits(
    precision: Mapping[str, Any], training: Mapping[str, Any], n_classes: int = 0
) -> Answer | None:
    """Lead with the speed of the last network that was converted, and with what it costs in accuracy and error."""
    if not precision:
        return None
    name, network = list(precision.items())[-1]
    accuracies, speeds = _accuracies(network), whole_network_speedups(network)
    if not speeds and not accuracies:
        return None
    text = (
        f"{_speed_text(name, speeds, training)}{_error_text(network)}{_accuracy_text(accuracies, n_classes)}."
    )
    if speeds:
        batch, speed = max(speeds.items(), key=lambda item: item[1])
        return Answer(TITLE, times(speed), f"the speed of FP32 at batch {count(batch)}", text)
    return Answer(TITLE, percent(next(iter(accuracies.values()))["fp16"], 2), "test accuracy at FP16", text)


def _accuracies(network: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The accuracies of the plans that were timed, by batch size."""
    found = {
        batch: (plan or {}).get("accuracy") or {} for batch, plan in (network.get("plans") or {}).items()
    }
    return {
        batch: accuracy
        for batch, accuracy in found.items()
        if is_number(accuracy.get("fp32")) and is_number(accuracy.get("fp16"))
    }


def _speed_text(name: str, speeds: Mapping[int, float], training: Mapping[str, Any]) -> str:
    told = listing(
        f"{times(speed)} as fast as FP32 at batch {count(batch)}" for batch, speed in speeds.items()
    )
    return f"In half precision, the network {_trained_by(name, training)}{f'runs {told}' if told else 'was not timed'}"


def _error_text(network: Mapping[str, Any]) -> str:
    """The clause on the error of its outputs, the largest of the plans that were timed."""
    plans = (network.get("plans") or {}).values()
    errors = [((plan or {}).get("verification") or {}).get("output_error") for plan in plans]
    known = [error for error in errors if is_number(error)]
    return f"; its outputs move by {relative(max(known))}" if known else ""


def _accuracy_text(accuracies: Mapping[str, Mapping[str, Any]], n_classes: int) -> str:
    """The clause on the accuracy: that of the plan which loses most."""
    if not accuracies:
        return ""
    worst = min(accuracies.values(), key=lambda accuracy: accuracy["fp16"])
    before, after, changed = worst["fp32"], worst["fp16"], worst.get("n_changed")
    moved = "stays at" if after == before else f"goes from {percent(before, 2)} to"
    of = (
        f" ({count(changed)} of {count(worst.get('n_samples'))} answers change)" if is_number(changed) else ""
    )
    chance = ", no better than chance" if at_chance(after, n_classes) else ""
    return f"; its test accuracy {moved} {percent(after, 2)}{of}{chance}"


def _trained_by(name: str, training: Mapping[str, Any]) -> str:
    """The clause that tells one converted network from another, if the study says how it was trained."""
    return f"trained by {method_of(training[name])} " if name in training else ""


def whole_network_speedups(network: Mapping[str, Any]) -> dict[int, float]:
    """FP32 over FP16 time of all layers together, by batch size."""
    batches: dict[int, tuple[float, float]] = {}
    for row in network.get("timings") or []:
        full, half, batch = row.get("seconds_fp32"), row.get("seconds_fp16"), row.get("batch")
        if is_number(full) and is_number(half) and is_number(batch):
            before = batches.get(int(batch), (0.0, 0.0))
            batches[int(batch)] = before[0] + full, before[1] + half
    return {batch: full / half for batch, (full, half) in sorted(batches.items()) if half > 0}


def bound_text(bound: object) -> str:
    """What limits a layer, in words."""
    words = {"compute": "arithmetic", "conversion": "conversion to FP32", "DRAM": "main memory"}
    if not bound:
        return DASH
    return words.get(str(bound), f"the {bound} cache" if str(bound).startswith("L") else str(bound))

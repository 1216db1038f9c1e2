"""Fewer bits: how much faster half precision is, and what it does to the answers."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts.results.half_network import Accuracy
from pipeline.report.content import CoreAnswer
from pipeline.report.formatting import DASH, count, is_number, listing, percent, relative, times
from pipeline.report.metrics import Converted
from pipeline.report.runs import Runs, at_chance, method_of

TITLE = "Fewer bits"


def answer_bits(precision: Mapping[str, Converted], training: Runs, n_classes: int = 0) -> CoreAnswer | None:
    """Lead with the speed of the last network that was converted, and with what it costs in accuracy and error."""
    if not precision:
        return None
    name, network = list(precision.items())[-1]
    accuracies = [plan.accuracy for plan in network.plans.values() if plan.accuracy]
    speeds = whole_network_speedups(network)
    if not speeds and not accuracies:
        return None
    trained = f"trained by {method_of(training[name])}" if name in training else name
    beside = " (beside other work)" if speeds and network.alone is False else ""
    ran = f"In half precision, the network {trained} {_speed_text(speeds)}{beside}"
    text = f"{ran}{_error_text(network)}{_accuracy_text(accuracies, n_classes)}."
    if speeds:
        batch, speed = max(speeds.items(), key=lambda item: item[1])
        plan = network.plans.get(str(batch))
        error = plan.verification.output_error if plan and plan.verification else None
        of = " for inputs that are noise" if network.generated_inputs else ""
        off = f", with outputs off by {relative(error)}{of}" if is_number(error) else ""
        return CoreAnswer(TITLE, times(speed), f"the speed of FP32 at batch {count(batch)}{off}", text)
    return CoreAnswer(TITLE, percent(accuracies[0].fp16, 2), "test accuracy at FP16", text)


def _speed_text(speeds: Mapping[int, float]) -> str:
    told = listing(
        f"{times(speed)} as fast {'' if place else 'as FP32 '}at batch {count(batch)}"
        for place, (batch, speed) in enumerate(speeds.items())
    )
    return f"runs {told}" if told else "was not timed"


def _error_text(network: Converted) -> str:
    """Return the clause on the largest output error of the timed plans, and on the kind of inputs behind it."""
    checked = [plan.verification for plan in network.plans.values() if plan.verification]
    known = [found.output_error for found in checked if is_number(found.output_error)]
    if not known:
        return ""
    varying = [found.varying_error for found in checked if is_number(found.varying_error)]
    beside = f", {relative(max(varying))} of the variation between samples" if varying else ""
    of = " for inputs that are noise, which tell nothing of real samples" if network.generated_inputs else ""
    return f"; its outputs differ by at most {relative(max(known))}{beside}{of}"


def _accuracy_text(accuracies: Sequence[Accuracy], n_classes: int) -> str:
    """Return the clause on the accuracy of the plan that loses most."""
    if not accuracies:
        return ""
    worst = min(accuracies, key=lambda accuracy: accuracy.fp16)
    moved = "stays at" if worst.fp16 == worst.fp32 else f"goes from {percent(worst.fp32, 2)} to"
    chance = ", no better than chance" if at_chance(worst.fp16, n_classes) else ""
    return (
        f"; its test accuracy {moved} {percent(worst.fp16, 2)}, and {count(worst.n_changed)} of "
        f"{count(worst.n_samples)} answers change{chance}"
    )


def whole_network_speedups(network: Converted) -> dict[int, float]:
    """FP32 over FP16 time of all layers together, by batch size."""
    batches: dict[int, tuple[float, float]] = {}
    for row in network.timings:
        before = batches.get(row.batch, (0.0, 0.0))
        batches[row.batch] = before[0] + row.seconds_fp32, before[1] + row.seconds_fp16
    return {batch: full / half for batch, (full, half) in sorted(batches.items()) if half > 0}


def bound_text(bound: str) -> str:
    """Say in words what limits a layer."""
    words = {"compute": "arithmetic", "conversion": "conversion to FP32", "DRAM": "main memory"}
    if not bound:
        return DASH
    return words.get(bound, f"the {bound} cache" if bound.startswith("L") else bound)

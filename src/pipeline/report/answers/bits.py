"""Fewer bits: what half precision saves and costs."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report.content import Answer
from pipeline.report.formatting import DASH, count, is_number, listing, n_bytes, percent, times
from pipeline.report.runs import at_chance, method_of


def answer_bits(
    precision: Mapping[str, Any], training: Mapping[str, Any], n_classes: int = 0
) -> Answer | None:
    """Describe the conversion of the last network that was converted, the study's own result."""
    if not precision:
        return None
    name, network = list(precision.items())[-1]
    sizes, accuracies = network.get("file_bytes") or {}, _accuracies(network)
    ratio = sizes["fp32"] / sizes["fp16"] if is_number(sizes.get("fp32")) and sizes.get("fp16") else None
    sentences = []
    if ratio is not None:
        sentences.append(
            f"Rounded to half precision, the network {_trained_by(name, training)}takes "
            f"{n_bytes(sizes['fp16'])} instead of {n_bytes(sizes['fp32'])}."
        )
    if accuracies:
        sentences.append(_accuracy_text(accuracies, n_classes))
    speeds = whole_network_speedups(network)
    if speeds:
        parts = listing(f"{times(speed)} at batch {count(batch)}" for batch, speed in speeds.items())
        sentences.append(
            f"Against FP32 its speed is {parts}, all layers together{_most_gained(network['timings'])}."
        )
    if not sentences:
        return None
    if ratio is not None:
        return Answer("Fewer bits", times(ratio), "smaller network file", " ".join(sentences))
    if speeds:
        batch, speed = max(speeds.items(), key=lambda item: item[1])
        return Answer(
            "Fewer bits", times(speed), f"the speed of FP32 at batch {count(batch)}", " ".join(sentences)
        )
    return Answer(
        "Fewer bits",
        percent(next(iter(accuracies.values()))["fp16"], 2),
        "test accuracy at FP16",
        " ".join(sentences),
    )


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


def _accuracy_text(accuracies: Mapping[str, Mapping[str, Any]], n_classes: int) -> str:
    """What becomes of the accuracy; plans with the same outcome share a clause."""
    before = next(iter(accuracies.values()))["fp32"]
    outcomes: dict[tuple[str, str], list[str]] = {}
    for batch, accuracy in accuracies.items():
        after, changed = accuracy["fp16"], accuracy.get("n_changed")
        moved = "stays there" if after == before else f"goes to {percent(after, 2)}"
        chance = ", no better than chance" if at_chance(after, n_classes) else ""
        of = f" ({count(changed)} of {count(accuracy.get('n_samples'))} answers change)"
        outcomes.setdefault((moved, f"{of if is_number(changed) else ''}{chance}"), []).append(batch)
    if len(accuracies) == 1:
        parts = [f"{moved}{rest}" for moved, rest in outcomes]
    else:
        parts = [
            f"{moved} with the plan{'s' if len(batches) > 1 else ''} for batch {listing(batches)}{rest}"
            for (moved, rest), batches in outcomes.items()
        ]
    return f"Its test accuracy is {percent(before, 2)} at FP32 and {listing(parts)}."


def _most_gained(timings: Iterable[Mapping[str, Any]]) -> str:
    """The clause on the layer that got fastest."""
    known = [row for row in timings if is_number(row.get("speedup"))]
    if not known:
        return ""
    best = max(known, key=lambda row: float(row["speedup"]))
    if best["speedup"] <= 1:
        return ""
    return (
        f"; {best.get('layer', DASH)} gains most ({times(best['speedup'])} at batch {count(best.get('batch'))}, "
        f"bound by {bound_text(best.get('bound'))})"
    )


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

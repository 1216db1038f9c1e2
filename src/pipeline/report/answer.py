"""The study's answer: one headline number and a few sentences per core, computed from the metrics."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures.growth import exponents
from pipeline.report.formatting import (
    DASH,
    NO_BREAK_SPACE,
    count,
    decimal,
    is_number,
    listing,
    n_bytes,
    percent,
    plural,
    scientific,
    seconds,
    significant,
    times,
    with_percent,
)
from pipeline.report.runs import accuracy_on_test, common_decimals, label_of, method_of, n_steps, spread_text


@dataclass(frozen=True)
class Answer:
    """One core's answer: a title, a headline number with what it counts, and sentences."""

    title: str
    headline: str
    unit: str
    text: str


def answers(metrics: Mapping[str, Any]) -> tuple[Answer, ...]:
    """Answer for every core that the study has."""
    found = (
        answer_steps(metrics.get("training") or {}, metrics.get("claims_of")),
        answer_bits(metrics.get("precision") or {}, metrics.get("training") or {}),
        answer_numbers(metrics.get("matrices") or {}, metrics.get("scaling")),
    )
    return tuple(answer for answer in found if answer is not None)


def answer_steps(training: Mapping[str, Any], roles: Mapping[str, Any] | None) -> Answer | None:
    """Compare the smoothed large-batch run (else the second-order one) with the small batch."""
    parts = {role: training[name] for role, name in (roles or {}).items() if name in training}
    reference, large = parts.get("reference"), parts.get("large_batch")
    ours = parts.get("smoothed") or parts.get("second_order")
    if reference is None or ours is None:
        return _best_run(training)
    places = common_decimals([accuracy_on_test(run) for run in (reference, large, ours) if run], 2)
    first = (
        f"With a batch of {count(reference.get('batch_size'))}, {method_of(reference)} reaches "
        f"{accuracy_text(reference, places)} test accuracy"
    )
    if large is not None:
        first += f"; with {count(large.get('batch_size'))}, {accuracy_text(large, places)}"
    steps, reference_steps = n_steps(ours).mean, n_steps(reference).mean
    spent = (
        f" in {count(steps)} steps instead of {count(reference_steps)}" if steps and reference_steps else ""
    )
    second = (
        f"{method_of(ours)} with a batch of {count(ours.get('batch_size'))} reaches "
        f"{accuracy_text(ours, places)}{spent}"
    )
    headline, unit = DASH, "fewer training steps"
    if steps and reference_steps:
        fewer = reference_steps >= steps
        headline = times(reference_steps / steps if fewer else steps / reference_steps)
        unit = unit if fewer else "more training steps"
    return Answer("Fewer steps", headline, unit, f"{first}. {second}.")


def _best_run(training: Mapping[str, Any]) -> Answer | None:
    known = {name: accuracy_on_test(run).mean for name, run in training.items()}
    ranked = {name: mean for name, mean in known.items() if mean is not None}
    if not ranked:
        return None
    name = max(ranked, key=lambda key: ranked[key])
    run = training[name]
    steps = n_steps(run).mean
    spent = f" in {count(steps)} steps" if steps is not None else ""
    text = (
        f"{label_of(name, run)} reaches the best test accuracy of {plural(len(training), 'run')}: "
        f"{accuracy_text(run)}{spent}."
    )
    return Answer("Fewer steps", with_percent(ranked[name], 2), "best test accuracy", text)


def answer_bits(precision: Mapping[str, Any], training: Mapping[str, Any]) -> Answer | None:
    """Describe the conversion of the last network that was converted, the study's own result."""
    if not precision:
        return None
    name, network = list(precision.items())[-1]
    sizes, accuracy = network.get("file_bytes") or {}, network.get("accuracy") or {}
    ratio = sizes["fp32"] / sizes["fp16"] if is_number(sizes.get("fp32")) and sizes.get("fp16") else None
    sentences = []
    if ratio is not None:
        sentences.append(
            f"Rounded to half precision, the network {_trained_by(name, training)}takes "
            f"{n_bytes(sizes['fp16'])} instead of {n_bytes(sizes['fp32'])}."
        )
    if is_number(accuracy.get("fp32")) and is_number(accuracy.get("fp16")):
        change = (accuracy["fp16"] - accuracy["fp32"]) * 100
        changed, total = accuracy.get("n_changed"), accuracy.get("n_samples")
        of = f" and {count(changed)} of {count(total)} answers change" if is_number(changed) else ""
        moved = "stays at" if change == 0 else f"goes from {percent(accuracy['fp32'], 2)} to"
        sentences.append(f"Its test accuracy {moved} {percent(accuracy['fp16'], 2)}{of}.")
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
        "Fewer bits", percent(accuracy.get("fp16"), 2), "test accuracy at FP16", " ".join(sentences)
    )


def _most_gained(timings: Iterable[Mapping[str, Any]]) -> str:
    """The clause on the layer that got fastest."""
    known = [row for row in timings if is_number(row.get("speedup"))]
    if not known:
        return ""
    best = max(known, key=lambda row: float(row["speedup"]))
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


def answer_numbers(matrices: Mapping[str, Any], scaling: Mapping[str, Any] | None) -> Answer | None:
    """Lead with the matrix that is compressed most, then every matrix's result, then growth."""
    ratios = {name: compression(matrix) for name, matrix in matrices.items()}
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    sentences = []
    if known:
        name = max(known, key=lambda key: known[key])
        matrix, compress = matrices[name], matrices[name]["compress"]
        error = compress.get("relative_error")
        within = f" (relative error {scientific(error)})" if is_number(error) else ""
        n = count(matrix.get("n"))
        sentences.append(
            f"The {name} matrix, {n} × {n}, takes {n_bytes(compress['n_bytes'])} instead of "
            f"{n_bytes(compress['dense_bytes'])}{within}{_solved(matrix.get('solve') or {})}."
        )
    sentences += [text for name, matrix in matrices.items() if (text := result_text(name, matrix))]
    growth = exponents((scaling or {}).get("rows") or [])
    if "operator_bytes" in growth and "factorize_seconds" in growth:
        sentences.append(
            f"Storage grows as N^{decimal(growth['operator_bytes'], 2)}, "
            f"factorization time as N^{decimal(growth['factorize_seconds'], 2)}."
        )
    if not sentences:
        return None
    if known:
        return Answer(
            "Fewer numbers", times(max(known.values())), f"less memory for {name}", " ".join(sentences)
        )
    return Answer("Fewer numbers", count(len(matrices)), "hierarchical matrices", " ".join(sentences))


def _solved(solve: Mapping[str, Any]) -> str:
    """The clause on the direct solve, if there was one."""
    spent = [solve.get("factorize_seconds"), solve.get("solve_seconds")]
    known = [value for value in spent if is_number(value)]
    return f" and is factorized and solved in {seconds(math.fsum(known))}" if known else ""


def compression(matrix: Mapping[str, Any]) -> float | None:
    """Dense over compressed bytes."""
    compress = matrix.get("compress") or {}
    dense, ours = compress.get("dense_bytes"), compress.get("n_bytes")
    return dense / ours if is_number(dense) and is_number(ours) and ours > 0 else None


def result_text(name: str, matrix: Mapping[str, Any]) -> str:
    """What a matrix was for, in one sentence of numbers; empty if there is no result."""
    result = matrix.get("result") or {}
    unit = str(result.get("unit") or "")
    if is_number(result.get("rmse")):
        held_out, points = result.get("n_held_out"), matrix.get("points") or "points"
        where = f" of {count(held_out)} held-out {points}" if is_number(held_out) else ""
        mean = result.get("rmse_mean_predictor")
        against = f", the mean predictor by {significant(mean, 3)} {unit}".rstrip() if is_number(mean) else ""
        return f"Kriging misses the values{where} by {significant(result['rmse'], 3)} {unit} (RMSE){against}."
    if is_number(result.get("capacitance")):
        reference, error = result.get("reference"), result.get("relative_error")
        # One digit more than the error leaves certain.
        digits = min(9, max(3, 1 - math.floor(math.log10(error)))) if is_number(error) and error > 0 else 6
        against = f" against the known {significant(reference, digits)}" if is_number(reference) else ""
        off = (
            f", off by {percent(error, 2) if error >= 1e-4 else scientific(error)}"
            if is_number(error)
            else ""
        )
        what = f"The capacitance of the {matrix.get('points') or name} comes out as"
        return f"{what} {significant(result['capacitance'], digits)} {unit}".rstrip() + f"{against}{off}."
    if is_number(result.get("accuracy")):
        softmax = result.get("softmax_accuracy")
        beside = (
            f", beside {percent(softmax, 2)} of the network's own soft-max head" if is_number(softmax) else ""
        )
        return f"Kernel ridge regression on {name} classifies {percent(result['accuracy'], 2)} correctly{beside}."
    return ""


def accuracy_text(run: Mapping[str, Any], places: int | None = None) -> str:
    """A run's test accuracy with its spread: 86.44 ± 0.37 %."""
    spread = accuracy_on_test(run)
    places = common_decimals([spread], 2) if places is None else places
    return f"{spread_text(spread, places)}{NO_BREAK_SPACE}%" if spread.n else DASH

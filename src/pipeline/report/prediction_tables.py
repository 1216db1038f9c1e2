"""Tables of what plans in half precision gain, and what they change in a network's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import formatting as f
from pipeline.report.content import Column, Table


def plans(network: Mapping[str, Any], speedups: Mapping[int, float]) -> Table | None:
    """One row per plan that was timed: its speed, and what it does to the answers."""
    found = network.get("plans") or {}
    if not found:
        return None
    columns = (
        Column("Plan for batch"), Column("Speedup", True), Column("Accuracy FP32", True),
        Column("Accuracy FP16", True), Column("Points gained", True), Column("Answers changed", True),
        Column("Output error", True), Column("Too large for FP16", True),
    )  # fmt: skip
    rows = []
    for batch, plan in found.items():
        accuracy, checked = plan.get("accuracy") or {}, plan.get("verification") or {}
        rows.append(
            (
                batch, f.times(speedups.get(int(batch)) if batch.isdigit() else None),
                _between(accuracy.get("fp32"), accuracy.get("interval_fp32")),
                _between(accuracy.get("fp16"), accuracy.get("interval_fp16")), _gained(accuracy),
                f"{f.count(accuracy.get('n_changed'))} of {f.count(accuracy.get('n_samples'))}",
                f.relative(checked.get("output_error")), f.count(plan.get("n_saturated")),
            )
        )  # fmt: skip
    budget = network.get("budget_points")
    allowed = f", which may lose {budget:g} points" if f.is_number(budget) else ""
    return Table(
        "The plans that were timed",
        columns,
        tuple(rows),
        note="Speedup: FP32 time over FP16 time of all layers together. Accuracy: of test samples, in parentheses the "
        "95 % intervals; too large: their activations, stored as ±65,504. Output error: relative, of validation "
        f"samples{allowed}.",
    )


def _between(share: object, interval: Sequence[float] | None) -> str:
    """A share with its interval: 86.7 % (86.0 to 87.4)."""
    if not interval or not f.is_number(share):
        return f.percent(share, 2)
    low, high = (f.decimal(100 * end, 2) for end in interval)
    return f"{f.percent(share, 2)} ({low} to {high})"


def _gained(accuracy: Mapping[str, Any]) -> str:
    lost, interval = accuracy.get("points_lost"), accuracy.get("interval_lost")
    if not f.is_number(lost):
        return f.DASH
    ends = f" ({0.0 - interval[1]:+.3f} to {0.0 - interval[0]:+.3f})" if interval else ""
    return f"{0.0 - lost:+.3f}{ends}"


def changed_predictions(network: Mapping[str, Any], classes: Sequence[str]) -> Table | None:
    """Examples of test samples that FP16 classifies otherwise, the most surprising first."""

    def name(number: object) -> str:
        return str(classes[number]) if isinstance(number, int) and number < len(classes) else str(number)

    rows = tuple(
        (
            batch, f.count(entry.get("sample")), name(entry.get("label")), name(entry.get("before")),
            name(entry.get("after")), f.significant(entry.get("margin")),
        )
        for batch, found in _predictions(network).items()
        for entry in found.get("changed") or []
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        Column("Plan for batch"), Column("Test sample"), Column("Is"), Column("At FP32"), Column("At FP16"),
        Column("Margin at FP32", True),
    )  # fmt: skip
    return Table(
        "Answers that changed",
        columns,
        rows,
        note="Margin: between the two classes, relative to the largest logit; small where FP32 was undecided itself.",
    )


def confusions(network: Mapping[str, Any], classes: Sequence[str]) -> list[Table]:
    """The cells of the confusion matrix that FP16 changes; one table for plans that answer alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    predictions = _predictions(network)
    for batch, found in predictions.items():
        counts = tuple(str(found.get(f"confusion_{side}")) for side in ("before", "after"))
        alike.setdefault((counts[0], counts[1]), []).append(batch)
    tables = [_confusion(predictions[batches[0]], batches, classes) for batches in alike.values()]
    return [table for table in tables if table is not None]


def _confusion(found: Mapping[str, Any], batches: Sequence[str], classes: Sequence[str]) -> Table | None:
    before, after = found.get("confusion_before") or (), found.get("confusion_after") or ()
    if not before or len(before) != len(after):
        return None
    names = (
        [str(name) for name in classes] if len(classes) == len(before) else list(map(str, range(len(before))))
    )
    cells = [
        (true, taken, n, m)
        for true, one, two in zip(names, before, after, strict=True)
        for taken, n, m in zip(names, one, two, strict=True)
        if n != m
    ]
    if not cells:
        return None
    rows = tuple(
        (true, taken, f.count(n), f.count(m), f.Number(f"{m - n:+d}".replace("-", "−"), m - n))
        for true, taken, n, m in sorted(cells, key=lambda cell: -abs(cell[3] - cell[2]))
    )
    return Table(
        f"Cells of the confusion matrix that FP16 changes, plan for batch {f.listing(batches)}",
        (Column("Is"), Column("Taken for"), *(Column(title, True) for title in ("FP32", "FP16", "Change"))),
        rows,
        note="Counts of test samples.",
        fold=True,
    )


def _predictions(network: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the plans that were timed answer, by batch size."""
    plans = network.get("plans") or {}
    return {batch: plan["predictions"] for batch, plan in plans.items() if (plan or {}).get("predictions")}

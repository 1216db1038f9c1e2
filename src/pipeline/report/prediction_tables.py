"""Tables of what half precision changes in a network's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import formatting as f
from pipeline.report.content import Column, Table


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
        Column("Plan for batch", True), Column("Test sample"), Column("Is"), Column("At FP32"), Column("At FP16"),
        Column("Margin at FP32", True),
    )  # fmt: skip
    return Table(
        "Answers that changed",
        columns,
        rows,
        note="Margin: between the two classes, relative to the largest logit; small where FP32 was undecided itself.",
    )


def confusions(network: Mapping[str, Any], classes: Sequence[str]) -> list[Table]:
    """Test samples by class and answer at FP32, with what FP16 adds or takes; one table for plans that answer alike."""
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
        [str(name) for name in classes]
        if len(classes) == len(before)
        else [str(i) for i in range(len(before))]
    )
    rows = []
    for name, one, two in zip(names, before, after, strict=True):
        cells = (
            f"{f.count(n)} ({m - n:+d})" if m != n else f.count(n) for n, m in zip(one, two, strict=True)
        )
        rows.append((name, *cells))
    return Table(
        f"Confusion before and after, plan for batch {f.listing(batches)}",
        (Column("Is \\ taken for"), *(Column(name, True) for name in names)),
        tuple(rows),
        note="Counts of test samples at FP32; in parentheses the change at FP16, where there is one.",
    )


def _predictions(network: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the plans that were timed answer, by batch size."""
    plans = network.get("plans") or {}
    return {batch: plan["predictions"] for batch, plan in plans.items() if (plan or {}).get("predictions")}

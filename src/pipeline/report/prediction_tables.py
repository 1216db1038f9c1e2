"""Tables of what plans in half precision gain, and what they change in a network's answers."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts.results.half_network import Accuracy, Answers, Interval
from pipeline.report import formatting as f
from pipeline.report.content import Column, Table
from pipeline.report.metrics import Converted
from pipeline.report.runs import said_of_timings

_VARYING = (
    " Of what varies: the same error relative to the outputs' deviations from their mean over the samples, so that a "
    "large bias hides nothing."
)


def plans(network: Converted, speedups: Mapping[int, float]) -> Table | None:
    """One row per plan that was timed: its speed, and what it does to the answers."""
    if not network.plans:
        return None
    judged = any(plan.accuracy for plan in network.plans.values())
    accuracies = ("Accuracy FP32", "Accuracy FP16", "Points gained", "Answers changed") if judged else ()
    known = any(plan.verification and plan.verification.varying_error for plan in network.plans.values())
    varying = ("Of what varies",) if known else ()
    columns = ("Plan for batch", "Speedup", *accuracies, "Output error", *varying, "Too large for FP16")
    beside = said_of_timings(network)
    rows = tuple(
        (
            batch,
            f.times(speedups.get(int(batch)) if batch.isdigit() else None),
            *(_accuracies(plan.accuracy) if judged else ()),
            f.relative(plan.verification.output_error if plan.verification else None),
            *([f.relative(plan.verification.varying_error if plan.verification else None)] if known else []),
            f.count(plan.n_saturated),
        )
        for batch, plan in network.plans.items()
    )
    return Table.of(
        "The plans that were timed",
        columns,
        rows,
        note=f"Speedup: FP32 time over FP16 time, all layers together. {_samples_told(network, judged)}"
        f"{_VARYING if known else ''}{_noise_told(network)} Too large for FP16: activations that were stored as "
        f"±65,504.{f' {beside}' if beside else ''}",
    )


def _samples_told(network: Converted, judged: bool) -> str:
    """On which samples accuracy and error were taken."""
    if not judged:
        return "Output error: the relative one, on the inputs of the study; there were no labels to judge answers by."
    return (
        "Accuracy: on test samples, with 95 % intervals in parentheses. Output error: the relative one, on validation "
        f"samples. The plans were chosen so that these lose at most {network.budget_points:g} points."
    )


def _noise_told(network: Converted) -> str:
    if not network.generated_inputs:
        return ""
    return " The inputs are noise that was generated with the study, so errors of real samples may be others."


def _accuracies(accuracy: Accuracy | None) -> tuple[str, str, str, str]:
    """Both accuracies, what was gained, and how many answers changed."""
    if accuracy is None:
        return f.DASH, f.DASH, f.DASH, f.DASH
    return (
        _between(accuracy.fp32, accuracy.interval_fp32),
        _between(accuracy.fp16, accuracy.interval_fp16),
        _gained(accuracy),
        f"{f.count(accuracy.n_changed)} of {f.count(accuracy.n_samples)}",
    )


def _between(share: float, interval: Interval | None) -> str:
    """A share with its interval: 86.7 % (86.0 to 87.4)."""
    if not interval:
        return f.percent(share, 2)
    low, high = (f.decimal(100 * end, 2) for end in interval)
    return f"{f.percent(share, 2)} ({low} to {high})"


def _gained(accuracy: Accuracy) -> str:
    if not f.is_number(accuracy.points_lost):
        return f.DASH
    interval = accuracy.interval_lost
    ends = f" ({_signed(0.0 - interval[1])} to {_signed(0.0 - interval[0])})" if interval else ""
    return f"{_signed(0.0 - accuracy.points_lost)}{ends}"


def _signed(value: float) -> str:
    """A change with its sign and three decimals, more where those are all zero; nothing changed is 0."""
    if value == 0:
        return "0"
    return f"{'+' if value > 0 else ''}{f.decimal(value, f.first_digit(value, 3))}"


def changed_predictions(network: Converted, classes: Sequence[str]) -> Table | None:
    """Examples of test samples that FP16 classifies otherwise, the most surprising first."""

    def name(number: int) -> str:
        return classes[number] if number < len(classes) else str(number)

    rows = tuple(
        (
            batch, f.count(entry.sample), name(entry.label), name(entry.before), name(entry.after),
            f.significant(entry.margin),
        )
        for batch, found in _predictions(network).items()
        for entry in found.changed
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        "Plan for batch", Column("Test sample"), Column("Is"), Column("At FP32"), Column("At FP16"), "Margin at FP32",
    )  # fmt: skip
    return Table.of(
        "Answers that changed",
        columns,
        rows,
        note="Margin: between the two classes, relative to the largest logit; small where FP32 was undecided itself.",
    )


def confusions(network: Converted, classes: Sequence[str]) -> list[Table]:
    """The cells of the confusion matrix that FP16 changes; one table for plans that answer alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    predictions = _predictions(network)
    for batch, found in predictions.items():
        counts = (str(found.confusion_before), str(found.confusion_after))
        alike.setdefault(counts, []).append(batch)
    tables = [_confusion(predictions[batches[0]], batches, classes) for batches in alike.values()]
    return [table for table in tables if table is not None]


def _confusion(found: Answers, batches: Sequence[str], classes: Sequence[str]) -> Table | None:
    before, after = found.confusion_before, found.confusion_after
    if not before or len(before) != len(after):
        return None
    names = list(classes) if len(classes) == len(before) else list(map(str, range(len(before))))
    cells = [
        (true, taken, n, m)
        for true, one, two in zip(names, before, after, strict=True)
        for taken, n, m in zip(names, one, two, strict=True)
        if n != m
    ]
    if not cells:
        return None
    rows = tuple(
        (true, taken, f.count(n), f.count(m), f.NumberText(f"{m - n:+d}".replace("-", "−"), m - n))
        for true, taken, n, m in sorted(cells, key=lambda cell: -abs(cell[3] - cell[2]))
    )
    return Table.of(
        f"Cells of the confusion matrix that FP16 changes, plan for batch {f.listing(batches)}",
        ("Is", Column("Taken for"), "FP32", "FP16", "Change"),
        rows,
        note="Counts of test samples.",
        fold=True,
    )


def _predictions(network: Converted) -> dict[str, Answers]:
    """What the plans that were timed answer, by batch size."""
    return {batch: plan.predictions for batch, plan in network.plans.items() if plan.predictions}

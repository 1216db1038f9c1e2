"""Tables of the gains of plans in half precision, and of the changes in a network's answers."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts.results.half_network import Accuracy, Answers, Interval
from pipeline.report import formatting as f
from pipeline.report.content import Column, Table
from pipeline.report.metrics import Converted
from pipeline.report.runs import said_of_timings


def plans(network: Converted, speedups: Mapping[int, float]) -> Table:
    """One row per timed plan: its speed, and its effect on the answers."""
    judged = any(plan.accuracy for plan in network.plans.values())
    accuracies = ("Accuracy FP32", "Accuracy FP16", "Points gained", "Answers changed") if judged else ()
    known = any(plan.verification and plan.verification.varying_error for plan in network.plans.values())
    varying = ("Error relative to variation",) if known else ()
    rows = [
        (
            batch,
            f.times(speedups.get(int(batch)) if batch.isdigit() else None),
            *(_accuracies(plan.accuracy) if judged else ()),
            f.relative(plan.verification and plan.verification.output_error),
            *([f.relative(plan.verification and plan.verification.varying_error)] if known else []),
            f.count(plan.n_saturated),
        )
        for batch, plan in network.plans.items()
    ]
    note = f.sentences(
        "Speedup: FP32 time over FP16 time, all layers together.",
        "Accuracy: that on test samples, with 95 % intervals in parentheses. Output error: the relative error on "
        "validation samples. The plans were chosen so that accuracy on these falls by at most "
        f"{network.budget_points:g} points."
        if judged
        else "Output error: the relative error on the inputs of the study. There were no labels to judge answers by.",
        "Error relative to variation: the same error relative to the outputs' deviations from their mean over the "
        "samples, so that a large bias hides nothing."
        if known
        else "",
        "The inputs are noise that was generated with the study, so errors of real samples may be others."
        if network.generated_inputs
        else "",
        "Too large for FP16: activations that were stored as ±65,504.",
        said_of_timings(network),
    )
    titles = ("Plan for batch", "Speedup", *accuracies, "Output error", *varying, "Too large for FP16")
    return Table("The plans that were timed", titles, rows, note)


def _accuracies(accuracy: Accuracy | None) -> tuple[str, str, str, str]:
    """Both accuracies, the gain, and how many answers changed."""
    if accuracy is None:
        return f.DASH, f.DASH, f.DASH, f.DASH
    gained, lost = f.DASH, accuracy.interval_lost
    if f.is_number(accuracy.points_lost):
        ends = f" ({_signed(0.0 - lost[1])} to {_signed(0.0 - lost[0])})" if lost else ""
        gained = f"{_signed(0.0 - accuracy.points_lost)}{ends}"
    return (
        _between(accuracy.fp32, accuracy.interval_fp32),
        _between(accuracy.fp16, accuracy.interval_fp16),
        gained,
        f"{f.count(accuracy.n_changed)} of {f.count(accuracy.n_samples)}",
    )


def _between(share: float, interval: Interval | None) -> str:
    """A share with its interval: 86.7 % (86.0 to 87.4)."""
    if not interval:
        return f.percent(share, 2)
    low, high = (f.decimal(100 * end, 2) for end in interval)
    return f"{f.percent(share, 2)} ({low} to {high})"


def _signed(value: float) -> str:
    """A change with its sign and three decimals, or more where those are all zero; no change is 0."""
    if value == 0:
        return "0"
    return f"{'+' if value > 0 else ''}{f.decimal(value, f.first_digit(value, 3))}"


def changed_predictions(network: Converted, classes: Sequence[str]) -> Table:
    """Examples of test samples that FP16 classifies differently, the most surprising first."""

    def name(number: int) -> str:
        return classes[number] if number < len(classes) else str(number)

    return Table(
        "Answers that changed",
        (
            "Plan for batch", Column("Test sample"), Column("True class"), Column("Class at FP32"),
            Column("Class at FP16"), "Margin at FP32",
        ),
        [
            (
                batch, f.count(entry.sample), name(entry.label), name(entry.before), name(entry.after),
                f.significant(entry.margin),
            )
            for batch, found in _predictions(network).items()
            for entry in found.changed
        ],
        "Margin: the difference of the two classes' logits, relative to the largest logit. A small one shows that FP32 "
        "was undecided, too.",
    )  # fmt: skip


def confusions(network: Converted, classes: Sequence[str]) -> list[Table]:
    """The cells of the confusion matrix that FP16 changes; plans with the same answers share one table."""
    alike: dict[str, list[str]] = {}
    predictions = _predictions(network)
    for batch, found in predictions.items():
        alike.setdefault(f"{found.confusion_before} {found.confusion_after}", []).append(batch)
    tables = (_confusion(predictions[batches[0]], batches, classes) for batches in alike.values())
    return [table for table in tables if table]


def _confusion(found: Answers, batches: Sequence[str], classes: Sequence[str]) -> Table:
    before, after = found.confusion_before, found.confusion_after
    names = list(classes) if len(classes) == len(before) else list(map(str, range(len(before))))
    cells = [
        (true, taken, n, m)
        for true, one, two in zip(names, before, after, strict=True)
        for taken, n, m in zip(names, one, two, strict=True)
        if n != m
    ]
    return Table(
        f"Cells of the confusion matrix that FP16 changes, plan for batch {f.listing(batches)}",
        ("True class", Column("Taken for"), "FP32", "FP16", "Change"),
        [
            (true, taken, f.count(n), f.count(m), f.NumberText(f"{m - n:+d}".replace("-", "−"), m - n))
            for true, taken, n, m in sorted(cells, key=lambda cell: -abs(cell[3] - cell[2]))
        ],
        "Counts of test samples.",
        fold=True,
    )


def _predictions(network: Converted) -> dict[str, Answers]:
    """The answers of the timed plans, by batch size."""
    return {batch: plan.predictions for batch, plan in network.plans.items() if plan.predictions}

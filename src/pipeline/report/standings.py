"""Each large-batch run against the small batch: in the setting of the claims, and against the best baseline.

A claim may hold against its own reference and fail against a baseline with better options, so both are shown for each
run. Differences are of test accuracy, seed by seed, with Student's interval of paired values.
"""

from pipeline.report import runs as of
from pipeline.report.claims import MARGIN
from pipeline.report.content import Column, Table
from pipeline.report.formatting import count, decimal
from pipeline.report.metrics import RoleMetrics, RunMetrics
from pipeline.report.runs import Runs
from pipeline.report.spread import Difference, difference


def best_baseline(training: Runs, reference: str) -> str:
    """Name the first-order run with the best validation among those whose batch is no larger than the reference's."""
    found = {
        name: of.accuracy_on_validation(run).mean or 0.0
        for name, run in of.comparable(training).items()
        if run.optimizer not in of.SECOND_ORDER and run.batch_size <= training[reference].batch_size
    }
    return max(found, key=lambda name: found[name], default=reference)


def standings(training: Runs, roles: RoleMetrics | None) -> Table | None:
    """Compare every run of a larger batch with the reference, and with the best small-batch baseline."""
    if roles is None or roles.reference is None or roles.reference not in training:
        return None
    reference, baseline = roles.reference, best_baseline(training, roles.reference)
    peers = {name: training[name] for name in (reference, baseline)}
    rows = [
        (
            of.label_with_divergence(name, run),
            count(run.batch_size),
            *(cell for peer in peers.values() for cell in beside(run, peer)),
        )
        for name, run in of.comparable(training).items()
        if run.batch_size > training[reference].batch_size
    ]
    if not any(row[2] for row in rows):
        return None
    labels = [of.label_with_divergence(name, peer) for name, peer in peers.items()]
    said = f"The reference of the claims, {labels[0]}, is also the best baseline"
    if len(labels) > 1:
        said = f"The reference of the claims is {labels[0]}. The best baseline is {labels[1]}"
    compared = [(f"Points above {label}", Column(f"Verdict against {label}")) for label in labels]
    return Table(
        "Verdicts on large batches",
        ("Run", "Batch", *(column for pair in compared for column in pair)),
        rows,
        f"Points are differences of test accuracy, with 90 % intervals of the differences seed by seed, as "
        f"for the claims. {said}: of the first-order runs with small batches, it has the highest accuracy on "
        "validation images. At "
        f"its level: the whole interval lies above −{MARGIN:g} points. Below: the whole interval lies below zero, "
        f"and its middle below −{MARGIN:g} points. Nothing is decided without an interval (one seed in "
        "common, or equal differences), nor in favor of a run of which a seed diverged.",
    )


def preferred(training: Runs) -> dict[int, list[tuple[str, RunMetrics]]]:
    """The runs of every batch size that has several, the best in validation first."""
    by_batch: dict[int, list[tuple[str, RunMetrics]]] = {}
    for name, run in of.comparable(training).items():
        by_batch.setdefault(run.batch_size, []).append((name, run))
    return {
        batch: sorted(runs, key=lambda item: -(of.accuracy_on_validation(item[1]).mean or 0.0))
        for batch, runs in sorted(by_batch.items())
        if len(runs) > 1
    }


def best_by_batch(training: Runs) -> Table:
    """The run with the best validation at every batch size, beside the next one."""
    return Table(
        "The best method at each batch",
        ("Batch", Column("Best"), Column("Next"), "Points between them", Column("Verdict")),
        [
            (
                count(batch),
                of.label_with_divergence(*first),
                of.label_with_divergence(*second),
                points,
                verdict,
            )
            for batch, (first, second, *_) in preferred(training).items()
            for points, verdict in [beside(first[1], second[1])]
            if points
        ],
        "Best and next are chosen on validation images; the points are of test accuracy, with 90 % intervals.",
    )


def beside(run: RunMetrics, other: RunMetrics) -> tuple[str, str]:
    """Percentage points between two runs with their interval, and the verdict; empty where either was not scored.

    A verdict in favor of a run with diverged seeds would rest on the seeds that survived: it is undecided.
    """
    by = difference(of.accuracy_on_test(run), of.accuracy_on_test(other))
    if by is None:
        return "", ""
    if by.half_width is None:
        return decimal(by.mean, 2), "undecided"
    low, high = (decimal(by.mean + sign * by.half_width, 2) for sign in (-1, 1))
    found = verdict(by)
    diverged = of.seeds_that_diverged(other if found == "below" else run)
    return f"{decimal(by.mean, 2)} ({low} to {high})", "undecided" if diverged else found


def verdict(by: Difference) -> str:
    """Say in words where a difference lies: "above", "at its level", "below" or "undecided".

    "above" and "at its level" require the whole interval to be there. "below" requires the whole interval to be below
    zero, and its middle to be lower than the level.
    """
    if by.exceeds(0.0):
        return "above"
    if by.exceeds(-MARGIN):
        return "at its level"
    return "below" if by.exceeds(0.0) is False and by.mean < -MARGIN else "undecided"

"""The batch from which each method loses accuracy: predicted from gradient noise, and found by a sweep.

The prediction uses only runs with small batches; the runs with larger batches judge it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.artifacts.results.critical_batch import Prediction
from pipeline.report.claims import MARGIN
from pipeline.report.content import Column, Table
from pipeline.report.formatting import DASH, count, decimal, with_notes
from pipeline.report.metrics import RunMetrics
from pipeline.report.runs import Runs, accuracy_on_test, diverged_text, label_of, seeds_that_diverged

#: A prediction is right if it is wrong by no more than this factor.
FACTOR = 3.0


@dataclass(frozen=True)
class LossRange:
    """Where a sweep begins to lose: at `batch`, between `lowest` and `highest`; if it never does, all are its largest.

    Attributes:
        batch: None where only the range is known, because every seed diverged at `highest`.
        found: Whether any batch of the sweep loses.
    """

    batch: float | None
    lowest: int
    highest: int
    found: bool


def where_it_loses(runs: Sequence[RunMetrics]) -> LossRange | None:
    """Find the batch whose mean test accuracy over seeds is `MARGIN` points below that of the smallest batch.

    Between the last batch that does not lose and the first that does, accuracy is assumed to be linear in the logarithm
    of the batch. A batch at which every seed diverged loses, but has no accuracy to interpolate.

    Args:
        runs: The runs of the method, from the smallest batch to the largest.

    Returns:
        None where a compared run has no accuracy although not all its seeds diverged.
    """
    first = accuracy_on_test(runs[0]).mean
    if first is None:
        return None
    before = 0.0
    for small, large in pairwise(runs):
        if large.seeds and len(seeds_that_diverged(large)) == len(large.seeds):
            return LossRange(None, small.batch_size, large.batch_size, found=True)
        accuracy = accuracy_on_test(large).mean
        if accuracy is None:
            return None
        after = first - accuracy
        if after > MARGIN:
            share = (MARGIN - before) / (after - before)
            batch = small.batch_size * (large.batch_size / small.batch_size) ** share
            return LossRange(batch, small.batch_size, large.batch_size, found=True)
        before = after
    largest = runs[-1].batch_size
    return LossRange(largest, largest, largest, found=False)


def verdict(predicted: float | None, loss: LossRange) -> str:
    """Judge a prediction; None stands for the prediction that no batch loses.

    Where only a range is known, the verdict is undecided if the prediction is right for some batch of the range.
    """
    batch = math.inf if predicted is None else predicted
    if not loss.found:
        return "holds" if batch >= loss.highest / FACTOR else "does not hold"
    if loss.batch is None:
        return "undecided" if loss.lowest / FACTOR <= batch <= FACTOR * loss.highest else "does not hold"
    return "holds" if loss.batch / FACTOR <= batch <= FACTOR * loss.batch else "does not hold"


def _judged(
    training: Runs, sweeps: Mapping[str, Sequence[str]], predictions: Mapping[str, Prediction]
) -> dict[str, tuple[Prediction, LossRange]]:
    """Return the prediction and the range found, for the methods that have both."""
    found = {
        method: where_it_loses([training[name] for name in names])
        for method, names in sweeps.items()
        if method in predictions and all(name in training for name in names)
    }
    return {method: (predictions[method], loss) for method, loss in found.items() if loss is not None}


def predictions_in_words(
    training: Runs, sweeps: Mapping[str, Sequence[str]], predictions: Mapping[str, Prediction]
) -> dict[str, tuple[str, str]]:
    """Each method's predicted and found batch in a few words, and the verdict on the prediction."""
    return {
        method: (
            f"{_predicted(prediction)} predicted, {_in_words(loss)} found",
            verdict(prediction.critical_batch, loss),
        )
        for method, (prediction, loss) in _judged(training, sweeps, predictions).items()
    }


def critical_batches(
    training: Runs, sweeps: Mapping[str, Sequence[str]], predictions: Mapping[str, Prediction]
) -> Table:
    """One row per method that was swept."""
    rows = []
    for method, (prediction, loss) in _judged(training, sweeps, predictions).items():
        runs = {name: training[name] for name in sweeps[method]}
        labels = {name: label_of(name, run) for name, run in runs.items()}
        diverged = [f"{labels[name]}: {told}" for name, run in runs.items() if (told := diverged_text(run))]
        batches = [seed.critical_batch for seed in prediction.seeds if seed.critical_batch is not None]
        predicted = prediction.critical_batch
        ratio = None if predicted is None or not loss.found or not loss.batch else predicted / loss.batch
        rows.append(
            (
                with_notes(method, *diverged, between="; "),
                labels[sweeps[method][0]],
                _predicted(prediction),
                f"{count(round(min(batches)))} to {count(round(max(batches)))}" if batches else DASH,
                _in_words(loss),
                decimal(ratio, 2),
                verdict(predicted, loss),
            )
        )
    return Table(
        "The batch from which a method loses, predicted and found",
        (
            "Method", Column("Noise measured with"), "Predicted batch", "Range over seeds", "Loses from batch",
            "Predicted / found", Column(f"Within {FACTOR:g} times"),
        ),
        rows,
        "Predicted batch: the critical batch of the gradient noise scale (McCandlish et al. 2018, appendix D), "
        "measured while the small batch was trained, before any larger one. With K-FAC, it is measured in the metric "
        "of the inverse Fisher matrix. Loses from batch: where the mean test accuracy falls "
        f"{MARGIN:g} points below that small batch's, interpolated between the two batches of the sweep that are "
        "named. Where every seed of the larger one diverged, only these two are known, and a prediction that is right "
        "for a batch between them is undecided. Where no batch of the sweep loses, a prediction holds if it is no "
        f"less than the largest, divided by {FACTOR:g}.",
    )  # fmt: skip


def _predicted(prediction: Prediction) -> str:
    return DASH if prediction.critical_batch is None else count(round(prediction.critical_batch))


def _in_words(loss: LossRange) -> str:
    if not loss.found:
        return f"none up to {count(loss.highest)}"
    if loss.batch is None:
        return f"between {count(loss.lowest)} and {count(loss.highest)}"
    return f"{count(round(loss.batch))} ({count(loss.lowest)} to {count(loss.highest)})"

"""What half precision does to a classifier's predictions, compared with the same network at float32."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError

NORMAL_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class ChangedPrediction:
    """A sample whose predicted class has changed.

    Attributes:
        sample: Its number.
        label: Its class.
        before: Predicted at float32.
        after: Predicted in half precision.
        margin: Difference between the logits of the two classes at float32, relative to the largest logit: small
            where the network had no clear opinion.
    """

    sample: int
    label: int
    before: int
    after: int
    margin: float


@dataclass(frozen=True)
class Predictions:
    """Predictions of two precisions for the same samples.

    Attributes:
        n_samples: Number of samples.
        accuracy_before: Accuracy at float32.
        accuracy_after: Accuracy in half precision.
        interval_before: Wilson's 95 % interval of that [1].
        interval_after: The same.
        points_lost: 100 (accuracy_before - accuracy_after).
        interval_lost: 95 % interval of it, from the samples that only one of the two classifies rightly [2].
        n_changed: Predictions that differ.
        n_worsened: How many of them were right before.
        n_mended: How many of them are right now.
        changed: Examples, the widest margins first: the most surprising ones.
        confusion_before: Counts by label and prediction.
        confusion_after: The same.

    References:
        [1] Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
        [2] Agresti, "Categorical data analysis", 2nd edition 2002, section 10.1.1, equation (10.1).
    """

    n_samples: int
    accuracy_before: float
    accuracy_after: float
    interval_before: tuple[float, float]
    interval_after: tuple[float, float]
    points_lost: float
    interval_lost: tuple[float, float]
    n_changed: int
    n_worsened: int
    n_mended: int
    changed: tuple[ChangedPrediction, ...]
    confusion_before: tuple[tuple[int, ...], ...]
    confusion_after: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The accuracies, without examples and counts by class."""
        return {
            "fp32": self.accuracy_before,
            "fp16": self.accuracy_after,
            "interval_fp32": self.interval_before,
            "interval_fp16": self.interval_after,
            "points_lost": self.points_lost,
            "interval_lost": self.interval_lost,
            "n_samples": self.n_samples,
            "n_changed": self.n_changed,
        }


def compare_predictions(
    before: Tensor, after: Tensor, labels: Tensor, *, n_examples: int = 12
) -> Predictions:
    """Compare the logits of two precisions.

    Args:
        before: Logits at float32, shape (n, classes), n >= 1.
        after: Logits in half precision, of the same shape.
        labels: Classes, shape (n,).
        n_examples: Changed predictions that are listed.

    Raises:
        LabelError: If a label is none of the classes.
    """
    n, n_classes = before.shape
    check_labels(labels, n_classes)
    first, second = before.argmax(dim=1), after.argmax(dim=1)
    right_before, right_after = first == labels, second == labels
    worsened, improved = int((right_before & ~right_after).sum()), int((~right_before & right_after).sum())
    places = (first != second).nonzero().flatten()
    gaps = before[places, first[places]] - before[places, second[places]]
    margins = gaps / before[places].abs().amax(dim=1).clamp_min(torch.finfo(before.dtype).tiny)
    order = margins.argsort(descending=True)[:n_examples].tolist()
    examples = [
        ChangedPrediction(
            sample=int(places[k]),
            label=int(labels[places[k]]),
            before=int(first[places[k]]),
            after=int(second[places[k]]),
            margin=float(f"{margins[k]:.3g}"),  # more digits depend on the order of torch's sums
        )
        for k in order
    ]
    lost = (worsened - improved) / n
    half_width = NORMAL_95 * math.sqrt(max(worsened + improved - (worsened - improved) ** 2 / n, 0.0)) / n
    return Predictions(
        n_samples=n,
        accuracy_before=int(right_before.sum()) / n,
        accuracy_after=int(right_after.sum()) / n,
        interval_before=wilson_interval(int(right_before.sum()), n),
        interval_after=wilson_interval(int(right_after.sum()), n),
        points_lost=100 * lost,
        interval_lost=(100 * (lost - half_width), 100 * (lost + half_width)),
        n_changed=len(places),
        n_worsened=worsened,
        n_mended=improved,
        changed=tuple(examples),
        confusion_before=confusion(labels, first, n_classes),
        confusion_after=confusion(labels, second, n_classes),
    )


class LabelError(ConfigError):
    """Labels do not fit a network; callers that know the labels' file put its name before the text."""


def check_labels(labels: Tensor, n_classes: int) -> None:
    """Refuse labels that are none of the classes.

    Raises:
        LabelError: Naming the first of them.
    """
    strange = labels[~((labels >= 0) & (labels < n_classes))]  # NaN among them
    if len(strange):
        raise LabelError(
            f"class {strange[0].item():g} is none of the network's {n_classes} outputs; wanted 0 to {n_classes - 1}"
        )


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, which stays inside [0, 1] and does not collapse at its ends."""
    z2 = NORMAL_95**2
    share = n_right / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half_width = NORMAL_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(middle - half_width, 0.0), min(middle + half_width, 1.0)


def confusion(labels: Tensor, predicted: Tensor, n_classes: int) -> tuple[tuple[int, ...], ...]:
    """How often each class (row) was taken for each class (column)."""
    counts = torch.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return tuple(tuple(row) for row in counts.view(n_classes, n_classes).tolist())

"""What half precision may cost, and what it does cost on samples."""

import math
import warnings
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from pipeline.options import require_bounds
from pipeline.precision.error import relative_error
from pipeline.precision.predictions import LabelError, check_labels

Allowed = Annotated[float, Ge(0)]
LOST = 0.1  # errors of this share of the variation are reported
UNRESOLVED = 1e-5  # variation below this share of the size is noise even at float32
ENOUGH = 8  # numbers that show how much an output varies; fewer may be equal by chance


@dataclass(frozen=True)
class Budget:
    """What half precision may cost.

    Attributes:
        points: Accuracy, in percentage points, where labels are known.
        layer_error: What one layer may add: |y - exact| / |exact| for exact inputs, Frobenius norm.
        output_error: The same quotient for the network's output, all layers together.
    """

    points: Allowed = 0.1
    layer_error: Allowed = 5e-3
    output_error: Allowed = 2e-2

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass(frozen=True)
class Verification:
    """What a network in half precision loses on samples.

    Attributes:
        n_samples: How many there were.
        output_error: |y - exact| / |exact| of the network's output.
        varying_error: |y - exact| / |exact - m|, where m is the mean of exact over the samples: where an output is
            hardly more than its bias, the error of what tells samples apart. None where nothing varies.
        points: Accuracy lost, in percentage points; None without labels.
        n_changed: Predictions that differ from float32's.
        hidden: The output whose variation suffers most, if by `LOST` or more.
    """

    n_samples: int
    output_error: float
    varying_error: float | None
    points: float | None
    n_changed: int
    hidden: "HiddenLoss | None" = None

    def within(self, budget: Budget) -> bool:
        return self.output_error <= budget.output_error and (
            self.points is None or self.points <= budget.points
        )

    def exceeds(self, budget: Budget) -> str:
        """What was found and what was wanted, for an error text."""
        lost = "" if self.points is None else f", and {self.points:.3g} points lost of {budget.points:g}"
        return f"an output error of {self.output_error:.2g}, wanted at most {budget.output_error:g}{lost}"


@dataclass(frozen=True)
class HiddenLoss:
    """Outputs whose error is a large share of their variation over samples, though a small share of their size.

    Attributes:
        channel: The output that suffers most; None if outputs were taken together because samples are few.
        varying: How much it varies over the samples: |exact - m| / |exact|.
        error: Its error: |y - exact| / |exact - m|.
        n_lost: How many outputs have an error of `LOST` or more.
        n_outputs: How many there are.
    """

    channel: int | None
    varying: float
    error: float
    n_lost: int
    n_outputs: int


def verify(found: Tensor, exact: Tensor, labels: Tensor | None) -> Verification:
    """Compare outputs of shape (n, classes) with those of float32.

    Raises:
        ValueError: If the shapes differ.
        LabelError: If the labels are not one class for each prediction.
    """
    if found.shape != exact.shape:
        raise ValueError(
            f"the network gives shape {tuple(found.shape)}; wanted the shape of the exact results, {tuple(exact.shape)}"
        )
    before, after = exact.argmax(dim=1), found.argmax(dim=1)
    lost = None
    if labels is not None:
        require_labels(labels, tuple(before.shape), exact.shape[1])
        lost = 100 * ((before == labels).double().mean() - (after == labels).double().mean()).item()
    error = relative_error(found, exact)
    reference = exact.double()
    deviation = reference - reference.mean(dim=0)
    varying = deviation.norm().item()
    return Verification(
        n_samples=len(found),
        output_error=error,
        varying_error=error * reference.norm().item() / varying if varying > 0 else None,
        points=lost,
        n_changed=int((before != after).sum()),
        hidden=_hidden_loss(found.double() - reference, reference, deviation),
    )


def _hidden_loss(difference: Tensor, exact: Tensor, deviation: Tensor) -> HiddenLoss | None:
    """Compare errors of shape (n, classes, ...) with the variation, by output if each has enough numbers."""
    n_outputs = exact.shape[1]
    alone = exact.numel() >= ENOUGH * n_outputs
    if len(exact) < 2 or exact.numel() < ENOUGH:
        return None

    def norms(of: Tensor) -> Tensor:
        by_output: Tensor = of.transpose(0, 1).reshape(n_outputs if alone else 1, -1)
        return by_output.square().sum(dim=1).sqrt()

    size, varying = norms(exact), norms(deviation)
    relative = torch.where(varying > UNRESOLVED * size, norms(difference) / varying, 0.0)
    worst = int(relative.argmax())
    if not relative[worst] >= LOST or not relative[worst].isfinite():
        return None
    return HiddenLoss(
        channel=worst if alone else None,
        varying=(varying[worst] / size[worst]).item(),
        error=relative[worst].item(),
        n_lost=int((relative >= LOST).sum()) if alone else n_outputs,
        n_outputs=n_outputs,
    )


def warn_of_hidden_loss(found: Verification, *, stacklevel: int) -> None:
    """Warn of outputs whose error is a large share of their variation, although the error is within the budget."""
    lost = found.hidden
    if lost is None:
        return
    named = "they vary by" if lost.channel is None else f"output {lost.channel} varies by"
    less = 10.0 ** math.floor(math.log10(found.output_error * LOST / lost.error))
    warnings.warn(
        f"{lost.n_lost} of {lost.n_outputs} outputs have errors that are large relative to their variation: over the "
        f"samples {named} {lost.varying:.1g} of the size, and half precision errs by {lost.error:.0%} of that. The "
        f"error is only {found.output_error:.1g} of all outputs together; Budget(output_error={less:g}) leaves more at "
        "float32",
        stacklevel=stacklevel + 1,
    )


def require_labels(labels: Tensor, predictions: tuple[int, ...], n_classes: int) -> None:
    """Refuse labels unless they are one class for each prediction.

    Raises:
        LabelError: If they are not.
    """
    if tuple(labels.shape) != predictions:
        raise LabelError(
            f"labels have shape {tuple(labels.shape)}, but the network gives {predictions} predictions; "
            "wanted one label for each, so leave them out where outputs are no classes"
        )
    check_labels(labels, n_classes)

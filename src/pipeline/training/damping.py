"""How the damping of K-FAC changes during training.

References:
    [1] Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature",
        ICML 2015.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.training.structures import Structure

SMALLEST, LARGEST = 1e-8, 1e4


def scheduled(start: float, end: float, done: float) -> float:
    """Interpolate geometrically from `start` to `end`; `done` in [0, 1] is the part of training that is done."""
    return float(start * (end / start) ** done)


def require_told(rule: str, done: float | None, *, waits: bool) -> None:
    """Raise ValueError if the damping rule lacks something it needs.

    Args:
        rule: The damping rule, as in `KFACSettings.damping_rule`.
        done: The part of training that is done, or None.
        waits: Whether the verdict on an earlier step is still missing.

    Raises:
        ValueError: If "scheduled" lacks `done`, or "adaptive" a verdict.
    """
    if rule == "scheduled" and done is None:
        raise ValueError(
            "damping_rule 'scheduled' needs step(lr, done=...), the part of training that is done, from 0 to 1"
        )
    if waits:
        raise ValueError(
            "damping_rule 'adaptive' needs judge(before, after), the losses of a batch around the optimizer's step, "
            "after each step where wants_verdict is true"
        )


def adapted(damping: float, change: float, predicted: float) -> float:
    """Adapt the damping by the Levenberg-Marquardt rule [1, section 6.5].

    The ratio of the change of the loss to that of the quadratic model is near one where the model can be
    trusted. The damping grows where the ratio is below 1/4 and shrinks where it is above 3/4, by
    (19/20)^`TrialStep.INTERVAL`.

    Args:
        change: Change of the loss, negative where it fell.
        predicted: The change that the model predicts; the damping stays unless it is negative.
    """
    if not predicted < 0:
        return damping
    shrinkage = (19 / 20) ** TrialStep.INTERVAL
    ratio = change / predicted
    if ratio > 3 / 4:
        damping *= shrinkage
    elif not ratio >= 1 / 4:
        damping /= shrinkage
    return min(max(damping, SMALLEST), LARGEST)


@dataclass(frozen=True)
class TrialStep:
    """A step by which the quadratic model is judged.

    Attributes:
        weights: Weights before the step, by name.
        gradients: Gradients of the loss at these weights, by name, before K-FAC rewrites them.
    """

    INTERVAL: ClassVar[int] = 5  # steps from one trial to the next

    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    @classmethod
    def begin(cls, weights: Mapping[str, torch.nn.Parameter]) -> "TrialStep":
        """Copy weights and gradients."""
        moved = {name: p for name, p in weights.items() if p.grad is not None}
        return cls(
            {name: p.detach().clone() for name, p in moved.items()},
            {name: p.grad.clone() for name, p in moved.items() if p.grad is not None},
        )

    def predicted_change(
        self,
        weights: Mapping[str, torch.nn.Parameter],
        layers: Mapping[str, Structure],
        factors: Mapping[tuple[str, str], Tensor],
        damping: float,
    ) -> float:
        """Return g'd + d'(F + damping I)d / 2 for the step d that the optimizer has taken.

        For weights of layers without factors, F counts as zero.
        """
        steps = {name: weights[name] - start for name, start in self.weights.items()}
        linear = sum(float(torch.sum(self.gradients[name] * step)) for name, step in steps.items())
        square = sum(float(step.square().sum()) for step in steps.values())
        curvature = 0.0
        names = {id(p): name for name, p in weights.items()}
        for layer_name, layer in layers.items():
            matrices = {m: factors[layer_name, m] for m in layer.shapes if (layer_name, m) in factors}
            if len(matrices) < len(layer.shapes):
                continue
            gradients = [p.grad for p in layer.parameters]
            for p in layer.parameters:
                p.grad = steps[names[id(p)]]
            step = layer.gradient()
            for p, gradient in zip(layer.parameters, gradients, strict=True):
                p.grad = gradient
            if step is not None:
                means = {m: float(M.diagonal(dim1=-2, dim2=-1).mean()) for m, M in matrices.items()}
                size = float(torch.sum(step * layer.natural(step, matrices)))
                curvature += layer.normalization(means) * size
        return linear + (curvature + damping * square) / 2

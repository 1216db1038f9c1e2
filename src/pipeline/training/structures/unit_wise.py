"""Normalizations: a matrix of two by two for each channel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.kronecker import normalization_gradients, normalization_moment
from pipeline.training.structures.structure import Means, Shape, gradient_of, spread, trained

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


@dataclass
class UnitWise:
    """A 2 x 2 matrix for scale and shift of each unit of a normalization, or 1 x 1 where one of them is not trained.

    Attributes:
        layer: The normalization.
        with_shift: Whether its bias takes part.
    """

    layer: nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | BatchNorm | InstanceNorm
    with_shift: bool = True

    @property
    def shapes(self) -> dict[str, Shape]:
        n = len(self.parameters)
        return {"U": (self.layer.weight.numel(), n, n)}

    @property
    def parameters(self) -> list[Tensor]:
        return trained(self.layer.weight, getattr(self.layer, "bias", None) if self.with_shift else None)

    @property
    def n_dimensions(self) -> int:
        if isinstance(self.layer, nn.LayerNorm | nn.RMSNorm):
            return len(self.layer.normalized_shape) + 1
        if isinstance(self.layer, InstanceNorm):
            kinds = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
            return next(n for kind, n in kinds.items() if isinstance(self.layer, kind))
        return 2

    @property
    def features_last(self) -> bool:
        return isinstance(self.layer, nn.LayerNorm | nn.RMSNorm)

    @property
    def keeps_inputs(self) -> bool:
        return True

    def inputs(self, x: Tensor, n: int, output: Shape | None = None) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.LayerNorm):
            return self._units(functional.layer_norm(spread(x, n), layer.normalized_shape, eps=layer.eps))
        if isinstance(layer, nn.RMSNorm):
            return self._units(functional.rms_norm(spread(x, n), layer.normalized_shape, eps=layer.eps))
        if isinstance(layer, nn.GroupNorm):
            return self._units(functional.group_norm(spread(x, n), layer.num_groups, eps=layer.eps))
        mean, variance = layer.running_mean, layer.running_var
        own = layer.training or mean is None
        statistics = (None, None) if own else (mean, variance)
        if isinstance(layer, InstanceNorm):
            return self._units(
                functional.instance_norm(spread(x, n), *statistics, use_input_stats=own, eps=layer.eps)
            )
        # Batch statistics are those of all samples, not only of these.
        return self._units(spread(functional.batch_norm(x, *statistics, training=own, eps=layer.eps), n))

    def n_uses(self, inputs: Tensor) -> int:
        return len(inputs) * inputs.shape[1]

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"U": normalization_moment(self.sample_gradients(inputs, gradient))}

    def sample_gradients(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """Return the parameters' gradients by single samples, shape (n, n_units, n_parameters)."""
        scale, shift = self.layer.weight.requires_grad, len(self.parameters) - self.layer.weight.requires_grad
        kept = slice(0 if scale else 1, 2 if shift else 1)
        return normalization_gradients(inputs, self._units(gradient))[..., kept]

    def gradient(self) -> Tensor | None:
        if any(p.grad is None for p in self.parameters):
            return None
        return torch.stack([gradient_of(p).flatten() for p in self.parameters], dim=-1)[..., None]

    def set_gradient(self, natural: Tensor) -> None:
        for p, part in zip(self.parameters, natural.unbind(dim=1), strict=True):
            assert p.grad is not None
            p.grad.copy_(part.view_as(p))

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        return {"U": damping}

    def normalization(self, means: Means) -> float:
        return 1.0

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return inverses["U"] @ gradient

    def _units(self, x: Tensor) -> Tensor:
        """Bring (n, ..., units) or (n, channels, ...) into the form (n, n_positions, n_units)."""
        if isinstance(self.layer, nn.LayerNorm | nn.RMSNorm):
            n_units = self.layer.weight.numel()
            return x.reshape(len(x), math.prod(x.shape[1:]) // n_units, n_units)  # of an empty batch, too
        return x.unsqueeze(-1).flatten(2).mT

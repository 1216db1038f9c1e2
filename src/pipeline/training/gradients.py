"""The gradients of a network: as its layers see them, and whether they can be trusted."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import DivergenceError
from pipeline.runtime.communicator import Communicator
from pipeline.training.kronecker import is_finite
from pipeline.training.structures import Structure


class Gradients:
    """The gradients of all trained parameters, and those of the layers that are preconditioned.

    Args:
        model: The network.
        layers: What is preconditioned, by name.

    Attributes:
        weights: The trained parameters by name.
        others: Those that belong to no layer.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Structure]) -> None:
        covered = {id(p) for layer in layers.values() for p in layer.parameters}
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.others = {name: p for name, p in self.weights.items() if id(p) not in covered}
        self._layers = layers

    def of_layers(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The gradients of these layers, one tensor each; layers without a gradient are missing."""
        found = {name: self._layers[name].gradient() for name in names}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def as_layers(self, names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by parameter in the form in which these layers have their gradients."""
        kept = {name: p.grad for name, p in self.weights.items()}
        try:
            for name, p in self.weights.items():
                p.grad = tensors[name].to(p.dtype)
            return self.of_layers(names)
        finally:
            for name, p in self.weights.items():
                p.grad = kept[name]

    def set(self, natural: Mapping[str, Tensor]) -> None:
        """Replace the gradients of layers."""
        for name, gradient in natural.items():
            self._layers[name].set_gradient(gradient)

    def are_finite(self) -> bool:
        """Whether no gradient is infinite or undefined."""
        sums = [p.grad.sum() for p in self.weights.values() if p.grad is not None]
        return not sums or bool(torch.stack(sums).sum().isfinite())

    def require_finite(self, *, without: Iterable[str], step: int) -> None:
        """Raise where a gradient is not finite that no product of layers' gradients will show.

        Args:
            without: The layers whose products are looked at elsewhere.
            step: Number of the step, from 1.

        Raises:
            DivergenceError: If one is not; it is named.
        """
        known = set(without)
        left = {name: p.grad for name, p in self.others.items() if p.grad is not None}
        left |= self.of_layers(name for name in self._layers if name not in known)
        if not left or bool(torch.stack([gradient.sum() for gradient in left.values()]).sum().isfinite()):
            return
        for name, gradient in left.items():
            if not is_finite(gradient):
                raise DivergenceError(
                    f"the gradient of {name} is not finite at step {step}; lower lr, or look for bad numbers in the "
                    "batch"
                )

    def require_equal(self, communicator: Communicator) -> None:
        """Compare checksums of the gradients of all processes, which call this together.

        Raises:
            ValueError: If they differ.
        """
        sums = [p.grad.double().sum() for p in self.weights.values() if p.grad is not None]
        if not sums:
            return
        everywhere = communicator.all_gather(torch.stack(sums))
        if any(not torch.equal(theirs, everywhere[0]) for theirs in everywhere):
            raise ValueError(
                "processes hold different gradients at K-FAC's first step; train by DistributedDataParallel, which "
                "averages them, or pass communicator=Serial() if each process trains a network of its own"
            )

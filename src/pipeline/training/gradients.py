"""The gradients of a network: those of its layers as matrices, and checks of all."""

from collections.abc import Callable, Iterable, Mapping

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
        layers: The preconditioned layers, by name.
        trains: Returns a function that tells whether the optimizer steps a parameter that is not frozen.

    Attributes:
        weights: The trained parameters by name.
        others: The trained parameters that belong to no layer, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Structure],
        trains: Callable[[], Callable[[Tensor], bool]],
    ) -> None:
        covered = {id(p) for layer in layers.values() for p in layer.parameters}
        self._model = model
        self._layers = layers
        self._trains = trains
        self.weights = self._trained()
        self._trainable = self._not_frozen()
        self._lazy = {name for name, p in self.weights.items() if nn.parameter.is_lazy(p)}
        self.others = {name: p for name, p in self.weights.items() if id(p) not in covered}

    def of_layers(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the gradients of these layers, one tensor each; frozen layers and those without a gradient are
        missing."""
        trained = [name for name in names if all(p.requires_grad for p in self._layers[name].parameters)]
        found = {name: self._layers[name].gradient() for name in trained}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def as_layers(self, names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors given by parameter as `of_layers` returns gradients.

        Names may be those of a network inside `DistributedDataParallel` or `torch.compile`.

        Raises:
            ValueError: If a trained parameter is missing.
        """
        tensors = {**{_inside(name): t for name, t in tensors.items()}, **tensors}
        for name in self.weights:
            if name not in tensors:
                raise ValueError(
                    f"the difference of gradients lacks parameter {name}; give one tensor for each trained parameter, "
                    "by its name in named_parameters"
                )
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
            layer = self._layers[name]
            layer.set_gradient(gradient)
            for p in layer.parameters:
                if p.grad is not None:
                    p.grad.natural_version = p.grad._version  # type: ignore[attr-defined]

    def require_new(self, names: Iterable[str]) -> None:
        """Raise ValueError if a gradient is still the natural gradient that a K-FAC has written.

        Raises:
            ValueError: If so; the layer is named.
        """
        for name in names:
            gradient = self._layers[name].parameters[0].grad
            if gradient is not None and getattr(gradient, "natural_version", None) == gradient._version:
                raise ValueError(
                    f"the gradient of layer {name} is a natural gradient already; call step once after each backward, "
                    "and let one K-FAC alone precondition a layer"
                )

    def require_same_parameters(self) -> None:
        """Raise ValueError if the network's trained parameters are not those that K-FAC found.

        A layer may be frozen as a whole. A parameter that is not frozen any more is refused also if the optimizer does
        not step it, because it was probably meant to.

        Raises:
            ValueError: If a parameter was added, unfrozen, replaced or given its shape, or frozen without the rest of
                its layer.
        """
        now = self._trained()
        for name, p in self._not_frozen().items():
            if name not in self._trainable or (name in now and name not in self.weights):
                raise ValueError(_changed(name, "was added or unfrozen"))
            if p is not self._trainable[name]:
                raise ValueError(_changed(name, "was replaced"))
            if self._has_shape_now(name, p):
                raise ValueError(_changed(name, "was given its shape"))
        names = {id(p): name for name, p in self.weights.items()}
        for layer in self._layers.values():
            frozen = [names[id(p)] for p in layer.parameters if names[id(p)] not in now]
            if 0 < len(frozen) < len(layer.parameters):
                raise ValueError(_changed(frozen[0], "was frozen or removed without the rest of its layer"))

    @property
    def are_outdated(self) -> bool:
        """Whether the network trains parameters that it did not train before, or whose shape was not known."""
        known = {id(p) for name, p in self.weights.items() if not self._has_shape_now(name, p)}
        return any(id(p) not in known for p in self._trained().values())

    def _has_shape_now(self, name: str, parameter: Tensor) -> bool:
        return name in self._lazy and not nn.parameter.is_lazy(parameter)

    def _trained(self) -> dict[str, nn.Parameter]:
        trains = self._trains()
        return {name: p for name, p in self._not_frozen().items() if trains(p)}

    def _not_frozen(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def are_zero(self) -> bool:
        """Whether no gradient has an entry other than zero."""
        gradients = [p.grad for p in self.weights.values() if p.grad is not None]
        return not any(bool((g.coalesce().values() if g.is_sparse else g).any()) for g in gradients)

    def are_finite(self) -> bool:
        """Whether no gradient is infinite or undefined."""
        sums = [_sum(p.grad) for p in self.weights.values() if p.grad is not None]
        return not sums or bool(torch.stack(sums).sum().isfinite())

    def require_finite(self, *, without: Iterable[str], step: int) -> None:
        """Raise DivergenceError if a gradient is not finite, except those of layers that are checked elsewhere.

        Args:
            without: The layers that are checked by the products of their gradients and natural gradients.
            step: Number of the step, from 1.

        Raises:
            DivergenceError: If a gradient is not finite; it is named.
        """
        known = set(without)
        left = {name: p.grad for name, p in self.others.items() if p.grad is not None}
        left |= self.of_layers(name for name in self._layers if name not in known)
        if not left or bool(torch.stack([_sum(gradient) for gradient in left.values()]).sum().isfinite()):
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
        # Sums that are not finite count as zero on every process, because the step that follows reports them.
        everywhere = [t.nan_to_num(0.0, 0.0, 0.0) for t in communicator.all_gather(torch.stack(sums))]
        if any(not torch.equal(theirs, everywhere[0]) for theirs in everywhere):
            raise ValueError(
                "processes hold different gradients at K-FAC's first step; train by DistributedDataParallel, which "
                "averages them, or pass communicator=Serial() if each process trains a network of its own"
            )


def _inside(name: str) -> str:
    """Return a parameter's name without the prefixes of torch's wrappers."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


def _sum(gradient: Tensor) -> Tensor:
    """The sum, in a type in which that of finite numbers is finite."""
    return gradient.sum(dtype=torch.float32 if gradient.dtype.itemsize < 4 else None)


def _changed(name: str, how: str) -> str:
    return (
        f"parameter {name} {how} since K-FAC was attached; call look_again() of KFAC once the network is ready, before "
        "the next pass, and give the optimizer what it is to train"
    )

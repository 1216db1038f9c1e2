"""Hooks that watch layers work: they collect what the Kronecker factors are made of during forward and
backward."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from pipeline.training.kronecker import (
    convolution_gradient_columns,
    convolution_input_columns,
    linear_columns,
    pack_triangle,
    second_moment,
)

Key = tuple[str, str]  # a layer's name, and "A" (inputs) or "G" (output gradients)


@dataclass(frozen=True)
class Moments:
    """Sums over samples of A (averaged over positions) or G (summed over positions).

    Attributes:
        total: Packed triangle, float64: sums over passes then hardly depend on their order.
        n_samples: How many samples the sums hold.
    """

    total: Tensor
    n_samples: int


def supported(module: nn.Module) -> bool:
    """Whether `Capture` knows the Kronecker factors of this layer and its weight is trained."""
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.weight.requires_grad
    return type(module) is nn.Linear and module.weight.requires_grad


class Capture:
    """Watch the linear and convolutional layers of a network.

    Args:
        model: Hooks are added to its supported layers; `remove` takes them away.
        active: Asked at every forward pass whether statistics are wanted.
        sample_fraction: Share of each pass's samples, the first ones, that is looked at.
        mean_loss: Whether `backward` starts from a mean over the samples of the pass, so that gradients
            must be multiplied by their number to be those of single samples, or from a sum.
    """

    def __init__(
        self, model: nn.Module, *, active: Callable[[], bool], sample_fraction: float, mean_loss: bool
    ) -> None:
        self.layers: dict[str, nn.Linear | nn.Conv2d] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and supported(module)
        }
        self._moments: dict[Key, Moments] = {}
        self._active = active
        self._sample_fraction = sample_fraction
        self._mean_loss = mean_loss
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self.layers.items()]

    def take(self) -> dict[Key, Moments]:
        """Return what was collected since the last call; layers that were not used are missing."""
        moments, self._moments = self._moments, {}
        return moments

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if layer.training and output.requires_grad and self._active():
                self._add_inputs(name, inputs[0].detach())
                output.register_hook(lambda gradient: self._add_gradients(name, gradient))  # type: ignore[no-untyped-call]

        return watch

    def _n_watched(self, n: int) -> int:
        return ceil(self._sample_fraction * n)

    def _add(self, key: Key, moment: Tensor, n_samples: int) -> None:
        triangle = pack_triangle(moment).double()
        if key in self._moments:
            triangle += self._moments[key].total
            n_samples += self._moments[key].n_samples
        self._moments[key] = Moments(triangle, n_samples)

    @torch.no_grad()
    def _add_inputs(self, name: str, x: Tensor) -> None:
        layer = self.layers[name]
        n = self._n_watched(len(x))
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            columns = convolution_input_columns(x[:n], *((pair[0], pair[1]) for pair in geometry))
        else:
            columns = linear_columns(x[:n])
        moment = second_moment(columns, bias=layer.bias is not None)
        n_positions = columns.shape[1] // max(n, 1)
        self._add((name, "A"), moment.div_(max(n_positions, 1)), n)

    @torch.no_grad()
    def _add_gradients(self, name: str, gradient: Tensor) -> None:
        n = self._n_watched(len(gradient))
        is_convolution = isinstance(self.layers[name], nn.Conv2d)
        columns = (convolution_gradient_columns if is_convolution else linear_columns)(gradient[:n])
        moment = second_moment(columns, bias=False)
        if self._mean_loss:
            moment.mul_(len(gradient) ** 2)
        self._add((name, "G"), moment, n)

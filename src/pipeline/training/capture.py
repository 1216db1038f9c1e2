"""Hooks that watch layers work: they collect what the Kronecker factors are made of during forward and
backward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from pipeline.training.kronecker import rotated_second_moment
from pipeline.training.layers import KroneckerProduct, Structure

Key = tuple[str, str]  # a layer's name, and that of one of its matrices

CORRECTION = "S"  # second moments of gradients in the eigenbasis, not a symmetric matrix


@dataclass(frozen=True)
class Moments:
    """Sums over samples of one matrix.

    Attributes:
        total: float64: sums over passes then hardly depend on their order.
        n_samples: How many samples the sums hold.
    """

    total: Tensor
    n_samples: int


class Capture:
    """Watch layers of a network.

    Args:
        model: Hooks are added to its layers; `remove` takes them away.
        structures: The layers to be watched, by name.
        active: Asked at every forward pass whether statistics are wanted.
        sample_fraction: Share of each pass's samples, the first ones, that is looked at.
        mean_loss: Whether `backward` starts from a mean over the samples of the pass, so that gradients
            must be multiplied by their number to be those of single samples, or from a sum.
        sampled: Whether output gradients come from `sample` instead of `backward`.
        bases: Eigenbases of A and G of each layer, blocks in order, in which squares of gradients are wanted.

    Attributes:
        paused: Whether passes go unseen.
        loss_scale: What the loss of `backward` was multiplied by.
    """

    def __init__(
        self,
        model: nn.Module,
        structures: Mapping[str, Structure],
        *,
        active: Callable[[], bool],
        sample_fraction: float,
        mean_loss: bool,
        sampled: bool,
        bases: Mapping[str, tuple[list[Tensor], list[Tensor]]],
    ) -> None:
        self.paused = False
        self.loss_scale = 1.0
        self._structures = structures
        self._moments: dict[Key, Moments] = {}
        self._active = active
        self._sample_fraction = sample_fraction
        self._mean_loss = mean_loss
        self._sampled = sampled
        self._bases = bases
        self._outputs: list[tuple[str, Tensor, Tensor, int]] = []
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if name in structures
        ]

    def take(self) -> dict[Key, Moments]:
        """Return what was collected since the last call; layers that were not used are missing."""
        moments, self._moments = self._moments, {}
        return moments

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Look away for a while."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def sample(self, scores: Tensor, uniform: Tensor) -> None:
        """Take output gradients of the log-likelihood of classes drawn from the prediction itself.

        Costs a backward pass through activations only: no gradient of a weight is computed.

        Args:
            scores: Of the pass under way, shape (n, n_classes).
            uniform: Random numbers in [0, 1), shape (n,).
        """
        outputs, self._outputs = self._outputs, []
        if not outputs:
            return
        log_likelihood = torch.log_softmax(scores.float() if scores.dtype.itemsize < 4 else scores, dim=1)
        cumulative = log_likelihood.detach().exp().cumsum(dim=1)
        drawn = (cumulative < uniform.to(cumulative)[:, None]).sum(dim=1).clamp_max(scores.shape[1] - 1)
        loss = -log_likelihood.gather(1, drawn[:, None]).sum()
        gradients = torch.autograd.grad(
            loss, [output for _, output, _, _ in outputs], retain_graph=True, allow_unused=True
        )
        for (name, _, inputs, n), gradient in zip(outputs, gradients, strict=True):
            if gradient is not None:
                self._add_gradients(name, inputs, n, gradient, scale=1.0)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self.paused or not (layer.training and output.requires_grad and self._active()):
                return
            n = ceil(self._sample_fraction * len(output))
            kept = self._add_inputs(name, inputs[0].detach(), n)
            if self._sampled:
                self._outputs.append((name, output, kept, n))
            else:
                output.register_hook(lambda gradient: self._from_backward(name, kept, n, gradient))  # type: ignore[no-untyped-call]

        return watch

    def _from_backward(self, name: str, inputs: Tensor, n: int, gradient: Tensor) -> None:
        if not self.paused:
            scale = (len(gradient) if self._mean_loss else 1) / self.loss_scale
            self._add_gradients(name, inputs, n, gradient, scale=scale)

    def _add(self, key: Key, moment: Tensor, n_samples: int) -> None:
        former = self._moments.get(key)
        if former is None:
            self._moments[key] = Moments(moment.double(), n_samples)
        else:
            self._moments[key] = Moments(former.total.add_(moment), former.n_samples + n_samples)

    @torch.no_grad()
    def _add_inputs(self, name: str, x: Tensor, n: int) -> Tensor:
        structure = self._structures[name]
        x = x.to(structure.parameters[0].dtype) if x.is_floating_point() else x
        with torch.autocast(x.device.type, enabled=False):
            inputs = structure.inputs(x, n)
            for matrix, moment in structure.input_moments(inputs, n).items():
                self._add((name, matrix), moment, n)
        keep = name in self._bases or not isinstance(structure, KroneckerProduct)
        # Of the others only the shape is asked for; a view would keep all inputs alive until the backward pass.
        return inputs if keep else inputs.new_empty(inputs[:0].shape)

    @torch.no_grad()
    def _add_gradients(self, name: str, inputs: Tensor, n: int, gradient: Tensor, *, scale: float) -> None:
        structure = self._structures[name]
        gradient = gradient[:n].to(structure.parameters[0].dtype)
        with torch.autocast(gradient.device.type, enabled=False):
            for matrix, moment in structure.gradient_moments(inputs, gradient).items():
                self._add((name, matrix), moment.mul_(scale**2) if scale != 1 else moment, n)
            if name in self._bases:
                assert isinstance(structure, KroneckerProduct)
                columns = structure.with_ones(inputs), structure.gradients(gradient)
                squares = rotated_second_moment(*columns, *self._bases[name], n)
                self._add((name, CORRECTION), squares.mul_(scale**2), n)

"""How one layer's Fisher matrix is approximated: its matrices, their statistics, and the natural gradient.

A structure names the symmetric matrices that approximate a layer's Fisher matrix, each with its shape: (n, n), or
(count, n, n) for a stack. Statistics are sums; those of inputs are divided by the number of uses, those of output
gradients by the number of samples. A use is a position of a sample in a call: a pixel, a token, a step of a
recurrence. So A is a mean over uses, and G is a sum over the uses of a sample: K-FAC-expand [1, section 3.2].

References:
    [1] Eschenhagen, Immer, Turner, Schneider, Hennig, "Kronecker-factored approximate curvature for modern neural
        network architectures", NeurIPS 2023.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from pipeline.training.sampling import cut, n_pieces

Shape = tuple[int, ...]
Means = Mapping[str, float]  # mean eigenvalue of each matrix


class Structure(Protocol):
    """How one layer's Fisher matrix is approximated."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Each matrix's name and shape."""

    @property
    def parameters(self) -> list[Tensor]:
        """The trained parameters whose gradients are preconditioned."""

    @property
    def n_dimensions(self) -> int:
        """Smallest number of dimensions of a batch of inputs; an input with one less is a single sample."""

    @property
    def features_last(self) -> bool:
        """Whether features are the last dimension of inputs, so that positions may stand before samples."""

    @property
    def keeps_inputs(self) -> bool:
        """Whether `gradient_moments` looks at the inputs."""

    def inputs(self, x: Tensor, n: int, output: Shape | None = None) -> Tensor:
        """Bring the inputs of a forward pass into the form that the moments of its first `n` samples need; `output` is
        the shape of the layer's output if it is not the one that the layer computes without further arguments."""

    def n_uses(self, inputs: Tensor) -> int:
        """How many uses these inputs hold, samples times positions."""

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the sums over all uses that need the inputs only, by matrix."""

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """Return the sums over samples that need output gradients of single samples, shape (n, ...), by matrix."""

    def gradient(self) -> Tensor | None:
        """Return the gradients of all parameters as one tensor; None if none was computed."""

    def set_gradient(self, natural: Tensor) -> None:
        """Write a tensor in the form of `gradient` to the parameters' gradients."""

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        """Return what to add to the diagonal of each matrix."""

    def normalization(self, means: Means) -> float:
        """Return the factor that turns the product of the matrices into the Fisher matrix."""

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        """Multiply a gradient by these matrices."""


def spread(x: Tensor, n: int) -> Tensor:
    """Return n samples, evenly spaced: the first ones may be of one kind, as where real and drawn images are joined."""
    if n == len(x):
        return x
    if n and len(x) % n == 0:
        return x[:: len(x) // n]
    return x[torch.arange(n, device=x.device) * len(x) // max(n, 1)]


def working_type(parameter: Tensor) -> torch.dtype:
    """The type in which the curvature of a parameter is computed: at least float32."""
    return parameter.dtype if parameter.dtype.itemsize >= 4 else torch.float32


def in_working_type(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off within the context if it is on; asking first is faster than switching."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def trained(*parameters: Tensor | None) -> list[Tensor]:
    return [p for p in parameters if p is not None and p.requires_grad]


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in the type of its curvature; zeros where there is none."""
    dtype = working_type(parameter)
    return torch.zeros_like(parameter, dtype=dtype) if parameter.grad is None else parameter.grad.to(dtype)


def pieces(name: str, n: int, block_size: int, count: int = 1, parts: int = 1) -> dict[str, Shape]:
    """Shapes of one factor or, where it is in several parts or larger than `block_size`, of its diagonal blocks."""
    stack = (count,) if count > 1 else ()
    n_blocks = n_pieces(n // parts, block_size) if block_size else 1
    if parts * n_blocks == 1:
        return {name: (*stack, n, n)}
    sizes = [part.stop - part.start for part in cut(n // parts, n_blocks)] * parts
    return {f"{name}{i}": (*stack, size, size) for i, size in enumerate(sizes)}

"""The layers that K-FAC knows: how each one's statistics are taken, and its gradient made natural.

A row of `STRUCTURES` for each kind of layer. A structure names the symmetric matrices that approximate the
layer's Fisher matrix, each with its shape: (n, n), or (count, n, n) for a stack. Sums are over samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.kronecker import (
    convolution_gradient_columns,
    convolution_input_columns,
    linear_columns,
    multiply_left,
    multiply_right,
    normalization_moment,
    occurrences,
    second_moment,
    split_damping,
)
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
        """The trained parameters whose gradients it rewrites."""

    def inputs(self, x: Tensor, n: int) -> Tensor:
        """Bring the inputs of a forward pass into the form that the moments of its first `n` samples need."""

    def input_moments(self, inputs: Tensor, n: int) -> dict[str, Tensor]:
        """Sums over `n` samples that need the inputs only, averaged over positions."""

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """Sums over samples that need output gradients, shape (n, ...), of single samples."""

    def gradient(self) -> Tensor | None:
        """The gradients of all parameters as one tensor; None where none was computed."""

    def set_gradient(self, natural: Tensor) -> None:
        """Put a tensor like that of `gradient` into the parameters' gradients."""

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        """What to add to the diagonal of each matrix."""

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        """Multiply a gradient by the inverse Fisher matrix."""


def _pieces(name: str, n: int, block_size: int, count: int = 1) -> dict[str, Shape]:
    """Shapes of one factor or, where it is larger than `block_size`, of its diagonal blocks."""
    stack = (count,) if count > 1 else ()
    if block_size == 0 or n <= block_size:
        return {name: (*stack, n, n)}
    sizes = [part.stop - part.start for part in cut(n, n_pieces(n, block_size))]
    return {f"{name}{i}": (*stack, size, size) for i, size in enumerate(sizes)}


@dataclass
class KroneckerProduct:
    """A ⊗ G of a linear layer or a convolution; for a grouped convolution one product per group."""

    layer: nn.Linear | nn.Conv2d
    block_size: int
    inputs_shapes: dict[str, Shape] = field(init=False)
    outputs_shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1
        self.bias = self.layer.bias is not None
        n_inputs = self.layer.weight[0].numel() + self.bias
        n_outputs = len(self.layer.weight) // self.groups
        self.inputs_shapes = _pieces("A", n_inputs, self.block_size, self.groups)
        self.outputs_shapes = _pieces("G", n_outputs, self.block_size, self.groups)

    @property
    def shapes(self) -> dict[str, Shape]:
        return self.inputs_shapes | self.outputs_shapes

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in (self.layer.weight, self.layer.bias) if p is not None]

    def inputs(self, x: Tensor, n: int) -> Tensor:
        x = x[:n]
        if isinstance(self.layer, nn.Conv2d):
            x, padding = _padded(self.layer, x)
            geometry = (self.layer.kernel_size, self.layer.stride, padding, self.layer.dilation)
            columns = convolution_input_columns(x, *((pair[0], pair[1]) for pair in geometry))
        else:
            columns = linear_columns(x)
        return self._stacked(columns)

    def gradients(self, gradient: Tensor) -> Tensor:
        """Output gradients as columns, shape (n_outputs, n_columns), stacked by groups."""
        is_convolution = isinstance(self.layer, nn.Conv2d)
        columns = (convolution_gradient_columns if is_convolution else linear_columns)(gradient)
        return self._stacked(columns)

    def with_ones(self, columns: Tensor) -> Tensor:
        """Append the input of the bias, where there is one."""
        return torch.cat([columns, torch.ones_like(columns[..., :1, :])], dim=-2) if self.bias else columns

    def input_moments(self, inputs: Tensor, n: int) -> dict[str, Tensor]:
        moments = self._moments(inputs, self.inputs_shapes, bias=self.bias)
        n_positions = max(inputs.shape[-1], 1) / max(n, 1)
        return moments if n_positions == 1 else {name: M.div_(n_positions) for name, M in moments.items()}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return self._moments(self.gradients(gradient), self.outputs_shapes, bias=False)

    def gradient(self) -> Tensor | None:
        if self.layer.weight.grad is None:
            return None
        matrix = self.layer.weight.grad.flatten(1)
        if self.layer.bias is not None:
            bias = self.layer.bias.grad
            bias = torch.zeros_like(self.layer.bias) if bias is None else bias
            matrix = torch.cat([matrix, bias[:, None]], dim=1)
        return self._stacked(matrix)

    def set_gradient(self, natural: Tensor) -> None:
        assert self.layer.weight.grad is not None
        natural = natural.flatten(0, 1) if self.groups > 1 else natural
        if self.layer.bias is not None:
            if self.layer.bias.grad is not None:
                self.layer.bias.grad.copy_(natural[:, -1])
            natural = natural[:, :-1]
        self.layer.weight.grad.copy_(natural.view_as(self.layer.weight))

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        means_A, means_G = (
            sum(means[name] * shape[-1] for name, shape in shapes.items())
            / sum(shape[-1] for shape in shapes.values())
            for shapes in (self.inputs_shapes, self.outputs_shapes)
        )
        for_A, for_G = split_damping(means_A, means_G, damping)
        return dict.fromkeys(self.inputs_shapes, for_A) | dict.fromkeys(self.outputs_shapes, for_G)

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        half = multiply_left([inverses[name] for name in self.outputs_shapes], gradient)
        return multiply_right(half, [inverses[name] for name in self.inputs_shapes])

    def _stacked(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.groups, -1, rows.shape[-1]) if self.groups > 1 else rows

    @staticmethod
    def _moments(columns: Tensor, shapes: Mapping[str, Shape], *, bias: bool) -> dict[str, Tensor]:
        sizes = [shape[-1] for shape in shapes.values()]
        sizes[-1] -= bias
        parts = torch.split(columns, sizes, dim=-2)
        has_bias = [False] * (len(parts) - 1) + [bias]
        return {
            name: second_moment(part, bias=with_bias)
            for name, part, with_bias in zip(shapes, parts, has_bias, strict=True)
        }


def _padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Pad images as the layer does, where that is not by zeros on both sides; return what padding is left."""
    if isinstance(layer.padding, str):
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        left = [total // 2 if layer.padding == "same" else 0 for total in totals]
        right = [total - total // 2 if layer.padding == "same" else 0 for total in totals]
    elif layer.padding_mode != "zeros":
        left = right = list(layer.padding)
    else:
        return x, layer.padding
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, (left[1], right[1], left[0], right[0]), mode=mode), (0, 0)


@dataclass
class LookUp:
    """A ⊗ G of an embedding: inputs are one-hot, so A is diagonal, and exactly so."""

    layer: nn.Embedding

    @property
    def shapes(self) -> dict[str, Shape]:
        n_rows, n_features = self.layer.weight.shape
        return {"A": (n_rows, 1, 1), "G": (n_features, n_features)}

    @property
    def parameters(self) -> list[Tensor]:
        return [self.layer.weight]

    def inputs(self, x: Tensor, n: int) -> Tensor:
        return x[:n].flatten(1)

    def input_moments(self, inputs: Tensor, n: int) -> dict[str, Tensor]:
        counts = occurrences(inputs, len(self.layer.weight), self.layer.weight.dtype)
        return {"A": counts / max(inputs[:1].numel(), 1)}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"G": second_moment(linear_columns(gradient), bias=False)}

    def gradient(self) -> Tensor | None:
        return self.layer.weight.grad

    def set_gradient(self, natural: Tensor) -> None:
        assert self.layer.weight.grad is not None
        self.layer.weight.grad.copy_(natural)

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        return dict(zip("AG", split_damping(means["A"], means["G"], damping), strict=True))

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return gradient * inverses["A"].view(-1, 1) @ inverses["G"]


@dataclass
class UnitWise:
    """A 2 x 2 matrix for scale and shift of each unit of a normalization."""

    layer: nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d

    @property
    def shapes(self) -> dict[str, Shape]:
        n = len(self.parameters)
        return {"U": (self.layer.weight.numel(), n, n)}

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in (self.layer.weight, self.layer.bias) if p is not None]

    def inputs(self, x: Tensor, n: int) -> Tensor:
        if isinstance(self.layer, nn.LayerNorm):
            return self._units(functional.layer_norm(x[:n], self.layer.normalized_shape, eps=self.layer.eps))
        # The mean and variance of the batch are those of all its samples.
        return self._units(functional.batch_norm(x, None, None, training=True, eps=self.layer.eps)[:n])

    def input_moments(self, inputs: Tensor, n: int) -> dict[str, Tensor]:
        return {}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"U": normalization_moment(inputs, self._units(gradient), bias=self.layer.bias is not None)}

    def gradient(self) -> Tensor | None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if len(gradients) < len(self.parameters):
            return None
        return torch.stack([gradient.flatten() for gradient in gradients], dim=-1)[..., None]

    def set_gradient(self, natural: Tensor) -> None:
        for p, part in zip(self.parameters, natural.unbind(dim=1), strict=True):
            assert p.grad is not None
            p.grad.copy_(part.view_as(p))

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        return {"U": damping}

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return inverses["U"] @ gradient

    def _units(self, x: Tensor) -> Tensor:
        """Bring (n, ..., units) or (n, channels, ...) into the form (n, n_positions, n_units)."""
        if isinstance(self.layer, nn.LayerNorm):
            return x.reshape(len(x), -1, self.layer.weight.numel())
        return x.unsqueeze(-1).flatten(2).mT


def structure_of(layer: nn.Module, *, block_size: int) -> Structure | None:
    """Choose how a layer is preconditioned; None if it is not: unknown, not trained, or of an unusual kind."""
    build = STRUCTURES.get(type(layer))
    if build is None:
        return None
    weight = getattr(layer, "weight", None)
    if weight is None or not weight.requires_grad:
        return None
    return build(layer, block_size)


def _look_up(layer: nn.Module, block_size: int) -> Structure | None:
    assert isinstance(layer, nn.Embedding)
    plain = not layer.sparse and not layer.scale_grad_by_freq and layer.max_norm is None
    return LookUp(layer) if plain else None


def _unit_wise(layer: nn.Module, block_size: int) -> Structure | None:
    assert isinstance(layer, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)
    return UnitWise(layer)


def _kronecker_product(layer: nn.Module, block_size: int) -> Structure | None:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return KroneckerProduct(layer, block_size)


# By exact type: a subclass may compute something else.
STRUCTURES: dict[type[nn.Module], Callable[[nn.Module, int], Structure | None]] = {
    nn.Linear: _kronecker_product,
    nn.Conv2d: _kronecker_product,
    nn.Embedding: _look_up,
    nn.LayerNorm: _unit_wise,
    nn.BatchNorm1d: _unit_wise,
    nn.BatchNorm2d: _unit_wise,
}

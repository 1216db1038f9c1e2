"""The Kronecker product of K-FAC, for linear layers and convolutions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.kronecker import (
    convolution_gradient_columns,
    convolution_input_columns,
    linear_columns,
    multiply_left,
    multiply_right,
    second_moment,
    split_damping,
)
from pipeline.training.structures.structure import Means, Shape, gradient_of, pieces, spread

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass
class KroneckerProduct:
    """A ⊗ G of a linear layer or a convolution; for a grouped convolution one product per group.

    Attributes:
        weight: Shape (n_outputs, n_inputs), or that of the convolution.
        bias: The trained bias, or None.
        block_size: Largest number of rows of a factor; larger ones are cut into diagonal blocks. 0: no limit.
        convolution: The layer itself if it is a convolution, else None.
        parts: Number of equal diagonal blocks of G, such as one for each gate of a recurrence.
    """

    weight: Tensor
    bias: Tensor | None
    block_size: int
    convolution: Convolution | Transposed | None = None
    parts: int = 1
    inputs_shapes: dict[str, Shape] = field(init=False)
    outputs_shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = 1 if self.convolution is None else self.convolution.groups
        self.is_transposed = isinstance(self.convolution, Transposed)
        rows, columns = self.weight.shape[:2]
        n_positions = math.prod(self.weight.shape[2:])
        if self.is_transposed:
            rows, columns = columns, rows // self.groups
        else:
            rows //= self.groups
        n_inputs = columns * n_positions + (self.bias is not None)
        self.inputs_shapes = pieces("A", n_inputs, self.block_size, self.groups)
        self.outputs_shapes = pieces("G", rows, self.block_size, self.groups, self.parts)

    @property
    def shapes(self) -> dict[str, Shape]:
        return self.inputs_shapes | self.outputs_shapes

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in (self.weight, self.bias) if p is not None]

    @property
    def n_dimensions(self) -> int:
        return self.weight.dim() if self.convolution is not None else 2

    @property
    def features_last(self) -> bool:
        return self.convolution is None

    @property
    def keeps_inputs(self) -> bool:
        return False

    def inputs(self, x: Tensor, n: int, output: Shape | None = None) -> Tensor:
        x = spread(x, n)
        if self.convolution is None:
            columns = linear_columns(x)
        else:
            x, stride, padding = _as_plain_convolution(self.convolution, x, output)
            columns = convolution_input_columns(
                x, self.convolution.kernel_size, stride, padding, self.convolution.dilation
            )
        return self._stacked(columns)

    def gradients(self, gradient: Tensor) -> Tensor:
        """Output gradients as columns, shape (n_outputs, n_columns), stacked by groups."""
        to_columns = linear_columns if self.convolution is None else convolution_gradient_columns
        return self._stacked(to_columns(gradient))

    def with_ones(self, columns: Tensor) -> Tensor:
        """Append the input of the bias, where there is one."""
        if self.bias is None:
            return columns
        return torch.cat([columns, torch.ones_like(columns[..., :1, :])], dim=-2)

    def n_uses(self, inputs: Tensor) -> int:
        return inputs.shape[-1]

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return self._moments(inputs, self.inputs_shapes, bias=self.bias is not None)

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        if self.convolution is None:
            return self.output_moments(self.gradients(gradient))
        # Moments do not depend on the order of columns; with positions last, copies run along long rows.
        return self.output_moments(self._stacked(gradient.transpose(0, 1).flatten(1)))

    def output_moments(self, columns: Tensor) -> dict[str, Tensor]:
        """Return sums of second moments over columns of output gradients."""
        return self._moments(columns, self.outputs_shapes, bias=False)

    def gradient(self) -> Tensor | None:
        if self.weight.grad is None:
            return None
        gradient = gradient_of(self.weight)
        if self.is_transposed:
            gradient = self._turned(gradient)
        matrix = gradient.flatten(1)
        if self.bias is not None:
            matrix = torch.cat([matrix, gradient_of(self.bias)[:, None]], dim=1)
        return self._stacked(matrix)

    def set_gradient(self, natural: Tensor) -> None:
        assert self.weight.grad is not None
        natural = natural.flatten(0, 1) if self.groups > 1 else natural
        if self.bias is not None:
            if self.bias.grad is not None:
                self.bias.grad.copy_(natural[:, -1])
            natural = natural[:, :-1]
        if self.is_transposed:
            self.weight.grad.copy_(self._turned_back(natural))
        else:
            self.weight.grad.copy_(natural.view_as(self.weight))

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        means_A, means_G = (
            sum(means[name] * shape[-1] for name, shape in shapes.items())
            / sum(shape[-1] for shape in shapes.values())
            for shapes in (self.inputs_shapes, self.outputs_shapes)
        )
        for_A, for_G = split_damping(means_A, means_G, damping)
        return dict.fromkeys(self.inputs_shapes, for_A) | dict.fromkeys(self.outputs_shapes, for_G)

    def normalization(self, means: Means) -> float:
        return 1.0

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        half = multiply_left([inverses[name] for name in self.outputs_shapes], gradient)
        return multiply_right(half, [inverses[name] for name in self.inputs_shapes])

    def _stacked(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.groups, -1, rows.shape[-1]) if self.groups > 1 else rows

    def _turned(self, weight: Tensor) -> Tensor:
        """Return the weights of the plain convolution, on widened inputs, that equals the transposed one."""
        n_inputs, n_outputs, *kernel = self.weight.shape
        split = weight.reshape(self.groups, n_inputs // self.groups, n_outputs, *kernel)
        by_group = split.transpose(1, 2).flatten(0, 1)
        return by_group.flip(tuple(range(2, by_group.dim())))

    def _turned_back(self, weight: Tensor) -> Tensor:
        n_inputs, n_outputs, *kernel = self.weight.shape
        by_group = weight.reshape(self.groups, n_outputs, n_inputs // self.groups, *kernel)
        return by_group.flip(tuple(range(3, by_group.dim()))).transpose(1, 2).flatten(0, 1)

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


def _as_plain_convolution(
    layer: Convolution | Transposed, x: Tensor, output: Shape | None = None
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Return images, stride and zero padding with which a plain convolution sees the same patches as the layer."""
    none = (0,) * len(layer.kernel_size)
    if isinstance(layer, Transposed):
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        assert not isinstance(layer.padding, str)
        left = [span - pad for span, pad in zip(spans, layer.padding, strict=True)]
        size = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], layer.stride, strict=True)]
        right = [pad + extra for pad, extra in zip(left, layer.output_padding, strict=True)]
        if output is not None:  # the layer may have been called with `output_size`
            sides = zip(output[-len(size) :], size, left, spans, strict=True)
            right = [there - n - pad + span for there, n, pad, span in sides]
        wide = x.new_zeros(*x.shape[:2], *size)
        where: list[Any] = [slice(None), slice(None), *(slice(None, None, step) for step in layer.stride)]
        wide[tuple(where)] = x
        return _padded(wide, left, right), (1,) * len(none), none
    if isinstance(layer.padding, str):
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        left = [total // 2 if layer.padding == "same" else 0 for total in totals]
        right = [total - total // 2 if layer.padding == "same" else 0 for total in totals]
    elif layer.padding_mode != "zeros":
        left = right = list(layer.padding)
    else:
        return x, layer.stride, layer.padding
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return _padded(x, left, right, mode), layer.stride, none


def _padded(x: Tensor, left: list[int], right: list[int], mode: str = "constant") -> Tensor:
    """Pad the last dimensions; torch wants them from the last to the first."""
    both = [size for pair in zip(reversed(left), reversed(right), strict=True) for size in pair]
    return functional.pad(x, both, mode=mode)

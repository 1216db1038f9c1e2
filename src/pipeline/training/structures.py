"""How one layer's Fisher matrix is approximated: its matrices, their statistics, and the natural gradient.

A structure names the symmetric matrices that approximate a layer's Fisher matrix, each with its shape: (n, n), or
(count, n, n) for a stack. Statistics are sums; those of inputs are divided by the number of uses, those of output
gradients by the number of samples. A use is a position of a sample in a call: a pixel, a token, a step of a
recurrence. So A is a mean over uses and G a sum over those of a sample, which is K-FAC-expand [1, section 3.2].

References:
    [1] Eschenhagen, Immer, Turner, Schneider, Hennig, "Kronecker-factored approximate curvature for modern neural
        network architectures", NeurIPS 2023.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

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
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


class Structure(Protocol):
    """How one layer's Fisher matrix is approximated."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Each matrix's name and shape."""

    @property
    def parameters(self) -> list[Tensor]:
        """The trained parameters whose gradients it rewrites."""

    @property
    def n_dimensions(self) -> int:
        """How many dimensions a batch of inputs has at least; an input of one less is a sample by itself."""

    @property
    def keeps_inputs(self) -> bool:
        """Whether `gradient_moments` looks at the inputs."""

    def inputs(self, x: Tensor, n: int) -> Tensor:
        """Bring the inputs of a forward pass into the form that the moments of its first `n` samples need."""

    def n_uses(self, inputs: Tensor) -> int:
        """How many uses these inputs hold, samples times positions."""

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        """Sums over all uses that need the inputs only."""

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """Sums over samples that need output gradients, shape (n, ...), of single samples."""

    def gradient(self) -> Tensor | None:
        """The gradients of all parameters as one tensor; None where none was computed."""

    def set_gradient(self, natural: Tensor) -> None:
        """Put a tensor like that of `gradient` into the parameters' gradients."""

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        """What to add to the diagonal of each matrix."""

    def normalization(self, means: Means) -> float:
        """What the product of the matrices is multiplied by to be the Fisher matrix."""

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        """Multiply a gradient by these matrices."""


def working_type(parameter: Tensor) -> torch.dtype:
    """The type in which the curvature of a parameter is computed: at least float32."""
    return parameter.dtype if parameter.dtype.itemsize >= 4 else torch.float32


def _trained(*parameters: Tensor | None) -> list[Tensor]:
    return [p for p in parameters if p is not None and p.requires_grad]


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in the type of its curvature; zeros where there is none."""
    dtype = working_type(parameter)
    return torch.zeros_like(parameter, dtype=dtype) if parameter.grad is None else parameter.grad.to(dtype)


def _pieces(name: str, n: int, block_size: int, count: int = 1, parts: int = 1) -> dict[str, Shape]:
    """Shapes of one factor or, where it is in several parts or larger than `block_size`, of its diagonal blocks."""
    stack = (count,) if count > 1 else ()
    n_blocks = n_pieces(n // parts, block_size) if block_size else 1
    if parts * n_blocks == 1:
        return {name: (*stack, n, n)}
    sizes = [part.stop - part.start for part in cut(n // parts, n_blocks)] * parts
    return {f"{name}{i}": (*stack, size, size) for i, size in enumerate(sizes)}


@dataclass
class KroneckerProduct:
    """A ⊗ G of a linear layer or a convolution; for a grouped convolution one product per group.

    Attributes:
        weight: Shape (n_outputs, n_inputs), or that of the convolution.
        bias: The trained bias, or None.
        block_size: Factors of more rows are cut into diagonal blocks; 0: none is.
        convolution: The layer itself, where it is one.
        parts: G is cut into so many equal blocks, such as the gates of a recurrence.
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
        self.inputs_shapes = _pieces("A", n_inputs, self.block_size, self.groups)
        self.outputs_shapes = _pieces("G", rows, self.block_size, self.groups, self.parts)

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
    def keeps_inputs(self) -> bool:
        return False

    def inputs(self, x: Tensor, n: int) -> Tensor:
        x = x[:n]
        if self.convolution is None:
            columns = linear_columns(x)
        else:
            x, stride, padding = _as_plain_convolution(self.convolution, x)
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
        return self.output_moments(self.gradients(gradient))

    def output_moments(self, columns: Tensor) -> dict[str, Tensor]:
        """Sums over columns of output gradients."""
        return self._moments(columns, self.outputs_shapes, bias=False)

    def gradient(self) -> Tensor | None:
        if self.weight.grad is None:
            return None
        gradient = _gradient(self.weight)
        if self.is_transposed:
            gradient = self._turned(gradient)
        matrix = gradient.flatten(1)
        if self.bias is not None:
            matrix = torch.cat([matrix, _gradient(self.bias)[:, None]], dim=1)
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
        """The weights of a transposed convolution as those of the plain one that it is on widened inputs."""
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
    layer: Convolution | Transposed, x: Tensor
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Return images, stride and zero padding with which a plain convolution sees the same patches as the layer."""
    none = (0,) * len(layer.kernel_size)
    if isinstance(layer, Transposed):
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        assert not isinstance(layer.padding, str)
        left = [span - pad for span, pad in zip(spans, layer.padding, strict=True)]
        right = [pad + extra for pad, extra in zip(left, layer.output_padding, strict=True)]
        size = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], layer.stride, strict=True)]
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


@dataclass
class LookUp:
    """A ⊗ G of an embedding: inputs are one-hot, so A is diagonal, and exactly so."""

    weight: Tensor

    @property
    def shapes(self) -> dict[str, Shape]:
        n_rows, n_features = self.weight.shape
        return {"A": (n_rows, 1, 1), "G": (n_features, n_features)}

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight]

    @property
    def n_dimensions(self) -> int:
        return 1

    @property
    def keeps_inputs(self) -> bool:
        return False

    def inputs(self, x: Tensor, n: int) -> Tensor:
        return x[:n].reshape(len(x[:n]), -1)

    def n_uses(self, inputs: Tensor) -> int:
        return inputs.numel()

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"A": occurrences(inputs, len(self.weight), working_type(self.weight))}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"G": second_moment(linear_columns(gradient), bias=False)}

    def gradient(self) -> Tensor | None:
        return None if self.weight.grad is None else _gradient(self.weight)

    def set_gradient(self, natural: Tensor) -> None:
        assert self.weight.grad is not None
        self.weight.grad.copy_(natural)

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        return dict(zip("AG", split_damping(means["A"], means["G"], damping), strict=True))

    def normalization(self, means: Means) -> float:
        return 1.0

    def natural(self, gradient: Tensor, inverses: Mapping[str, Tensor]) -> Tensor:
        return gradient * inverses["A"].view(-1, 1) @ inverses["G"]


@dataclass
class TiedLookUp(LookUp):
    """A table that is looked up and also scores its rows, as the head of a language model does.

    A use contributes l l' ⊗ r r' with l over rows and r over features: looking up, l is one-hot and r the gradient at
    the output; scoring, l is the gradient at the scores and r the input. Their sum is approximated by the separable
    matrix with the same partial traces, A ⊗ G / tr G with A = E sum |r|^2 diag(l l') and G = E sum |l|^2 r r', of
    which A is kept diagonal. Statistics of both are sums over samples of what the backward pass shows.

    Attributes:
        scores: Whether this use is the one that scores rows.
    """

    scores: bool = False

    @property
    def n_dimensions(self) -> int:
        return 2 if self.scores else 1

    @property
    def keeps_inputs(self) -> bool:
        return True

    def inputs(self, x: Tensor, n: int) -> Tensor:
        return linear_columns(x[:n]) if self.scores else super().inputs(x, n)

    def n_uses(self, inputs: Tensor) -> int:
        return inputs.shape[-1] if self.scores else inputs.numel()

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        columns = linear_columns(gradient)
        if self.scores:
            by_use = columns.square().sum(dim=0).sqrt()
            rows = columns.square() @ inputs.square().sum(dim=0)
            return {"A": rows.view(-1, 1, 1), "G": second_moment(inputs * by_use, bias=False)}
        rows = columns.new_zeros(len(self.weight))
        # Columns have samples last.
        rows.index_add_(0, inputs.T.reshape(-1), columns.square().sum(dim=0))
        return {"A": rows.view(-1, 1, 1), "G": second_moment(columns, bias=False)}

    def dampings(self, means: Means, damping: float) -> dict[str, float]:
        trace = means["G"] * self.weight.shape[1]
        for_A, for_G = split_damping(means["A"], means["G"] / trace if trace else 0.0, damping)
        return {"A": for_A, "G": for_G * trace if trace else for_G}

    def normalization(self, means: Means) -> float:
        trace = means["G"] * self.weight.shape[1]
        return 1 / trace if trace else 1.0


@dataclass
class UnitWise:
    """A 2 x 2 matrix for scale and shift of each unit of a normalization, or 1 x 1 where one of them is not trained."""

    layer: nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | BatchNorm | InstanceNorm

    @property
    def shapes(self) -> dict[str, Shape]:
        n = len(self.parameters)
        return {"U": (self.layer.weight.numel(), n, n)}

    @property
    def parameters(self) -> list[Tensor]:
        return _trained(self.layer.weight, getattr(self.layer, "bias", None))

    @property
    def n_dimensions(self) -> int:
        if isinstance(self.layer, nn.LayerNorm | nn.RMSNorm):
            return len(self.layer.normalized_shape) + 1
        if isinstance(self.layer, InstanceNorm):
            kinds = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
            return next(n for kind, n in kinds.items() if isinstance(self.layer, kind))
        return 2

    @property
    def keeps_inputs(self) -> bool:
        return True

    def inputs(self, x: Tensor, n: int) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.LayerNorm):
            return self._units(functional.layer_norm(x[:n], layer.normalized_shape, eps=layer.eps))
        if isinstance(layer, nn.RMSNorm):
            return self._units(functional.rms_norm(x[:n], layer.normalized_shape, eps=layer.eps))
        if isinstance(layer, nn.GroupNorm):
            return self._units(functional.group_norm(x[:n], layer.num_groups, eps=layer.eps))
        mean, variance = layer.running_mean, layer.running_var
        own = layer.training or mean is None
        statistics = (None, None) if own else (mean, variance)
        if isinstance(layer, InstanceNorm):
            return self._units(
                functional.instance_norm(x[:n], *statistics, use_input_stats=own, eps=layer.eps)
            )
        # The mean and variance of the batch are those of all its samples.
        return self._units(functional.batch_norm(x, *statistics, training=own, eps=layer.eps)[:n])

    def n_uses(self, inputs: Tensor) -> int:
        return len(inputs) * inputs.shape[1]

    def input_moments(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def gradient_moments(self, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        moment = normalization_moment(inputs, self._units(gradient), bias=True)
        scale, shift = self.layer.weight.requires_grad, len(self.parameters) - self.layer.weight.requires_grad
        kept = slice(0 if scale else 1, 2 if shift else 1)
        return {"U": moment[:, kept, kept].contiguous()}

    def gradient(self) -> Tensor | None:
        if any(p.grad is None for p in self.parameters):
            return None
        return torch.stack([_gradient(p).flatten() for p in self.parameters], dim=-1)[..., None]

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
            return x.reshape(len(x), -1, self.layer.weight.numel())
        return x.unsqueeze(-1).flatten(2).mT

"""Planned layers computed by torch: in float64 as the measure of errors, in float32 as the peer in timings."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.plan import INPUT, Layer

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}  # of torch's images


def reference(layers: Sequence[Layer], parameters: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """Compute every layer's result in float64.

    Args:
        layers: The plan.
        parameters: `NAME.weight` complete (not scaled) and `NAME.bias`; any dtype.
        x: Shape (n, channels, rows, columns).
    """
    results = {INPUT: x.detach().double()}
    for layer in layers:
        addend = None if layer.addend is None else results[layer.addend]
        results[layer.name] = apply(layer, parameters, results[layer.source], addend)
    return [results[layer.name] for layer in layers]


def apply(layer: Layer, parameters: Mapping[str, Tensor], x: Tensor, addend: Tensor | None = None) -> Tensor:
    """Compute one layer in the dtype and memory format of `x`."""
    return bind(layer, parameters, x.dtype)(x, addend)


def bind(
    layer: Layer,
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
    memory_format: torch.memory_format | None = None,
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Look up all that one layer needs, and return a function of its input and its addend, for timings.

    A call runs torch's own operators and almost nothing else; sum and ReLU overwrite the result before them.

    Args:
        layer: The layer.
        parameters: `NAME.weight` complete (not scaled) and `NAME.bias`, or `NAME.index`; any dtype.
        dtype: Type of the inputs to come.
        memory_format: The order in which a convolution's weights are to lie; None leaves them.
    """
    if layer.kind in ("multiply", "scale", "gather", "matmul"):
        return _of_two(layer, parameters)
    operator, relu = _operator(layer, parameters, dtype, memory_format), layer.relu
    function = FUNCTIONS[layer.function](*layer.constants) if layer.function else None
    given, wanted = layer.input_shape, layer.output_shape

    def run(x: Tensor, addend: Tensor | None) -> Tensor:
        x = x if x.shape[1:] == given else seen_as(x, given)
        y = operator(x)
        if addend is not None:
            addend = addend if addend.shape[1:] == wanted else seen_as(addend, wanted)
            y = y + addend if y is x else y.add_(addend)
        if function is not None:
            return function(y)
        return y.relu_() if relu else y

    return run


def rows_of(x: Tensor) -> Tensor:
    """Results as layers keep them: (n, numbers), channels last."""
    return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x.flatten(1)


def seen_as(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the numbers, channels last, as images of another shape, in torch's order."""
    flat = rows_of(x)
    if len(shape) == 1:
        return flat
    channels, rows, columns = shape
    return flat.view(len(x), rows, columns, channels).permute(0, 3, 1, 2)


def _of_two(layer: Layer, parameters: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a layer that uses its addend otherwise than by adding it."""
    shape = layer.output_shape
    if layer.kind == "multiply":
        return lambda x, by: seen_as(x, shape) * seen_as(by, shape)  # type: ignore[arg-type]
    if layer.kind == "scale":
        return lambda x, by: seen_as(x, shape) * rows_of(by)[:, :, None, None]  # type: ignore[arg-type]
    if layer.kind == "gather":
        index = parameters[f"{layer.name}.index"].long()

        def gathered(x: Tensor, other: Tensor | None) -> Tensor:
            parts = [rows_of(x), *([] if other is None else [rows_of(other)]), x.new_zeros(len(x), 1)]
            return seen_as(torch.cat(parts, 1)[:, index], shape)

        return gathered
    operands = layer.operands
    assert operands is not None
    first = places(operands.offsets, operands.strides, operands.rows, operands.inner)
    second = places(operands.addend_offsets, operands.addend_strides, operands.inner, operands.columns)

    def multiplied(x: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        product = layer.factor * (rows_of(x)[:, first] @ rows_of(other)[:, second])
        return seen_as(product.flatten(1), shape)

    return multiplied


def places(offsets: tuple[int, ...], strides: tuple[int, int], rows: int, columns: int) -> Tensor:
    """The places of matrices, shape (n, rows, columns)."""
    start = torch.tensor(offsets).view(-1, 1, 1)
    return start + torch.arange(rows).view(-1, 1) * strides[0] + torch.arange(columns) * strides[1]


def _operator(
    layer: Layer,
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
    memory_format: torch.memory_format | None,
) -> Callable[[Tensor], Tensor]:
    """Return what a layer does before the addend and the ReLU; its result is new memory, or `x` itself."""
    if layer.kind in ("add", "activation"):
        return lambda x: x
    if layer.kind == "softmax":
        return lambda x: x.softmax(1)
    if layer.has_weights or layer.is_normalization:
        weight, bias = (parameters[f"{layer.name}.{part}"].detach().to(dtype) for part in ("weight", "bias"))
        if layer.is_normalization:
            width, epsilon = layer.input_shape[:1], layer.epsilon
            return lambda x: functional.layer_norm(x.movedim(1, -1), width, weight, bias, epsilon).movedim(
                -1, 1
            )
        if _is_elementwise(layer):
            column, shift = weight.view(1, -1, 1, 1), bias.view(1, -1, 1, 1)
            return lambda x: x * column + shift
        if layer.kind == "linear":
            if len(layer.input_shape) == 1:
                return lambda x: functional.linear(x, weight, bias)
            return lambda x: functional.linear(x.flatten(1), weight, bias)
        if memory_format is not None:
            weight = weight.contiguous(memory_format=memory_format)
        g = layer.geometry
        assert g is not None
        stride, padding, dilation, groups = g.stride, g.padding, g.dilation, g.groups
        if g.padding_after is not None:
            top, left, bottom, right = g.paddings

            def padded(x: Tensor) -> Tensor:
                x = functional.pad(x, (left, right, top, bottom))
                return torch.conv2d(x, weight, bias, stride, 0, dilation, groups)

            return padded
        return lambda x: torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if layer.geometry is None:
        size = layer.output_shape[1:]
        return lambda x: functional.adaptive_avg_pool2d(x, size)  # type: ignore[arg-type]
    return _pooling(layer)


def _is_elementwise(layer: Layer) -> bool:
    """Whether a convolution multiplies each channel with a number of its own."""
    g = layer.geometry
    return (
        layer.kind == "conv2d"
        and g is not None
        and g.kernel == g.stride == (1, 1)
        and not any(g.paddings)
        and g.groups == layer.input_shape[0] == layer.output_shape[0]
    )


def _pooling(layer: Layer) -> Callable[[Tensor], Tensor]:
    """Pool in windows that lie as the layer's shapes say."""
    assert layer.geometry is not None
    kernel, stride, divisor = layer.geometry.kernel, layer.geometry.stride, layer.geometry.divisor
    (rows, columns), (top, left, bottom, right) = layer.input_shape[1:], layer.geometry.paddings
    # The windows may reach less or more than the padded image.
    reach = [
        (count - 1) * step + width
        for count, step, width in zip(layer.output_shape[1:], stride, kernel, strict=True)
    ]
    bottom, right = reach[0] - rows - top, reach[1] - columns - left

    def maximum(x: Tensor) -> Tensor:
        padded = functional.pad(x, (left, right, top, bottom), value=-math.inf)
        return torch.max_pool2d(padded, kernel, stride)

    def mean(x: Tensor) -> Tensor:
        padded = functional.pad(x, (left, right, top, bottom))
        total = functional.avg_pool2d(padded, kernel, stride, divisor_override=divisor or 1)
        if divisor:
            return total
        inside = functional.pad(x.new_ones(1, 1, rows, columns), (left, right, top, bottom))
        return total / functional.avg_pool2d(inside, kernel, stride, divisor_override=1)

    symmetric = layer.geometry.padding_after is None and layer.geometry.divisor == 0
    padding = layer.geometry.padding
    if symmetric and all(2 * pad <= width for pad, width in zip(padding, kernel, strict=True)):
        floors = tuple(
            (size + 2 * pad - width) // step + 1
            for size, pad, width, step in zip((rows, columns), padding, kernel, stride, strict=True)
        )
        ceil = floors != layer.output_shape[1:]
        if layer.kind == "max_pool2d":
            return lambda x: torch.max_pool2d(x, kernel, stride, padding, (1, 1), ceil)
        return lambda x: functional.avg_pool2d(x, kernel, stride, padding, ceil, False)
    return maximum if layer.kind == "max_pool2d" else mean


# What a layer's function computes, given its constants.
FUNCTIONS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "clip": lambda low, high: lambda x: x.clamp(low, high),
    "leaky_relu": lambda slope: lambda x: functional.leaky_relu(x, slope),
    "hard_sigmoid": lambda: functional.hardsigmoid,
    "hard_swish": lambda: functional.hardswish,
    "sigmoid": lambda: torch.sigmoid,
    "silu": lambda: functional.silu,
    "tanh": lambda: torch.tanh,
    "gelu": lambda: functional.gelu,
    "gelu_tanh": lambda: lambda x: functional.gelu(x, approximate="tanh"),
    "exp": lambda: torch.exp,
    "square": lambda: torch.square,
    "sqrt": lambda: torch.sqrt,
    "reciprocal": lambda: torch.reciprocal,
    "abs": lambda: torch.abs,
    "log": lambda: torch.log,
    "erf": lambda: torch.erf,
    "elu": lambda alpha: lambda x: functional.elu(x, alpha),
}

"""Planned layers computed by torch: in float64 as the measure of errors, in float32 as the peer in timings."""

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
    """Look up all that one layer needs; what is left is a function of its input and its addend, for timings.

    A call of it is torch's own operators and next to nothing else; sum and ReLU write over the result before them.

    Args:
        layer: The layer.
        parameters: `NAME.weight` complete (not scaled) and `NAME.bias`; any dtype.
        dtype: Of the inputs to come.
        memory_format: In which a convolution's weights are to lie; as they do if None.
    """
    operator, relu = _operator(layer, parameters, dtype, memory_format), layer.relu

    def run(x: Tensor, addend: Tensor | None) -> Tensor:
        y = operator(x)
        if addend is not None:
            y = y + addend if y is x else y.add_(addend)
        return y.relu_() if relu else y

    return run


def _operator(
    layer: Layer,
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
    memory_format: torch.memory_format | None,
) -> Callable[[Tensor], Tensor]:
    """What a layer does before it adds and cuts off; its result is new memory, or `x` itself."""
    if layer.kind == "add":
        return lambda x: x
    if layer.has_weights:
        weight, bias = (parameters[f"{layer.name}.{part}"].detach().to(dtype) for part in ("weight", "bias"))
        if layer.kind == "linear":
            if len(layer.input_shape) == 1:
                return lambda x: functional.linear(x, weight, bias)
            return lambda x: functional.linear(x.flatten(1), weight, bias)
        if memory_format is not None:
            weight = weight.contiguous(memory_format=memory_format)
        g = layer.geometry
        assert g is not None
        stride, padding, dilation, groups = g.stride, g.padding, g.dilation, g.groups
        return lambda x: torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if layer.geometry is None:
        size = layer.output_shape[1:]
        return lambda x: functional.adaptive_avg_pool2d(x, size)  # type: ignore[arg-type]
    return _pooling(layer)


def _pooling(layer: Layer) -> Callable[[Tensor], Tensor]:
    """Pool in windows that lie as the layer's shapes say."""
    assert layer.geometry is not None
    kernel, stride, padding = layer.geometry.kernel, layer.geometry.stride, layer.geometry.padding
    reach = (
        size + 2 * pad - width
        for size, pad, width in zip(layer.input_shape[1:], padding, kernel, strict=True)
    )
    floors = tuple(n // step + 1 for n, step in zip(reach, stride, strict=True))
    ceil = floors != layer.output_shape[1:]
    if layer.kind == "max_pool2d":
        return lambda x: torch.max_pool2d(x, kernel, stride, padding, (1, 1), ceil)
    return lambda x: functional.avg_pool2d(x, kernel, stride, padding, ceil, False)

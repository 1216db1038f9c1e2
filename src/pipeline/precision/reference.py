"""Planned layers computed by torch: in float64 as the measure of errors, in float32 as the peer in timings."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from pipeline.precision.plan import INPUT, Layer


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
    if layer.has_weights:
        weight, bias = (parameters[f"{layer.name}.{part}"].to(x.dtype) for part in ("weight", "bias"))
        if layer.kind == "linear":
            x = functional.linear(x.flatten(1), weight, bias)
        else:
            assert layer.geometry is not None
            g = layer.geometry
            x = functional.conv2d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)
    elif layer.kind == "adaptive_avg_pool2d":
        _, rows, columns = layer.output_shape
        x = functional.adaptive_avg_pool2d(x, (rows, columns))
    elif layer.geometry is not None:
        x = _pooled(layer, x)
    if addend is not None:
        x = x + addend
    return functional.relu(x) if layer.relu else x


def _pooled(layer: Layer, x: Tensor) -> Tensor:
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
        return functional.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
    return functional.avg_pool2d(x, kernel, stride, padding, ceil_mode=ceil, count_include_pad=False)

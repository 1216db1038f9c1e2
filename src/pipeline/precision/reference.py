"""Planned layers computed by torch: in float64 as the measure of errors, in float32 as the peer in timings."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from pipeline.precision.plan import Layer


def reference(layers: Sequence[Layer], parameters: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """Compute every layer's result in float64.

    Args:
        layers: The plan.
        parameters: `NAME.weight` complete (not scaled) and `NAME.bias`; any dtype.
        x: Shape (n, channels, rows, columns).
    """
    results = []
    value = x.detach().double()
    for layer in layers:
        value = apply(layer, parameters, value)
        results.append(value)
    return results


def apply(layer: Layer, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Compute one layer in the dtype and memory format of `x`."""
    if layer.has_weights:
        weight, bias = (parameters[f"{layer.name}.{part}"].to(x.dtype) for part in ("weight", "bias"))
        if layer.kind == "linear":
            x = functional.linear(x.flatten(1), weight, bias)
        else:
            assert layer.geometry is not None
            geometry = layer.geometry
            x = functional.conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation)
    elif layer.geometry is None:
        _, rows, columns = layer.output_shape
        x = functional.adaptive_avg_pool2d(x, (rows, columns))
    else:
        kernel, stride, padding = layer.geometry.kernel, layer.geometry.stride, layer.geometry.padding
        reach = (
            size + 2 * pad - width
            for size, pad, width in zip(layer.input_shape[1:], padding, kernel, strict=True)
        )
        floors = tuple(n // step + 1 for n, step in zip(reach, stride, strict=True))
        ceil = floors != layer.output_shape[1:]
        if layer.kind == "max_pool2d":
            x = functional.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
        else:
            x = functional.avg_pool2d(x, kernel, stride, padding, ceil_mode=ceil, count_include_pad=False)
    return functional.relu(x) if layer.relu else x

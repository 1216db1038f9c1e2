"""Convolutions and transposed convolutions, with the zero padding before them."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.operators.arguments import constant_of, view_of
from pipeline.precision.plan import Layer, WindowGeometry
from pipeline.precision.record import Node
from pipeline.precision.tracer import Affine, Tracer
from pipeline.precision.views import ZERO, View


def convolution(tracer: Tracer, node: Node) -> View:
    view = view_of(tracer, node, "input")
    weight, bias = constant_of(tracer, node, "weight"), constant_of(tracer, node, "bias")
    assert weight is not None
    if view.factor != 1.0:
        weight, view = weight * view.factor, replace(view, factor=1.0)
    one_dimensional = weight.ndim == 3
    if one_dimensional:
        weight, view = weight.unsqueeze(2), view.moved(view.index.unsqueeze(2))
    if weight.ndim != 4:
        raise tracer.refusal(
            node, f"has weights of shape {tuple(weight.shape)}; wanted images of two dimensions"
        )

    def pair(key: str, filler: int) -> tuple[int, int]:
        found = list(node.arguments[key])
        found = [filler, *found] if one_dimensional else found
        return (found[0], found[-1])

    stride, padding, dilation = pair("stride", 1), pair("padding", 0), pair("dilation", 1)
    # A kernel of one row or column has nothing to dilate, and torch crashes on some images with such a dilation.
    dilation = (dilation[0] if weight.shape[2] > 1 else 1, dilation[1] if weight.shape[3] > 1 else 1)
    groups = node.arguments["groups"]
    if node.arguments["transposed"]:
        view, weight = _spread(view, weight, stride, padding, pair("output_padding", 0), dilation, groups)
        stride, padding = (1, 1), (0, 0)
    view, padding, after = _cropped_padding(view, padding)
    source, image = tracer.image(view, node)
    kernel: tuple[int, int] = tuple(weight.shape[2:])  # type: ignore[assignment]
    geometry = WindowGeometry(kernel, stride, padding, dilation, groups, padding_after=after)
    top, left, bottom, right = geometry.paddings
    size = tuple(
        (n + pads - d * (k - 1) - 1) // s + 1
        for n, pads, d, k, s in zip(
            image[1:], (top + bottom, left + right), dilation, kernel, stride, strict=True
        )
    )
    bias = torch.zeros(len(weight)).double() if bias is None else bias
    layer = Layer(node.name, "conv2d", source, image, (len(weight), *size), geometry)
    return tracer.append(layer, Affine(weight, bias))


def _cropped_padding(
    view: View, padding: tuple[int, int]
) -> tuple[View, tuple[int, int], tuple[int, int] | None]:
    """Move zero padding before a convolution into the convolution; return the view, the padding, and that after it."""
    if len(view.shape) != 4 or view.shape[0] != 1 or not bool((view.index == ZERO).any()):
        return view, padding, None
    inside = view.index[0, 0] != ZERO
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if not len(rows):
        return view, padding, None
    top, left = int(rows[0]), int(columns[0])
    bottom, right = len(inside) - 1 - int(rows[-1]), inside.shape[1] - 1 - int(columns[-1])
    index = view.index[:, :, top : len(inside) - bottom, left : inside.shape[1] - right]
    before = (padding[0] + top, padding[1] + left)
    after = (padding[0] + bottom, padding[1] + right)
    if bool((index == ZERO).any()) or int((view.index != ZERO).sum()) != index.numel():
        return view, padding, None
    return view.moved(index), before, None if before == after else after


def _spread(
    view: View,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[View, Tensor]:
    """Turn a transposed convolution into a plain one, with zeros between the image's pixels and flipped weights."""
    n, channels, *size = view.shape
    spread = [(count - 1) * step + 1 for count, step in zip(size, stride, strict=True)]
    index = torch.full((n, channels, *spread), ZERO)
    index[:, :, :: stride[0], :: stride[1]] = view.index
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    pads = [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)]
    index = functional.pad(index, (*pads[1], *pads[0]), value=ZERO)
    inputs, outputs = weight.shape[:2]
    weight = weight.view(groups, inputs // groups, outputs, *weight.shape[2:]).transpose(1, 2).flatten(0, 1)
    return view.moved(index), weight.flip(2, 3)

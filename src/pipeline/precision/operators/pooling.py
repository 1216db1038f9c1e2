"""Pooling, means, sums, maxima and norms."""

import math
from dataclasses import replace
from typing import Any

import torch

from pipeline.precision.operators.activations import activate
from pipeline.precision.operators.arguments import settled_view_of, shape_of, view_of
from pipeline.precision.operators.products import linear
from pipeline.precision.plan import Kind, Layer, WindowGeometry
from pipeline.precision.record import Node
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View


def max_pool(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "self")
    kernel = _pair(node.arguments["kernel_size"])
    if _pair(node.arguments["dilation"]) != (1, 1):
        raise tracer.refusal(node, "is a pooling with dilation; wanted dilation=1")
    if len(node.outputs) > 1 and node.outputs[1] in tracer.wanted:
        raise tracer.refusal(node, "is a pooling whose indices are used; wanted its maxima only")
    stride, padding = _pair(node.arguments["stride"], kernel), _pair(node.arguments["padding"])
    return _pooled(
        tracer, node, view, "max_pool2d", WindowGeometry(kernel, stride, padding), shape_of(node)[-2:]
    )


def avg_pool(tracer: Tracer, node: Node) -> View:
    view, size = settled_view_of(tracer, node, "self"), shape_of(node)[-2:]
    kernel = _pair(node.arguments["kernel_size"])
    stride, padding = _pair(node.arguments["stride"], kernel), _pair(node.arguments["padding"])
    divisor = node.arguments["divisor_override"] or 0
    if node.arguments["count_include_pad"] and padding != (0, 0) and not divisor:
        divisor = kernel[0] * kernel[1]
        inside = all(
            (count - 1) * step + width <= n + 2 * pad
            for count, step, width, n, pad in zip(size, stride, kernel, view.shape[-2:], padding, strict=True)
        )
        if not inside:
            raise tracer.refusal(
                node,
                "is a pooling that counts its padding and whose last windows leave it; wanted ceil_mode=False",
            )
    return _pooled(
        tracer, node, view, "avg_pool2d", WindowGeometry(kernel, stride, padding, divisor=divisor), size
    )


def _pooled(
    tracer: Tracer, node: Node, view: View, kind: Kind, geometry: WindowGeometry, size: tuple[int, ...]
) -> View:
    source, image = tracer.image(view, node)
    layer = Layer(node.name, kind, source, image, (image[0], size[0], size[1]), geometry)
    return tracer.append(layer)


def _pair(value: Any, otherwise: Any = None) -> tuple[int, int]:
    found = list(value) or list(otherwise)
    return (found[0], found[-1])


def adaptive(tracer: Tracer, node: Node) -> View:
    source, image = tracer.image(settled_view_of(tracer, node, "self"), node)
    size = shape_of(node)[-2:]
    return tracer.append(Layer(node.name, "adaptive_avg_pool2d", source, image, (image[0], *size)))


def adaptive_maximum(tracer: Tracer, node: Node) -> View:
    view, size = settled_view_of(tracer, node, "self"), shape_of(node)[-2:]
    if size != (1, 1):
        raise tracer.refusal(node, f"is an adaptive maximum over {size}; wanted one over the whole image")
    return _pooled(tracer, node, view, "max_pool2d", WindowGeometry(view.shape[-2:], (1, 1), (0, 0)), size)  # type: ignore[arg-type]


def mean(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "self")
    return _reduced(tracer, node, view, "adaptive_avg_pool2d")


def total(tracer: Tracer, node: Node) -> View:
    view = view_of(tracer, node, "self")
    mean = _reduced(tracer, node, tracer.settle(view, node.name), "adaptive_avg_pool2d")
    return replace(mean, factor=mean.factor * view.index.numel() / mean.index.numel())


def maximum(tracer: Tracer, node: Node) -> View:
    return _reduced(tracer, node, settled_view_of(tracer, node, "self"), "max_pool2d")


def _reduced(tracer: Tracer, node: Node, view: View, kind: Kind) -> View:
    """Take a mean or maximum over some dimensions, which become pixels while the others become channels."""
    rank = len(view.shape)
    dims = node.arguments.get("dim")
    dims = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    over = sorted(dim % rank for dim in dims)
    if 0 in over and view.shape[0] == 1 and rank > 1 and len(over) == rank:
        raise tracer.refusal(node, f"takes a {node.operator} over all samples; leave out the first dimension")
    left = [dim for dim in range(rank) if dim not in over]
    shape = shape_of(node)
    if rank == 4 and over == [2, 3] and view.shape[0] == 1:
        source, image = tracer.image(view, node)
    else:
        turned = view.index.permute(*over, *left).reshape(-1, math.prod(view.shape[dim] for dim in left))
        source, image = tracer.rows(view.moved(turned), node.name)
    geometry = WindowGeometry(image[1:], (1, 1), (0, 0)) if kind == "max_pool2d" else None
    result = tracer.append(Layer(node.name, kind, source, image, (image[0], 1, 1), geometry))
    return result.moved(torch.arange(result.n_source).view(shape))


def norm(tracer: Tracer, node: Node) -> View:
    """The Euclidean norm of rows: squares, their sum as a product with ones, and its root."""
    view = settled_view_of(tracer, node, "self")
    dims = node.arguments["dim"]
    if float(node.arguments["ord"]) != 2.0 or dims is None or len(dims) != 1:
        raise tracer.refusal(node, "is a norm other than the Euclidean one over one dimension; wanted that")
    dim = dims[0] % len(view.shape)
    squares = activate(tracer, node, view, "square")
    turned = squares.moved(squares.index.movedim(dim, -1))
    total = linear(tracer, node, turned, torch.ones(1, turned.shape[-1], dtype=torch.float64), None)
    root = activate(tracer, node, total, "sqrt")
    return root.moved(root.index.movedim(-1, dim).reshape(shape_of(node)))

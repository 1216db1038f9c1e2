"""Products with constant matrices, products of two results, and operators that they compute."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.precision.operators.arguments import constant_of, settled_view_of, shape_of, view_of
from pipeline.precision.plan import ONE_PIXEL, Layer, Operands
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Affine, Tracer
from pipeline.precision.views import View, natural, strides_of


def product_with_bias(tracer: Tracer, node: Node) -> View:
    """addmm: x W + b."""
    bias = constant_of(tracer, node, "self")
    assert bias is not None
    alpha, beta = float(node.arguments["alpha"]), float(node.arguments["beta"])
    weight = constant_of(tracer, node, "mat2")
    assert weight is not None
    return linear(tracer, node, view_of(tracer, node, "mat1"), weight.T * alpha, bias * beta)


def product(tracer: Tracer, node: Node) -> View:
    """mm and bmm: with constant weights a linear map of rows, else a product of two results."""
    second = node.arguments["mat2"]
    first = node.arguments["self"]
    if isinstance(first, Value) and isinstance(second, Value):
        return _product_of_two(tracer, node, tracer.views[first], tracer.views[second])
    if isinstance(second, Value):  # W x = (x^T W^T)^T
        view, weight = tracer.views[second], first.detach().double()
        if weight.ndim == 3 and (weight == weight[:1]).all():
            weight = weight[0]
        if weight.ndim != 2:
            raise tracer.refusal(
                node, "multiplies with another constant matrix for each part; wanted one for all"
            )
        turned = linear(tracer, node, view.moved(view.index.transpose(-1, -2)), weight, None)
        return turned.moved(turned.index.transpose(-1, -2))
    view, weight = view_of(tracer, node, "self"), second.detach().double()
    if weight.ndim == 3 and (weight == weight[:1]).all():
        weight = weight[0]
    if weight.ndim != 2:
        raise tracer.refusal(
            node, "multiplies with another constant matrix for each part; wanted one for all"
        )
    return linear(tracer, node, view, weight.T, None)


def linear(tracer: Tracer, node: Node, view: View, weight: Tensor, bias: Tensor | None) -> View:
    """y = W x + b of every row; the bias may be one number, or one for every number of the result."""
    if view.factor != 1.0:
        weight, view = weight * view.factor, replace(view, factor=1.0)
    n_outputs, shape = len(weight), (*view.shape[:-1], len(weight))
    own = bias is not None and bias.numel() in (1, n_outputs) and bias.shape[-1:].numel() == bias.numel()
    vector = (
        bias.flatten().expand(n_outputs).clone()
        if own and bias is not None
        else torch.zeros(n_outputs).double()
    )
    affine = Affine(weight.contiguous(), vector)
    if math.prod(view.shape[:-1]) == 1:
        image = _flattened_image(tracer, view)
        if image is not None:
            layer = Layer(node.name, "linear", view.source, image, (n_outputs,))
        else:
            size = (view.shape[-1],)
            source = tracer.laid_out(view, torch.arange(size[0]).view(view.shape), size, node.name)
            layer = Layer(node.name, "linear", source, size, (n_outputs,))
    else:
        source, rows = tracer.rows(view, node.name)
        layer = Layer(node.name, "conv2d", source, rows, (n_outputs, *rows[1:]), ONE_PIXEL)
        affine = replace(affine, weight=affine.weight[..., None, None])
    result = tracer.append(layer, affine)
    result = result.moved(torch.arange(result.n_source).view(shape))
    if bias is None or own:
        return result
    full = bias.expand(shape)
    return tracer.scale_and_shift(result, torch.ones(shape).double(), full, node.name)


def _flattened_image(tracer: Tracer, view: View) -> tuple[int, ...] | None:
    """Return the shape of the image whose numbers are exactly those of a view, in torch's order."""
    shape = tracer.shape(view.source)
    if len(shape) != 3 or view.n_source != view.index.numel():
        return None
    return shape if torch.equal(view.index.flatten(), natural(shape).flatten()) else None


def _product_of_two(tracer: Tracer, node: Node, first: View, second: View) -> View:
    """Multiply matrices of two results; evenly spaced numbers, like those of attention's heads, are not copied."""
    factor = first.factor * second.factor
    shape = (*first.shape[:-1], second.shape[-1])
    sides = []
    for view in (first, second):
        view = replace(view, factor=1.0)
        found = strides_of(view)
        if found is None or (found[1] != 1 and found[2] != 1 and view.shape[-1] > 1 and view.shape[-2] > 1):
            source, _ = tracer.rows(view, node.name)
            view = View(source, view.index.numel(), torch.arange(view.index.numel()).view(view.shape))
            found = strides_of(view)
        assert found is not None
        sides.append((view, found))
    (a, (offsets, *strides)), (b, (other_offsets, *other_strides)) = sides
    n, (rows, inner), columns = len(offsets), first.shape[-2:], second.shape[-1]
    operands = Operands(
        rows,
        inner,
        columns,
        tuple(offsets.tolist()),
        (strides[0], strides[1]),
        tuple(other_offsets.tolist()),
        (other_strides[0], other_strides[1]),
    )
    layer = Layer(
        node.name,
        "matmul",
        a.source,
        tracer.shape(a.source),
        (columns, n * rows, 1),
        addend=b.source,
        addend_size=b.n_source,
        factor=factor,
        operands=operands,
    )
    result = tracer.append(layer)
    return result.moved(torch.arange(result.n_source).view(shape))


def product_of_batches(tracer: Tracer, node: Node) -> View:
    """baddbmm: a constant plus a product."""
    times = product(
        tracer, replace(node, arguments={"self": node.arguments["batch1"], "mat2": node.arguments["batch2"]})
    )
    alpha, beta = float(node.arguments["alpha"]), float(node.arguments["beta"])
    added = constant_of(tracer, node, "self")
    assert added is not None
    times = tracer.settle(replace(times, factor=times.factor * alpha), node.name)
    full = (added * beta).expand(times.shape)
    return tracer.scale_and_shift(times, torch.ones(times.shape).double(), full, node.name)


def bilinear(tracer: Tracer, node: Node) -> View:
    """Interpolate along rows and along columns, each a product with a matrix of weights."""
    view = settled_view_of(tracer, node, "self" if "self" in node.arguments else "input")
    rows, columns = shape_of(node)[-2:]
    align = node.arguments["align_corners"]
    factors = node.arguments.get("scale_factors") or (
        node.arguments.get("scales_h"),
        node.arguments.get("scales_w"),
    )

    def weights(n: int, count: int, scale: float | None) -> Any:
        """What each of `count` new places takes from `n` old ones, by interpolating unit vectors."""
        unit = torch.eye(n).double().view(1, n, n, 1)
        found = torch.ops.aten.upsample_bilinear2d(unit, [count, 1], align, scale, None)
        return found.view(n, count).T

    for size, axis, scale in ((rows, 2, factors[0]), (columns, 3, factors[1])):
        turned = view.moved(view.index.movedim(axis, -1))
        stretched = linear(tracer, node, turned, weights(turned.shape[-1], size, scale), None)
        view = stretched.moved(stretched.index.movedim(-1, axis))
    return view

"""Normalization of channels and rows, and softmax."""

import math

import torch
from torch import Tensor

from pipeline.precision.operators.arguments import constant_of, settled_view_of
from pipeline.precision.plan import Layer
from pipeline.precision.record import Node
from pipeline.precision.tracer import Affine, Tracer
from pipeline.precision.views import View


def batch_norm(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "input")
    mean, variance = constant_of(tracer, node, "running_mean"), constant_of(tracer, node, "running_var")
    if mean is not None and node.arguments.get("training"):
        raise tracer.refusal(
            node,
            "normalizes with statistics of the batch; wanted its running ones, so call eval() before an export",
        )
    if mean is None or variance is None:
        raise tracer.refusal(
            node, "is a normalization without running statistics; train it with track_running_stats"
        )
    factor = (variance + node.arguments["eps"]).rsqrt()
    weight, bias = constant_of(tracer, node, "weight"), constant_of(tracer, node, "bias")
    factor = factor if weight is None else factor * weight
    shift = (0.0 if bias is None else bias) - mean * factor
    return per_channel(tracer, node, view, factor, shift)


def per_channel(tracer: Tracer, node: Node, view: View, factor: Tensor, shift: Tensor) -> View:
    """y = factor x + shift, with one number of each for every channel, which is dimension 1."""
    column = (1, -1, *[1] * (len(view.shape) - 2))
    return tracer.scale_and_shift(
        view, factor.view(column).expand(view.shape), shift.view(column).expand(view.shape), node.name
    )


def layer_norm(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "input")
    width = math.prod(node.arguments["normalized_shape"])
    weight, bias = constant_of(tracer, node, "weight"), constant_of(tracer, node, "bias")
    return _normalized_rows(tracer, node, view, width, weight, bias)


def _normalized_rows(
    tracer: Tracer, node: Node, view: View, width: int, weight: Tensor | None, bias: Tensor | None
) -> View:
    """Normalize rows of `width` numbers each, from the last dimensions of a view."""
    rows = view.moved(view.index.reshape(-1, width))
    source, shape = tracer.rows(rows, node.name)
    layer = Layer(node.name, "layer_norm", source, shape, shape, epsilon=float(node.arguments["eps"]))
    affine = Affine(
        torch.ones(width).double() if weight is None else weight.flatten(),
        torch.zeros(width).double() if bias is None else bias.flatten(),
    )
    result = tracer.append(layer, affine)
    return result.moved(torch.arange(result.n_source).view(view.shape))


def group_norm(tracer: Tracer, node: Node) -> View:
    view, groups = settled_view_of(tracer, node, "input"), node.arguments["group"]
    if groups == 1:  # a sum over all numbers does not depend on their order, so they stay as they lie
        index = view.index.movedim(1, -1)
        result = _normalized_rows(tracer, node, view.moved(index), view.index.numel(), None, None)
        normalized = result.moved(result.index.movedim(-1, 1))
    else:
        grouped = view.moved(view.index.reshape(groups, -1))
        normalized = _normalized_rows(tracer, node, grouped, grouped.shape[1], None, None)
        normalized = normalized.moved(normalized.index.view(view.shape))
    channels = view.shape[1]
    weight, bias = constant_of(tracer, node, "weight"), constant_of(tracer, node, "bias")
    return per_channel(
        tracer,
        node,
        normalized,
        torch.ones(channels).double() if weight is None else weight,
        torch.zeros(channels).double() if bias is None else bias,
    )


def softmax(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "self")
    dim = node.arguments["dim"] % len(view.shape)
    turned = view.moved(view.index.movedim(dim, -1))
    source, shape = tracer.rows(turned, node.name)
    result = tracer.append(Layer(node.name, "softmax", source, shape, shape))
    return result.moved(torch.arange(result.n_source).view(turned.shape).movedim(-1, dim))

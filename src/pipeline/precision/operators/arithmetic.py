"""Sums, products and quotients of results and constants."""

import math
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter

import torch
from torch import Tensor

from pipeline.precision.operators.activations import activate
from pipeline.precision.operators.arguments import constant_of, settled_view_of, shape_of, view_of
from pipeline.precision.operators.normalization import per_channel
from pipeline.precision.plan import Layer
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View, resting


def sum_of_two(sign: float, *, reversed_sides: bool = False) -> Callable[[Tracer, Node], View]:
    def handler(tracer: Tracer, node: Node) -> View:
        shape = shape_of(node)
        alpha = sign * float(node.arguments.get("alpha", 1))
        views, constants = _operands(tracer, node, shape)
        own, other = (alpha, 1.0) if reversed_sides else (1.0, alpha)
        if len(views) == 2:
            first, second = (
                replace(view, factor=view.factor * factor)
                for view, factor in zip(views, (own, other), strict=True)
            )
            return add(tracer, node, tracer.settle(first, node.name), tracer.settle(second, node.name))
        (view,), (constant,) = views, constants
        if not isinstance(node.arguments["self"], Value):
            own, other = other, own
        scale = torch.full(shape, view.factor * own).double()
        return tracer.scale_and_shift(replace(view, factor=1.0), scale, constant * other, node.name)

    return handler


def add(tracer: Tracer, node: Node, first: View, second: View) -> View:
    """Fuse a sum into the affine map that comes last before it, else make it a layer."""
    places = []
    for one, other in ((first, second), (second, first)):
        place = tracer.fusible(one)
        if place is not None and one.source != other.source:
            layer = tracer.layers[place]
            if layer.has_weights and not (layer.relu or layer.function or layer.addend is not None):
                places.append((place, one, other))
    if places:
        place, one, other = max(places, key=itemgetter(0))
        addend = _aligned(tracer, node, other, one)
        # No other layer reads it, so it may as well run last, when the addend is known.
        layer = tracer.layers.pop(place)
        tracer.layers.append(replace(layer, addend=addend))
        return one
    first, addend = _both(tracer, node, first, second)
    shape = tracer.shape(first.source)
    return tracer.append(Layer(node.name, "add", first.source, shape, shape, addend=addend)).moved(
        first.index
    )


def _both(tracer: Tracer, node: Node, first: View, second: View) -> tuple[View, str]:
    """Return a whole result for one of two views, and the name of one with the other's numbers in the same order."""
    if not first.is_whole and second.is_whole:
        first, second = second, first
    if not first.is_whole:
        shape, index = resting(first.index)
        first = View(tracer.laid_out(first, index, shape, node.name), index.numel(), index)
    return first, _aligned(tracer, node, second, first)


def _aligned(tracer: Tracer, node: Node, view: View, like: View) -> str:
    """Return the name of a result that holds a view's numbers in the order of another view, which is whole."""
    order = like.order
    assert order is not None
    places = view.index.flatten()[order]
    if view.n_source == len(places) and torch.equal(places, torch.arange(view.n_source)):
        return view.source
    return tracer.gather(view, None, places, tracer.shape(like.source), node.name).source


def multiplied(tracer: Tracer, node: Node) -> View:
    shape = shape_of(node)
    views, constants = _operands(tracer, node, shape)
    if len(views) == 2:
        return multiply(tracer, node, *views)
    (view,), (constant,) = views, constants
    return _scaled(tracer, node, view, constant)


def _scaled(tracer: Tracer, node: Node, view: View, constant: Tensor) -> View:
    """Multiply numbers by constants; one constant for all is deferred, since products apply it at no cost."""
    same = constant.numel() > 0 and bool((constant == constant.flatten()[0]).all())
    if same and not (tracer.fusible(view) is not None and view.factor == 1.0):
        return replace(view, factor=view.factor * float(constant.detach().flatten()[0]))
    return tracer.scale_and_shift(
        replace(view, factor=1.0), constant * view.factor, torch.zeros(view.shape).double(), node.name
    )


def multiply(tracer: Tracer, node: Node, first: View, second: View) -> View:
    """Multiply the numbers of two results, or those of one by a number of the other for each channel."""
    factor = first.factor * second.factor
    first, second = replace(first, factor=1.0), replace(second, factor=1.0)
    for one, other in ((first, second), (second, first)):
        shape = tracer.shape(one.source)
        if not one.is_whole or len(shape) != 3:
            continue
        order = one.order
        assert order is not None
        by_pixel = other.index.flatten()[order].view(-1, shape[0])
        if len(by_pixel) > 1 and bool((by_pixel == by_pixel[0]).all()) and int(by_pixel[0].min()) >= 0:
            channels = View(other.source, other.n_source, by_pixel[0])
            source = tracer.laid_out(channels, torch.arange(shape[0]), (shape[0],), node.name)
            layer = Layer(node.name, "scale", one.source, shape, shape, addend=source)
            return replace(tracer.append(layer).moved(one.index), factor=factor)
    first, addend = _both(tracer, node, first, second)
    shape = tracer.shape(first.source)
    layer = Layer(node.name, "multiply", first.source, shape, shape, addend=addend)
    return replace(tracer.append(layer).moved(first.index), factor=factor)


def divided(tracer: Tracer, node: Node) -> View:
    shape = shape_of(node)
    if node.arguments.get("rounding_mode") is not None:
        raise tracer.refusal(node, "rounds a quotient to whole numbers; wanted the quotient itself")
    divisor = node.arguments["other"]
    if not isinstance(divisor, Value):
        view = view_of(tracer, node, "self")
        view = view.moved(view.index.expand(shape))
        return _scaled(tracer, node, view, 1.0 / torch.as_tensor(divisor, dtype=torch.float64).expand(shape))
    inverse = activate(tracer, node, tracer.views[divisor], "reciprocal")
    inverse = inverse.moved(inverse.index.expand(shape))
    given = node.arguments["self"]
    if isinstance(given, Value):
        view = tracer.views[given]
        return multiply(tracer, node, view.moved(view.index.expand(shape)), inverse)
    return _scaled(tracer, node, inverse, torch.as_tensor(given, dtype=torch.float64).expand(shape))


def addcmul(tracer: Tracer, node: Node) -> View:
    """a + value b c, of which b or c is a constant."""
    tensors = [node.arguments[key] for key in ("tensor1", "tensor2")]
    shape = shape_of(node)
    products = {"self": tensors[0], "other": tensors[1]}
    if not any(isinstance(part, Value) for part in tensors):
        product = torch.mul(*tensors) * float(node.arguments["value"])
        sides = {"self": node.arguments["self"], "other": product}
        return sum_of_two(1.0)(tracer, replace(node, arguments=sides))
    times = replace(node, arguments=products)
    view = multiplied(tracer, times)
    view = replace(view, factor=view.factor * float(node.arguments["value"]))
    first = node.arguments["self"]
    if isinstance(first, Value):
        other = tracer.views[first]
        return add(
            tracer,
            node,
            tracer.settle(view, node.name),
            tracer.settle(other.moved(other.index.expand(shape)), node.name),
        )
    return tracer.scale_and_shift(
        tracer.settle(view, node.name), torch.ones(shape).double(), first.double().expand(shape), node.name
    )


def negative(tracer: Tracer, node: Node) -> View:
    view = view_of(tracer, node, "self")
    return replace(view, factor=-view.factor)


def chosen(tracer: Tracer, node: Node) -> View:
    """where: choose for each number by a constant condition, as the sum of both sides, masked."""
    shape, condition = shape_of(node), node.arguments["condition"]
    if isinstance(condition, Value):
        raise tracer.refusal(
            node, f"({node.operator}) chooses by a condition that depends on the input; wanted a constant one"
        )
    first = condition.expand(shape).double()
    views, shift = [], torch.zeros(shape).double()
    for key, mask in (("self", first), ("other", 1.0 - first)):
        argument = node.arguments[key]
        if isinstance(argument, Value):
            view = tracer.views[argument]
            views.append((tracer.settle(view.moved(view.index.expand(shape)), node.name), mask))
        else:
            constant = torch.as_tensor(argument).detach().double().expand(shape)
            shift = torch.where(mask > 0, constant, shift)
    sides = [tracer.scale_and_shift(view, mask, shift, node.name) for view, mask in views]
    return sides[0] if len(sides) == 1 else add(tracer, node, *sides)


def filled(tracer: Tracer, node: Node) -> View:
    """masked_fill: a constant where a mask is true."""
    sides = {
        "condition": node.arguments["mask"],
        "self": node.arguments["value"],
        "other": node.arguments["self"],
    }
    return chosen(tracer, replace(node, arguments=sides))


def prelu(tracer: Tracer, node: Node) -> View:
    """max(x, 0) + slope min(x, 0)."""
    view, slope = settled_view_of(tracer, node, "self"), constant_of(tracer, node, "weight")
    assert slope is not None
    if slope.numel() == 1:
        return activate(tracer, node, view, "leaky_relu", float(slope))
    slope = slope.flatten()
    negative = activate(tracer, node, view, "clip", -math.inf, 0.0, alone=True)
    negative = per_channel(tracer, node, negative, slope, torch.zeros_like(slope))
    positive = activate(tracer, node, view, "clip", 0.0, math.inf, alone=True)
    return add(tracer, node, positive, negative)


def _operands(tracer: Tracer, node: Node, shape: tuple[int, ...]) -> tuple[list[View], list[Tensor]]:
    """The views and constants among two operands, expanded to the shape of the result."""
    views, constants = [], []
    for key in ("self", "other"):
        argument = node.arguments[key]
        if isinstance(argument, Value):
            view = tracer.views[argument]
            views.append(view.moved(view.index.expand(shape)))
        else:
            constants.append(torch.as_tensor(argument).detach().double().expand(shape))
    return views, constants

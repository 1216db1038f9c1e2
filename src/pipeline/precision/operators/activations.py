"""Functions of single numbers, fused into the layer before if it can take one."""

import math
from collections.abc import Callable

from torch import Tensor

from pipeline.precision.operators.arguments import view_of
from pipeline.precision.plan import ONE_PIXEL, Layer
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View, resting

WITH_FUNCTION = ("conv2d", "linear", "add")  # layers that a function can be fused into
WITH_RELU = (*WITH_FUNCTION, "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")


def activate(
    tracer: Tracer, node: Node, view: View, function: str, *constants: float, alone: bool = False
) -> View:
    """Apply a function to every number: in the layer before, or in a layer of its own if `alone` or not fusible."""
    view = tracer.settle(view, node.name)
    place = None if alone else tracer.fusible(view)
    if place is not None:
        before = tracer.layers[place]
        free = not before.relu and not before.function
        if (
            function == "relu"
            and not before.function
            and before.kind in (*WITH_FUNCTION, "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
        ):
            tracer.replace(place, relu=True)
            return view
        if free and before.kind in WITH_FUNCTION:
            tracer.replace(place, function=function, constants=constants)
            return view
    index = view.index
    if not view.is_whole:
        shape, index = resting(index)
        source = tracer.laid_out(view, index, shape, node.name)
    else:
        source = view.source
    shape = tracer.shape(source)
    image = shape if len(shape) == 3 else (*shape, 1, 1)
    if function == "relu":
        layer = Layer(node.name, "max_pool2d", source, image, image, ONE_PIXEL, relu=True)
    else:
        layer = Layer(node.name, "activation", source, image, image, function=function, constants=constants)
    return tracer.append(layer).moved(index)


def named(name: str, *keys: str) -> Callable[[Tracer, Node], View]:
    def handler(tracer: Tracer, node: Node) -> View:
        constants = (float(node.arguments[key]) for key in keys)
        return activate(tracer, node, view_of(tracer, node, next(iter(node.arguments))), name, *constants)

    return handler


def clamp(tracer: Tracer, node: Node) -> View:
    low, high = (node.arguments.get(key) for key in ("min", "max"))
    if isinstance(low, Tensor | Value) or isinstance(high, Tensor | Value):
        raise tracer.refusal(node, f"({node.operator}) has tensors as its bounds; wanted numbers")
    if (low, high) == (0, None):
        return activate(tracer, node, view_of(tracer, node, "self"), "relu")
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return activate(tracer, node, view_of(tracer, node, "self"), "clip", *bounds)


def hardtanh(tracer: Tracer, node: Node) -> View:
    bounds = (float(node.arguments["min_val"]), float(node.arguments["max_val"]))
    return activate(tracer, node, view_of(tracer, node, "self"), "clip", *bounds)


def gelu(tracer: Tracer, node: Node) -> View:
    name = "gelu" if node.arguments["approximate"] == "none" else "gelu_tanh"
    return activate(tracer, node, view_of(tracer, node, "self"), name)


def elu(tracer: Tracer, node: Node) -> View:
    if node.arguments["scale"] != 1 or node.arguments["input_scale"] != 1:
        raise tracer.refusal(node, "is an ELU with scales; wanted one without")
    return activate(tracer, node, view_of(tracer, node, "self"), "elu", float(node.arguments["alpha"]))


def power(tracer: Tracer, node: Node) -> View:
    functions = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}
    exponent = node.arguments["exponent"]
    if isinstance(exponent, Tensor | Value) or float(exponent) not in functions:
        raise tracer.refusal(node, f"raises to a power of {exponent}; wanted 2, 0.5 or -1")
    return activate(tracer, node, view_of(tracer, node, "self"), functions[float(exponent)])


def rsqrt(tracer: Tracer, node: Node) -> View:
    root = activate(tracer, node, view_of(tracer, node, "self"), "sqrt")
    return activate(tracer, node, root, "reciprocal")

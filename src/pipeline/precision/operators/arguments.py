"""Read the arguments of a recorded node: views of results, and constants in float64."""

from torch import Tensor

from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View


def view_of(tracer: Tracer, node: Node, key: str) -> View:
    """Return an argument that must be a view."""
    argument = node.arguments[key]
    if not isinstance(argument, Value):
        raise tracer.refusal(
            node, f"({node.operator}) takes a constant as {key!r}; wanted the result of a layer there"
        )
    return tracer.views[argument]


def settled_view_of(tracer: Tracer, node: Node, key: str) -> View:
    return tracer.settle(view_of(tracer, node, key), node.name)


def constant_of(tracer: Tracer, node: Node, key: str) -> Tensor | None:
    """Return an argument that must be a constant, in float64; None if it is missing."""
    argument = node.arguments.get(key)
    if isinstance(argument, Value):
        raise tracer.refusal(
            node,
            f"({node.operator}) computes its {key!r} from the input; wanted constant ones, such as trained weights",
        )
    return argument if argument is None else argument.detach().double()


def shape_of(node: Node) -> tuple[int, ...]:
    assert node.outputs[0] is not None
    return node.outputs[0].shape

"""The logarithm of softmax, from existing kinds of layers."""

from dataclasses import replace

import torch

from pipeline.precision.operators.activations import activate
from pipeline.precision.operators.arguments import settled_view_of
from pipeline.precision.operators.arithmetic import add
from pipeline.precision.operators.pooling import maximum
from pipeline.precision.operators.products import linear
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View


def log_softmax(tracer: Tracer, node: Node) -> View:
    """x - m - log(sum of exp(x - m)) with the maximum m: softmax itself is zero in binary32 for x - m below -104."""
    view = settled_view_of(tracer, node, "self")
    dim = node.arguments["dim"] % len(view.shape)
    one = Value((*view.shape[:dim], 1, *view.shape[dim + 1 :]))
    over = {"self": node.arguments["self"], "dim": [dim]}
    below = _less(tracer, node, view, maximum(tracer, replace(node, arguments=over, outputs=(one,))))
    powers = activate(tracer, node, below, "exp", alone=True)
    turned = powers.moved(powers.index.movedim(dim, -1))
    total = linear(tracer, node, turned, torch.ones(1, turned.shape[-1]).double(), None)
    logarithm = activate(tracer, node, total, "log")
    return _less(tracer, node, below, logarithm.moved(logarithm.index.movedim(-1, dim)))


def _less(tracer: Tracer, node: Node, view: View, other: View) -> View:
    """Subtract from a view another one that has one number for each of its rows."""
    negative = tracer.settle(replace(other, factor=-other.factor), node.name)
    return add(tracer, node, view, negative.moved(negative.index.expand(view.shape)))

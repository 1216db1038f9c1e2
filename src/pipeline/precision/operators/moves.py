"""Operators that only move numbers: they run on the index of a view, and no layer is made."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.operators.arguments import settled_view_of, shape_of, view_of
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import ZERO, View, resting

MOVES = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "split", "narrow",
    "split_with_sizes", "chunk", "unbind", "unsqueeze", "squeeze", "roll", "flip", "clone", "alias", "detach",
    "_to_copy", "lift_fresh", "repeat", "unfold", "movedim", "diagonal", "index", "index_select", "contiguous",
    "_reshape_alias", "copy", "as_strided",
}  # fmt: skip
MOVES_IN_FLOAT = {
    "upsample_nearest2d", "_upsample_nearest_exact2d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "im2col", "reflection_pad2d", "replication_pad2d", "reflection_pad1d",
    "replication_pad1d",
}  # fmt: skip


def moved(tracer: Tracer, node: Node) -> View | tuple[View, ...]:
    """Run an operator that only moves numbers on the index."""
    name = next(iter(node.arguments)) if node.operator != "copy" else "src"
    view = view_of(tracer, node, name)
    if node.operator == "as_strided" and shape_of(node) != view.shape:
        raise tracer.refusal(
            node, "moves numbers by strides of memory (as_strided); wanted views by their shape"
        )
    in_float = node.operator in MOVES_IN_FLOAT
    index = view.index.double() if in_float else view.index
    arguments = {
        key: value
        for key, value in node.arguments.items()
        if key not in ("dtype", "layout", "device", "pin_memory")
    }
    if (
        any(isinstance(value, Value) for key, value in arguments.items() if key != name)
        and node.operator != "copy"
    ):
        raise tracer.refusal(
            node,
            f"({node.operator}) moves numbers to places that depend on the input; wanted constant places",
        )
    if node.operator == "copy":
        result: Any = index.expand(node.outputs[0].shape)  # type: ignore[union-attr]
    elif node.operator in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        if "size" not in arguments and "shape" not in arguments:
            raise tracer.refusal(node, "reads the bits of numbers as another type; wanted their own type")
        result = index.reshape(node.outputs[0].shape)  # type: ignore[union-attr]
    elif node.operator in ("_to_copy", "lift_fresh", "clone", "as_strided"):
        result = index.clone()
    else:
        result = node.function(
            **{**arguments, name: index.clone() if node.function._schema.is_mutable else index}
        )
    parts = result if isinstance(result, tuple | list) else (result,)
    views = tuple(view.moved(part.round().long() if in_float else part.contiguous()) for part in parts)
    return views if isinstance(result, tuple | list) else views[0]


def padded(tracer: Tracer, node: Node) -> View:
    view = settled_view_of(tracer, node, "self")
    index = functional.pad(view.index, node.arguments["pad"], value=ZERO)
    padded = view.moved(index)
    value = float(node.arguments["value"])
    if value == 0.0:
        return padded
    if math.isinf(value):
        raise tracer.refusal(node, "pads with infinity; wanted a number, or the padding of a pooling itself")
    # Zeros of a padding before this one stay zeros.
    added = functional.pad(torch.zeros(view.shape).double(), node.arguments["pad"], value=value)
    return tracer.scale_and_shift(padded, torch.ones_like(added), added, node.name)


def joined(tracer: Tracer, node: Node) -> View:
    """Concatenate tensors; constants among them become zeros, to which they are added afterwards."""
    tensors: Sequence[Value | Tensor] = node.arguments["tensors"]
    dim = node.arguments["dim"]
    join = torch.cat if node.operator == "cat" else torch.stack
    views = {
        value: tracer.settle(tracer.views[value], node.name) for value in tensors if isinstance(value, Value)
    }
    sources = list(dict.fromkeys(view.source for view in views.values()))
    indices = [
        views[value].index if isinstance(value, Value) else torch.full(tuple(value.shape), ZERO)
        for value in tensors
    ]
    first = next(iter(views.values()))
    if len(sources) > 1:
        # All parts end in one result: two are joined at a time, in the network's order.
        first, indices = _in_one(tracer, node, tensors, views, indices, join, dim)
    joined = first.moved(join(indices, dim))
    if len(views) == len(tensors):
        return joined
    added = join(
        [
            torch.zeros(value.shape).double() if isinstance(value, Value) else value.double()
            for value in tensors
        ],
        dim,
    )
    return tracer.scale_and_shift(joined, torch.ones_like(added), added, node.name)


def _in_one(
    tracer: Tracer,
    node: Node,
    tensors: Sequence[Value | Tensor],
    views: dict[Value, View],
    indices: list[Tensor],
    join: Callable[..., Tensor],
    dim: int,
) -> tuple[View, list[Tensor]]:
    """Return one result that holds all parts that are not constants, and the indices of all parts in it."""
    place = [number for number, value in enumerate(tensors) if isinstance(value, Value)]
    parts = [views[tensors[number]] for number in place]  # type: ignore[index]
    held = parts[0]
    index = parts[0].index if join is torch.cat else parts[0].index.unsqueeze(dim)
    for part in parts[1:]:
        other = part.index if join is torch.cat else part.index.unsqueeze(dim)
        other = (
            other if part.source == held.source else torch.where(other == ZERO, ZERO, other + held.n_source)
        )
        both = torch.cat([index, other], dim)
        shape, wanted = resting(both)
        places = torch.empty(both.numel(), dtype=torch.int64)
        places[wanted.flatten()] = both.flatten()
        held = tracer.gather(held, None if part.source == held.source else part, places, shape, node.name)
        index = wanted
    cut = iter(
        torch.split(
            index, [1 if join is torch.stack else parts[n].shape[dim] for n in range(len(parts))], dim
        )
    )
    for number in place:
        part_index = next(cut)
        indices[number] = part_index.squeeze(dim) if join is torch.stack else part_index
    return held, indices

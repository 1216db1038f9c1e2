"""What each of torch's operators is among layers; see `trace`.

Operators that only move numbers run on the index of a view. An operator that is not in `HANDLERS` is refused by name.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision.plan import Geometry, Kind, Layer, Operands
from pipeline.precision.record import Node, Value
from pipeline.precision.tracer import Affine, Tracer
from pipeline.precision.views import ZERO, View, natural, strides_of

SUPPORTED = (
    "convolutions, Linear, BatchNorm, LayerNorm, GroupNorm, matrix products, softmax and attention, sums, differences "
    "and products, the usual activations, pooling, means, and whatever only moves numbers"
)
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
WITH_FUNCTION = ("conv2d", "linear", "add")  # layers that a function can be fused into
WITH_RELU = (*WITH_FUNCTION, "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
ONE_PIXEL = Geometry((1, 1), (1, 1), (0, 0))
Handler = Callable[[Tracer, Node], "View | tuple[View, ...]"]


def take(tracer: Tracer, node: Node) -> None:
    """Append an operator; nodes come in the order of execution."""
    handler = HANDLERS.get(node.operator)
    if handler is None:
        raise tracer.refusal(
            node,
            f"is a {node.operator}, which cannot be converted; replace it, or leave it out of the module that is "
            f"converted; supported are {SUPPORTED}",
        )
    found = handler(tracer, node)
    for value, view in zip(node.outputs, _each(found), strict=False):
        if value is not None:
            if view.shape != value.shape:
                view = view.moved(view.index.reshape(value.shape))
            tracer.views[value] = view


def _each(found: View | tuple[View, ...]) -> tuple[View, ...]:
    return found if isinstance(found, tuple) else (found,)


def _view(tracer: Tracer, node: Node, key: str) -> View:
    """The view that an argument must be."""
    argument = node.arguments[key]
    if not isinstance(argument, Value):
        raise tracer.refusal(
            node, f"({node.operator}) takes a constant as {key!r}; wanted the result of a layer there"
        )
    return tracer.views[argument]


def _settled(tracer: Tracer, node: Node, key: str) -> View:
    return tracer.settle(_view(tracer, node, key), node.name)


def _constant(tracer: Tracer, node: Node, key: str) -> Tensor | None:
    """The constant that an argument must be, in float64; None where there is none."""
    argument = node.arguments.get(key)
    if isinstance(argument, Value):
        raise tracer.refusal(
            node,
            f"({node.operator}) computes its {key!r} from the input; wanted constant ones, such as trained weights",
        )
    return argument if argument is None else argument.detach().double()


def _moved(tracer: Tracer, node: Node) -> View | tuple[View, ...]:
    """Run an operator that only moves numbers on the index."""
    name = next(iter(node.arguments)) if node.operator != "copy" else "src"
    view = _view(tracer, node, name)
    if node.operator == "as_strided" and _shape(node) != view.shape:
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
            node, f"({node.operator}) moves numbers to where the input says; wanted constant places"
        )
    if node.operator == "copy":
        result: Any = index.expand(node.outputs[0].shape)  # type: ignore[union-attr]
    elif node.operator in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        if "size" not in arguments and "shape" not in arguments:
            raise tracer.refusal(
                node, "reads numbers as those of another type; wanted the numbers themselves"
            )
        result = index.reshape(node.outputs[0].shape)  # type: ignore[union-attr]
    elif node.operator in ("_to_copy", "lift_fresh", "clone", "as_strided"):
        result = index.clone()
    else:
        result = node.function(
            **{**arguments, name: index.clone() if node.function._schema.is_mutable else index}
        )
    parts = result if isinstance(result, tuple | list) else (result,)
    moved = tuple(view.moved(part.round().long() if in_float else part.contiguous()) for part in parts)
    return moved if isinstance(result, tuple | list) else moved[0]


def _padded(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "self")
    index = functional.pad(view.index, node.arguments["pad"], value=ZERO)
    padded = view.moved(index)
    value = float(node.arguments["value"])
    if value == 0.0:
        return padded
    if math.isinf(value):
        raise tracer.refusal(node, "pads with infinity; wanted a number, or the padding of a pooling itself")
    added = torch.where(index == ZERO, value, 0.0).double()
    return tracer.scale_and_shift(padded, torch.ones_like(added), added, node.name)


def _joined(tracer: Tracer, node: Node) -> View:
    """Put tensors side by side; constants among them are zeros to which they are added."""
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
        # Every part becomes a part of one result: two are joined at a time, in the order that the network gave.
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
    """One result that holds all parts that are no constants, and the indices of all parts in it."""
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
        shape, wanted = _resting(both)
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


def _resting(index: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """How a new result of an index's shape lies: images channels last, others in rows."""
    if index.ndim == 4 and index.shape[0] == 1:
        shape = tuple(index.shape[1:])
        return shape, natural(shape)
    return (index.numel(),), torch.arange(index.numel()).view(index.shape)


def _convolution(tracer: Tracer, node: Node) -> View:
    view = _view(tracer, node, "input")
    weight, bias = _constant(tracer, node, "weight"), _constant(tracer, node, "bias")
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
    groups = node.arguments["groups"]
    if node.arguments["transposed"]:
        view, weight = _spread(view, weight, stride, padding, pair("output_padding", 0), dilation, groups)
        stride, padding = (1, 1), (0, 0)
    view, padding, after = _cropped_padding(view, padding)
    source, image = tracer.image(view, node)
    kernel: tuple[int, int] = tuple(weight.shape[2:])  # type: ignore[assignment]
    geometry = Geometry(kernel, stride, padding, dilation, groups, padding_after=after)
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
    """Let a convolution pad what was padded with zeros before it, above and below by what is the same for all rows."""
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
    """A transposed convolution as one over an image with zeros between its pixels, by weights turned around."""
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


def _product_with_bias(tracer: Tracer, node: Node) -> View:
    """addmm: x W + b."""
    bias = _constant(tracer, node, "self")
    assert bias is not None
    alpha, beta = float(node.arguments["alpha"]), float(node.arguments["beta"])
    weight = _constant(tracer, node, "mat2")
    assert weight is not None
    return _linear(tracer, node, _view(tracer, node, "mat1"), weight.T * alpha, bias * beta)


def _product(tracer: Tracer, node: Node) -> View:
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
        turned = _linear(tracer, node, view.moved(view.index.transpose(-1, -2)), weight, None)
        return turned.moved(turned.index.transpose(-1, -2))
    view, weight = _view(tracer, node, "self"), second.detach().double()
    if weight.ndim == 3 and (weight == weight[:1]).all():
        weight = weight[0]
    if weight.ndim != 2:
        raise tracer.refusal(
            node, "multiplies with another constant matrix for each part; wanted one for all"
        )
    return _linear(tracer, node, view, weight.T, None)


def _linear(tracer: Tracer, node: Node, view: View, weight: Tensor, bias: Tensor | None) -> View:
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
    """The shape of the image whose numbers, in torch's order, are all that a view holds."""
    shape = tracer.shape(view.source)
    if len(shape) != 3 or view.n_source != view.index.numel():
        return None
    return shape if torch.equal(view.index.flatten(), natural(shape).flatten()) else None


def _product_of_two(tracer: Tracer, node: Node, first: View, second: View) -> View:
    """Matrices from two results; where their numbers lie evenly spaced, as attention's heads do, they stay there."""
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


def _product_of_batches(tracer: Tracer, node: Node) -> View:
    """baddbmm: a constant plus a product."""
    product = _product(
        tracer, replace(node, arguments={"self": node.arguments["batch1"], "mat2": node.arguments["batch2"]})
    )
    alpha, beta = float(node.arguments["alpha"]), float(node.arguments["beta"])
    added = _constant(tracer, node, "self")
    assert added is not None
    product = tracer.settle(replace(product, factor=product.factor * alpha), node.name)
    full = (added * beta).expand(product.shape)
    return tracer.scale_and_shift(product, torch.ones(product.shape).double(), full, node.name)


def _batch_norm(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "input")
    mean, variance = _constant(tracer, node, "running_mean"), _constant(tracer, node, "running_var")
    if mean is None or variance is None or node.arguments.get("training"):
        raise tracer.refusal(
            node, "is a normalization without running statistics; train it with track_running_stats"
        )
    factor = (variance + node.arguments["eps"]).rsqrt()
    weight, bias = _constant(tracer, node, "weight"), _constant(tracer, node, "bias")
    factor = factor if weight is None else factor * weight
    shift = (0.0 if bias is None else bias) - mean * factor
    return _per_channel(tracer, node, view, factor, shift)


def _per_channel(tracer: Tracer, node: Node, view: View, factor: Tensor, shift: Tensor) -> View:
    """y = factor x + shift, with one number of each for every channel, which is dimension 1."""
    column = (1, -1, *[1] * (len(view.shape) - 2))
    return tracer.scale_and_shift(
        view, factor.view(column).expand(view.shape), shift.view(column).expand(view.shape), node.name
    )


def _layer_norm(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "input")
    width = math.prod(node.arguments["normalized_shape"])
    weight, bias = _constant(tracer, node, "weight"), _constant(tracer, node, "bias")
    return _normalized_rows(tracer, node, view, width, weight, bias)


def _normalized_rows(
    tracer: Tracer, node: Node, view: View, width: int, weight: Tensor | None, bias: Tensor | None
) -> View:
    """Rows of `width` numbers each, the last ones of a view."""
    rows = view.moved(view.index.reshape(-1, width))
    source, shape = tracer.rows(rows, node.name)
    layer = Layer(node.name, "layer_norm", source, shape, shape, epsilon=float(node.arguments["eps"]))
    affine = Affine(
        torch.ones(width).double() if weight is None else weight.flatten(),
        torch.zeros(width).double() if bias is None else bias.flatten(),
    )
    result = tracer.append(layer, affine)
    return result.moved(torch.arange(result.n_source).view(view.shape))


def _group_norm(tracer: Tracer, node: Node) -> View:
    view, groups = _settled(tracer, node, "input"), node.arguments["group"]
    if groups == 1:  # a sum over all numbers has no order, so they may stay as they lie
        index = view.index.movedim(1, -1)
        result = _normalized_rows(tracer, node, view.moved(index), view.index.numel(), None, None)
        normalized = result.moved(result.index.movedim(-1, 1))
    else:
        grouped = view.moved(view.index.reshape(groups, -1))
        normalized = _normalized_rows(tracer, node, grouped, grouped.shape[1], None, None)
        normalized = normalized.moved(normalized.index.view(view.shape))
    channels = view.shape[1]
    weight, bias = _constant(tracer, node, "weight"), _constant(tracer, node, "bias")
    return _per_channel(
        tracer,
        node,
        normalized,
        torch.ones(channels).double() if weight is None else weight,
        torch.zeros(channels).double() if bias is None else bias,
    )


def _softmax(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "self")
    dim = node.arguments["dim"] % len(view.shape)
    turned = view.moved(view.index.movedim(dim, -1))
    source, shape = tracer.rows(turned, node.name)
    result = tracer.append(Layer(node.name, "softmax", source, shape, shape))
    return result.moved(torch.arange(result.n_source).view(turned.shape).movedim(-1, dim))


def _log_softmax(tracer: Tracer, node: Node) -> View:
    return activate(tracer, node, _softmax(tracer, node), "log")


def activate(
    tracer: Tracer, node: Node, view: View, function: str, *constants: float, alone: bool = False
) -> View:
    """Apply a function to every number: in the layer before, unless that is left `alone`, or as the results lie."""
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
        shape, index = _resting(index)
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


def _function(name: str, *keys: str) -> Handler:
    def handler(tracer: Tracer, node: Node) -> View:
        constants = (float(node.arguments[key]) for key in keys)
        return activate(tracer, node, _view(tracer, node, next(iter(node.arguments))), name, *constants)

    return handler


def _clamp(tracer: Tracer, node: Node) -> View:
    low, high = (node.arguments.get(key) for key in ("min", "max"))
    if isinstance(low, Tensor | Value) or isinstance(high, Tensor | Value):
        raise tracer.refusal(node, f"({node.operator}) has tensors as its bounds; wanted numbers")
    if (low, high) == (0, None):
        return activate(tracer, node, _view(tracer, node, "self"), "relu")
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return activate(tracer, node, _view(tracer, node, "self"), "clip", *bounds)


def _hardtanh(tracer: Tracer, node: Node) -> View:
    bounds = (float(node.arguments["min_val"]), float(node.arguments["max_val"]))
    return activate(tracer, node, _view(tracer, node, "self"), "clip", *bounds)


def _gelu(tracer: Tracer, node: Node) -> View:
    name = "gelu" if node.arguments["approximate"] == "none" else "gelu_tanh"
    return activate(tracer, node, _view(tracer, node, "self"), name)


def _elu(tracer: Tracer, node: Node) -> View:
    if node.arguments["scale"] != 1 or node.arguments["input_scale"] != 1:
        raise tracer.refusal(node, "is an ELU with scales; wanted one without")
    return activate(tracer, node, _view(tracer, node, "self"), "elu", float(node.arguments["alpha"]))


def _prelu(tracer: Tracer, node: Node) -> View:
    """max(x, 0) + slope min(x, 0)."""
    view, slope = _settled(tracer, node, "self"), _constant(tracer, node, "weight")
    assert slope is not None
    if slope.numel() == 1:
        return activate(tracer, node, view, "leaky_relu", float(slope))
    slope = slope.flatten()
    negative = activate(tracer, node, view, "clip", -math.inf, 0.0, alone=True)
    negative = _per_channel(tracer, node, negative, slope, torch.zeros_like(slope))
    positive = activate(tracer, node, view, "clip", 0.0, math.inf, alone=True)
    return add(tracer, node, positive, negative)


def _power(tracer: Tracer, node: Node) -> View:
    functions = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}
    exponent = node.arguments["exponent"]
    if isinstance(exponent, Tensor | Value) or float(exponent) not in functions:
        raise tracer.refusal(node, f"raises to a power of {exponent}; wanted 2, 0.5 or -1")
    return activate(tracer, node, _view(tracer, node, "self"), functions[float(exponent)])


def _rsqrt(tracer: Tracer, node: Node) -> View:
    root = activate(tracer, node, _view(tracer, node, "self"), "sqrt")
    return activate(tracer, node, root, "reciprocal")


def _negative(tracer: Tracer, node: Node) -> View:
    view = _view(tracer, node, "self")
    return replace(view, factor=-view.factor)


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


def _shape(node: Node) -> tuple[int, ...]:
    assert node.outputs[0] is not None
    return node.outputs[0].shape


def _sum(sign: float, *, reversed_sides: bool = False) -> Handler:
    def handler(tracer: Tracer, node: Node) -> View:
        shape = _shape(node)
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
        place, one, other = max(places, key=operator.itemgetter(0))
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
    """A whole result for the first of two views, and one for the second whose numbers lie beside its own."""
    if not first.is_whole and second.is_whole:
        first, second = second, first
    if not first.is_whole:
        shape, index = _resting(first.index)
        first = View(tracer.laid_out(first, index, shape, node.name), index.numel(), index)
    return first, _aligned(tracer, node, second, first)


def _aligned(tracer: Tracer, node: Node, view: View, like: View) -> str:
    """The name of a result that holds a view's numbers in the order of another's, which is whole."""
    order = like.order
    assert order is not None
    places = view.index.flatten()[order]
    if view.n_source == len(places) and torch.equal(places, torch.arange(view.n_source)):
        return view.source
    return tracer.gather(view, None, places, tracer.shape(like.source), node.name).source


def _multiplied(tracer: Tracer, node: Node) -> View:
    shape = _shape(node)
    views, constants = _operands(tracer, node, shape)
    if len(views) == 2:
        return multiply(tracer, node, *views)
    (view,), (constant,) = views, constants
    return _scaled(tracer, node, view, constant)


def _scaled(tracer: Tracer, node: Node, view: View, constant: Tensor) -> View:
    """Numbers times constants: times one for all of them it is put off, since products take it in passing."""
    same = constant.numel() > 0 and bool((constant == constant.flatten()[0]).all())
    if same and not (tracer.fusible(view) is not None and view.factor == 1.0):
        return replace(view, factor=view.factor * float(constant.detach().flatten()[0]))
    return tracer.scale_and_shift(
        replace(view, factor=1.0), constant * view.factor, torch.zeros(view.shape).double(), node.name
    )


def multiply(tracer: Tracer, node: Node, first: View, second: View) -> View:
    """Numbers of two results, or those of one with a number of the other for each channel."""
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


def _divided(tracer: Tracer, node: Node) -> View:
    shape = _shape(node)
    if node.arguments.get("rounding_mode") is not None:
        raise tracer.refusal(node, "rounds a quotient to whole numbers; wanted the quotient itself")
    divisor = node.arguments["other"]
    if not isinstance(divisor, Value):
        view = _view(tracer, node, "self")
        view = view.moved(view.index.expand(shape))
        return _scaled(tracer, node, view, 1.0 / torch.as_tensor(divisor, dtype=torch.float64).expand(shape))
    inverse = activate(tracer, node, tracer.views[divisor], "reciprocal")
    inverse = inverse.moved(inverse.index.expand(shape))
    given = node.arguments["self"]
    if isinstance(given, Value):
        view = tracer.views[given]
        return multiply(tracer, node, view.moved(view.index.expand(shape)), inverse)
    return _scaled(tracer, node, inverse, torch.as_tensor(given, dtype=torch.float64).expand(shape))


def _addcmul(tracer: Tracer, node: Node) -> View:
    """a + value b c, of which b or c is a constant."""
    tensors = [node.arguments[key] for key in ("tensor1", "tensor2")]
    shape = _shape(node)
    products = {"self": tensors[0], "other": tensors[1]}
    if not any(isinstance(part, Value) for part in tensors):
        product = torch.mul(*tensors) * float(node.arguments["value"])
        sides = {"self": node.arguments["self"], "other": product}
        (view,) = _each(_sum(1.0)(tracer, replace(node, arguments=sides)))
        return view
    times = replace(node, arguments=products)
    view = _multiplied(tracer, times)
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


def _pair(value: Any, otherwise: Any = None) -> tuple[int, int]:
    found = list(value) or list(otherwise)
    return (found[0], found[-1])


def _max_pool(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "self")
    kernel = _pair(node.arguments["kernel_size"])
    if _pair(node.arguments["dilation"]) != (1, 1):
        raise tracer.refusal(node, "is a pooling with dilation; wanted dilation=1")
    if len(node.outputs) > 1 and node.outputs[1] in tracer.wanted:
        raise tracer.refusal(node, "is a pooling whose indices are used; wanted its maxima only")
    stride, padding = _pair(node.arguments["stride"], kernel), _pair(node.arguments["padding"])
    return _pooled(tracer, node, view, "max_pool2d", Geometry(kernel, stride, padding), _shape(node)[-2:])


def _pooled(
    tracer: Tracer, node: Node, view: View, kind: Kind, geometry: Geometry, size: tuple[int, ...]
) -> View:
    source, image = tracer.image(view, node)
    layer = Layer(node.name, kind, source, image, (image[0], size[0], size[1]), geometry)
    return tracer.append(layer)


def _avg_pool(tracer: Tracer, node: Node) -> View:
    view, size = _settled(tracer, node, "self"), _shape(node)[-2:]
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
    return _pooled(tracer, node, view, "avg_pool2d", Geometry(kernel, stride, padding, divisor=divisor), size)


def _adaptive(tracer: Tracer, node: Node) -> View:
    source, image = tracer.image(_settled(tracer, node, "self"), node)
    size = _shape(node)[-2:]
    return tracer.append(Layer(node.name, "adaptive_avg_pool2d", source, image, (image[0], *size)))


def _adaptive_maximum(tracer: Tracer, node: Node) -> View:
    view, size = _settled(tracer, node, "self"), _shape(node)[-2:]
    if size != (1, 1):
        raise tracer.refusal(node, f"is an adaptive maximum over {size}; wanted one over the whole image")
    return _pooled(tracer, node, view, "max_pool2d", Geometry(view.shape[-2:], (1, 1), (0, 0)), size)  # type: ignore[arg-type]


def _mean(tracer: Tracer, node: Node) -> View:
    view = _settled(tracer, node, "self")
    return _reduced(tracer, node, view, "adaptive_avg_pool2d")


def _total(tracer: Tracer, node: Node) -> View:
    view = _view(tracer, node, "self")
    mean = _reduced(tracer, node, tracer.settle(view, node.name), "adaptive_avg_pool2d")
    return replace(mean, factor=mean.factor * view.index.numel() / mean.index.numel())


def _maximum(tracer: Tracer, node: Node) -> View:
    return _reduced(tracer, node, _settled(tracer, node, "self"), "max_pool2d")


def _reduced(tracer: Tracer, node: Node, view: View, kind: Kind) -> View:
    """A mean or maximum over some dimensions: of pixels, once what is left over is the channels."""
    rank = len(view.shape)
    dims = node.arguments.get("dim")
    dims = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    over = sorted(dim % rank for dim in dims)
    if 0 in over and view.shape[0] == 1 and rank > 1 and len(over) == rank:
        raise tracer.refusal(node, f"takes a {node.operator} over all samples; leave out the first dimension")
    left = [dim for dim in range(rank) if dim not in over]
    shape = _shape(node)
    if rank == 4 and over == [2, 3] and view.shape[0] == 1:
        source, image = tracer.image(view, node)
    else:
        turned = view.index.permute(*over, *left).reshape(-1, math.prod(view.shape[dim] for dim in left))
        source, image = tracer.rows(view.moved(turned), node.name)
    geometry = Geometry(image[1:], (1, 1), (0, 0)) if kind == "max_pool2d" else None
    result = tracer.append(Layer(node.name, kind, source, image, (image[0], 1, 1), geometry))
    return result.moved(torch.arange(result.n_source).view(shape))


def _norm(tracer: Tracer, node: Node) -> View:
    """The Euclidean norm of rows: squares, their sum as a product with ones, and its root."""
    view = _settled(tracer, node, "self")
    dims = node.arguments["dim"]
    if float(node.arguments["ord"]) != 2.0 or dims is None or len(dims) != 1:
        raise tracer.refusal(node, "is a norm other than the Euclidean one over one dimension; wanted that")
    dim = dims[0] % len(view.shape)
    squares = activate(tracer, node, view, "square")
    turned = squares.moved(squares.index.movedim(dim, -1))
    total = _linear(tracer, node, turned, torch.ones(1, turned.shape[-1], dtype=torch.float64), None)
    root = activate(tracer, node, total, "sqrt")
    return root.moved(root.index.movedim(-1, dim).reshape(_shape(node)))


def _bilinear(tracer: Tracer, node: Node) -> View:
    """Interpolate along rows and along columns, each a product with a matrix of weights."""
    view = _settled(tracer, node, "self" if "self" in node.arguments else "input")
    rows, columns = _shape(node)[-2:]
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
        stretched = _linear(tracer, node, turned, weights(turned.shape[-1], size, scale), None)
        view = stretched.moved(stretched.index.movedim(-1, axis))
    return view


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(MOVES | MOVES_IN_FLOAT, _moved),
    "constant_pad_nd": _padded,
    "cat": _joined,
    "stack": _joined,
    "convolution": _convolution,
    "addmm": _product_with_bias,
    "mm": _product,
    "bmm": _product,
    "baddbmm": _product_of_batches,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "relu": _function("relu"),
    "sigmoid": _function("sigmoid"),
    "silu": _function("silu"),
    "tanh": _function("tanh"),
    "hardswish": _function("hard_swish"),
    "hardsigmoid": _function("hard_sigmoid"),
    "leaky_relu": _function("leaky_relu", "negative_slope"),
    "exp": _function("exp"),
    "erf": _function("erf"),
    "sqrt": _function("sqrt"),
    "abs": _function("abs"),
    "log": _function("log"),
    "reciprocal": _function("reciprocal"),
    "square": _function("square"),
    "gelu": _gelu,
    "elu": _elu,
    "_prelu_kernel": _prelu,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "hardtanh": _hardtanh,
    "pow": _power,
    "rsqrt": _rsqrt,
    "neg": _negative,
    "add": _sum(1.0),
    "sub": _sum(-1.0),
    "rsub": _sum(-1.0, reversed_sides=True),
    "mul": _multiplied,
    "div": _divided,
    "addcmul": _addcmul,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive_maximum,
    "mean": _mean,
    "sum": _total,
    "amax": _maximum,
    "linalg_vector_norm": _norm,
    "upsample_bilinear2d": _bilinear,
}

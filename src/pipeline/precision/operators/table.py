"""The table of functions that turn torch's operators into layers; see `trace`.

An operator that is not in `HANDLERS` is refused by name. A new operator is a function in the file of its kind, and a
row in `HANDLERS`.
"""

from collections.abc import Callable

from pipeline.precision.operators import (
    activations,
    arithmetic,
    convolution,
    log_softmax,
    moves,
    normalization,
    pooling,
    products,
)
from pipeline.precision.record import Node
from pipeline.precision.tracer import Tracer
from pipeline.precision.views import View

SUPPORTED = (
    "convolutions, Linear, BatchNorm, LayerNorm, GroupNorm, matrix products, softmax and attention, sums, differences "
    "and products, the usual activations, pooling, means, and whatever only moves numbers"
)
Handler = Callable[[Tracer, Node], "View | tuple[View, ...]"]


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(moves.MOVES | moves.MOVES_IN_FLOAT, moves.moved),
    "constant_pad_nd": moves.padded,
    "cat": moves.joined,
    "stack": moves.joined,
    "convolution": convolution.convolution,
    "addmm": products.product_with_bias,
    "mm": products.product,
    "bmm": products.product,
    "baddbmm": products.product_of_batches,
    "native_batch_norm": normalization.batch_norm,
    "_native_batch_norm_legit_no_training": normalization.batch_norm,
    "native_layer_norm": normalization.layer_norm,
    "native_group_norm": normalization.group_norm,
    "_softmax": normalization.softmax,
    "_safe_softmax": normalization.softmax,
    "_log_softmax": log_softmax.log_softmax,
    "relu": activations.named("relu"),
    "sigmoid": activations.named("sigmoid"),
    "silu": activations.named("silu"),
    "tanh": activations.named("tanh"),
    "hardswish": activations.named("hard_swish"),
    "hardsigmoid": activations.named("hard_sigmoid"),
    "leaky_relu": activations.named("leaky_relu", "negative_slope"),
    "exp": activations.named("exp"),
    "erf": activations.named("erf"),
    "sqrt": activations.named("sqrt"),
    "abs": activations.named("abs"),
    "log": activations.named("log"),
    "reciprocal": activations.named("reciprocal"),
    "square": activations.named("square"),
    "gelu": activations.gelu,
    "elu": activations.elu,
    "_prelu_kernel": arithmetic.prelu,
    "clamp": activations.clamp,
    "clamp_min": activations.clamp,
    "clamp_max": activations.clamp,
    "hardtanh": activations.hardtanh,
    "pow": activations.power,
    "rsqrt": activations.rsqrt,
    "neg": arithmetic.negative,
    "add": arithmetic.sum_of_two(1.0),
    "sub": arithmetic.sum_of_two(-1.0),
    "rsub": arithmetic.sum_of_two(-1.0, reversed_sides=True),
    "mul": arithmetic.multiplied,
    "div": arithmetic.divided,
    "addcmul": arithmetic.addcmul,
    "where": arithmetic.chosen,
    "masked_fill": arithmetic.filled,
    "max_pool2d_with_indices": pooling.max_pool,
    "avg_pool2d": pooling.avg_pool,
    "_adaptive_avg_pool2d": pooling.adaptive,
    "adaptive_max_pool2d": pooling.adaptive_maximum,
    "mean": pooling.mean,
    "sum": pooling.total,
    "amax": pooling.maximum,
    "linalg_vector_norm": pooling.norm,
    "upsample_bilinear2d": products.bilinear,
}


def take(tracer: Tracer, node: Node) -> None:
    """Append an operator; nodes come in the order of execution."""
    handler = HANDLERS.get(node.operator)
    if handler is None:
        raise tracer.refusal(
            node,
            f"is a {node.operator}, which cannot be converted; replace it, or leave it out of the module that is "
            f"converted; supported are {SUPPORTED}",
        )
    for result in tracer.wanted.intersection(node.outputs):
        if 0 in result.shape:
            raise tracer.refusal(
                node,
                f"gives no numbers, in the shape {result.shape}; wanted at least one, so give larger inputs",
            )
    found = handler(tracer, node)
    views = found if isinstance(found, tuple) else (found,)
    if tracer.wanted.intersection(node.outputs[len(views) :]):
        raise tracer.refusal(
            node,
            f"({node.operator}) has a second result, which the network uses; only the first is supported",
        )
    for value, view in zip(node.outputs, views, strict=False):
        if value is not None:
            if view.shape != value.shape:
                view = view.moved(view.index.reshape(value.shape))
            tracer.views[value] = view

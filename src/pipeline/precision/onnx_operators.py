"""ONNX's operators, computed by torch: one function each, whose keywords are the attributes that it understands."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

OPERATORS: dict[str, Callable[..., Any]] = {}
ATTRIBUTES: dict[str, set[str]] = {}
TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float32, 11: torch.float64, 16: torch.float32,
}  # fmt: skip


class Refused(Exception):
    """What a node has and what was wanted, without its name."""


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what computes an operator."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        keywords = {
            key
            for key, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name in names:
            OPERATORS[name], ATTRIBUTES[name] = function, keywords
        return function

    return register


def plain(name: str, function: Callable[..., Any]) -> None:
    """Register an operator without attributes."""
    OPERATORS[name], ATTRIBUTES[name] = function, set()


_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil, "Cos": torch.cos,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "HardSwish": functional.hardswish, "Identity": lambda x: x, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Mul": torch.mul, "Neg": torch.neg,
    "Not": torch.logical_not, "Or": torch.logical_or, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sqrt": torch.sqrt,
    "Sub": torch.sub, "Tanh": torch.tanh, "Where": torch.where, "Softplus": functional.softplus,
    "Mish": functional.mish, "Expand": lambda x, shape: x * torch.ones([int(n) for n in shape], dtype=x.dtype),
    "Tile": lambda x, repeats: x.repeat([int(n) for n in repeats]),
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
}  # fmt: skip
for _name, _function in _PLAIN.items():
    plain(_name, _function)


@operator("Div")
def _div(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def _pow(a: Tensor, b: Tensor) -> Tensor:
    return a ** (float(b) if b.numel() == 1 else b)


@operator("Min")
def _min(*tensors: Tensor) -> Tensor:
    return _extreme(tensors, torch.minimum, "max")


@operator("Max")
def _max(*tensors: Tensor) -> Tensor:
    return _extreme(tensors, torch.maximum, "min")


def _extreme(tensors: Sequence[Tensor], both: Callable[[Tensor, Tensor], Tensor], bound: str) -> Tensor:
    """Of a tensor and a number it is a clamping, which can be fused."""
    result = tensors[0]
    for other in tensors[1:]:
        first, second = (result, other) if other.numel() == 1 else (other, result)
        if second.numel() == 1 and first.is_floating_point():
            result = first.clamp(**{bound: float(second)})
        else:
            result = both(result, other)
    return result


def _sides(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[int]:
    """Padding as ONNX has it: the beginnings of all axes, then their ends."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", "VALID", ""):
        return list(pads) if pads is not None and auto_pad != "VALID" else [0] * 2 * rank
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"has auto_pad={auto_pad}; wanted NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    before, after = [], []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        before.append(small if auto_pad == "SAME_UPPER" else large)
        after.append(large if auto_pad == "SAME_UPPER" else small)
    return before + after


def _pad(x: Tensor, sides: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes, given beginnings and ends."""
    rank = len(sides) // 2
    pairs = [side for axis in reversed(range(rank)) for side in (sides[axis], sides[axis + rank])]
    return functional.pad(x, pairs, value=value)


@operator("Conv")
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = weight.ndim - 2
    if rank not in (1, 2):
        raise Refused(f"has weights of shape {tuple(weight.shape)}; wanted images of one or two dimensions")
    kernel = tuple(weight.shape[2:])
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise Refused(f"has kernel_shape {list(kernel_shape)} and weights of {list(kernel)}; wanted the same")
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    sides = _sides(x, kernel, strides, dilations, pads, auto_pad)
    convolve = functional.conv2d if rank == 2 else functional.conv1d
    padding = sides[:rank]
    if padding != sides[rank:]:
        x, padding = _pad(x, sides), [0] * rank
    return convolve(x, weight, bias, strides, padding, dilations, group)


@operator("ConvTranspose")
def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = weight.ndim - 2
    if rank != 2 or output_shape is not None or auto_pad not in ("NOTSET", "VALID"):
        raise Refused("has output_shape, auto_pad or another rank than 2; wanted pads in numbers, of images")
    sides = list(pads) if pads is not None and auto_pad == "NOTSET" else [0] * 4
    strides, dilations = list(strides or [1, 1]), list(dilations or [1, 1])
    extra = list(output_padding or [0, 0])
    full = functional.conv_transpose2d(x, weight, bias, strides, 0, extra, group, dilations)
    top, left, bottom, right = sides
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]


@operator("Gemm")
def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


@operator("BatchNormalization")
def _batch_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    if training_mode or not spatial:
        raise Refused(
            "normalizes with statistics of the batch; wanted training_mode=0, so export it in evaluation mode"
        )
    return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon)


@operator("InstanceNormalization")
def _instance_normalization(x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return functional.group_norm(x, x.shape[1], weight, bias, epsilon)


@operator("GroupNormalization")
def _group_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int = 21,
) -> Tensor:
    if opset < 21:  # one weight for each group
        weight, bias = (part.repeat_interleave(x.shape[1] // num_groups) for part in (weight, bias))
    return functional.group_norm(x, num_groups, weight, bias, epsilon)


@operator("LayerNormalization")
def _layer_normalization(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    return functional.layer_norm(x, list(x.shape[axis:]), weight, bias, epsilon)


@operator("Dropout")
def _dropout(
    x: Tensor,
    amount: Tensor | None = None,
    training: Tensor | None = None,
    *,
    seed: int = 0,
    ratio: float = 0.5,
) -> Tensor:
    if training is not None and bool(training):
        raise Refused("drops numbers at random; wanted training_mode=false, so export it in evaluation mode")
    return x


@operator("LeakyRelu")
def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


@operator("Elu")
def _elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(x, alpha)


@operator("PRelu")
def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() == 1:
        return functional.leaky_relu(x, float(slope))
    return torch.relu(x) + slope * x.clamp(max=0.0)


@operator("HardSigmoid")
def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(x)
    return (alpha * x + beta).clamp(0.0, 1.0)


@operator("Gelu")
def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


@operator("Swish")
def _swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Clip")
def _clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    low_number = float(low) if low is not None else min
    high_number = float(high) if high is not None else max
    return x if low_number is None and high_number is None else x.clamp(low_number, high_number)


@operator("Softmax")
def _softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    if opset >= 13:
        return x.softmax(-1 if axis is None else axis)
    return x.flatten(1 if axis is None else axis % x.ndim).softmax(-1).reshape(x.shape)


@operator("LogSoftmax")
def _log_softmax(x: Tensor, *, axis: int = -1, opset: int = 13) -> Tensor:
    if opset < 13 and axis not in (-1, x.ndim - 1):
        raise Refused("is a LogSoftmax of an operator set before 13 over several axes; wanted the last one")
    return x.log_softmax(axis)


@operator("MaxPool")
def _max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    if rank != 2 or storage_order:
        raise Refused("pools other than images, or by columns; wanted two axes and storage_order=0")
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    sides = _sides(x, kernel_shape, strides, dilations, pads, auto_pad)
    symmetric = sides[:2] == sides[2:] and all(
        2 * pad <= k for pad, k in zip(sides[:2], kernel_shape, strict=True)
    )
    if symmetric:
        return functional.max_pool2d(x, list(kernel_shape), strides, sides[:2], dilations, bool(ceil_mode))
    if dilations != [1, 1] or ceil_mode:
        raise Refused(f"pads {sides} unevenly, with dilation or ceil_mode; wanted neither")
    return padded_max_pool(x, list(kernel_shape), strides, sides)


def padded_max_pool(x: Tensor, kernel: list[int], strides: list[int], sides: list[int]) -> Tensor:
    """Maxima over windows that reach beyond the image unevenly: the least of all numbers lies there."""
    least = torch.finfo(torch.float32).min
    return functional.max_pool2d(_pad(x, sides, least), kernel, strides)


@operator("AveragePool")
def _average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    if rank != 2 or any(step != 1 for step in dilations or ()):
        raise Refused(
            f"has dilations {list(dilations or ())} or another rank than 2; wanted a dense window on images"
        )
    strides = list(strides or [1] * rank)
    sides = _sides(x, kernel_shape, strides, [1] * rank, pads, auto_pad)
    if sides[:2] == sides[2:] and all(2 * pad <= k for pad, k in zip(sides[:2], kernel_shape, strict=True)):
        return functional.avg_pool2d(
            x, list(kernel_shape), strides, sides[:2], bool(ceil_mode), bool(count_include_pad)
        )
    if ceil_mode:
        raise Refused(f"pads {sides} unevenly with ceil_mode; wanted one of them")
    total = functional.avg_pool2d(_pad(x, sides), list(kernel_shape), strides)
    if count_include_pad:
        return total
    inside = functional.avg_pool2d(_pad(torch.ones_like(x[:1, :1]), sides), list(kernel_shape), strides)
    return total / inside


def _axes(x: Tensor, axes: Tensor | Sequence[int] | None, empty: int = 0) -> list[int] | None:
    """Axes to reduce, of an attribute or an input; None for nothing to do."""
    found = [] if axes is None else [int(axis) % x.ndim for axis in axes]
    return found or (None if empty else list(range(x.ndim)))


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    def reduce(
        x: Tensor,
        given: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        found = _axes(x, axes if given is None else given, noop_with_empty_axes)
        return x if found is None else function(x, found, bool(keepdims))

    operator(name)(reduce)


_reduction("ReduceMean", lambda x, axes, keep: x.mean(axes, keepdim=keep))
_reduction("ReduceSum", lambda x, axes, keep: x.sum(axes, keepdim=keep))
_reduction("ReduceMax", lambda x, axes, keep: x.amax(axes, keepdim=keep))
_reduction("ReduceL2", lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep))


@operator("Flatten")
def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % (x.ndim + 1) if axis >= 0 else axis % x.ndim
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Reshape")
def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = [int(n) for n in shape]
    if not allowzero:
        sizes = [x.shape[place] if n == 0 else n for place, n in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Transpose")
def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(perm if perm is not None else reversed(range(x.ndim))))


@operator("Squeeze")
def _squeeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    found = axes if given is None else given
    dims = (
        [n for n, size in enumerate(x.shape) if size == 1]
        if found is None
        else [int(n) % x.ndim for n in found]
    )
    return x.reshape([size for n, size in enumerate(x.shape) if n not in dims])


@operator("Unsqueeze")
def _unsqueeze(x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    found = [int(axis) for axis in (axes if given is None else given)]  # type: ignore[union-attr]
    rank = x.ndim + len(found)
    for axis in sorted(axis % rank for axis in found):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def _concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


@operator("Split")
def _split(
    x: Tensor,
    given: Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    sizes = split if given is None else given
    if sizes is not None:
        return torch.split(x, [int(n) for n in sizes], axis)
    if num_outputs is None:
        raise Refused("has no sizes to split into; wanted split or num_outputs")
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


@operator("Slice")
def _slice(
    x: Tensor,
    start_input: Tensor | None = None,
    end_input: Tensor | None = None,
    axes_input: Tensor | None = None,
    steps_input: Tensor | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    first = [int(n) for n in (starts if start_input is None else start_input)]  # type: ignore[union-attr]
    last = [int(n) for n in (ends if end_input is None else end_input)]  # type: ignore[union-attr]
    chosen = axes if axes_input is None else axes_input.tolist()
    along = list(range(len(first))) if chosen is None else [int(n) for n in chosen]
    steps = [1] * len(first) if steps_input is None else [int(n) for n in steps_input]
    for start, end, axis, step in zip(first, last, along, steps, strict=True):
        size = x.shape[axis]
        places = (
            range(size)[start:end:step]
            if step > 0
            else range(size)[start : end if end >= -size else None : step]
        )
        if step > 0:
            x = x.narrow(axis, places.start, len(places) * step - step + 1 if len(places) else 0)
            x = x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)] if step > 1 else x
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


@operator("Gather")
def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    size = x.shape[axis]
    flat = torch.where(indices < 0, indices + size, indices).flatten().long()
    part = x.narrow(axis, int(flat), 1) if flat.numel() == 1 else x.index_select(axis, flat)
    axis = axis % x.ndim
    return part.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("Pad")
def _padding(
    x: Tensor,
    given: Tensor | None = None,
    constant: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    value: float = 0.0,
) -> Tensor:
    sides = [int(n) for n in (pads if given is None else given)]  # type: ignore[union-attr]
    if axes is not None:
        every = [0] * 2 * x.ndim
        for place, axis in enumerate(int(n) % x.ndim for n in axes):
            every[axis], every[axis + x.ndim] = sides[place], sides[place + len(axes)]
        sides = every
    if mode == "constant":
        return _pad(x, sides, value if constant is None else float(constant))
    if mode not in ("reflect", "edge") or x.ndim != 4 or any(sides[:2]) or any(sides[4:6]):
        raise Refused(f"pads in mode {mode!r}; wanted constant, or reflect or edge on images")
    lengths = [sides[3], sides[7], sides[2], sides[6]]
    return functional.pad(x, lengths, mode="reflect" if mode == "reflect" else "replicate")


@operator("Resize", "Upsample")
def _resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    antialias: int = 0,
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    opset: int = 13,
) -> Tensor:
    if opset < 10 or opset == 10:  # Upsample, whose second input is what Resize has third
        roi, scales, coordinate_transformation_mode, nearest_mode = None, roi, "asymmetric", "floor"
    factors: list[float] | None = (
        [float(n) for n in scales] if scales is not None and scales.numel() else None
    )
    size = [int(n) for n in sizes] if sizes is not None and sizes.numel() else None
    if (
        x.ndim != 4
        or antialias
        or (factors and factors[:2] != [1.0, 1.0])
        or (size and size[:2] != list(x.shape[:2]))
    ):
        raise Refused("resizes other than images, or with antialias; wanted rows and columns only")
    target = size[2:] if size else [math.floor(n * f) for n, f in zip(x.shape[2:], factors[2:], strict=True)]  # type: ignore[index]
    ratio = [t / n for t, n in zip(target, x.shape[2:], strict=True)]
    whole = all(r == int(r) for r in ratio)
    if mode == "nearest":
        # Where every pixel is repeated as often, the ways to say which is the nearest agree, but for one.
        same = whole and coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
        if same or (coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor"):
            return functional.interpolate(x, size=target, mode="nearest")
        raise Refused(
            f"takes nearest pixels by {coordinate_transformation_mode}, {nearest_mode}; wanted asymmetric, floor"
        )
    aligned = coordinate_transformation_mode == "align_corners"
    if mode != "linear" or not (
        aligned or coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
    ):
        raise Refused(f"has mode {mode!r} by {coordinate_transformation_mode}; wanted nearest or linear")
    return functional.interpolate(x, size=target, mode="bilinear", align_corners=aligned)


@operator("DepthToSpace")
def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    n, channels, rows, columns = x.shape
    blocks = x.reshape(n, blocksize, blocksize, channels // blocksize**2, rows, columns)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, rows * blocksize, columns * blocksize)


@operator("SpaceToDepth")
def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, channels, rows, columns = x.shape
    blocks = x.reshape(n, channels, rows // blocksize, blocksize, columns // blocksize, blocksize)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, rows // blocksize, columns // blocksize)


@operator("Cast")
def _cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in TYPES:
        raise Refused(f"casts to ONNX's type {to}; wanted one of numbers or truth values")
    return x.to(x.dtype if x.is_floating_point() and TYPES[to].is_floating_point else TYPES[to])


@operator("CastLike")
def _cast_like(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    return x if x.is_floating_point() and like.is_floating_point() else x.to(like.dtype)


@operator("Shape")
def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("ConstantOfShape")
def _constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    filler = torch.zeros(1) if value is None else value
    return filler.new_full([int(n) for n in shape], filler.item())


@operator("Range")
def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Constant")
def _constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    for found, dtype in (
        (value_float, torch.float32),
        (value_floats, torch.float32),
        (value_int, torch.int64),
        (value_ints, torch.int64),
    ):
        if found is not None:
            return torch.tensor(found, dtype=dtype)
    raise Refused("is a constant without a value; wanted numbers or a dense tensor")


@operator("Einsum")
def _einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)

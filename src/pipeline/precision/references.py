"""Reference layers whose times calibrate predictions: families of one kind, in sizes that are rare in networks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.precision.plan import ONE_PIXEL, Kind, Layer, Operands, WindowGeometry


@dataclass(frozen=True)
class Family:
    """Layers of one kind that differ in what takes most of their time.

    Attributes:
        layers: The layers; every routine that can run the first is calibrated.
        routines: Prefixes of the names of the routines to calibrate; empty for all.
        batches: Batch sizes; each is a class of its own.
    """

    layers: tuple[Layer, ...]
    routines: str | tuple[str, ...] = ""
    batches: tuple[int, ...] = (1,)


def convolution(
    channels: int, size: int, outputs: int | None = None, *, kernel: int = 3, groups: int = 1, stride: int = 1
) -> Layer:
    """A convolution of square images, padded so that a stride of 1 keeps their size."""
    geometry = WindowGeometry((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), groups=groups)
    results = (outputs or channels, -(-size // stride), -(-size // stride))
    return Layer("reference", "conv2d", "given", (channels, size, size), results, geometry)


def linear(inputs: int, outputs: int) -> Layer:
    return Layer("reference", "linear", "given", (inputs,), (outputs,))


def pooling(kind: Kind, channels: int, size: int, kernel: int = 2) -> Layer:
    """A pooling whose windows do not overlap; a kernel as large as the image leaves one pixel."""
    count = max(size // kernel, 1)
    geometry = (
        None
        if kind == "adaptive_avg_pool2d"
        else WindowGeometry((size // count,) * 2, (size // count,) * 2, (0, 0))
    )
    return Layer("reference", kind, "given", (channels, size, size), (channels, count, count), geometry)


def of_numbers(kind: Kind, channels: int, size: int) -> Layer:
    """A layer whose output has the shape of its input."""
    shape = (channels, size, size)
    addend = "given" if kind in ("add", "multiply", "scale") else None
    return Layer("reference", kind, "given", shape, shape, addend=addend)


def pixels_twice(channels: int, size: int) -> Layer:
    """A copy that makes an image twice as large."""
    return Layer("reference", "gather", "given", (channels, size, size), (channels, 2 * size, 2 * size))


def twice_as_large(layer: Layer) -> Tensor:
    """Index of the input, channels last, that each number of a layer of `pixels_twice` is copied from."""
    channels, rows, columns = layer.input_shape
    places = torch.arange(channels * rows * columns, dtype=torch.int32).view(rows, columns, channels)
    return places.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten().contiguous()


def products(n: int, rows: int, inner: int, columns: int) -> Layer:
    """A layer of `n` products of matrices, which are stored by rows, one matrix after the other."""
    operands = Operands(
        rows=rows,
        inner=inner,
        columns=columns,
        offsets=tuple(i * rows * inner for i in range(n)),
        strides=(inner, 1),
        addend_offsets=tuple(i * inner * columns for i in range(n)),
        addend_strides=(columns, 1),
    )
    return Layer(
        "reference",
        "matmul",
        "given",
        (inner, n * rows, 1),
        (columns, n * rows, 1),
        addend="other",
        addend_size=n * inner * columns,
        operands=operands,
    )


def _pointwise(channels: int, outputs: int, size: int) -> Layer:
    return Layer("reference", "conv2d", "given", (channels, size, size), (outputs, size, size), ONE_PIXEL)


def _depthwise(channels: int, size: int, kernel: int, stride: int = 1) -> Layer:
    return convolution(channels, size, kernel=kernel, groups=channels, stride=stride)


_KINDS_OF_NUMBERS: tuple[Kind, ...] = ("add", "multiply", "scale", "softmax", "layer_norm")

# Strides read more numbers for each result, large kernels compute more with each.
_DEPTHWISE = (
    _depthwise(80, 24, 3),
    _depthwise(80, 40, 3, 2),
    _depthwise(128, 16, 5),
    _depthwise(112, 30, 5, 2),
    _depthwise(208, 9, 3),
    _depthwise(160, 64, 3),
    _depthwise(64, 24, 1),
)

FAMILIES: tuple[Family, ...] = (
    # Much arithmetic per number, little of it, weights in the last cache, few outputs, few inputs.
    Family(
        (
            convolution(96, 20),
            convolution(32, 32),
            convolution(288, 8),
            convolution(160, 14, 32),
            convolution(32, 20, 160),
        )
    ),
    Family(
        (convolution(96, 20, 48), convolution(32, 32, 16), convolution(160, 14, 48), convolution(16, 24, 80)),
        "direct",
    ),
    Family((convolution(4, 32, 64), convolution(3, 40, 32, stride=2), convolution(4, 20, 96))),
    Family((convolution(4, 32, 16), convolution(3, 40, 16, stride=2), convolution(4, 20, 48)), "direct"),
    Family(
        (
            _pointwise(128, 160, 18),
            _pointwise(40, 224, 30),
            _pointwise(208, 96, 22),
            _pointwise(20, 96, 36),
            _pointwise(288, 32, 12),
            _pointwise(64, 192, 60),
        )
    ),
    Family(
        (
            _pointwise(128, 48, 18),
            _pointwise(40, 80, 30),
            _pointwise(208, 16, 22),
            _pointwise(20, 48, 36),
            _pointwise(288, 16, 12),
            _pointwise(10, 16, 40),
            _pointwise(96, 48, 70),
        )
    ),
    Family(_DEPTHWISE, "depthwise"),
    Family(tuple(replace(layer, function="clip", constants=(0.0, 6.0)) for layer in _DEPTHWISE), "depthwise"),
    *(
        Family((convolution(80, 12, groups=80 // width), convolution(80, 20, groups=80 // width, stride=2)))
        for width in (1, 2, 4, 8)
    ),
    Family(
        (linear(256, 256), linear(64, 128), linear(1536, 2560), linear(20, 80), linear(448, 96)),
        batches=(1, 64),
    ),
    Family(
        (
            pooling("max_pool2d", 64, 16),
            pooling("max_pool2d", 96, 24, 3),
            pooling("max_pool2d", 160, 56),
            pooling("max_pool2d", 48, 16, 1),
        )
    ),
    Family(
        (
            pooling("avg_pool2d", 64, 16),
            pooling("avg_pool2d", 96, 24, 3),
            pooling("avg_pool2d", 160, 56),
            pooling("avg_pool2d", 48, 16, 1),
        )
    ),
    Family(
        (
            pooling("adaptive_avg_pool2d", 64, 16),
            pooling("adaptive_avg_pool2d", 160, 14, 14),
            pooling("adaptive_avg_pool2d", 48, 20, 20),
            pooling("adaptive_avg_pool2d", 80, 60, 60),
            pooling("adaptive_avg_pool2d", 40, 12, 12),
        )
    ),
    *(
        Family(
            tuple(
                of_numbers(kind, channels, size)
                for channels, size in ((48, 7), (80, 16), (112, 60), (200, 12))
            )
        )
        for kind in _KINDS_OF_NUMBERS
    ),
    Family((pixels_twice(16, 24), pixels_twice(64, 10), pixels_twice(160, 30), pixels_twice(32, 4))),
    Family((products(2, 40, 24, 40), products(6, 40, 40, 24), products(2, 64, 64, 64))),
)

"""The plan of a converted network: its layers in order, as plain values that JSON can hold.

A `Layer` says what is computed and how its numbers are stored; the weights themselves are kept apart, by name.
FLOPs are algorithmic (2 per multiply-add) and bytes are those of each number once, so that both belong to the
layer and not to the routine which runs it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Dtype = Literal["float16", "float32"]
Kind = Literal["conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"]
Precision = Literal["fp16", "fp32"]

FORMAT = 1
N_BYTES = {"float16": 2, "float32": 4}
ROUTINES: dict[Kind, str] = {
    "conv2d": "direct convolution",
    "linear": "matrix product",
    "max_pool2d": "maximum over windows",
    "avg_pool2d": "mean over windows",
    "adaptive_avg_pool2d": "mean over windows",
}


@dataclass(frozen=True)
class RoundingReport:
    """What one rounding to binary16 did to a layer's weights, against the float64 weights.

    Attributes:
        sqnr_db: Signal to quantization noise, 20 log10(|w| / |w - rounded|) in the Frobenius norm; infinite if exact.
        relative_error: |w - rounded| / |w|, Frobenius norm.
        worst_channel_error: The largest such quotient of one output channel.
        n_weights: How many weights there are.
        n_overflow: Weights beyond binary16 as they are (65520 and more); a scaled channel holds them nevertheless.
        n_subnormal: Weights stored as subnormal numbers, with fewer than 11 bits.
        n_flushed: Weights other than zero stored as zero.
        n_scaled: Channels stored times a power of two.
        scale_exponent_min: The smallest exponent e with channel = stored * 2^e; 0 if none is scaled.
        scale_exponent_max: The largest one.
    """

    sqnr_db: float
    relative_error: float
    worst_channel_error: float
    n_weights: int
    n_overflow: int
    n_subnormal: int
    n_flushed: int
    n_scaled: int
    scale_exponent_min: int
    scale_exponent_max: int


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution or a pooling lie, as torch has it; (rows, columns) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Layer:
    """One step of the network: an affine map or a pooling, with the ReLU that follows.

    Attributes:
        name: The module's path in the network that was converted.
        kind: What is computed.
        input_shape: Per sample, (channels, rows, columns) or (inputs,). A linear layer behind a flattening keeps the
            image's shape here: its weights are re-ordered when they are packed.
        output_shape: Per sample.
        geometry: Of convolution and pooling; None for linear and adaptive layers.
        relu: Whether negative results become zero.
        input_dtype: How the activations that are read are stored when the network runs in half precision.
        output_dtype: The same for those written: float32 where binary16 would not hold them well enough.
        scale_exponents: Per output channel, e with weight = stored * 2^e; empty if all are 0.
        rounding: What rounding did to the weights; None for layers that have none.
    """

    name: str
    kind: Kind
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    geometry: Geometry | None
    relu: bool
    input_dtype: Dtype
    output_dtype: Dtype
    scale_exponents: tuple[int, ...] = ()
    rounding: RoundingReport | None = None

    def with_rounding(self, scale_exponents: tuple[int, ...], rounding: RoundingReport) -> "Layer":
        """The layer with its weights rounded."""
        return replace(self, scale_exponents=scale_exponents, rounding=rounding)

    @property
    def routine(self) -> str:
        """The family of routines that runs the layer; `LayerTiming` names the member that ran."""
        return ROUTINES[self.kind]

    @property
    def has_weights(self) -> bool:
        return self.kind in ("conv2d", "linear")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(outputs, inputs), or (outputs, channels, kernel rows, kernel columns)."""
        if self.kind == "linear":
            return (self.output_shape[0], math.prod(self.input_shape))
        assert self.geometry is not None
        return (self.output_shape[0], self.input_shape[0], *self.geometry.kernel)

    @property
    def n_weights(self) -> int:
        return math.prod(self.weight_shape) if self.has_weights else 0

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return self.n_weights + (self.output_shape[0] if self.has_weights else 0)

    @property
    def n_bytes_fp16(self) -> int:
        """Bytes of the parameters as stored in half precision; biases stay float32."""
        return 2 * self.n_weights + 4 * (self.n_parameters - self.n_weights)

    @property
    def n_bytes_fp32(self) -> int:
        return 4 * self.n_parameters

    @property
    def flops(self) -> int:
        """Floating-point operations per sample: 2 per multiply-add, 1 per number that is pooled."""
        if self.kind == "linear":
            return 2 * self.n_weights
        if self.kind == "conv2d":
            return 2 * self.n_weights * self.output_shape[1] * self.output_shape[2]
        rows, columns = windows(self)
        n_rows = sum(end - start for start, end in rows)
        n_columns = sum(end - start for start, end in columns)
        return self.input_shape[0] * n_rows * n_columns

    def n_bytes(self, batch: int, precision: Precision) -> int:
        """Bytes that a batch has to move at least: parameters, inputs and outputs, each once."""
        half = precision == "fp16"
        n_in = math.prod(self.input_shape) * (N_BYTES[self.input_dtype] if half else 4)
        n_out = math.prod(self.output_shape) * (N_BYTES[self.output_dtype] if half else 4)
        return (self.n_bytes_fp16 if half else self.n_bytes_fp32) + batch * (n_in + n_out)

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON can hold it."""
        document = asdict(self)
        if self.rounding is not None and math.isinf(self.rounding.sqnr_db):
            document["rounding"]["sqnr_db"] = None
        document["routine"] = {"fp16": self.routine, "fp32": self.routine}
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Layer":
        """Undo `to_dict`; lists become tuples again."""
        geometry, rounding = document["geometry"], document["rounding"]
        if geometry is not None:
            geometry = Geometry(**{key: (pair[0], pair[1]) for key, pair in geometry.items()})
        if rounding is not None:
            sqnr_db = math.inf if rounding["sqnr_db"] is None else rounding["sqnr_db"]
            rounding = RoundingReport(**{**rounding, "sqnr_db": sqnr_db})
        return cls(
            name=document["name"],
            kind=document["kind"],
            input_shape=tuple(document["input_shape"]),
            output_shape=tuple(document["output_shape"]),
            geometry=geometry,
            relu=document["relu"],
            input_dtype=document["input_dtype"],
            output_dtype=document["output_dtype"],
            scale_exponents=tuple(document["scale_exponents"]),
            rounding=rounding,
        )


Bounds = list[tuple[int, int]]


def windows(layer: Layer) -> tuple[Bounds, Bounds]:
    """Bounds [start, end) of a pooling layer's windows along rows and columns, clipped to the image."""
    _, *sizes = layer.input_shape
    _, *counts = layer.output_shape
    along: list[Bounds] = []
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if layer.geometry is None:  # adaptive: the bounds that torch documents
            bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        else:
            kernel, stride = layer.geometry.kernel[axis], layer.geometry.stride[axis]
            starts = [i * stride - layer.geometry.padding[axis] for i in range(count)]
            bounds = [(max(start, 0), min(start + kernel, size)) for start in starts]
        along.append(bounds)
    return along[0], along[1]


def store_activations(layers: tuple[Layer, ...], wide: set[str]) -> tuple[Layer, ...]:
    """Say how activations are stored: binary16 except for the input, the output and what the layers in `wide` give."""
    planned: list[Layer] = []
    before: Dtype = "float32"
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        after: Dtype = "float32" if last or layer.name in wide else "float16"
        planned.append(replace(layer, input_dtype=before, output_dtype=after))
        before = after
    return tuple(planned)

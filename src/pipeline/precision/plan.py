"""The plan of a converted network: its layers in order, as plain values that JSON can hold.

A `Layer` says what is computed from which results before it, how its numbers are stored, and which routine runs it;
the weights themselves are kept apart, by name.
FLOPs are algorithmic (2 per multiply-add) and bytes are those of each number once, so that both belong to the
layer and not to the routine which runs it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Dtype = Literal["float16", "float32"]
Kind = Literal["conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "add"]
Precision = Literal["fp16", "fp32"]

FORMAT = 2
INPUT = ""  # what the network's input is called where a layer names the one it reads
N_BYTES = {"float16": 2, "float32": 4}


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
    groups: int = 1


@dataclass(frozen=True)
class Layer:
    """One step of the network: an affine map, a pooling or a sum, with what is fused into it.

    Attributes:
        name: The module's path in the network that was converted, or the name of a function's node.
        kind: What is computed.
        source: Name of the layer whose result is read; `INPUT` for the network's input.
        input_shape: Per sample, (channels, rows, columns) or (inputs,). A linear layer behind a flattening keeps the
            image's shape here: its weights are re-ordered when they are packed.
        output_shape: Per sample.
        geometry: Of convolution and pooling; None for the others.
        addend: Name of the layer whose result, of the output's shape, is added before the ReLU; None for none.
        relu: Whether negative results become zero.
        input_dtype: How the activations that are read are stored when the network runs in half precision.
        addend_dtype: The same for those added.
        output_dtype: The same for those written: float32 where binary16 would not hold them well enough.
        weight_dtype: How the weights are stored: float32 where rounding them costs more than the budget allows.
        routine: Which of `routines.candidates` runs the layer; empty for the first of them.
        scale_exponents: Per output channel, e with weight = stored * 2^e; empty if all are 0.
        rounding: What rounding did to the weights; None for layers that have none.
    """

    name: str
    kind: Kind
    source: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    geometry: Geometry | None = None
    addend: str | None = None
    relu: bool = False
    input_dtype: Dtype = "float32"
    addend_dtype: Dtype = "float32"
    output_dtype: Dtype = "float32"
    weight_dtype: Dtype = "float16"
    routine: str = ""
    scale_exponents: tuple[int, ...] = ()
    rounding: RoundingReport | None = None

    def with_rounding(self, scale_exponents: tuple[int, ...], rounding: RoundingReport) -> "Layer":
        """The layer with its weights rounded."""
        return replace(self, scale_exponents=scale_exponents, rounding=rounding)

    def in_single(self) -> "Layer":
        """The layer with all its numbers in binary32 and its weights complete."""
        return replace(
            self,
            input_dtype="float32",
            addend_dtype="float32",
            output_dtype="float32",
            weight_dtype="float32",
            scale_exponents=(),
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The results that the layer needs."""
        return (self.source,) if self.addend is None else (self.source, self.addend)

    @property
    def has_weights(self) -> bool:
        return self.kind in ("conv2d", "linear")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(outputs, inputs), or (outputs, channels, kernel rows, kernel columns)."""
        if self.kind == "linear":
            return (self.output_shape[0], math.prod(self.input_shape))
        assert self.geometry is not None
        return (self.output_shape[0], self.input_shape[0] // self.geometry.groups, *self.geometry.kernel)

    @property
    def n_weights(self) -> int:
        return math.prod(self.weight_shape) if self.has_weights else 0

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return self.n_weights + (self.output_shape[0] if self.has_weights else 0)

    @property
    def n_bytes_fp16(self) -> int:
        """Bytes of the parameters as stored; biases stay float32."""
        return N_BYTES[self.weight_dtype] * self.n_weights + 4 * (self.n_parameters - self.n_weights)

    @property
    def n_bytes_fp32(self) -> int:
        return 4 * self.n_parameters

    @property
    def flops(self) -> int:
        """Floating-point operations per sample: 2 per multiply-add, 1 per number that is pooled or added."""
        n_added = math.prod(self.output_shape) if self.addend is not None else 0
        if self.kind == "add":
            return n_added
        if self.kind == "linear":
            return 2 * self.n_weights + n_added
        if self.kind == "conv2d":
            return 2 * self.n_weights * self.output_shape[1] * self.output_shape[2] + n_added
        rows, columns = windows(self)
        n_rows = sum(end - start for start, end in rows)
        n_columns = sum(end - start for start, end in columns)
        return self.input_shape[0] * n_rows * n_columns

    def n_bytes(self, batch: int, precision: Precision) -> int:
        """Bytes that a batch has to move at least: parameters, inputs, addends and outputs, each once."""
        if precision == "fp32":
            return self.in_single().n_bytes(batch, "fp16")
        n_in = math.prod(self.input_shape) * N_BYTES[self.input_dtype]
        n_out = math.prod(self.output_shape) * N_BYTES[self.output_dtype]
        n_added = 0 if self.addend is None else math.prod(self.output_shape) * N_BYTES[self.addend_dtype]
        return self.n_bytes_fp16 + batch * (n_in + n_added + n_out)

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON can hold it."""
        document = asdict(self)
        if self.rounding is not None and math.isinf(self.rounding.sqnr_db):
            document["rounding"]["sqnr_db"] = None
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Layer":
        """Undo `to_dict`; lists become tuples again."""
        geometry, rounding = document["geometry"], document["rounding"]
        if geometry is not None:
            pairs = {key: tuple(value) for key, value in geometry.items() if key != "groups"}
            geometry = Geometry(**pairs, groups=geometry["groups"])
        if rounding is not None:
            sqnr_db = math.inf if rounding["sqnr_db"] is None else rounding["sqnr_db"]
            rounding = RoundingReport(**{**rounding, "sqnr_db": sqnr_db})
        tuples = {key: tuple(document[key]) for key in ("input_shape", "output_shape", "scale_exponents")}
        return cls(**{**document, **tuples, "geometry": geometry, "rounding": rounding})


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


def store_activations(layers: Sequence[Layer], wide: set[str]) -> tuple[Layer, ...]:
    """Say how activations are stored: binary16 except for the input, the output and what the layers in `wide` give."""
    dtypes: dict[str, Dtype] = {INPUT: "float32"}
    for layer in layers:
        dtypes[layer.name] = "float32" if layer is layers[-1] or layer.name in wide else "float16"
    return tuple(
        replace(
            layer,
            input_dtype=dtypes[layer.source],
            addend_dtype="float32" if layer.addend is None else dtypes[layer.addend],
            output_dtype=dtypes[layer.name],
        )
        for layer in layers
    )


def close(layers: Sequence[Layer], names: set[str]) -> tuple[Layer, ...]:
    """The plan with the weights of these layers in binary32, not rounded."""
    return tuple(
        replace(layer, weight_dtype="float32", scale_exponents=(), rounding=None)
        if layer.name in names
        else layer
        for layer in layers
    )

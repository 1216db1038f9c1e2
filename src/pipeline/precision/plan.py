"""The plan of a converted network: its layers in order, as plain values that JSON can hold.

A `Layer` says what is computed from which results before it, how its numbers are stored, and which routine runs it;
the weights themselves are kept apart, by name.
FLOPs are algorithmic (2 per multiply-add) and bytes are those of each number once, so that both belong to the
layer and not to the routine which runs it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

Dtype = Literal["float16", "float32"]
Kind = Literal[
    "conv2d",
    "linear",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "add",
    "activation",
    "multiply",
    "scale",
    "gather",
    "layer_norm",
    "softmax",
    "matmul",
]
LayerPrecision = Literal["fp16", "fp32"]

FORMAT = 3
# What can follow a layer's sum; see `reference.FUNCTIONS` for their definitions.
FUNCTIONS = (
    "clip",
    "leaky_relu",
    "hard_sigmoid",
    "hard_swish",
    "sigmoid",
    "silu",
    "tanh",
    "gelu",
    "gelu_tanh",
    "exp",
    "square",
    "sqrt",
    "reciprocal",
    "abs",
    "log",
    "elu",
    "erf",
)
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
        n_overflow: Weights of 65520 and more, beyond binary16; a scaled channel holds them nevertheless.
        n_subnormal: Weights stored as subnormal numbers, with fewer than 11 bits.
        n_flushed: Weights other than zero stored as zero.
        n_scaled: Channels stored multiplied by a power of two.
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
class WindowGeometry:
    """Where the windows of a convolution or a pooling lie, as in torch; each field is (rows, columns).

    Attributes:
        padding_after: Padding below and to the right of the image; None if it equals that above and to the left.
        divisor: Divisor of a mean that counts its padding; 0 to divide by how many numbers the window holds.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_after: tuple[int, int] | None = None
    divisor: int = 0

    @property
    def paddings(self) -> tuple[int, int, int, int]:
        """Above, to the left, below, to the right."""
        return (*self.padding, *(self.padding_after or self.padding))


ONE_PIXEL = WindowGeometry((1, 1), (1, 1), (0, 0))


@dataclass(frozen=True)
class Operands:
    """Products of `n` pairs of matrices, (rows, inner) times (inner, columns), whose numbers lie anywhere.

    Number (b, i, j) of a side is at `offsets[b] + i * strides[0] + j * strides[1]` in what the layer reads.
    """

    rows: int
    inner: int
    columns: int
    offsets: tuple[int, ...]
    strides: tuple[int, int]
    addend_offsets: tuple[int, ...]
    addend_strides: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One step of the network: an affine map, a pooling, a function of two results, with what is fused into it.

    Results are kept as rows of channels, so a layer may read one as an image of another shape: 196 vectors of 64
    numbers are an image of 64 channels, 196 rows and one column.

    Attributes:
        name: The module's path in the network that was converted, or the name of a function's node.
        kind: What is computed.
        source: Name of the layer whose result is read; `INPUT` for the network's input.
        input_shape: Per sample, (channels, rows, columns) or (inputs,). A linear layer behind a flattening keeps the
            image's shape here: its weights are re-ordered when they are packed.
        output_shape: Per sample.
        geometry: Windows of a convolution or pooling; None for the others.
        addend: Name of the layer whose result, of the output's size, is added before the ReLU; None for none. A
            "multiply" layer multiplies with it, "scale" multiplies each channel with one number of it, "matmul" takes
            it as its second factor, "gather" chooses from both.
        relu: Whether negative results become zero.
        function: One of `FUNCTIONS`, applied last; empty for none.
        constants: Constants of the function, such as the bounds of "clip".
        epsilon: What "layer_norm" adds to a variance.
        factor: Factor of the results of "matmul".
        addend_size: How many numbers the addend has per sample, where a layer does not need them all.
        operands: Places of the matrices of "matmul"; None for the others.
        input_dtype: How the activations that are read are stored when the network runs in half precision.
        addend_dtype: The same for the addend.
        output_dtype: The same for the results: float32 where binary16 would not hold them well enough.
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
    geometry: WindowGeometry | None = None
    addend: str | None = None
    relu: bool = False
    function: str = ""
    constants: tuple[float, ...] = ()
    epsilon: float = 0.0
    factor: float = 1.0
    addend_size: int = 0
    operands: Operands | None = None
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
        """Whether it is an affine map, whose weights are rounded."""
        return self.kind in ("conv2d", "linear")

    @property
    def is_normalization(self) -> bool:
        """Whether it has weights and biases of its own, kept in binary32."""
        return self.kind == "layer_norm"

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the layer's tensors, which are kept outside the plan, by the last part of their names."""
        if self.has_weights:
            return {"weight": self.weight_shape, "bias": self.output_shape[:1]}
        if self.is_normalization:
            return {"weight": self.input_shape[:1], "bias": self.input_shape[:1]}
        return {"index": (math.prod(self.output_shape),)} if self.kind == "gather" else {}

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
        if self.is_normalization:
            return 2 * self.input_shape[0]
        return self.n_weights + (self.output_shape[0] if self.has_weights else 0)

    @property
    def n_bytes_fp16(self) -> int:
        """Bytes of the parameters as stored; biases stay float32."""
        return N_BYTES[self.weight_dtype] * self.n_weights + 4 * (
            self.n_parameters - self.n_weights + self.n_places
        )

    @property
    def n_bytes_fp32(self) -> int:
        return 4 * (self.n_parameters + self.n_places)

    @property
    def n_places(self) -> int:
        """How many places a "gather" layer keeps, four bytes each."""
        return math.prod(self.output_shape) if self.kind == "gather" else 0

    @property
    def flops(self) -> int:
        """Floating-point operations per sample: 2 per multiply-add, 1 per number that is pooled, added or changed.

        Normalizations and softmax count five per number: sums, squares, and what follows from them.
        """
        n_added = math.prod(self.output_shape) if self.addend is not None else 0
        if self.kind in ("multiply", "scale", "activation"):
            return math.prod(self.output_shape)
        if self.kind in ("layer_norm", "softmax"):
            return 5 * math.prod(self.output_shape)
        if self.kind == "gather":
            return 0
        if self.operands is not None:
            return 2 * math.prod(self.output_shape) * self.operands.inner
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

    def n_bytes(self, batch: int, precision: LayerPrecision) -> int:
        """Least number of bytes that a batch has to move: parameters, inputs, addends and outputs, each once."""
        if precision == "fp32":
            return self.in_single().n_bytes(batch, "fp16")
        n_in = math.prod(self.input_shape) * N_BYTES[self.input_dtype]
        n_out = math.prod(self.output_shape) * N_BYTES[self.output_dtype]
        n_added = self.n_addend * N_BYTES[self.addend_dtype]
        return self.n_bytes_fp16 + batch * (n_in + n_added + n_out)

    @property
    def n_addend(self) -> int:
        """How many numbers of the addend are read, per sample."""
        if self.addend is None:
            return 0
        if self.kind == "scale":
            return self.output_shape[0]
        if self.operands is not None:
            return len(self.operands.addend_offsets) * self.operands.inner * self.operands.columns
        return math.prod(self.output_shape) if self.kind != "gather" else 0

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON can hold it, without the fields that have their defaults."""
        document = _told(self)
        if self.geometry is not None:
            document["geometry"] = _told(self.geometry)
        if self.rounding is not None and math.isinf(self.rounding.sqnr_db):
            document["rounding"]["sqnr_db"] = None
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Layer":
        """Undo `to_dict`; lists become tuples again. Earlier versions wrote every field."""
        geometry, rounding, operands = (document.get(name) for name in ("geometry", "rounding", "operands"))
        if geometry is not None:
            geometry = WindowGeometry(**_with_tuples(geometry))
        if operands is not None:
            operands = Operands(**_with_tuples(operands))
        if rounding is not None:
            sqnr_db = math.inf if rounding["sqnr_db"] is None else rounding["sqnr_db"]
            rounding = RoundingReport(**{**rounding, "sqnr_db": sqnr_db})
        values = _with_tuples(document) | {"geometry": geometry, "rounding": rounding, "operands": operands}
        return cls(**values)


def _told(value: Layer | WindowGeometry) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    pairs = zip(fields(value), asdict(value).values(), strict=True)
    return {field.name: found for field, found in pairs if field.default is MISSING or found != field.default}


def _with_tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where the plan has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}


WindowEnds = list[tuple[int, int]]


def windows(layer: Layer) -> tuple[WindowEnds, WindowEnds]:
    """Bounds [start, end) of a pooling layer's windows along rows and columns, clipped to the image."""
    _, *sizes = layer.input_shape
    _, *counts = layer.output_shape
    along: list[WindowEnds] = []
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
    """Store activations as binary16, except for the input, the output and the results of the layers in `wide`."""
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

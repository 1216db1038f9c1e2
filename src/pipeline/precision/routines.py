"""Run planned layers on the native routines: packed once, then no allocation but for the results.

Inside, activations are channels-last; `Execution` takes and gives torch's (n, channels, rows, columns). The same class
runs a network in half precision and its float32 twin, on routines from the same source, so that a ratio of their times
compares like with like.

A routine's name is that of its algorithm and that of how its weights lie in memory: "winograd4 fp16". Results are added
up in binary32 by all of them; "bf16" ones also round the activations, before they multiply: "winograd2 bf16" once they
are transformed, like the weights. "split" ones take each binary16 as the sum of two bfloat16, which is exact.
"""

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision import _native
from pipeline.precision.convert import LARGEST_HALF, widen
from pipeline.precision.plan import INPUT, Dtype, Layer, LayerPrecision, windows

# What some instruction sets have besides, by precision.
IN_PAIRS = {"bf16": ("direct", "product", "winograd2"), "split": ("direct", "product")}
ROUTINES = {
    "add": "sum",
    "activation": "function",
    "multiply": "multiply",
    "scale": "scale",
    "gather": "copy",
    "layer_norm": "normalization",
    "softmax": "softmax",
    "matmul": "activations",
}
BATCH = 64  # samples that pass through all layers before the next ones: their activations stay in cache


def instruction_sets() -> list[str]:
    """The instruction sets with routines that this processor can run, best first."""
    return list(_native.instruction_sets())


def candidates(layer: Layer, instruction_set: str) -> tuple[str, ...]:
    """The routines that can run a layer; the first of a precision is its most general one.

    Weights that are stored as float32 are not rounded again behind the plan's back, so they have float32 routines only.
    """
    if not layer.has_weights:
        return (ROUTINES.get(layer.kind, "windows"),)
    names = []
    for algorithm in _algorithms(layer, instruction_set):
        base, _, suffix = algorithm.partition("_")
        names += [f"{base} {suffix}"] if suffix else [f"{base} fp16", f"{base} fp32"]
    return tuple(name for name in names if layer.weight_dtype == "float16" or name.endswith("fp32"))


def all_routines(layer: Layer) -> tuple[str, ...]:
    """The routines that some instruction set has for a layer whose weights are float16, on this machine or not."""
    general = candidates(replace(layer, weight_dtype="float16"), "portable")
    return general + tuple(
        f"{algorithm} {precision}"
        for precision, algorithms in IN_PAIRS.items()
        for algorithm in algorithms
        if f"{algorithm} fp16" in general
    )


def twin(routine: str) -> str:
    """The float32 routine from the same source."""
    algorithm, _, precision = routine.partition(" ")
    return f"{algorithm} fp32" if precision else algorithm


def _algorithms(layer: Layer, instruction_set: str) -> list[str]:
    if layer.kind == "linear":
        return list(_native.linear_routines(instruction_set))
    geometry = layer.geometry
    assert geometry is not None
    return list(
        _native.convolution_routines(
            instruction_set,
            kernel=geometry.kernel,
            stride=geometry.stride,
            dilation=geometry.dilation,
            groups=geometry.groups,
            channels=layer.input_shape[0],
            outputs=layer.output_shape[0],
        )
    )


class Execution:
    """Layers with packed weights, ready to run on the CPU, on one thread.

    Args:
        layers: The plan. In precision "fp32" its storage of activations is read as float32 throughout.
        parameters: `NAME.weight` as torch has it and `NAME.bias` float32. Weights are float16, stored without their
            scale, for "fp16"; float32, complete, for "fp32".
        precision: "fp16" or "fp32".
        instruction_set: One of `instruction_sets()`; None for the best.
        packed: Layers that were packed from the same parameters before, by plan; those that are packed here join them.

    Attributes:
        native: The packed layers; see `native/module.cpp`.
        n_saturated: How many activations so far were too large for binary16 and stored as +-65504.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        parameters: Mapping[str, Tensor],
        precision: LayerPrecision,
        instruction_set: str | None = None,
        packed: dict[Layer, Any] | None = None,
    ) -> None:
        if precision == "fp32":
            layers = [replace(layer.in_single(), routine=twin(layer.routine)) for layer in layers]
        self.precision = precision
        self.instruction_set = instruction_set or instruction_sets()[0]
        self.layers = tuple(_runnable(layer, self.instruction_set) for layer in layers)
        packed = {} if packed is None else packed
        for layer in self.layers:
            if layer not in packed:
                packed[layer] = build(layer, parameters, self.instruction_set)
        self.native = tuple(packed[layer] for layer in self.layers)
        self.n_saturated = 0
        self._lock = threading.Lock()  # runs share the native network's buffers, and the count
        self._places = {INPUT: 0} | {layer.name: place for place, layer in enumerate(layers, 1)}
        self.whole = self._network(len(layers))
        self._body: Any = None

    def _network(self, n_layers: int) -> Any:
        """The first layers as one native network."""
        steps = [
            (native, self._places[layer.source], -1 if layer.addend is None else self._places[layer.addend])
            for layer, native in zip(self.layers[:n_layers], self.native[:n_layers], strict=True)
        ]
        return _native.Network(steps, BATCH)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output, float32 of shape (n, ...), for inputs of shape (n, channels, rows, columns)."""
        last = self.layers[-1]
        return self._run(self.whole, x, last.output_shape, last.output_dtype)

    def features(self, x: Tensor) -> Tensor:
        """Compute what the last layer, a linear one, is given: float32 of shape (n, features)."""
        last = self.layers[-1]
        if last.kind != "linear":
            raise ConfigError(
                f"features are the input of a last linear layer, but the last layer {last.name!r} is a {last.kind}"
            )
        if last.source == INPUT:
            return self._checked(x).flatten(1).clone()
        place = self._places[last.source]
        if self._body is None:
            self._body = self._network(place)
        return self._run(self._body, x, last.input_shape, self.layers[place - 1].output_dtype).flatten(1)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Compute every layer's result, in the plan's order and shapes, as it is stored (float16 or float32)."""
        return [
            _channels_first(result, layer.output_shape)
            for layer, (_, result, _) in zip(self.layers, self.steps(x), strict=True)
        ]

    def steps(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Run layer by layer; return what each was given, gave and added, as stored: (n, numbers), channels last."""
        values = {INPUT: _channels_last(self._checked(x))}
        steps = []
        with self._lock:
            for layer, native in zip(self.layers, self.native, strict=True):
                given, addend = values[layer.source], None if layer.addend is None else values[layer.addend]
                result = values[layer.name] = _empty(len(given), layer)
                self.n_saturated += native.run(given, result, addend)
                steps.append((given, result, addend))
        return steps

    def saturated(self, x: Tensor) -> dict[str, int]:
        """How many results of each layer are too large for binary16; they are not added to `n_saturated`."""
        values = {INPUT: _channels_last(self._checked(x))}
        counts = {}
        for layer, native in zip(self.layers, self.native, strict=True):
            result = values[layer.name] = _empty(len(x), layer)
            addend = None if layer.addend is None else values[layer.addend]
            counts[layer.name] = int(native.run(values[layer.source], result, addend))
        return counts

    def prepared(self, x: Tensor) -> Callable[[], int]:
        """A run on one batch as `__call__` makes it, but for the copies from and to torch; says what saturated."""
        given, result = _channels_last(self._checked(x)), _empty(len(x), self.layers[-1])

        def run() -> int:
            with self._lock:
                n_saturated = int(self.whole.run(given, result))
                self.n_saturated += n_saturated
            return n_saturated

        return run

    def resident_bytes(self, batch: int) -> int:
        """All packed weights and a batch's part of the buffers between layers: what the caches would have to hold."""
        buffers = int(self.whole.buffer_bytes) * min(batch, BATCH) // BATCH
        return sum(int(native.weight_bytes) for native in self.native) + buffers

    def seconds_per_step(self, x: Tensor) -> list[float]:
        """The wall time of every layer in one run of the whole network."""
        x = _channels_last(self._checked(x))
        seconds = [0.0] * len(self.layers)
        with self._lock:
            for start in range(0, len(x), BATCH):
                part = x[start : start + BATCH]
                taken = self.whole.seconds_per_step(part, _empty(len(part), self.layers[-1]))
                seconds = [before + now for before, now in zip(seconds, taken, strict=True)]
        return seconds

    def _run(self, chain: Any, x: Tensor, shape: tuple[int, ...], dtype: Dtype) -> Tensor:
        """Run on inputs in torch's order; the results are of this shape, in float32, whatever they are stored as."""
        x = self._checked(x)
        if dtype != "float32":
            return self._run_in_parts(chain, x, shape, dtype)
        channels = x.shape[1] if x.ndim == 4 else 0
        if channels > 1 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            x, channels = x.permute(0, 2, 3, 1), 0
        found = torch.empty(len(x), *shape)
        result_channels = shape[0] if len(shape) == 3 else 0
        with self._lock:
            self.n_saturated += chain.run_channels_first(
                self.instruction_set, x.contiguous(), channels, found, result_channels
            )
        return found

    def _run_in_parts(self, chain: Any, x: Tensor, shape: tuple[int, ...], dtype: Dtype) -> Tensor:
        """The same for results that are stored as binary16."""
        x, parts = _channels_last(x), [torch.empty(0, *shape)]
        for part in torch.split(x, BATCH) if len(x) else ():
            result = torch.empty(len(part), math.prod(shape), dtype=getattr(torch, dtype))
            with self._lock:
                self.n_saturated += chain.run(part, result)
            parts.append(_channels_first(result, shape).float())
        return torch.cat(parts)

    def check(self, x: Tensor) -> None:
        """Refuse inputs that the first layer cannot take.

        Raises:
            TypeError: If they are no torch tensor.
            ValueError: If they have another shape, or lie on another device.
        """
        wanted = self.layers[0].input_shape
        if not isinstance(x, Tensor):
            raise TypeError(
                f"inputs are a torch tensor, found {type(x).__name__}; wanted torch.from_numpy(x)"
            )
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(f"inputs have shape (n, {str(wanted)[1:-1]}), found {tuple(x.shape)}")
        if x.device.type != "cpu":
            raise ValueError(f"these routines run on the CPU, but the inputs are on {x.device}")

    def _checked(self, x: Tensor) -> Tensor:
        self.check(x)
        return x.detach().float()


def _runnable(layer: Layer, instruction_set: str) -> Layer:
    """The layer on a routine that the instruction set has: plans travel between machines."""
    options = candidates(layer, instruction_set)
    return layer if layer.routine in options else replace(layer, routine=options[0])


def _empty(batch: int, layer: Layer) -> Tensor:
    dtype = torch.float16 if layer.output_dtype == "float16" else torch.float32
    return torch.empty(batch, math.prod(layer.output_shape), dtype=dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().flatten(1) if x.ndim == 4 else x.contiguous()


def _channels_first(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 1:
        return x
    channels, rows, columns = shape
    return x.view(len(x), rows, columns, channels).permute(0, 3, 1, 2)


def build(layer: Layer, parameters: Mapping[str, Tensor], instruction_set: str) -> Any:
    """Pack one layer for the routine that it names."""
    stored: dict[str, Any] = {
        "relu": layer.relu,
        "half_input": layer.input_dtype == "float16",
        "half_output": layer.output_dtype == "float16",
    }
    residual = "none" if layer.addend is None else layer.addend_dtype
    function = (layer.function, *layer.constants, 0.0, 0.0)[:3]
    if layer.kind in ROUTINES:
        return _of_activations(layer, parameters, instruction_set, stored, residual, function)
    if not layer.has_weights:
        rows, columns = windows(layer)
        return _native.pooling(
            instruction_set,
            image=layer.input_shape,
            row_start=[start for start, _ in rows],
            row_end=[end for _, end in rows],
            column_start=[start for start, _ in columns],
            column_end=[end for _, end in columns],
            average=layer.kind != "max_pool2d",
            divisor=0.0 if layer.geometry is None else float(layer.geometry.divisor),
            **stored,
        )
    algorithm, _, precision = layer.routine.partition(" ")
    weight, scale = parameters[f"{layer.name}.weight"], torch.ones(layer.output_shape[0])
    if precision == "fp32" or layer.weight_dtype == "float32":
        weight = widen(weight, layer.scale_exponents)
    elif layer.scale_exponents:
        scale = torch.tensor([2.0**e for e in layer.scale_exponents])
    arguments = (
        instruction_set,
        _flat_channels_last(weight, layer),
        scale,
        parameters[f"{layer.name}.bias"].float(),
    )
    stored |= {
        "residual": residual,
        "function": function,
        "routine": f"{algorithm}_{precision}" if precision in IN_PAIRS else algorithm,
    }
    if layer.kind == "linear":
        return _native.linear(*arguments, **stored)
    geometry = layer.geometry
    assert geometry is not None
    return _native.convolution(
        *arguments,
        **stored,
        image=layer.input_shape,
        kernel=geometry.kernel,
        stride=geometry.stride,
        padding=geometry.paddings,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )


def _of_activations(
    layer: Layer,
    parameters: Mapping[str, Tensor],
    instruction_set: str,
    stored: dict[str, Any],
    residual: str,
    function: tuple[Any, ...],
) -> Any:
    """Layers that multiply with no rounded weights and have no windows."""
    size = math.prod(layer.output_shape)
    if layer.kind == "add":
        return _native.addition(instruction_set, size, residual=residual, function=function, **stored)
    halves = {key: stored[key] for key in ("half_input", "half_output")}
    if layer.kind in ("activation", "multiply"):
        return _native.map(instruction_set, size, residual=residual, function=function, **halves)
    if layer.kind == "scale":
        channels = layer.output_shape[0]
        return _native.scale(instruction_set, channels, size // channels, residual=residual, **halves)
    if layer.kind == "gather":
        index = parameters[f"{layer.name}.index"]
        inputs = math.prod(layer.input_shape)
        return _native.gather(instruction_set, index, inputs, layer.addend_size, residual=residual, **halves)
    if layer.kind == "softmax":
        width = layer.input_shape[0]
        return _native.softmax(instruction_set, width, size // width, **halves)
    if layer.kind == "layer_norm":
        weight, bias = (parameters[f"{layer.name}.{part}"].float() for part in ("weight", "bias"))
        rows = size // layer.input_shape[0]
        return _native.normalization(instruction_set, weight, bias, rows, layer.epsilon, **halves)
    operands = layer.operands
    assert operands is not None
    return _native.product(
        instruction_set,
        (operands.rows, operands.inner, operands.columns),
        operands.offsets,
        operands.strides,
        operands.addend_offsets,
        operands.addend_strides,
        layer.factor,
        math.prod(layer.input_shape),
        layer.addend_size,
        residual=residual,
        **halves,
    )


def run_layer(layer: Layer, native: Any, x: Tensor, addend: Tensor | None = None) -> Tensor:
    """Run one packed layer on tensors in torch's order, which are stored first as the plan says.

    Returns:
        Shape (n, ...), as it is stored.
    """
    given = stored_as(_channels_last(x), layer.input_dtype)
    added = None if addend is None else stored_as(_channels_last(addend), layer.addend_dtype)
    result = _empty(len(x), layer)
    native.run(given, result, added)
    return _channels_first(result, layer.output_shape)


def stored_as(x: Tensor, dtype: Dtype) -> Tensor:
    """Round activations to how they are stored; those beyond binary16 become its largest number."""
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half() if dtype == "float16" else x.float()


def _flat_channels_last(weight: Tensor, layer: Layer) -> Tensor:
    """Order a weight's inputs as activations lie: (rows, columns, channels)."""
    if layer.kind == "linear" and len(layer.input_shape) == 3:
        weight = weight.view(-1, *layer.input_shape)
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1).contiguous()


def single_parameters(layers: Sequence[Layer], half: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 parameters that stored half-precision ones stand for."""
    pairs = (
        ((f"{layer.name}.weight", widen(half[f"{layer.name}.weight"], layer.scale_exponents)),
         (f"{layer.name}.bias", half[f"{layer.name}.bias"]))
        for layer in layers
        if layer.has_weights
    )  # fmt: skip
    others = {
        key: half[key]
        for layer in layers
        if not layer.has_weights
        for key in (f"{layer.name}.{part}" for part in layer.tensor_shapes)
    }
    return dict(itertools.chain.from_iterable(pairs)) | others

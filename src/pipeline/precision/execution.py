"""Run planned layers on the native routines: they are packed once, and then only results are allocated.

Inside, activations are channels-last; `Execution` takes and gives torch's (n, channels, rows, columns). The same class
runs a network in half precision and its float32 twin, on routines from the same source, so that a ratio of their times
compares like with like.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision import _native
from pipeline.precision.plan import INPUT, Dtype, Layer, LayerPrecision
from pipeline.precision.routines import (
    build,
    candidates,
    channels_first,
    channels_last,
    empty_results,
    instruction_sets,
    twin,
)
from pipeline.precision.strips import Step, Strips, strips_of

BATCH = 64  # samples that pass through all layers before the next ones: their activations stay in cache


class Execution:
    """Layers with packed weights, ready to run on the CPU.

    Args:
        layers: The plan. In precision "fp32" all activations are stored as float32, whatever the plan says.
        parameters: `NAME.weight` as torch has it and `NAME.bias` float32. Weights are float16, stored without their
            scale, for "fp16"; float32, complete, for "fp32".
        precision: "fp16" or "fp32".
        instruction_set: One of `instruction_sets()`; None for the best.
        packed: Layers that were packed from the same parameters before, by plan; layers packed here are added.

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
        self._buffer_bytes: dict[int, int] = {}

    def _steps(self) -> list[Step]:
        """The packed layers and what each reads, as a native network takes them."""
        return [
            (native, self._places[layer.source], -1 if layer.addend is None else self._places[layer.addend])
            for layer, native in zip(self.layers, self.native, strict=True)
        ]

    def _network(self, n_layers: int, max_batch: int = BATCH) -> Any:
        """The first layers as one native network."""
        return _native.Network(self._steps()[:n_layers], max_batch)

    @cached_property
    def strips(self) -> Sequence[Strips | None]:
        """How each layer works in strips within the network; None for layers that read and give whole results."""
        return strips_of(self.layers, self._steps())

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output, float32 of shape (n, ...), for inputs of shape (n, channels, rows, columns)."""
        last = self.layers[-1]
        return self._run(self.whole, x, last.output_shape, last.output_dtype)

    def features(self, x: Tensor) -> Tensor:
        """Compute the inputs of the last layer, a linear one: float32 of shape (n, features)."""
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
            channels_first(result, layer.output_shape)
            for layer, (_, result, _) in zip(self.layers, self.steps(x), strict=True)
        ]

    def steps(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Run layer by layer; return each one's input, result and addend as stored: (n, numbers), channels last."""
        values = {INPUT: channels_last(self._checked(x))}
        steps = []
        with self._lock:
            for layer, native in zip(self.layers, self.native, strict=True):
                given, addend = values[layer.source], None if layer.addend is None else values[layer.addend]
                result = values[layer.name] = empty_results(len(given), layer)
                self.n_saturated += native.run(given, result, addend)
                steps.append((given, result, addend))
        return steps

    def saturated(self, x: Tensor) -> dict[str, int]:
        """How many results of each layer are too large for binary16; they are not added to `n_saturated`."""
        counts = {layer.name: 0 for layer in self.layers}
        for part in torch.split(self._checked(x), BATCH):  # as all activations of a part are held at once
            values = {INPUT: channels_last(part)}
            for layer, native in zip(self.layers, self.native, strict=True):
                result = values[layer.name] = empty_results(len(part), layer)
                addend = None if layer.addend is None else values[layer.addend]
                with self._lock:
                    counts[layer.name] += int(native.run(values[layer.source], result, addend))
        return counts

    def prepared(self, x: Tensor) -> Callable[[], int]:
        """Return a run on one batch like `__call__` without its copies; it returns how many activations saturated."""
        given, result = channels_last(self._checked(x)), empty_results(len(x), self.layers[-1])

        def run() -> int:
            with self._lock:
                n_saturated = int(self.whole.run(given, result))
                self.n_saturated += n_saturated
            return n_saturated

        return run

    def resident_bytes(self, batch: int) -> int:
        """Return the bytes of packed weights, and of a batch's buffers and scratch: what caches would have to hold."""
        at_once = min(batch, BATCH)
        if at_once not in self._buffer_bytes:  # scratch does not grow with the batch as the buffers do
            self._buffer_bytes[at_once] = int(self._network(len(self.layers), at_once).buffer_bytes)
        return sum(int(native.weight_bytes) for native in self.native) + self._buffer_bytes[at_once]

    def seconds_per_step(self, x: Tensor) -> list[float]:
        """The wall time of every layer in one run of the whole network."""
        x = channels_last(self._checked(x))
        seconds = [0.0] * len(self.layers)
        with self._lock:
            for start in range(0, len(x), BATCH):
                part = x[start : start + BATCH]
                taken = self.whole.seconds_per_step(part, empty_results(len(part), self.layers[-1]))
                seconds = [before + now for before, now in zip(seconds, taken, strict=True)]
        return seconds

    def _run(self, network: Any, x: Tensor, shape: tuple[int, ...], dtype: Dtype) -> Tensor:
        """Run on inputs in torch's order; the results are of this shape, in float32, whatever they are stored as."""
        x = self._checked(x)
        if dtype != "float32":
            return self._run_in_parts(network, x, shape, dtype)
        channels = x.shape[1] if x.ndim == 4 else 0
        if channels > 1 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            x, channels = x.permute(0, 2, 3, 1), 0
        found = torch.empty(len(x), *shape, dtype=torch.float32, device="cpu")
        result_channels = shape[0] if len(shape) == 3 else 0
        with self._lock:
            self.n_saturated += network.run_channels_first(
                self.instruction_set, x.contiguous(), channels, found, result_channels
            )
        return found

    def _run_in_parts(self, network: Any, x: Tensor, shape: tuple[int, ...], dtype: Dtype) -> Tensor:
        """The same for results that are stored as binary16, part by part."""
        x, parts = channels_last(x), [torch.empty(0, *shape, dtype=torch.float32, device="cpu")]
        for part in torch.split(x, BATCH) if len(x) else ():
            result = torch.empty(len(part), math.prod(shape), dtype=getattr(torch, dtype), device="cpu")
            with self._lock:
                self.n_saturated += network.run(part, result)
            parts.append(channels_first(result, shape).float())
        return torch.cat(parts)

    def check(self, x: Tensor) -> None:
        """Refuse inputs that the first layer cannot take.

        Raises:
            TypeError: If they are no torch tensor of dense real numbers.
            ValueError: If they have another shape, or lie on another device.
        """
        wanted = self.layers[0].input_shape
        if not isinstance(x, Tensor):
            raise TypeError(
                f"inputs must be a torch tensor, found {type(x).__name__}; use torch.from_numpy(x)"
            )
        if not is_dense_and_real(x):
            layout = "nested" if x.is_nested else x.layout
            raise TypeError(f"inputs must be dense real numbers, found {x.dtype} ({layout}); wanted float32")
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(f"inputs must have shape (n, {str(wanted)[1:-1]}), found {tuple(x.shape)}")
        if x.device.type != "cpu":
            raise ValueError(f"these routines run on the CPU, but the inputs are on {x.device}")

    def _checked(self, x: Tensor) -> Tensor:
        self.check(x)
        return x.detach().resolve_neg().float()


def is_dense_and_real(x: Tensor) -> bool:
    """Whether a tensor is dense, not nested, and of real numbers that are not quantized."""
    return x.layout == torch.strided and not (x.is_nested or x.is_complex() or x.is_quantized)


def _runnable(layer: Layer, instruction_set: str) -> Layer:
    """The layer on a routine that the instruction set has: plans travel between machines."""
    options = candidates(layer, instruction_set)
    return layer if layer.routine in options else replace(layer, routine=options[0])

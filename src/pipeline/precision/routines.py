"""Run planned layers on the native routines: packed once, then no allocation but for the results.

Inside, activations are channels-last; `Execution` takes and gives torch's (n, channels, rows, columns). The same class
runs a network in half precision and its float32 twin, on routines from the same source, so that a ratio of their times
compares like with like.
"""

import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision import _native
from pipeline.precision.convert import widen
from pipeline.precision.plan import Geometry, Layer, Precision, windows

BATCH = 64  # samples that pass through all layers before the next ones: their activations stay in cache


def instruction_sets() -> list[str]:
    """The instruction sets with routines that this processor can run, best first."""
    return list(_native.instruction_sets())


class Execution:
    """Layers with packed weights, ready to run on the CPU, on one thread.

    Args:
        layers: The plan. In precision "fp32" its storage of activations is read as float32 throughout.
        parameters: `NAME.weight` as torch has it and `NAME.bias` float32. Weights are float16, stored without their
            scale, for "fp16"; float32, complete, for "fp32".
        precision: "fp16" or "fp32".
        instruction_set: One of `instruction_sets()`; None for the best.

    Attributes:
        native: The packed layers; see `native/module.cpp`.
        n_saturated: How many activations so far were too large for binary16 and stored as +-65504.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        parameters: Mapping[str, Tensor],
        precision: Precision,
        instruction_set: str | None = None,
    ) -> None:
        if precision == "fp32":
            layers = [replace(layer, input_dtype="float32", output_dtype="float32") for layer in layers]
        self.layers = tuple(layers)
        self.precision = precision
        self.instruction_set = instruction_set or instruction_sets()[0]
        self.native = tuple(_build(layer, parameters, precision, self.instruction_set) for layer in layers)
        self.n_saturated = 0
        self._lock = threading.Lock()  # the native layers have one scratch each
        self._whole = _native.Chain(list(self.native), BATCH)
        self._body = _native.Chain(list(self.native[:-1]), BATCH) if len(self.native) > 1 else None

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output, float32 of shape (n, ...), for inputs of shape (n, channels, rows, columns)."""
        return self._to_torch(self._run(self._whole, x, self.layers[-1]), self.layers[-1].output_shape)

    def features(self, x: Tensor) -> Tensor:
        """Compute what the last layer, a linear one, is given: float32 of shape (n, features)."""
        last = self.layers[-1]
        if last.kind != "linear":
            raise ConfigError(
                f"features are the input of a last linear layer, but the last layer {last.name!r} is a {last.kind}"
            )
        if self._body is None:
            return self._checked(x).flatten(1).clone()
        given = self._run(self._body, x, self.layers[-2])
        return self._to_torch(given, self.layers[-2].output_shape).flatten(1)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Compute every layer's result, in the plan's order and shapes, as it is stored (float16 or float32)."""
        return [
            _channels_first(result, layer.output_shape)
            for layer, (_, result) in zip(self.layers, self.steps(x), strict=True)
        ]

    def steps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Run layer by layer; return what each was given and what it gave, as stored: (n, numbers), channels last."""
        steps = []
        given = _channels_last(self._checked(x))
        with self._lock:
            for layer, native in zip(self.layers, self.native, strict=True):
                result = _empty(len(given), layer)
                self.n_saturated += native.run(given, result)
                steps.append((given, result))
                given = result
        return steps

    def _run(self, chain: Any, x: Tensor, last: Layer) -> Tensor:
        x = self._checked(x)
        result = _empty(len(x), last)
        for start in range(0, len(x), BATCH):
            part = _channels_last(x[start : start + BATCH])
            with self._lock:
                self.n_saturated += chain.run(part, result[start : start + BATCH])
        return result

    def _to_torch(self, result: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _channels_first(result, shape).float().contiguous()

    def _checked(self, x: Tensor) -> Tensor:
        wanted = self.layers[0].input_shape
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(f"inputs have shape (n, {str(wanted)[1:-1]}), found {tuple(x.shape)}")
        if x.device.type != "cpu":
            raise ValueError(f"these routines run on the CPU, but the inputs are on {x.device}")
        return x.detach().float()


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


def _build(layer: Layer, parameters: Mapping[str, Tensor], precision: Precision, isa: str) -> Any:
    """Pack one layer for the routines of an instruction set."""
    stored: dict[str, Any] = {
        "relu": layer.relu,
        "half_input": layer.input_dtype == "float16",
        "half_output": layer.output_dtype == "float16",
    }
    if not layer.has_weights:
        rows, columns = windows(layer)
        return _native.pooling(
            isa,
            image=layer.input_shape,
            row_start=[start for start, _ in rows],
            row_end=[end for _, end in rows],
            column_start=[start for start, _ in columns],
            column_end=[end for _, end in columns],
            average=layer.kind != "max_pool2d",
            **stored,
        )
    exponents = layer.scale_exponents if precision == "fp16" else ()
    scale = torch.tensor([2.0**e for e in exponents]) if exponents else torch.ones(layer.output_shape[0])
    dtype = torch.float16 if precision == "fp16" else torch.float32
    weight = parameters[f"{layer.name}.weight"].to(dtype)
    arguments = (
        isa,
        _flat_channels_last(weight, layer),
        scale.float(),
        parameters[f"{layer.name}.bias"].float(),
    )
    if layer.kind == "linear":
        return _native.linear(*arguments, **stored)
    geometry = layer.geometry
    assert isinstance(geometry, Geometry)
    return _native.convolution(
        *arguments,
        **stored,
        image=layer.input_shape,
        kernel=geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
    )


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
    return dict(itertools.chain.from_iterable(pairs))

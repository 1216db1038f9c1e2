"""Native routines: which of them can run a layer, how a layer is packed for one, and how a packed layer runs.

A routine's name has two parts, its algorithm and the storage of its weights: "winograd4 fp16". All routines add up
results in binary32. Routines with "bf16" also round the activations before they multiply; "winograd2 bf16" rounds
activations and weights after their transforms. Routines with "split" take each binary16 number as the sum of two
bfloat16 numbers, which is exact.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision import _native
from pipeline.precision.bias_correction import corrected_bias
from pipeline.precision.plan import Dtype, Layer, windows
from pipeline.precision.rounding import LARGEST_HALF, widen

# Additional algorithms of some instruction sets, by precision.
IN_PAIRS = {"bf16": ("direct", "product", "winograd2"), "split": ("direct", "product")}
# "portable" is always available, even if PARSIMONY_WITHOUT names it.
INSTRUCTION_SETS = ("amx_bf16", "avx512_bf16", "avx512_fp16", "avx512", "avx2", "neon", "portable")
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


def instruction_sets() -> list[str]:
    """The instruction sets with routines that this processor can run, best first.

    Raises:
        ConfigError: If PARSIMONY_WITHOUT, a list of names separated by commas, has an unknown name.
    """
    for name in filter(None, os.environ.get("PARSIMONY_WITHOUT", "").split(",")):
        if name not in INSTRUCTION_SETS:
            raise ConfigError(
                f"PARSIMONY_WITHOUT leaves out {name!r}; wanted names among {', '.join(INSTRUCTION_SETS)}, with commas "
                "and no spaces between them"
            )
    return list(_native.instruction_sets())


def candidates(layer: Layer, instruction_set: str) -> tuple[str, ...]:
    """The routines that can run a layer; the first of a precision is its most general one.

    Weights that are stored as float32 have float32 routines only, since the plan does not have them rounded.
    """
    if not layer.has_weights:
        return (ROUTINES.get(layer.kind, "windows"),)
    names = []
    for algorithm in _algorithms(layer, instruction_set):
        base, _, suffix = algorithm.partition("_")
        names += [f"{base} {suffix}"] if suffix else [f"{base} fp16", f"{base} fp32"]
    return tuple(name for name in names if layer.weight_dtype == "float16" or name.endswith("fp32"))


def all_routines(layer: Layer) -> tuple[str, ...]:
    """The routines of all instruction sets, on this machine or not, for a layer whose weights are float16."""
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


def empty_results(batch: int, layer: Layer) -> Tensor:
    """Return an empty tensor for a layer's results for so many samples."""
    dtype = torch.float16 if layer.output_dtype == "float16" else torch.float32
    return torch.empty(batch, math.prod(layer.output_shape), dtype=dtype, device="cpu")


def channels_last(x: Tensor) -> Tensor:
    """Order activations as routines want them, shape (n, ...)."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(1) if x.ndim == 4 else x.contiguous()


def channels_first(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Order what routines have written as torch does, shape (n, *shape)."""
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
        corrected_bias(layer, parameters, layer.routine),
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
    """Pack a layer that has neither rounded weights nor windows."""
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
    """Run one packed layer on tensors in torch's order, after storing them as the plan says.

    Returns:
        Shape (n, ...), as it is stored.
    """
    given = stored_as(channels_last(x), layer.input_dtype)
    added = None if addend is None else stored_as(channels_last(addend), layer.addend_dtype)
    result = empty_results(len(x), layer)
    native.run(given, result, added)
    return channels_first(result, layer.output_shape)


def stored_as(x: Tensor, dtype: Dtype) -> Tensor:
    """Round activations to the type they are stored in; those beyond binary16 become its largest number."""
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
         (f"{layer.name}.bias", corrected_bias(layer, half, "direct fp16")))
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

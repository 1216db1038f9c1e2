"""Read an ONNX file as a torch module that can be converted, so that people can bring their own network.

Only what conversion supports is read: convolution, matrix products with constant weights, normalization, rectifiers,
sums, pooling, flattening. Needs the package `onnx`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.errors import ConfigError

OPERATORS = (
    "Conv, Gemm, MatMul and Add with constants, BatchNormalization, Relu, Add, MaxPool, AveragePool, "
    "GlobalAveragePool, ReduceMean over rows and columns, Flatten, Reshape to (n, -1), Dropout, Identity"
)


def onnx_module(path: Path) -> nn.Module:
    """Build the module of an ONNX file with one input and one output.

    Raises:
        ConfigError: If the file cannot be read, `onnx` is not installed, or an operator is not supported; the sentence
            names it.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise ConfigError(f"{path}: reading ONNX needs the package onnx; pip install '.[onnx]'") from None
    try:
        model = onnx.load(str(path))
    except Exception as failure:  # protobuf's and onnx's own kinds, and those of the disk
        raise ConfigError(f"{path}: not a readable ONNX file ({failure})") from failure
    constants = {
        entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in model.graph.initializer
    }
    inputs = [entry.name for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ConfigError(
            f"{path}: has {len(inputs)} inputs and {len(model.graph.output)} outputs; wanted one of each"
        )
    reader = _Reader(path, constants, inputs[0], _n_readers(model.graph))
    for node in model.graph.node:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Constant":
            if "value" in attributes:
                found = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
            else:
                found = reader.numbers(node.output[0], attributes)
            constants[node.output[0]] = found
        else:
            reader.take(node, attributes)
    return reader.module(model.graph.output[0].name)


def _n_readers(graph: Any) -> Counter[str]:
    """How many operators read each named value; the network's output is read as well."""
    read = Counter(key for node in graph.node for key in node.input)
    return read + Counter(entry.name for entry in graph.output)


class _Reader:
    """The graph so far, and the node that computes each named value."""

    def __init__(
        self, path: Path, constants: dict[str, Tensor], given: str, n_readers: Mapping[str, int]
    ) -> None:
        self.path, self.constants, self.n_readers = path, constants, n_readers
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values = {given: self.graph.placeholder("x")}

    def take(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """Append one operator."""
        name = _identifier(node.name or node.output[0])
        operator = _OPERATORS.get(node.op_type)
        if operator is None:
            raise self.refusal(
                name, f"is a {node.op_type}, which cannot be converted; supported are {OPERATORS}"
            )
        built = operator(self, name, node, attributes)
        if isinstance(built, nn.Module):
            self.root.add_module(name, built)
            built = self.graph.call_module(name, (self.value(name, node.input[0]),))
        self.values[node.output[0]] = built

    def module(self, output: str) -> nn.Module:
        self.graph.output(self.value("output", output))
        return fx.GraphModule(self.root, self.graph).eval()

    def refusal(self, name: str, why: str) -> ConfigError:
        return ConfigError(f"{self.path}: layer {name!r} {why}")

    def value(self, name: str, key: str) -> fx.Node:
        if key not in self.values:
            raise self.refusal(
                name, f"reads {key!r}, which no layer before it gives; wanted the result of a layer"
            )
        return self.values[key]

    def constant(self, name: str, node: Any, place: int) -> Tensor | None:
        """A constant input of a node; None where it has none at that place."""
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise self.refusal(
                name, f"takes {node.input[place]!r} as weights; wanted constant ones, so export them"
            )
        return self.constants[node.input[place]]

    def numbers(self, name: str, attributes: Mapping[str, Any]) -> Tensor:
        """The constant that is written as plain numbers."""
        for kind, dtype in (("float", torch.float32), ("int", torch.int64)):
            for key in (f"value_{kind}", f"value_{kind}s"):
                if key in attributes:
                    return torch.tensor(attributes[key], dtype=dtype)
        raise self.refusal(
            name, f"is a constant by {', '.join(attributes)}; wanted numbers or a dense tensor"
        )

    def padding(self, name: str, attributes: Mapping[str, Any]) -> tuple[int, int]:
        pads, automatic = list(attributes.get("pads", (0, 0, 0, 0))), attributes.get("auto_pad", b"NOTSET")
        if automatic not in (b"NOTSET", b"VALID"):
            raise self.refusal(name, f"has auto_pad={automatic.decode()}; wanted pads in numbers")
        if pads[:2] != pads[2:]:
            raise self.refusal(name, f"pads {pads} unevenly; wanted the same on both sides")
        return pads[0], pads[1]


def _convolution(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    weight, bias = reader.constant(name, node, 1), reader.constant(name, node, 2)
    assert weight is not None
    if weight.ndim != 4:
        raise reader.refusal(
            name, f"has weights of shape {tuple(weight.shape)}; wanted two-dimensional images"
        )
    groups = attributes.get("group", 1)
    module = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        tuple(attributes.get("strides", (1, 1))),
        reader.padding(name, attributes),
        tuple(attributes.get("dilations", (1, 1))),
        groups,
        bias=bias is not None,
    )
    return _filled(module, weight=weight, bias=bias)


def _product(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    weight, bias = reader.constant(name, node, 1), reader.constant(name, node, 2)
    assert weight is not None
    if (
        attributes.get("transA", 0)
        or attributes.get("alpha", 1.0) != 1.0
        or attributes.get("beta", 1.0) != 1.0
    ):
        raise reader.refusal(name, "has transA, alpha or beta; wanted x W + b")
    weight = weight if attributes.get("transB", 0) else weight.T
    module = nn.Linear(weight.shape[1], weight.shape[0])
    return _filled(module, weight=weight, bias=torch.zeros(len(weight)) if bias is None else bias.flatten())


def _normalization(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    weight, bias, mean, variance = (reader.constant(name, node, place) for place in (1, 2, 3, 4))
    assert mean is not None
    module = nn.BatchNorm2d(len(mean), eps=attributes.get("epsilon", 1e-5))
    return _filled(module, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _sum(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> fx.Node:
    constants = [reader.constants.get(key) for key in node.input]
    if all(value is None for value in constants):
        first, second = (reader.value(name, key) for key in node.input)
        return reader.graph.call_function(torch.add, (first, second))
    # A bias that follows a product of matrices.
    place = 0 if constants[0] is not None else 1
    before = reader.value(name, node.input[1 - place])
    found = reader.root.get_submodule(str(before.target)) if before.op == "call_module" else None
    bias = constants[place]
    if (
        not isinstance(found, nn.Linear)
        or bias is None
        or bias.shape[-1:].numel() != bias.numel()
        or (bias.numel() != found.out_features)
    ):
        raise reader.refusal(name, "adds a constant to something other than a product; wanted a bias")
    if reader.n_readers[node.input[1 - place]] > 1:
        raise reader.refusal(
            name, "adds a bias to a product that others read without it; wanted a product of its own"
        )
    found.bias = nn.Parameter(found.bias.detach() + bias.flatten().float())
    return before


def _maximum(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    kernel = tuple(attributes["kernel_shape"])
    return nn.MaxPool2d(
        kernel,
        tuple(attributes.get("strides", (1, 1))),
        reader.padding(name, attributes),
        tuple(attributes.get("dilations", (1, 1))),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )


def _mean(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    if any(step != 1 for step in attributes.get("dilations", ())):
        raise reader.refusal(name, f"has dilations {list(attributes['dilations'])}; wanted a dense window")
    return nn.AvgPool2d(
        tuple(attributes["kernel_shape"]),
        tuple(attributes.get("strides", (1, 1))),
        reader.padding(name, attributes),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _global_mean(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    if node.op_type == "ReduceMean":
        axes = reader.constant(name, node, 1)
        found = attributes.get("axes", [] if axes is None else axes.tolist())
        if sorted(axis % 4 for axis in found) != [2, 3]:
            raise reader.refusal(name, f"takes the mean over axes {found}; wanted rows and columns")
        if not attributes.get("keepdims", 1):
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.AdaptiveAvgPool2d(1)


def _flattening(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    if node.op_type == "Reshape":
        shape = reader.constant(name, node, 1)
        if shape is None or len(shape) != 2 or (shape[1] != -1 and shape[0] == 0):
            raise reader.refusal(
                name, f"reshapes to {None if shape is None else shape.tolist()}; wanted (n, -1)"
            )
    elif attributes.get("axis", 1) != 1:
        raise reader.refusal(name, f"flattens from axis {attributes['axis']}; wanted 1")
    return nn.Flatten()


def _nothing(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    return nn.Identity()


def _relu(reader: _Reader, name: str, node: Any, attributes: Mapping[str, Any]) -> nn.Module:
    return nn.ReLU()


_OPERATORS: dict[str, Callable[[_Reader, str, Any, Mapping[str, Any]], nn.Module | fx.Node]] = {
    "Conv": _convolution,
    "Gemm": _product,
    "MatMul": _product,
    "BatchNormalization": _normalization,
    "Relu": _relu,
    "Add": _sum,
    "MaxPool": _maximum,
    "AveragePool": _mean,
    "GlobalAveragePool": _global_mean,
    "ReduceMean": _global_mean,
    "Flatten": _flattening,
    "Reshape": _flattening,
    "Dropout": _nothing,
    "Identity": _nothing,
}


def _filled(module: nn.Module, **values: Tensor | None) -> nn.Module:
    """A module with these parameters and statistics."""
    module.load_state_dict(
        {key: value.float() for key, value in values.items() if value is not None}, strict=False
    )
    return module


def _identifier(name: str) -> str:
    """A name that a module can have: letters, digits and underscores."""
    cleaned = "".join(c if c.isalnum() else "_" for c in name).strip("_")
    return cleaned if cleaned and not cleaned[0].isdigit() else f"layer_{cleaned}"

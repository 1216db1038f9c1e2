"""Read an ONNX file as a torch module that can be converted, so that people can bring their own network.

Each node becomes a module of its own that computes it with torch (see `onnx_operators`); its label is the node's name
in the file. The result is compared on random inputs with an independent evaluator (onnxruntime if installed, else
ONNX's reference) and refused if the two differ. Needs the package `onnx`.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.precision.onnx_network import OnnxNetwork, OnnxNode
from pipeline.precision.onnx_operators import ATTRIBUTES, OPERATORS, Refused
from pipeline.precision.onnx_verification import one_line, verify
from pipeline.precision.torch_state import plain_torch

OLDEST_OPSET = 9
CONTROL = ("If", "Loop", "Scan")


@plain_torch()
def onnx_module(path: Path, shape: Sequence[int] | None = None) -> nn.Module:
    """Build the module of an ONNX file with one input and one output, and verify it.

    Args:
        path: The file; weights kept beside it are read as well.
        shape: Shape of a sample, for files that leave it open; by default some sizes are tried. The file is verified
            again when inputs of another shape come.

    Raises:
        ConfigError: If the file cannot be read, `onnx` is not installed, an operator or one of its attributes is not
            supported (the message names the node), or an independent evaluator computes something else.
    """
    onnx, model = _loaded(path)
    inliner = _imported("onnx.inliner", path)
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as failure:  # onnx's own kinds
        raise ConfigError(f"{path}: not a readable ONNX file ({one_line(failure)})") from failure
    network = _network(path, onnx, model)
    verified = verify(path, onnx, model, network, shape)
    network.require_verified = _Verified(path, {verified})
    return network


class _Verified:
    """The shapes of inputs that a file was verified for; copies of a network share them."""

    def __init__(self, path: Path, shapes: set[tuple[int, ...]]) -> None:
        self.path, self.shapes = path, shapes

    def __deepcopy__(self, memo: Any) -> "_Verified":
        return self

    def __call__(self, shape: tuple[int, ...]) -> None:
        """Verify the file for inputs of this shape too, because operators may compute otherwise for other sizes.

        Raises:
            ConfigError: If an independent evaluator computes something else, or the file is no longer there.
        """
        if shape in self.shapes:
            return
        try:
            onnx_module(self.path, shape)
        except ConfigError as refused:
            raise ConfigError(f"inputs of shape {shape} could not be verified: {refused}") from refused
        self.shapes.add(shape)


def onnx_shapes(path: Path) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Return the shapes that a file gives for its first input that is no constant and for its first output.

    Open lengths, such as that of the batch, are None; a missing shape is empty. Weights that are kept beside the file
    are not read.

    Raises:
        ConfigError: If the file cannot be read, or `onnx` is not installed.
    """
    _, model = _loaded(path, weights=False)
    constants = {entry.name for entry in model.graph.initializer}
    given = [entry for entry in model.graph.input if entry.name not in constants]

    def told(entries: Any) -> tuple[int | None, ...]:
        lengths = [dim.dim_value for entry in entries[:1] for dim in entry.type.tensor_type.shape.dim]
        # Some exporters write -1 for a length that they leave open.
        return tuple(length if length > 0 else None for length in lengths)

    return told(given), told(model.graph.output)


def _imported(module: str, path: Path) -> Any:
    """Import a module of onnx; raise ConfigError if it is missing, as in versions of onnx other than the wanted one."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        lacking = "" if module == "onnx" or error.name == "onnx" else f" with {module}"
        raise ConfigError(
            f"{path}: reading ONNX needs the package onnx{lacking}; pip install '.[onnx]'"
        ) from None


def _loaded(path: Path, *, weights: bool = True) -> tuple[Any, Any]:
    """Return the package `onnx`, and what it read."""
    onnx = _imported("onnx", path)
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except Exception as failure:  # protobuf's and onnx's own exceptions, and those of the disk
        raise ConfigError(f"{path}: not a readable ONNX file ({one_line(failure)})") from failure
    # From an empty file protobuf makes an empty network.
    if not model.graph.node:
        empty = path.stat().st_size == 0
        what = "is empty: a file of 0 bytes" if empty else "holds no network: its graph has no nodes"
        raise ConfigError(f"{path}: {what}; export the network again")
    return onnx, model


def _network(path: Path, onnx: Any, model: Any) -> OnnxNetwork:
    graph = model.graph
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise ConfigError(
            f"{path}: uses operator set {opset}; wanted {OLDEST_OPSET} or newer, so convert it with "
            "onnx.version_converter"
        )
    if graph.sparse_initializer:
        raise ConfigError(f"{path}: has sparse initializers; wanted dense ones, so export it without them")
    constants = {entry.name: _constant(path, onnx, entry) for entry in graph.initializer}
    inputs = [entry.name for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ConfigError(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs; wanted one of each"
        )
    known = {inputs[0], "", *constants}
    steps: list[tuple[OnnxNode, Sequence[str], Sequence[str]]] = []
    second: dict[str, str] = {}
    for node in graph.node:
        label = node.name or next(iter(node.output), node.op_type)
        attributes = _attributes(path, onnx, node, label)
        for key in node.input:
            if key in second:
                raise ConfigError(
                    f"{path}: layer {label!r} reads {key!r}, which is a second result of layer {second[key]!r}; wanted "
                    "only its first to be read"
                )
            if key not in known:
                raise ConfigError(
                    f"{path}: layer {label!r} reads {key!r}, which no layer before it gives; wanted a layer's result"
                )
        if node.op_type == "Split":
            attributes.setdefault("num_outputs", len(node.output))
        n_outputs = len(node.output) if node.op_type == "Split" else 1
        known |= set(node.output[:n_outputs])
        second |= dict.fromkeys(node.output[n_outputs:], label)
        second.pop("", None)
        if node.op_type == "Constant":
            constants[node.output[0]] = _given(path, label, attributes)
            continue
        steps.append((OnnxNode(label, node.op_type, attributes, opset), node.input, node.output))
    if graph.output[0].name not in known:
        raise ConfigError(f"{path}: no layer gives its output {graph.output[0].name!r}")
    return OnnxNetwork(inputs[0], graph.output[0].name, constants, steps).eval()


def _given(path: Path, label: str, attributes: Mapping[str, Any]) -> Tensor:
    try:
        found: Tensor = OPERATORS["Constant"](**attributes)
    except Refused as refused:
        raise ConfigError(f"{path}: layer {label!r} (Constant) {refused}") from None
    return found


def _constant(path: Path, onnx: Any, entry: Any) -> Tensor:
    try:
        return _tensor(onnx, entry)
    except (ValueError, TypeError, KeyError) as failure:
        raise ConfigError(
            f"{path}: constant {entry.name!r} of shape {tuple(entry.dims)} cannot be read ({one_line(failure)}); "
            "export the network again"
        ) from None


def _tensor(onnx: Any, entry: Any) -> Tensor:
    """Return a constant; floating-point numbers become float32, like those between nodes."""
    array = np.array(onnx.numpy_helper.to_array(entry))
    if array.dtype.kind not in "iub":
        array = array.astype(np.float32)
    return torch.from_numpy(array)


def _attributes(path: Path, onnx: Any, node: Any, label: str) -> dict[str, Any]:
    """Return a node's attributes; its operator must know all of them."""
    if node.domain not in ("", "ai.onnx"):
        raise ConfigError(
            f"{path}: layer {label!r} is a {node.op_type} of the domain {node.domain!r}, whose meaning only that "
            "domain knows; wanted ONNX's own operators, so export it without them"
        )
    if node.op_type not in OPERATORS:
        why = "decides or repeats at run time" if node.op_type in CONTROL else "cannot be converted"
        raise ConfigError(
            f"{path}: layer {label!r} is a {node.op_type}, which {why}; supported are {', '.join(sorted(OPERATORS))}"
        )
    found = {}
    for entry in node.attribute:
        if entry.name not in ATTRIBUTES[node.op_type] or entry.name == "opset":
            raise ConfigError(
                f"{path}: layer {label!r} ({node.op_type}) has an attribute {entry.name!r} that is not understood "
                f"here; known are {', '.join(sorted(ATTRIBUTES[node.op_type])) or 'none'}"
            )
        try:
            value = onnx.helper.get_attribute_value(entry)
            if isinstance(value, bytes):
                value = value.decode()
            elif entry.type == onnx.AttributeProto.TENSOR:
                value = _tensor(onnx, value)
        except (ValueError, TypeError, KeyError) as failure:
            raise ConfigError(
                f"{path}: layer {label!r} ({node.op_type}) has an attribute {entry.name!r} that cannot be read "
                f"({one_line(failure)}); export the network again"
            ) from None
        found[entry.name] = value
    return found

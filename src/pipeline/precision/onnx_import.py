"""Read an ONNX file as a torch module that can be converted, so that people can bring their own network.

Each node becomes a module of its own that computes it with torch (see `onnx_operators`), called by our names and
labelled with the file's. What was read is run against an independent evaluator, onnxruntime where it is installed and
else ONNX's reference, on random inputs, and refused if the two differ. Needs the package `onnx`.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.precision.onnx_operators import ATTRIBUTES, OPERATORS, Refused

OLDEST_OPSET = 9
N_INPUTS = 2  # random ones, each a batch of its own
# Both sides add up binary32 products in some order; a network of hundreds of layers amplifies that to some 1e-5.
LARGEST_DIFFERENCE = 1e-3
LARGEST_DIFFERENCE_HALF = 3e-2  # a file in binary16 is evaluated in binary16
SIZES = (64, 224, 32, 128)  # tried where the file leaves the size of its images open
CONTROL = ("If", "Loop", "Scan")


def onnx_module(path: Path, shape: Sequence[int] | None = None) -> nn.Module:
    """Build the module of an ONNX file with one input and one output, and verify it.

    Args:
        path: The file; weights kept beside it are read as well.
        shape: Shape of a sample, for files that leave it open; some sizes are tried otherwise.

    Raises:
        ConfigError: If the file cannot be read, `onnx` is not installed, an operator or one of its attributes is not
            supported (the sentence names the node), or an independent evaluator computes something else.
    """
    onnx, model = _loaded(path)
    inliner = _imported("onnx.inliner", path)
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as failure:  # onnx's own kinds
        raise ConfigError(f"{path}: not a readable ONNX file ({_line(failure)})") from failure
    network = _network(path, onnx, model)
    _verify(path, onnx, model, network, shape)
    return network


def onnx_shapes(path: Path) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Return the shapes of a file's first input that is no constant and of its first output, as the file tells them.

    Lengths that it leaves open are None, that of the batch among them; a shape that it does not tell is empty. Weights
    that are kept beside the file are not read.

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
    """Import a module of onnx, or raise ConfigError: another version of it than is wanted may not have all."""
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
    except Exception as failure:  # protobuf's and onnx's own kinds, and those of the disk
        raise ConfigError(f"{path}: not a readable ONNX file ({_line(failure)})") from failure
    # Of no bytes protobuf makes a network of nothing.
    if not model.graph.node:
        empty = path.stat().st_size == 0
        what = "is empty: a file of 0 bytes" if empty else "holds no network: its graph has no nodes"
        raise ConfigError(f"{path}: {what}; export the network again")
    return onnx, model


class OnnxNode(nn.Module):
    """One node: its operator, its attributes, and the name that the file has for it."""

    def __init__(self, label: str, operator: str, attributes: Mapping[str, Any], opset: int) -> None:
        super().__init__()
        self.label, self.operator = label, operator
        self.attributes = dict(attributes) | ({"opset": opset} if "opset" in ATTRIBUTES[operator] else {})

    def forward(self, *inputs: Tensor | None) -> Any:
        """Compute the node's outputs: a tensor, or a tuple of them."""
        try:
            return OPERATORS[self.operator](*inputs, **self.attributes)
        except Refused as refused:
            raise ConfigError(f"layer {self.label!r} ({self.operator}) {refused}") from None


class OnnxNetwork(nn.Module):
    """The nodes in their order, and the constants that they read."""

    def __init__(
        self,
        given: str,
        result: str,
        constants: Mapping[str, Tensor],
        steps: Sequence[tuple[OnnxNode, Sequence[str], Sequence[str]]],
    ) -> None:
        super().__init__()
        self.given, self.result = given, result
        self.constants = {name: f"constant_{number}" for number, name in enumerate(constants)}
        for name, key in self.constants.items():
            self.register_buffer(key, constants[name])
        self.alone = False  # whether a sample must come by itself, since constants hold a batch of one
        self.wiring = [(list(inputs), list(outputs)) for _, inputs, outputs in steps]
        self.nodes = nn.ModuleList(node for node, _, _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network."""
        if self.alone and len(x) > 1:
            return torch.cat([self(part) for part in torch.split(x, 1)])
        values: dict[str, Any] = {name: getattr(self, key) for name, key in self.constants.items()}
        values[self.given] = x
        for node, (inputs, outputs) in zip(self.nodes, self.wiring, strict=True):
            found = node(*(values[key] if key else None for key in inputs))
            found = found if isinstance(found, tuple | list) else (found,)
            values |= dict(zip(outputs, found, strict=False))
        return values[self.result]  # type: ignore[no-any-return]


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
    steps = []
    for node in graph.node:
        label = node.name or next(iter(node.output), node.op_type)
        attributes = _attributes(path, onnx, node, label)
        for key in node.input:
            if key not in known:
                raise ConfigError(
                    f"{path}: layer {label!r} reads {key!r}, which no layer before it gives; wanted a layer's result"
                )
        if node.op_type == "Split":
            attributes.setdefault("num_outputs", len(node.output))
        known |= set(node.output)
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
            f"{path}: constant {entry.name!r} of shape {tuple(entry.dims)} cannot be read ({_line(failure)}); export "
            "the network again"
        ) from None


def _tensor(onnx: Any, entry: Any) -> Tensor:
    """A constant; halves become float32, which holds them."""
    array = np.array(onnx.numpy_helper.to_array(entry))
    if array.dtype.kind not in "fiub":
        array = array.astype(np.float32)  # bfloat16 and its like
    tensor = torch.from_numpy(array)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _attributes(path: Path, onnx: Any, node: Any, label: str) -> dict[str, Any]:
    """A node's attributes, all of which its operator must know."""
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
        value = onnx.helper.get_attribute_value(entry)
        if entry.name not in ATTRIBUTES[node.op_type] or entry.name == "opset":
            raise ConfigError(
                f"{path}: layer {label!r} ({node.op_type}) has an attribute {entry.name!r} that is not understood "
                f"here; known are {', '.join(sorted(ATTRIBUTES[node.op_type])) or 'none'}"
            )
        if isinstance(value, bytes):
            value = value.decode()
        elif entry.type == onnx.AttributeProto.TENSOR:
            value = _tensor(onnx, value)
        found[entry.name] = value
    return found


def _verify(path: Path, onnx: Any, model: Any, network: OnnxNetwork, shape: Sequence[int] | None) -> None:
    """Run the file by an evaluator that knows nothing of this module."""
    evaluator, name = _evaluator(path, onnx, model)
    given = next(entry for entry in model.graph.input if entry.name == network.given)
    dtype = _type_of(path, onnx, given)
    generator = np.random.default_rng(0)
    failure: Exception | None = None
    for size in _shapes(given, shape):
        arrays = [generator.standard_normal(size).astype(dtype) for _ in range(N_INPUTS)]
        results = _results(path, network, arrays)
        try:
            wanted = [np.asarray(evaluator(network.given, array), dtype=np.float64) for array in arrays]
        except Exception as found:  # of many kinds: onnxruntime's, numpy's, and the reference's own
            failure = found
            continue
        break
    else:
        raise ConfigError(
            f"{path}: {name} cannot run it ({_line(failure)}), so what is read here could not be verified; look at the "
            "file with onnx.checker"
        )
    if isinstance(results, Exception):
        raise ConfigError(
            f"{path}: cannot be read here ({_line(results)}), though {name} runs it; please report the file"
        ) from results
    limit = LARGEST_DIFFERENCE_HALF if dtype == np.float16 else LARGEST_DIFFERENCE
    for result, exact in zip(results, wanted, strict=True):
        same = result.shape == exact.shape
        norm = float(np.linalg.norm(exact)) or 1.0
        difference = float(np.linalg.norm(result - exact)) / norm if same else math.inf
        if not difference <= limit and not (same and np.array_equal(result, exact, equal_nan=True)):
            raise ConfigError(
                f"{path}: for a random input it gives numbers of norm {np.linalg.norm(result):.6g} and shape "
                f"{result.shape} here, and {np.linalg.norm(exact):.6g} and {exact.shape} by {name}, which differ by "
                f"{difference:.2g} of the latter's norm; what is read here is not the file's network, please report it"
            )
    if arrays[0].shape[0] == 1:  # as exporters write it that were not told that a batch may be of any size
        together = _results(path, network, [np.concatenate(arrays)])
        network.alone = isinstance(together, Exception) or not np.allclose(
            together[0], np.concatenate(results), rtol=limit, atol=limit, equal_nan=True
        )


def _type_of(path: Path, onnx: Any, given: Any) -> np.dtype[Any]:
    """The type of the input's numbers; raises ConfigError if it is none, or if the input's dimensions are not told."""
    kind = given.type.tensor_type.elem_type
    known = {number: name for name, number in onnx.TensorProto.DataType.items()}
    if kind not in known or known[kind] in ("UNDEFINED", "STRING"):
        raise ConfigError(
            f"{path}: its input {given.name!r} is of type {known.get(kind, kind)}; wanted numbers such as FLOAT, so "
            "export the network with such an input"
        )
    if not given.type.tensor_type.shape.dim:
        raise ConfigError(
            f"{path}: does not tell how many dimensions its input {given.name!r} has; export the network with the "
            "input's shape"
        )
    found: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return found


def _results(path: Path, network: OnnxNetwork, arrays: Sequence[Any]) -> list[Any] | Exception:
    """What the module gives, or why it doesn't run on such arrays; refusals of a node are raised."""
    try:
        with torch.no_grad():
            return [network(torch.from_numpy(array).float()).double().numpy() for array in arrays]
    except ConfigError as refused:
        raise ConfigError(f"{path}: {refused}") from None
    except (RuntimeError, ValueError, TypeError, IndexError) as found:
        return found


def _evaluator(path: Path, onnx: Any, model: Any) -> tuple[Any, str]:
    """What runs the file: a function of an input's name and array, and its name."""
    try:
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # not installed, or one that takes fewer files: two nodes of one name, for instance
        reference: Any = importlib.import_module("onnx.reference")
        evaluator = reference.ReferenceEvaluator(model)
        return lambda key, x: evaluator.run(None, {key: x})[0], "ONNX's reference evaluator"
    return lambda key, x: session.run(None, {key: x})[0], "onnxruntime"


def _shapes(given: Any, shape: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Shapes to run the input with: the file's own, and where it leaves them open a batch of 2 and some sizes."""
    # Some exporters write -1 for a length that they leave open.
    dims = [max(dim.dim_value, 0) for dim in given.type.tensor_type.shape.dim]
    if shape is not None and len(dims) == len(shape) + 1:
        return [(dims[0] or 2, *(dim or own for dim, own in zip(dims[1:], shape, strict=True)))]
    if all(dims[1:]):
        return [(dims[0] or 2, *dims[1:])]
    images = (
        [(dims[0] or 2, dims[1] or 3, *(dim or size for dim in dims[2:])) for size in SIZES]
        if len(dims) > 1
        else []
    )
    return images or [tuple(dim or 2 for dim in dims)]


def _line(failure: Exception | None) -> str:
    return " ".join(str(failure).split())[:200]

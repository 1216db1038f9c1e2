"""Write a plan as an ONNX model, with binary16 or float32 weights, for engines that read ONNX.

Values are images in torch's order, as ONNX has them; where a layer reads a result as another shape, the numbers are
re-ordered as the native layers see them, channels last. Weights in binary16 are cast to float32 by the model itself, so
every engine gives the network's answers with float32 activations. Values are numbered: the layers' own names, which
need not suit ONNX, become names of nodes.
"""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.precision.bias_correction import corrected_bias
from pipeline.precision.network import HalfNetwork
from pipeline.precision.plan import INPUT, Layer, windows
from pipeline.precision.reference import places
from pipeline.precision.torch_state import plain_torch

OPSET = 17  # the first with LayerNormalization
PLAN_KEY = "parsimony.plan"
LARGEST_MODEL = 2**31  # bytes: what one protocol buffer holds


def export_onnx(network: HalfNetwork, path: Path) -> None:
    """Write a converted network with its weights as they are stored, and its plan as metadata.

    Args:
        network: The network to write.
        path: The file to write; weights of more than 2 GiB go to a file beside it, PATH.data.

    Raises:
        ConfigError: If the package onnx is missing.
    """
    onnx = _onnx()
    model = onnx_model(network.layers, network.tensors(), metadata={PLAN_KEY: json.dumps(network.plan())})
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.tensors().values())
    beside = (
        {"save_as_external_data": True, "location": f"{path.name}.data"} if size > LARGEST_MODEL // 2 else {}
    )
    onnx.save(model, str(path), **beside)


@plain_torch()
def onnx_model(
    layers: Sequence[Layer],
    parameters: Mapping[str, Tensor],
    *,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Build the model of a plan.

    Args:
        layers: The plan.
        parameters: `NAME.weight`, `NAME.bias` and `NAME.index`, and `NAME.bias_correction` where there is one. Weights
            that are float16 stay so and get their scale in the model; float32 ones are complete.
        batch: How many samples the model takes; any number if None.
        metadata: Keys and values of the model's metadata.

    Returns:
        An `onnx.ModelProto` with one input "input" and one output "output".

    Raises:
        ConfigError: If the package onnx is missing.
    """
    onnx = _onnx()
    graph = _Graph(onnx)
    values = {INPUT: ("input", layers[0].input_shape)}
    for layer in layers:
        result = graph.layer(layer, parameters, values)
        values[layer.name] = (result, layer.output_shape)
    graph.node("Identity", [values[layers[-1].name][0]], output="output")
    axis = "batch" if batch is None else batch
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (axis, *shape))
        for name, shape in (("input", layers[0].input_shape), ("output", layers[-1].output_shape))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "network", ends[:1], ends[1:], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="parsimony",
    )
    onnx.helper.set_model_props(model, dict(metadata or {}))
    return model


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ConfigError("writing ONNX needs the package onnx; pip install '.[onnx]'") from None


NamedShape = tuple[str, tuple[int, ...]]  # its name, and its shape without the batch


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(
        self, operator: str, inputs: Sequence[str], *, output: str = "", label: str = "", **attributes: Any
    ) -> str:
        """Add a node of one output; return the output's name."""
        number = len(self.nodes)
        output = output or f"v{number}"
        self.nodes.append(
            self.onnx.helper.make_node(
                operator, inputs, [output], name=f"{number} {label}".strip(), **attributes
            )
        )
        return output

    def constant(self, value: Tensor | np.ndarray | Sequence[int] | float) -> str:
        """Add an initializer: whole numbers are int64, and fractions float32 unless they are float16."""
        array = value.detach().contiguous().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype != np.float16:
            array = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def rows_of(self, value: NamedShape) -> str:
        """The numbers as native layers keep them: (n, numbers), channels last."""
        name, shape = value
        if len(shape) == 1:
            return name
        if math.prod(shape[1:]) > 1:
            name = self.node("Transpose", [name], perm=[0, 2, 3, 1])
        return self.node("Flatten", [name], axis=1)

    def seen_as(self, value: NamedShape, shape: tuple[int, ...]) -> str:
        """Name a tensor of the same numbers as images of another shape."""
        if value[1] == shape:
            return value[0]
        flat = self.rows_of(value)
        if len(shape) == 1:
            return flat
        channels, rows, columns = shape
        if rows * columns == 1:
            return self.node("Reshape", [flat, self.constant([0, channels, 1, 1])])
        image = self.node("Reshape", [flat, self.constant([0, rows, columns, channels])])
        return self.node("Transpose", [image], perm=[0, 3, 1, 2])

    def layer(self, layer: Layer, parameters: Mapping[str, Tensor], values: Mapping[str, NamedShape]) -> str:
        """Add a layer; return the name of its result."""
        given = values[layer.source]
        addend = None if layer.addend is None else values[layer.addend]
        if layer.kind in ("multiply", "scale", "gather", "matmul"):
            result = self.of_two(layer, parameters, given, addend)
        else:
            result = self.of_one(layer, parameters, self.seen_as(given, layer.input_shape))
            if addend is not None:
                result = self.node("Add", [result, self.seen_as(addend, layer.output_shape)])
        if layer.function:
            return self.function(layer, result)
        return self.node("Relu", [result], label=layer.name) if layer.relu else result

    def of_one(self, layer: Layer, parameters: Mapping[str, Tensor], x: str) -> str:
        """Add what a layer does with its input before the addend and the ReLU."""
        if layer.kind in ("add", "activation"):
            return x
        if layer.kind == "softmax":
            return self.node("Softmax", [x], axis=1, label=layer.name)
        if layer.is_normalization:
            affine = [self.constant(parameters[f"{layer.name}.{part}"]) for part in ("weight", "bias")]
            image = len(layer.input_shape) == 3
            x = self.node("Transpose", [x], perm=[0, 2, 3, 1]) if image else x
            attributes: dict[str, Any] = {"axis": -1, "epsilon": layer.epsilon}
            x = self.node("LayerNormalization", [x, *affine], label=layer.name, **attributes)
            return self.node("Transpose", [x], perm=[0, 3, 1, 2]) if image else x
        if layer.has_weights:
            affine = [
                self.weight(layer, parameters),
                self.constant(corrected_bias(layer, parameters, "direct fp16")),
            ]
            if layer.kind == "linear":
                x = self.node("Flatten", [x], axis=1) if len(layer.input_shape) > 1 else x
                return self.node("Gemm", [x, *affine], transB=1, label=layer.name)
            geometry = layer.geometry
            assert geometry is not None
            return self.node(
                "Conv",
                [x, *affine],
                label=layer.name,
                kernel_shape=list(geometry.kernel),
                strides=list(geometry.stride),
                dilations=list(geometry.dilation),
                group=geometry.groups,
                pads=list(geometry.paddings),
            )
        return self.pooling(layer, x)

    def weight(self, layer: Layer, parameters: Mapping[str, Tensor]) -> str:
        """A layer's weights in float32, from what is stored."""
        weight = parameters[f"{layer.name}.weight"]
        name = self.constant(weight)
        if weight.dtype != torch.float16:
            return name
        name = self.node("Cast", [name], to=self.onnx.TensorProto.FLOAT)
        if not layer.scale_exponents:
            return name
        scale = torch.tensor([2.0**e for e in layer.scale_exponents]).view(-1, *[1] * (weight.ndim - 1))
        return self.node("Mul", [name, self.constant(scale)])

    def pooling(self, layer: Layer, x: str) -> str:
        """Pool in the windows that the layer's shapes say."""
        if layer.geometry is None:
            if layer.output_shape[1:] == (1, 1):
                return self.node("GlobalAveragePool", [x], label=layer.name)
            # Windows of unequal size: multiply by the matrices of means from both sides.
            rows, columns = (
                _means(bounds, size)
                for bounds, size in zip(windows(layer), layer.input_shape[1:], strict=True)
            )
            x = self.node("MatMul", [x, self.constant(columns.T)])
            return self.node("MatMul", [self.constant(rows), x], label=layer.name)
        geometry = layer.geometry
        top, left = geometry.padding
        # Below and to the right, the padding is what the windows reach.
        bottom, right = (
            max((count - 1) * step + width - size - before, 0)
            for count, step, width, size, before in zip(
                layer.output_shape[1:],
                geometry.stride,
                geometry.kernel,
                layer.input_shape[1:],
                geometry.padding,
                strict=True,
            )
        )
        windowed: dict[str, Any] = {"kernel_shape": list(geometry.kernel), "strides": list(geometry.stride)}
        windowed |= {"pads": [top, left, bottom, right], "label": layer.name}
        if layer.kind == "max_pool2d":
            return self.node("MaxPool", [x], **windowed)
        result = self.node("AveragePool", [x], count_include_pad=int(geometry.divisor != 0), **windowed)
        area = math.prod(geometry.kernel)
        if geometry.divisor in (0, area):
            return result
        return self.node("Mul", [result, self.constant(area / geometry.divisor)])

    def of_two(
        self, layer: Layer, parameters: Mapping[str, Tensor], given: NamedShape, addend: NamedShape | None
    ) -> str:
        """Add a layer that uses its addend otherwise than by adding it."""
        shape = layer.output_shape
        if layer.kind == "gather":
            flat = [self.rows_of(value) for value in (given, addend) if value is not None]
            both = self.node("Concat", flat, axis=1) if len(flat) > 1 else flat[0]
            # Append the zero to which place -1 refers.
            padded = self.node("Pad", [both, self.constant([0, 0, 0, 1])])
            chosen = self.node(
                "Gather", [padded, self.constant(parameters[f"{layer.name}.index"])], axis=1, label=layer.name
            )
            return self.seen_as((chosen, (math.prod(shape),)), shape)
        assert addend is not None
        if layer.kind == "matmul":
            operands = layer.operands
            assert operands is not None
            first = places(operands.offsets, operands.strides, operands.rows, operands.inner)
            second = places(
                operands.addend_offsets, operands.addend_strides, operands.inner, operands.columns
            )
            matrices = [
                self.node("Gather", [self.rows_of(value), self.constant(where)], axis=1)
                for value, where in ((given, first), (addend, second))
            ]
            product = self.node("MatMul", matrices, label=layer.name)
            scaled = self.node("Mul", [product, self.constant(layer.factor)])
            return self.seen_as((self.node("Flatten", [scaled], axis=1), (math.prod(shape),)), shape)
        by = (shape[0], 1, 1) if layer.kind == "scale" else shape
        return self.node("Mul", [self.seen_as(given, shape), self.seen_as(addend, by)], label=layer.name)

    def function(self, layer: Layer, x: str) -> str:
        """Apply the layer's function."""
        name, constants = layer.function, [self.constant(float(value)) for value in layer.constants]
        if name in PLAIN:
            return self.node(PLAIN[name], [x], label=layer.name)
        if name == "clip":
            return self.node("Clip", [x, *constants], label=layer.name)
        if name in ("leaky_relu", "elu"):
            operator = "LeakyRelu" if name == "leaky_relu" else "Elu"
            return self.node(operator, [x], alpha=layer.constants[0], label=layer.name)
        if name == "hard_sigmoid":
            return self.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5, label=layer.name)
        if name == "square":
            return self.node("Mul", [x, x], label=layer.name)
        if name == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x])], label=layer.name)
        if name == "gelu":
            inner = self.node("Erf", [self.node("Mul", [x, self.constant(math.sqrt(0.5))])])
        elif name == "gelu_tanh":
            cube = self.node("Mul", [self.node("Mul", [x, x]), x])
            sum_ = self.node("Add", [x, self.node("Mul", [cube, self.constant(0.044715)])])
            inner = self.node("Tanh", [self.node("Mul", [sum_, self.constant(math.sqrt(2 / math.pi))])])
        else:
            raise ValueError(f"layer {layer.name!r} has a function {name!r} that cannot be written as ONNX")
        half = self.node("Mul", [x, self.constant(0.5)])
        return self.node("Mul", [half, self.node("Add", [inner, self.constant(1.0)])], label=layer.name)


# Functions that are one operator without attributes.
PLAIN = {
    "hard_swish": "HardSwish",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "abs": "Abs",
    "log": "Log",
    "erf": "Erf",
}


def _means(bounds: Sequence[tuple[int, int]], size: int) -> Tensor:
    """The matrix that takes means over windows along one axis, shape (windows, size)."""
    matrix = torch.zeros(len(bounds), size)
    for row, (start, end) in enumerate(bounds):
        matrix[row, start:end] = 1 / (end - start)
    return matrix

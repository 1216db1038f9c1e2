"""Planned layers in the format of ONNX, which onnxruntime and OpenVINO read."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.precision.plan import INPUT, Layer


def onnx_model(layers: Sequence[Layer], parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Any:
    """Write planned layers as an ONNX model, one operator per layer, sum or rectifier."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []
    names = {INPUT: "input"}

    def constant(name: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().float().contiguous().numpy(), name))
        return name

    for layer in layers:
        given, result = names[layer.source], layer.name
        steps = (layer.addend is not None and layer.kind != "add") + layer.relu
        names[layer.name] = result
        targets = [f"{result}/{i}" for i in range(steps)] + [result]
        affine = [constant(f"{layer.name}.{part}", parameters[f"{layer.name}.{part}"]) for part in ("weight", "bias")] \
            if layer.has_weights else []  # fmt: skip
        first = targets.pop(0)
        windows = _windows(layer)
        if layer.kind == "conv2d":
            assert layer.geometry is not None
            windows |= {"dilations": list(layer.geometry.dilation), "group": layer.geometry.groups}
            nodes.append(helper.make_node("Conv", [given, *affine], [first], **windows))
        elif layer.kind == "linear":
            if len(layer.input_shape) > 1:
                nodes.append(helper.make_node("Flatten", [given], [f"{result}/flat"], axis=1))
                given = f"{result}/flat"
            nodes.append(helper.make_node("Gemm", [given, *affine], [first], transB=1))
        elif layer.kind == "add":
            assert layer.addend is not None
            nodes.append(helper.make_node("Add", [given, names[layer.addend]], [first]))
        elif layer.kind == "adaptive_avg_pool2d":
            if layer.output_shape[1:] != (1, 1):
                raise ValueError(f"{layer.name}: ONNX has adaptive pooling to one pixel only")
            nodes.append(helper.make_node("GlobalAveragePool", [given], [first]))
        else:
            operator = "MaxPool" if layer.kind == "max_pool2d" else "AveragePool"
            nodes.append(helper.make_node(operator, [given], [first], **windows))
        if layer.addend is not None and layer.kind != "add":
            nodes.append(helper.make_node("Add", [first, names[layer.addend]], [first := targets.pop(0)]))
        if layer.relu:
            nodes.append(helper.make_node("Relu", [first], [targets.pop(0)]))
    output = (shape[0], *layers[-1].output_shape)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[layers[-1].name], TensorProto.FLOAT, output)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _windows(layer: Layer) -> dict[str, Any]:
    if layer.geometry is None:
        return {}
    top, left = layer.geometry.padding
    return {
        "kernel_shape": list(layer.geometry.kernel),
        "strides": list(layer.geometry.stride),
        "pads": [top, left, top, left],
    }

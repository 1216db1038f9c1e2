import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, onnx_module

GENERATOR = np.random.default_rng(0)


def constant(name, *shape, positive=False):
    values = GENERATOR.standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(np.abs(values) + 0.5 if positive else values, name)


def saved(path, nodes, constants, inputs=(2, 3, 9, 8), outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path, model


def residual(path):
    """Every operator that is read, in one network with a shortcut."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], name="/stem/Conv"),
        node("BatchNormalization", ["c1", "g", "s", "m", "v"], ["n1"], epsilon=1e-3),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=2),
        node("Add", ["c2", "r1"], ["a1"]),
        node("MaxPool", ["a1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["p1"], ["p2"], kernel_shape=[2, 2], strides=[1, 1]),
        node("Dropout", ["p2"], ["d1"]),
        node("Reshape", ["d1", "shape"], ["f1"]),
        node("MatMul", ["f1", "w3"], ["l1"]),
        node("Add", ["l1", "b3"], ["l2"]),
        node("Identity", ["l2"], ["i1"]),
        node("Gemm", ["i1", "w4", "b4"], ["y"], transB=1),
    ]
    constants = [
        constant("w1", 4, 3, 3, 3), constant("b1", 4), constant("g", 4), constant("s", 4), constant("m", 4),
        constant("v", 4, positive=True), constant("w2", 4, 2, 3, 3), constant("w3", 36, 5), constant("b3", 5),
        constant("w4", 3, 5), constant("b4", 3), numpy_helper.from_array(np.array([0, -1]), "shape"),
    ]  # fmt: skip
    return saved(path, nodes, constants)


def test_a_network_from_a_file_computes_what_onnx_says(tmp_path):
    path, model = residual(tmp_path / "network.onnx")
    x = GENERATOR.standard_normal((2, 3, 9, 8)).astype(np.float32)
    (wanted,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    module = onnx_module(path)
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_a_network_from_a_file_can_be_converted(tmp_path):
    path, _ = residual(tmp_path / "network.onnx")
    x = torch.from_numpy(GENERATOR.standard_normal((5, 3, 9, 8)).astype(np.float32))
    module = onnx_module(path)
    network = HalfNetwork.convert(module, x)
    with torch.no_grad():
        wanted = module(x)
    # Two roundings to 11 bits per layer, at most six layers deep, with random signs.
    assert ((network(x) - wanted).norm() / wanted.norm()).item() < 20 * 12 * 2.0**-11
    assert network.layers[0].name == "stem_Conv"


def test_constants_of_plain_numbers_are_read(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[0, -1]),
        helper.make_node("Reshape", ["x", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, -3.0]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    path, model = saved(tmp_path / "numbers.onnx", nodes, [constant("w", 216, 3)])
    x = GENERATOR.standard_normal((2, 3, 9, 8)).astype(np.float32)
    (wanted,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    with torch.no_grad():
        np.testing.assert_allclose(
            onnx_module(path)(torch.from_numpy(x)).numpy(), wanted, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_pixels_is_a_pooling(tmp_path, keepdims):
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=keepdims)]
    path, _ = saved(tmp_path / "mean.onnx", nodes, [])
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(onnx_module(path)(x), x.mean((2, 3), keepdim=bool(keepdims)))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Sigmoid", ["x"], ["y"], name="act")], "'act' is a Sigmoid, which cannot be converted"),
        (
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 1, 1], name="p")],
            r"'p' pads \[0, 0, 1, 1\] unevenly",
        ),
        ([helper.make_node("Flatten", ["x"], ["y"], axis=2, name="f")], "'f' flattens from axis 2"),
        ([helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], name="m")], r"'m' takes the mean over axes \[1\]"),
        ([helper.make_node("Conv", ["x", "x"], ["y"], name="c")], "'c' takes 'x' as weights"),
        ([helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0, name="g")], "'g' has transA, alpha or beta"),
        ([helper.make_node("Add", ["x", "w"], ["y"], name="a")], "'a' adds a constant"),
        (
            [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2], name="p")],
            r"'p' has dilations \[2, 2\]",
        ),
        (
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], auto_pad="SAME_UPPER", name="p")],
            "'p' has auto_pad=SAME_UPPER; wanted pads in numbers",
        ),
        (
            [
                helper.make_node("MatMul", ["x", "w"], ["m"]),
                helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
                helper.make_node("Add", ["m", "b"], ["l"], name="bias"),
                helper.make_node("Relu", ["m"], ["r"]),
                helper.make_node("Add", ["l", "r"], ["y"]),
            ],
            "'bias' adds a bias to a product that others read without it",
        ),
        ([helper.make_node("Constant", [], ["y"], value_string="a", name="s")], "'y' is a constant by value_string"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, nodes, words):
    constants = [constant("w", 3, 3)] if any("w" in node.input for node in nodes) else []
    path, _ = saved(tmp_path / "network.onnx", nodes, constants)
    with pytest.raises(ConfigError, match=words):
        onnx_module(path)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    for content in (b"", b"no network at all"):
        path = tmp_path / "network.onnx"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"network\.onnx: "):
            onnx_module(path)
    with pytest.raises(ConfigError, match="not a readable ONNX file"):
        onnx_module(tmp_path / "missing.onnx")

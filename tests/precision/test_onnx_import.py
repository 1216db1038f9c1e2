import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, onnx_module, onnx_operators
from pipeline.precision.reference import reference
from pipeline.precision.trace import tensors_of, trace

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_for_every_test():
    GENERATOR.bit_generator.state = np.random.default_rng(0).bit_generator.state


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
    assert network.layers[0].name == "/stem/Conv"


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


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def converted_as_the_reference(path, model, shape, tolerance=1e-4):
    """The module and its layers give what ONNX's own evaluator does; returns the layers."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (wanted,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    module = onnx_module(path)
    with torch.no_grad():
        np.testing.assert_allclose(
            module(torch.from_numpy(x)).numpy(), wanted, rtol=tolerance, atol=tolerance
        )
    layers, parameters = trace(module, torch.from_numpy(x))
    found = reference(layers, tensors_of(parameters), torch.from_numpy(x))[-1]
    np.testing.assert_allclose(found.numpy().reshape(wanted.shape), wanted, rtol=tolerance, atol=tolerance)
    return layers


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("block/bn", "block_bn"),
        ("", "layer_2"),
        ("a", "a"),
        ("type", "half"),
        ("to", "forward"),
        ("class", "None"),
        ("x", "y"),
        ("a.weight", "a"),
        ("0", "#"),
        ("/", "."),
        ("constants", "nodes"),
        ("<b>é\n", "self"),
    ],
)
def test_a_name_is_a_label_and_nothing_else(tmp_path, first, second):
    nodes = [
        node("Conv", ["x", "w"], ["2"], name=first),
        node("BatchNormalization", ["2", "g", "s", "m", "v"], ["n"], name=second),
        node("Relu", ["n"], ["r"], name=first),
        node("Conv", ["r", "w2"], ["c"], name=second),
        node("Add", ["c", "r"], ["y"], name="add"),
    ]
    constants = [
        constant("w", 4, 3, 1, 1), constant("w2", 4, 4, 1, 1), *(constant(key, 4) for key in "gsm"),
        constant("v", 4, positive=True),
    ]  # fmt: skip
    path, model = saved(tmp_path / "network.onnx", nodes, constants)
    layers = converted_as_the_reference(path, model, (2, 3, 9, 8))
    assert len({layer.name for layer in layers}) == len(layers)
    network = HalfNetwork.convert(onnx_module(path), torch.randn(2, 3, 9, 8))
    again = HalfNetwork.from_plan(network.plan(), network.tensors())
    x = torch.randn(2, 3, 9, 8)
    assert torch.equal(network(x), again(x))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gemm", ["f", "w216", "one"], ["y"])],
        [node("Gemm", ["f", "w216", "scalar"], ["y"], alpha=2.0, beta=0.5)],
        [node("MatMul", ["x", "w8"], ["y3"]), node("ReduceMean", ["y3"], ["y"], axes=[1, 2], keepdims=0)],
        [node("MatMul", ["f", "w216"], ["m"]), node("Add", ["m", "m"], ["a"]), node("Relu", ["a"], ["y"])],
        [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2])],
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], pads=[1, 0, 0, 1], count_include_pad=1)],
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], pads=[1, 0, 0, 1])],
        [node("Conv", ["x", "w3"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2])],
        [node("Conv", ["x", "w3"], ["c"], pads=[1, 0, 0, 2]), node("HardSwish", ["c"], ["y"])],
        [node("ConvTranspose", ["x", "wt"], ["y"], strides=[2, 1], pads=[1, 0, 0, 1])],
        [node("Flatten", ["x"], ["fl"], axis=1), node("Gemm", ["fl", "w216"], ["y"])],
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        [node("Clip", ["x", "", "scalar"], ["y"])],
        [node("Shape", ["x"], ["sh"]), node("Gather", ["sh", "zero"], ["n"]), node("Unsqueeze", ["n", "zeros"], ["n1"]),
         node("Concat", ["n1", "rest"], ["to"], axis=0), node("Reshape", ["x", "to"], ["y"])],
        [node("Split", ["x"], ["a", "b", "c"], axis=1), node("Concat", ["c", "a", "b", "b"], ["y"], axis=1)],
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("LayerNormalization", ["t", "v3", "v3"], ["y"])],
        [node("Pad", ["x", "pads"], ["y"], mode="constant")],
        [node("Resize", ["x", "", "scales"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor")],
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel")],
        [node("Softmax", ["x"], ["y"], axis=1)],
        [node("InstanceNormalization", ["x", "v3", "v3"], ["y"])],
        [node("PRelu", ["x", "slope"], ["y"])],
        [node("Div", ["x", "two"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["e1"]),
         node("Mul", ["x", "e1"], ["y"])],
        [node("Constant", [], ["k"], value_floats=[1.0, 2.0, -3.0]), node("Mul", ["f3", "k"], ["y"])],
        [node("DepthToSpace", ["x12"], ["y"], blocksize=2)],
        [node("Slice", ["x", "one_i", "big", "last"], ["y"])],
    ],
)  # fmt: skip
def test_operators_are_what_onnx_says(tmp_path, nodes):
    before = {
        "f": [node("Flatten", ["x"], ["f"])],
        "f3": [node("ReduceMean", ["x"], ["f3"], axes=[2, 3], keepdims=0)],
        "x12": [node("Conv", ["x", "w12"], ["x12"])],
    }
    used = {key for one in nodes for key in one.input}
    floats = {
        "one": np.ones(1), "two": np.array(1.4142135), "scalar": np.array(0.7), "v3": np.array([1.0, 2.0, -0.5]),
        "slope": np.array([0.1, -0.2, 0.3]).reshape(3, 1, 1), "scales": np.array([1.0, 1.0, 2.0, 3.0]),
    }  # fmt: skip
    integers = {
        "zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1]), "one_i": np.array([1]),
        "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "big": np.array([2**62]), "last": np.array([-1]),
    }  # fmt: skip
    constants = [
        constant("w216", 216, 3), constant("w8", 1, 8, 4), constant("w3", 4, 3, 3, 3), constant("wt", 3, 4, 3, 3),
        constant("w12", 12, 3, 1, 1),
        *(numpy_helper.from_array(value.astype(np.float32), key) for key, value in floats.items()),
        *(numpy_helper.from_array(value.astype(np.int64), key) for key, value in integers.items()),
    ]  # fmt: skip
    nodes = [one for key, made in before.items() if key in used for one in made] + nodes
    read = {key for one in nodes for key in one.input}
    path, model = saved(tmp_path / "n.onnx", nodes, [entry for entry in constants if entry.name in read])
    shape = (2, 3, 9, 8)
    converted_as_the_reference(path, model, shape)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Hardmax", ["x"], ["y"], name="act")], "'act' is a Hardmax, which cannot be converted"),
        ([node("Conv", ["x", "w"], ["y"], name="c", blocked=1)], "'c' .* attribute 'blocked' that is not understood"),
        (
            [node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y", "rm", "rv"], training_mode=1, name="b")],
            "'b' .* statistics of the batch",
        ),
        ([node("Relu", ["x"], ["y"], name="r", domain="com.me")], "'r' is a Relu of the domain 'com.me'"),
        (
            [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2], name="p")],
            r"'p' .* dilations \[2, 2\]",
        ),
        ([node("Constant", [], ["y"], value_string="a", name="s")], "'s' .* 'value_string' that is not understood"),
        ([node("Relu", ["z"], ["y"], name="r")], "'r' reads 'z', which no layer before it gives"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, nodes, words):
    sizes = {"w": (3, 3, 1, 1), "v": (3,)}
    read = {key for one in nodes for key in one.input}
    constants = [constant(key, *size, positive=True) for key, size in sizes.items() if key in read]
    path, _ = saved(tmp_path / "network.onnx", nodes, constants)
    with pytest.raises(ConfigError, match=words):
        onnx_module(path)


def test_a_file_that_is_read_wrong_is_refused_with_both_numbers(tmp_path, monkeypatch):
    path, _ = residual(tmp_path / "network.onnx")
    monkeypatch.setitem(onnx_operators.OPERATORS, "Relu", torch.tanh)
    with pytest.raises(ConfigError, match=r"has norm \S+ and shape .* here, and \S+ .* by .*differ by"):
        onnx_module(path)


def random_graph(generator):
    """Up to eight operators on an image, with names that are hard to bear."""
    names = ["type", "a/b", "a_b", "", "None", "x", "forward", "weight", "0", "a.bias", "import", "#2"]
    nodes, constants, open_values, channels = [], [], ["x"], {"x": 4}

    def weight(*shape):
        name = f"k{len(constants)}"
        values = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for number in range(int(generator.integers(2, 9))):
        source = open_values[generator.integers(len(open_values))]
        n, out = channels[source], f"v{number}"
        other = next((key for key in reversed(open_values) if channels[key] == n and key != source), source)
        kind = generator.integers(9)
        name = names[generator.integers(len(names))]
        channels[out] = n
        if kind == 0:
            channels[out] = int(generator.integers(1, 7))
            made = node("Conv", [source, weight(channels[out], n, 3, 3)], [out], pads=[1, 1, 1, 1], name=name)
        elif kind == 1:
            made = node("Conv", [source, weight(n, 1, 3, 3)], [out], pads=[2, 0, 0, 2], group=n, name=name)
        elif kind == 2:
            spread = numpy_helper.from_array(
                np.abs(generator.standard_normal(n)).astype(np.float32) + 0.5, f"k{len(constants)}"
            )
            constants.append(spread)
            made = node(
                "BatchNormalization", [source, weight(n), weight(n), weight(n), spread.name], [out], name=name
            )
        elif kind == 3:
            function = ["Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu"][generator.integers(6)]
            made = node(function, [source], [out], name=name)
        elif kind == 4:
            made = node(["Add", "Mul", "Sub"][generator.integers(3)], [source, other], [out], name=name)
        elif kind == 5:
            channels[out] = 2 * n
            made = node("Concat", [source, other], [out], axis=1, name=name)
        elif kind == 6:
            nodes.append(node("GlobalAveragePool", [source], [f"{out}/mean"], name=name))
            made = node("Mul", [source, f"{out}/mean"], [out], name=name)
        elif kind == 7:
            made = node("MaxPool", [source], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name=name)
        else:
            made = node("Add", [source, weight(n, 1, 1)], [out], name=name)
        nodes.append(made)
        open_values.append(out)
    nodes.append(node("Identity", [open_values[-1]], ["y"], name=names[generator.integers(len(names))]))
    return nodes, constants


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_are_what_the_reference_says(tmp_path, seed):
    nodes, constants = random_graph(np.random.default_rng(seed))
    path, model = saved(tmp_path / "fuzz.onnx", nodes, constants, inputs=(2, 4, 6, 5))
    layers = converted_as_the_reference(path, model, (2, 4, 6, 5), 1e-3)
    assert len({layer.name for layer in layers}) == len(layers)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    for content in (b"", b"no network at all"):
        path = tmp_path / "network.onnx"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"network\.onnx: "):
            onnx_module(path)
    with pytest.raises(ConfigError, match="not a readable ONNX file"):
        onnx_module(tmp_path / "missing.onnx")


def test_lengths_that_a_file_leaves_open_by_minus_one(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    path, model = saved(tmp_path / "network.onnx", [node], [constant("w", 4, 3, 3, 3)], (-1, 3, -1, -1))
    x = GENERATOR.standard_normal((2, 3, 9, 8)).astype(np.float32)
    (wanted,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    found = onnx_module(path)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)

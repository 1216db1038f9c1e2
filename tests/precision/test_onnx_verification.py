"""What is read of an ONNX file is what ONNX's reference evaluator computes, for every shape and type of inputs."""

import copy
import pickle

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, onnx_module, onnx_operators

FLOAT = onnx.TensorProto.FLOAT
node = helper.make_node


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saved(path, nodes, constants=(), shape=("n", 3, "h", "w"), dtype=FLOAT, result=FLOAT, opset=17):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path, onnx.reference.ReferenceEvaluator(model)


def resized(path, factor, mode="linear"):
    scales = np.array([1, 1, factor, factor], np.float32)
    method = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        method = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return saved(path, [node("Resize", ["x", "", "s"], ["y"], **method)], {"s": scales})


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5, 2.0, 3.0])
def test_a_network_is_right_at_other_sizes_than_it_was_read_at(tmp_path, factor, mode):
    path, evaluator = resized(tmp_path / "network.onnx", factor, mode)
    module = onnx_module(path)
    for rows, columns in ((5, 7), (10, 13), (9, 8)):
        x = numbers(2, 3, rows, columns)
        (wanted,) = evaluator.run(None, {"x": x})
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), wanted, atol=1e-5)
        found = HalfNetwork.convert(nn.Sequential(module, nn.Flatten()), torch.from_numpy(x))(
            torch.from_numpy(x)
        )
        np.testing.assert_allclose(found.numpy(), wanted.reshape(2, -1), atol=5e-3)


def test_every_shape_of_inputs_is_verified_once_and_copies_know(tmp_path, monkeypatch):
    path, _ = resized(tmp_path / "network.onnx", 0.5)
    module, like = onnx_module(path), nn.functional.interpolate

    def by_size(x, scale_factor=None, size=None, **options):
        """What is right where the sizes are even."""
        return like(
            x, size=size or [int(n * f) for n, f in zip(x.shape[2:], scale_factor, strict=True)], **options
        )

    monkeypatch.setattr(nn.functional, "interpolate", by_size)
    module(torch.zeros(1, 3, 64, 64))
    module(torch.zeros(1, 3, 6, 8))
    wrapped = nn.Sequential(pickle.loads(pickle.dumps(module)), nn.Flatten())
    for call in (module, copy.deepcopy(module), wrapped, lambda x: HalfNetwork.convert(wrapped, x)):
        with pytest.raises(
            ConfigError, match=r"inputs of shape \(3, 5, 7\) could not be verified: .* differ by"
        ):
            call(torch.zeros(2, 3, 5, 7))
    path.unlink()
    module(torch.zeros(1, 3, 6, 8))
    with pytest.raises(
        ConfigError, match=r"inputs of shape \(3, 4, 4\) could not be verified: .*not a readable"
    ):
        module(torch.zeros(1, 3, 4, 4))


def test_inputs_of_another_shape_than_the_files_are_refused(tmp_path):
    path, _ = saved(
        tmp_path / "n.onnx", [node("Conv", ["x", "w"], ["y"])], {"w": numbers(4, 3, 3, 3)}, (2, 3, 6, 6)
    )
    words = r"takes inputs of shape \(n, 3, 6, 6\); found \(n, 3, 5, 5\)"
    with pytest.raises(ConfigError, match=words):
        onnx_module(path, (3, 5, 5))
    with pytest.raises(ConfigError, match=words):
        HalfNetwork.convert(onnx_module(path), torch.zeros(2, 3, 5, 5))
    with pytest.raises(ConfigError, match=r"found \(n, 3, 6\)"):
        onnx_module(path, (3, 6))


WHOLE = {
    "sums beyond the type": (node("Add", ["x", "x"], ["a"]), None),
    "products beyond the type": (node("Mul", ["x", "c"], ["a"]), 20),
    "quotients": (node("Div", ["x", "c"], ["a"]), 20),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_arithmetic_of_whole_numbers_is_not_taken_for_that_of_fractions(tmp_path, name, dtype):
    first, factor = WHOLE[name]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = {} if factor is None else {"c": np.array(factor, dtype)}
    nodes = [first, node("Cast", ["a"], ["y"], to=FLOAT)]
    path, evaluator = saved(tmp_path / "network.onnx", nodes, constants, ("n", 3, 6, 6), kind)
    x = np.random.default_rng(1).integers(0, 128, (2, 3, 6, 6)).astype(dtype)
    (wanted,) = evaluator.run(None, {"x": x})
    try:
        found = onnx_module(path)(torch.from_numpy(x).float()).numpy()
    except ConfigError as refused:
        assert "differ by" in str(refused)  # noqa: PT017
    else:
        np.testing.assert_array_equal(found, wanted)


def test_a_wrong_channel_is_not_hidden_by_a_large_one(tmp_path, monkeypatch):
    nodes = [
        node("Mul", ["x", "c"], ["large"]),
        node("Tanh", ["x"], ["small"]),
        node("Concat", ["large", "small"], ["y"], axis=1),
    ]
    path, _ = saved(tmp_path / "network.onnx", nodes, {"c": np.float32(1e4)}, ("n", 3, 6, 6))
    onnx_module(path)
    monkeypatch.setitem(onnx_operators.OPERATORS, "Tanh", torch.sigmoid)
    with pytest.raises(ConfigError, match=r"of the norm by .*, or of a channel's"):
        onnx_module(path)


@pytest.mark.parametrize("operator", ["Log", "Sqrt", "Reciprocal"])
def test_what_is_not_finite_is_so_on_both_sides(tmp_path, operator):
    nodes = [node("Clip", ["x", "low"], ["a"]), node(operator, ["a"], ["y"])]
    path, evaluator = saved(tmp_path / "network.onnx", nodes, {"low": np.float32(-0.1)}, ("n", 3, 6, 6))
    x = numbers(2, 3, 6, 6).clip(-0.2)
    with np.errstate(all="ignore"):
        (wanted,) = evaluator.run(None, {"x": x})
    np.testing.assert_allclose(onnx_module(path)(torch.from_numpy(x)).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT16", "BFLOAT16"])
def test_files_in_other_types_of_fractions_are_read(tmp_path, kind):
    kind = onnx.TensorProto.DataType.Value(kind)
    nodes = [
        node("Cast", ["x"], ["a"], to=kind),
        node("Cast", ["a"], ["b"], to=FLOAT),
        node("Conv", ["b", "w"], ["y"]),
    ]
    path, evaluator = saved(tmp_path / "cast.onnx", nodes, {"w": numbers(4, 3, 3, 3)}, ("n", 3, 6, 6))
    x = numbers(2, 3, 6, 6)
    (wanted,) = evaluator.run(None, {"x": x})
    assert np.linalg.norm(onnx_module(path)(torch.from_numpy(x)).numpy() - wanted) < 1e-2 * np.linalg.norm(
        wanted
    )
    if kind == onnx.TensorProto.DOUBLE:
        weight = numbers(4, 3, 3, 3).astype(np.float64)
        nodes = [node("Conv", ["x", "w"], ["y"])]
        path, evaluator = saved(tmp_path / "all.onnx", nodes, {"w": weight}, ("n", 3, 6, 6), kind, kind)
        (wanted,) = evaluator.run(None, {"x": x.astype(np.float64)})
        np.testing.assert_allclose(onnx_module(path)(torch.from_numpy(x)).numpy(), wanted, atol=1e-5)


def test_the_extreme_of_a_tensor_and_one_number_of_more_dimensions(tmp_path):
    nodes = [node("ReduceMax", ["x"], ["a"], axes=[2, 3], keepdims=0), node("Min", ["a", "c"], ["y"])]
    path, evaluator = saved(tmp_path / "network.onnx", nodes, {"c": np.zeros((1, 1, 1, 1), np.float32)})
    x = numbers(2, 3, 6, 6)
    (wanted,) = evaluator.run(None, {"x": x})
    np.testing.assert_array_equal(onnx_module(path)(torch.from_numpy(x)).numpy(), wanted)


def test_a_dilation_of_a_kernel_of_one_column_does_not_reach_torch(tmp_path):
    """On images of one column that lie channels last, torch 2.13 reads beyond its memory."""
    weight, method = numbers(5, 3, 2, 1), {"strides": [1, 2], "dilations": [1, 2], "pads": [1, 1, 1, 1]}
    turned = [node("Reshape", ["x", "s"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 3, 1, 2])]
    constants = {"w": weight, "b": numbers(5), "s": np.array([0, 11, 1, 3])}
    path, evaluator = saved(
        tmp_path / "n.onnx",
        [*turned, node("Conv", ["t", "w", "b"], ["y"], **method)],
        constants,
        ("n", 3, 11, 1),
    )
    x = numbers(2, 3, 11, 1)
    (wanted,) = evaluator.run(None, {"x": x})
    module = onnx_module(path)
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), wanted, atol=1e-5)
    network = HalfNetwork.convert(module, torch.from_numpy(x))
    assert {layer.geometry.dilation for layer in network.layers if layer.geometry} == {(1, 1)}
    assert np.linalg.norm(network(torch.from_numpy(x)).numpy() - wanted) < 2e-3 * np.linalg.norm(wanted)

"""Attention in ONNX files, against onnx's reference evaluator."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, onnx_module

LENGTH, WIDTH = 5, 12
MASK = np.triu(np.ones((LENGTH, LENGTH), bool))[::-1].copy()


def saved(path, nodes, constants, shape, opset):
    nodes = [*nodes, helper.make_node("Flatten", ["y"], ["z"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], held)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path)
    )
    return path


def assert_agrees(path, shape, generator):
    x = torch.randn(6, *shape, generator=generator)
    wanted = torch.from_numpy(ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": x.numpy()})[0])
    module = onnx_module(path, shape)
    assert torch.allclose(module(x), wanted, atol=1e-5)
    found = HalfNetwork.convert(module, x)(x)
    assert (found - wanted).norm() < 3e-3 * wanted.norm()


def parts(n_heads, n_kv, flat):
    """Nodes that make queries, keys and values of an input (n, LENGTH, WIDTH), with or without axes for heads."""
    generator = np.random.default_rng(0)
    nodes, constants = [], {}
    for name, heads in (("q", n_heads), ("k", n_kv), ("v", n_kv)):
        constants[f"w{name}"] = generator.standard_normal((WIDTH, heads * 4)).astype(np.float32) / 3
        nodes.append(helper.make_node("MatMul", ["x", f"w{name}"], [name if flat else f"{name}_flat"]))
        if not flat:
            constants[f"s{name}"] = np.array([0, LENGTH, heads, 4])
            nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"s{name}"], [f"{name}_apart"]))
            nodes.append(helper.make_node("Transpose", [f"{name}_apart"], [name], perm=[0, 2, 1, 3]))
    return nodes, constants


# Operator sets differ in what they allow, and are read alike whatever the heads are.
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("n_heads", "n_kv", "opset"), [(3, 3, 23), (4, 2, 24)])
@pytest.mark.parametrize("mask", [None, MASK, np.where(MASK, 0.5, -1.5).astype(np.float32)])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_attention_is_that_of_the_reference(tmp_path, generator, opset, flat, n_heads, n_kv, mask, is_causal):
    nodes, constants = parts(n_heads, n_kv, flat)
    options = {"q_num_heads": n_heads, "kv_num_heads": n_kv} if flat else {"scale": 0.3}
    if mask is not None:
        constants["mask"] = mask | np.eye(LENGTH, dtype=bool) if mask.dtype == bool else mask
    read = ["q", "k", "v", *(["mask"] if mask is not None else [])]
    nodes.append(helper.make_node("Attention", read, ["y"], is_causal=is_causal, **options))
    assert_agrees(
        saved(tmp_path / "a.onnx", nodes, constants, (LENGTH, WIDTH), opset), (LENGTH, WIDTH), generator
    )


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 0, 2])
@pytest.mark.parametrize("constant", [False, True])
def test_triangles_are_those_of_the_reference(tmp_path, generator, upper, k, constant):
    constants = {} if k is None else {"k": np.array(k)}
    if constant:  # a mask that is computed when the file is read
        constants["ones"] = np.ones((5, 7), np.float32)
    read = ["ones" if constant else "x", *constants.keys() & {"k"}]
    nodes = [
        helper.make_node("Trilu", read, ["t"], upper=upper),
        helper.make_node("Mul", ["x", "t"], ["y"]),
    ]
    assert_agrees(saved(tmp_path / "t.onnx", nodes, constants, (2, 5, 7), 17), (2, 5, 7), generator)


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"softcap": 2.0}, [], r"has softcap=2; wanted none"),
        ({}, ["", "k", "v"], "reads keys and values of earlier calls"),
    ],
)
def test_attention_that_is_not_understood_is_refused(tmp_path, options, more, words):
    nodes, constants = parts(3, 3, flat=False)
    nodes.append(helper.make_node("Attention", ["q", "k", "v", *more], ["y"], **options))
    path = saved(tmp_path / "a.onnx", nodes, constants, (LENGTH, WIDTH), 23)
    with pytest.raises(ConfigError, match=words):
        HalfNetwork.convert(onnx_module(path, (LENGTH, WIDTH)), torch.randn(2, LENGTH, WIDTH))

"""Dozens of malformed ONNX files: one line each, with the file and what is wrong in it."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ConfigError
from pipeline.precision import onnx_module

FLOAT = TensorProto.FLOAT


def tensor(name, shape=(3, 4)):
    return numpy_helper.from_array(np.full(shape, 0.5, np.float32), name)


def value(name, shape=(2, 4), kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


GEMM = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1, name="dense")


X, Y, W = value("x"), value("y", (2, 3)), tensor("w")


def model(nodes=(GEMM,), inputs=(X,), outputs=(Y,), constants=(W,), opset=17):
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


GOOD = model().SerializeToString()


def elsewhere():
    """A network whose weights are in a file that is not there."""
    found = model()
    weights = found.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="gone.bin")
    return found


def short_of_weights():
    found = model()
    found.graph.initializer[0].raw_data = found.graph.initializer[0].raw_data[:-4]
    return found


def sparse():
    found = model()
    found.graph.sparse_initializer.add()
    return found


def node(kind, inputs=("x",), **attributes):
    return helper.make_node(kind, list(inputs), ["y"], name="act", **attributes)


def alone(made, shape=(2, 4)):
    return model([made], outputs=[value("y", shape)], constants=[])


def spoilt(made, spoil):
    """A network of one node whose first attribute is spoilt."""
    found = alone(made)
    spoil(found.graph.node[0].attribute[0])
    return found


def second(kind, **attributes):
    """A network that gives the second result of a node."""
    return model([helper.make_node(kind, ["x", "w"], ["a", "y"], name="act", **attributes)])


def second_read(kind):
    nodes = [
        helper.make_node(kind, ["x"], ["a", "b"], name="act"),
        helper.make_node("Not", ["b"], ["y"], name="r"),
    ]
    return model(nodes, constants=[])


MALFORMED = {
    "empty": (b"", "is empty: a file of 0 bytes; export the network again"),
    "text": (b"no network at all", "not a readable ONNX file"),
    "cut": (GOOD[:-20], "not a readable ONNX file"),
    "an archive": (b"PK\x03\x04" + bytes(60), "not a readable ONNX file"),
    "an array": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}", "not a readable ONNX file"),
    "ones": (b"\xff" * 100, "not a readable ONNX file"),
    "weights elsewhere": (elsewhere(), "not a readable ONNX file"),
    "weights cut short": (short_of_weights(), r"constant 'w' of shape \(3, 4\) cannot be read"),
    "sparse weights": (sparse(), "has sparse initializers"),
    "old operators": (model(opset=8), "uses operator set 8; wanted 9 or newer"),
    "two inputs": (model(inputs=[value("x"), value("z")]), "has 2 inputs and 1 outputs"),
    "no input": (model(inputs=[]), "has 0 inputs and 1 outputs"),
    "two outputs": (model(outputs=[value("y"), value("x")]), "has 1 inputs and 2 outputs"),
    "no output": (model(outputs=[]), "has 1 inputs and 0 outputs"),
    "an output of no layer": (model(outputs=[value("z")]), "no layer gives its output 'z'"),
    "an input of no layer": (model(constants=[]), "'dense' reads 'w', which no layer before it gives"),
    "an unknown operator": (alone(node("Hardmax")), "'act' is a Hardmax, which cannot be converted"),
    "an operator that decides": (alone(node("If")), "'act' is a If, which decides or repeats at run time"),
    "another domain": (alone(node("Relu", domain="com.me")), "of the domain 'com.me'"),
    "an unknown attribute": (
        alone(node("Relu", slope=1.0)),
        "has an attribute 'slope' that is not understood",
    ),
    "weights of a wrong shape": (model(constants=[tensor("w", (3, 5))]), "cannot run it"),
    "words for numbers": (
        model(inputs=[value("x", kind=TensorProto.STRING)]),
        "input 'x' is of type STRING; wanted numbers",
    ),
    "an unknown type": (model(inputs=[value("x", kind=99)]), "input 'x' is of type 99; wanted"),
    "no shape": (
        model(inputs=[helper.make_tensor_value_info("x", FLOAT, None)]),
        "how many dimensions its input 'x' has",
    ),
    "a second result": (second("LayerNormalization"), "no layer gives its output 'y'"),
    "a second result that is read": (
        second_read("Dropout"),
        "'r' reads 'b', which is a second result of layer 'act'",
    ),
    "words that are none": (alone(node("Gelu", approximate=b"\xff")), "'approximate' that cannot be read"),
    "an attribute that refers": (
        spoilt(node("LeakyRelu", alpha=0.1), lambda one: setattr(one, "ref_attr_name", "beta")),
        "has an attribute 'alpha' that cannot be read",
    ),
    "a constant that is short": (
        spoilt(node("Constant", (), value=tensor("c")), lambda one: one.t.dims.append(7)),
        "has an attribute 'value' that cannot be read",
    ),
    "a constant of words": (
        alone(node("Constant", (), value=helper.make_tensor("c", TensorProto.STRING, [1], [b"a"]))),
        "has an attribute 'value' that cannot be read",
    ),
    "an attribute of no type": (
        spoilt(node("LeakyRelu", alpha=0.1), lambda one: one.ClearField("type")),
        "'alpha' that cannot be read|cannot read it|cannot run it",
    ),
    "blocks of no size": (alone(node("SpaceToDepth", blocksize=0)), "cannot run it"),
    "no weights": (alone(node("Conv", ("x", ""))), "cannot run it"),
    "more numbers than there are": (
        model([node("Relu")], [value("x", (2**40, 2**20))], constants=[]),
        "more than 268435456 numbers",
    ),
    "no type": (model(inputs=[onnx.ValueInfoProto(name="x")]), "input 'x' is of type UNDEFINED"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_line(tmp_path, name):
    content, words = MALFORMED[name]
    path = tmp_path / "network.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(ConfigError, match=words) as error:
        onnx_module(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_the_network_that_the_cases_spoil_is_a_good_one(tmp_path):
    (tmp_path / "network.onnx").write_bytes(GOOD)
    assert onnx_module(tmp_path / "network.onnx").result == "y"


@pytest.mark.parametrize("module", ["onnx", "onnx.inliner"])
def test_a_part_of_onnx_that_is_missing_is_no_mistake_of_the_file(tmp_path, monkeypatch, module):
    (tmp_path / "own.onnx").write_bytes(GOOD)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=rf"own.onnx: reading ONNX needs .*{module}; pip install '.\[onnx\]'"
    ):
        onnx_module(tmp_path / "own.onnx")

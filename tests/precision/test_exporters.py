"""Files of both of torch's exporters, of every operator set that they write, and weights in files of their own."""

import warnings

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, onnx_module

NEWEST = onnx.defs.onnx_opset_version()


class Mixed(nn.Module):
    """Whatever exporters write in several nodes, or otherwise in other operator sets."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU6())
        self.norm, self.gate = nn.LayerNorm(8), nn.Linear(8, 8)
        self.wide = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        n, c, rows, columns = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        x = x * torch.sigmoid(self.gate(tokens.mean(1)))[:, :, None, None]
        left, right = x.split(4, 1)
        x = torch.cat((functional.gelu(left), functional.silu(right)), 1)
        x = x.view(n, 2, c // 2, rows, columns).transpose(1, 2).reshape(n, c, rows, columns)
        x = functional.interpolate(self.wide(x), scale_factor=2.0, mode="bilinear")
        return self.head(functional.pad(x, (1, 0, 0, 1)).amax((2, 3))).softmax(1)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 3, 8, 6))  # statistics that are not those of the beginning
    return module.eval(), torch.randn(2, 3, 8, 6)


def assert_read(path, module, x):
    """The file computes what the module does, whatever the number of samples."""
    read = onnx_module(path)
    with torch.no_grad():
        for part in (x, x[:1]):
            torch.testing.assert_close(read(part), module(part), rtol=1e-4, atol=1e-5)


def exported(module, x, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter warns of is its own
        torch.onnx.export(module, (x,), str(path), input_names=["x"], verbose=False, **options)
    return path


@pytest.mark.parametrize("opset", range(11, 21))
def test_the_exporter_that_traces(mixed, tmp_path, opset):
    module, x = mixed
    axes = {"x": {0: "n"}}
    path = exported(module, x, tmp_path / "n.onnx", dynamo=False, opset_version=opset, dynamic_axes=axes)
    assert onnx.load(str(path)).opset_import[0].version == opset
    assert_read(path, module, x)


def test_the_exporter_of_captured_programs(mixed, tmp_path):
    module, x = mixed
    shapes = ({0: torch.export.Dim("n")},)
    path = exported(module, x, tmp_path / "n.onnx", dynamo=True, dynamic_shapes=shapes)
    assert_read(path, module, x)


@pytest.mark.parametrize("opset", range(21, NEWEST + 1))
def test_operator_sets_that_no_exporter_writes_yet(mixed, tmp_path, opset):
    module, x = mixed
    path = exported(
        module, x, tmp_path / "n.onnx", dynamo=False, opset_version=20, dynamic_axes={"x": {0: "n"}}
    )
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(path)), opset), str(path))
    assert_read(path, module, x)


def test_weights_in_a_file_of_their_own(mixed, tmp_path):
    module, x = mixed
    path = exported(module, x, tmp_path / "n.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}})
    apart = tmp_path / "apart" / "n.onnx"
    apart.parent.mkdir()
    onnx.save_model(
        onnx.load(str(path)), str(apart), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    weights = onnx.load(str(apart), load_external_data=False).graph.initializer
    assert {entry.data_location for entry in weights} == {onnx.TensorProto.EXTERNAL}
    assert_read(apart, module, x)


def test_a_file_for_one_sample_takes_more(mixed, tmp_path):
    """Its shapes say so in constants."""
    module, x = mixed
    path = exported(module, x[:1], tmp_path / "n.onnx", dynamo=False)
    assert_read(path, module, x)
    network = HalfNetwork.convert(onnx_module(path), x)
    assert network(x).shape == (2, 5)


@pytest.mark.filterwarnings("ignore:`isinstance")  # torch's own exporter
@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_program_converts_like_its_module(mixed, dynamic):
    module, x = mixed
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    program = torch.export.export(module, (x if dynamic else x[:1],), dynamic_shapes=shapes)
    found, wanted = HalfNetwork.convert(program, x), HalfNetwork.convert(module, x)
    assert torch.equal(found(x), wanted(x))
    assert [layer.kind for layer in found.layers] == [layer.kind for layer in wanted.layers]


@pytest.mark.filterwarnings("ignore:`isinstance")
def test_a_program_that_takes_three_at_a_time_alone_is_refused_with_what_to_do(mixed):
    module, x = mixed
    program = torch.export.export(module, (x[:1].repeat(3, *[1] * (x.ndim - 1)),))
    with pytest.raises(
        ConfigError, match=r"exported with a batch of 3 and takes no other; .*\(dynamic_shapes\)"
    ):
        HalfNetwork.convert(program, x)


@pytest.mark.parametrize(("key", "values"), [("scales", [2.0, 3.0]), ("sizes", [16, 18])])
def test_a_resize_may_name_its_axes(tmp_path, key, values):
    given = onnx.numpy_helper.from_array(
        np.array(values, np.float32 if key == "scales" else np.int64), "given"
    )
    inputs = ["x", "", "given"] if key == "scales" else ["x", "", "", "given"]
    node = onnx.helper.make_node("Resize", inputs, ["y"], axes=[2, 3], mode="linear")
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, "r", "c"]) for name in "xy"
    )
    graph = onnx.helper.make_graph([node], "g", [x], [y], [given])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "n.onnx"))
    image = torch.randn(2, 3, 8, 6)
    found = onnx_module(tmp_path / "n.onnx", (3, 8, 6))(image)
    torch.testing.assert_close(found, functional.interpolate(image, (16, 18), mode="bilinear"))

import json

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.models import build_model
from pipeline.precision import Budget, HalfNetwork, export_onnx, onnx_module
from pipeline.precision.onnx_export import PLAN_KEY, onnx_model
from pipeline.precision.plan import FUNCTIONS, INPUT, Layer
from pipeline.precision.reference import reference
from pipeline.precision.routines import single_parameters

# Products of at most some thousands of numbers in binary32, in any order, through a few layers.
TOLERANCE = 1e-4
OPEN = Budget(output_error=1.0, layer_error=1.0)


def evaluated(model, x):
    onnx.checker.check_model(model, full_check=True)
    (y,) = onnx.reference.ReferenceEvaluator(model).run(None, {"input": x.numpy()})
    return torch.from_numpy(y).double()


def assert_exported(network, x):
    """The exported network computes what its plan says in float64, for its own batch and for another."""
    wanted = reference(network.layers, single_parameters(network.layers, network.tensors()), x)[-1]
    model = onnx_model(network.layers, network.tensors())
    for n in (len(x), 1):
        found = evaluated(model, x[:n])
        assert ((found - wanted[:n]).norm() / wanted[:n].norm()).item() < TOLERANCE


def test_a_converted_network_is_exported(case):
    module, x = case
    assert_exported(HalfNetwork.convert(module, x[:5], budget=OPEN), x[:5])


class Everything(nn.Module):
    """Layers of two results, windows that do not divide their image, and results seen as other shapes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, stride=2)
        self.grouped = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=4)
        self.factors = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 12, 1), nn.Sigmoid())
        self.norm = nn.LayerNorm(12)
        self.last = nn.Linear(12 * 2 * 3, 5)

    def forward(self, x):
        y = functional.gelu(self.first(functional.pad(x, (0, 1, 0, 1))))
        y = y * self.factors(y)
        y = torch.cat([self.grouped(y)[:, 6:], y[:, :6]], dim=1)
        y = functional.avg_pool2d(y, 3, 2, padding=1, count_include_pad=True) + functional.max_pool2d(
            y, 3, 2, 1
        )
        rows, columns = y.shape[2:]
        tokens = self.norm(y.flatten(2).transpose(1, 2))
        weights = (0.3 * tokens @ tokens.transpose(1, 2)).softmax(dim=-1)
        y = (weights @ tokens).transpose(1, 2).unflatten(2, (rows, columns))
        return self.last(functional.adaptive_avg_pool2d(y, (2, 3)).flatten(1))


def test_a_network_of_every_kind_of_layer_is_exported(generator):
    x = torch.randn(3, 3, 21, 17, generator=generator)
    network = HalfNetwork.convert(Everything().eval(), x, budget=OPEN)
    assert {layer.kind for layer in network.layers} >= {
        "conv2d", "scale", "gather", "avg_pool2d", "max_pool2d", "add", "layer_norm", "matmul", "softmax", "linear",
        "adaptive_avg_pool2d",
    }  # fmt: skip
    assert_exported(network, x)


def test_a_vision_transformer_is_exported(generator):
    module = build_model("vit", input_shape=(1, 8, 8), n_classes=3, generator=generator).eval()
    x = torch.randn(2, 1, 8, 8, generator=generator)
    assert_exported(HalfNetwork.convert(module, x, budget=OPEN), x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_exported(name, generator):
    constants = {"clip": (-0.5, 0.75), "leaky_relu": (0.1,), "elu": (0.7,)}.get(name, ())
    layer = Layer("f", "activation", INPUT, (7,), (7,), function=name, constants=constants)
    x = 3 * torch.randn(4, 7, generator=generator)
    x = x.abs() + 0.1 if name in ("sqrt", "log", "reciprocal") else x
    (wanted,) = reference([layer], {}, x)
    np.testing.assert_allclose(evaluated(onnx_model([layer], {}), x), wanted, rtol=1e-5, atol=1e-6)


def test_scaled_weights_of_names_that_onnx_has_other_uses_for(tmp_path, generator):
    """Channels beyond binary16 are stored times powers of two; two nodes may be called like outputs."""
    module = nn.Sequential()
    for name in ("input", "output", "v0"):
        module.add_module(name, nn.Linear(6, 6))
    with torch.no_grad():
        module[0].weight[2] *= 1e6
        module[1].weight[:, 2] *= 1e-6
    x = torch.randn(4, 6, generator=generator)
    network = HalfNetwork.convert(module.eval(), x, budget=OPEN)
    assert any(layer.scale_exponents for layer in network.layers)
    assert_exported(network, x)
    export_onnx(network, tmp_path / "network.onnx")
    with torch.no_grad():
        again = onnx_module(tmp_path / "network.onnx")(x)
    assert torch.allclose(again, network(x), rtol=0.01, atol=0.01 * again.abs().max().item())


def test_the_file_holds_binary16_weights_and_the_plan(tmp_path, mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x, budget=OPEN)
    export_onnx(network, tmp_path / "network.onnx")
    model = onnx.load(str(tmp_path / "network.onnx"))
    (plan,) = (json.loads(entry.value) for entry in model.metadata_props if entry.key == PLAN_KEY)
    assert torch.equal(HalfNetwork.from_plan(plan, network.tensors())(x), network(x))
    halves = [entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT16]
    assert sum(int(np.prod(entry.dims)) for entry in halves) == sum(
        layer.n_weights for layer in network.layers
    )

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.precision.reference import reference
from pipeline.precision.trace import trace


def traced_result(module, x):
    layers, parameters = trace(module, x)
    tensors = {f"{name}.weight": affine.weight for name, affine in parameters.items()}
    tensors |= {f"{name}.bias": affine.bias for name, affine in parameters.items()}
    return layers, reference(layers, tensors, x)


def test_folded_layers_compute_what_the_module_computes_in_float64(case):
    module, x = case
    layers, results = traced_result(module, x)
    with torch.no_grad():
        wanted = module.double()(x.double())
    torch.testing.assert_close(results[-1], wanted, rtol=1e-12, atol=1e-12)
    for layer, result in zip(layers, results, strict=True):
        assert result.shape[1:] == layer.output_shape


@pytest.mark.parametrize("affine", [True, False])
def test_a_normalization_is_folded_by_its_running_statistics(affine, generator):
    convolution, normalization = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=affine)
    normalization.running_mean.copy_(torch.randn(3, generator=generator))
    normalization.running_var.copy_(torch.rand(3, generator=generator) + 0.1)
    module = nn.Sequential(
        convolution, normalization
    )  # in training mode: conversion must not use batch statistics
    x = torch.randn(4, 2, 5, 5, generator=generator)
    _, (result,) = traced_result(module, x)
    with torch.no_grad():
        wanted = nn.Sequential(convolution, normalization).eval().double()(x.double())
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)


def test_the_module_itself_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, torch.randn(3, 1, 2, 2))
    assert module.training
    assert module[0].weight.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_functions_and_methods_for_flattening_and_relu_are_understood():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 2, 2)
            self.head = nn.Linear(8, 3)

        def features(self, x):
            return torch.flatten(torch.relu(self.body(x)), 1)

        def forward(self, x):
            return self.head(self.features(x).relu())

    layers, _ = trace(Network(), torch.zeros(1, 1, 3, 3))
    assert [(layer.name, layer.kind, layer.relu) for layer in layers] == [
        ("body", "conv2d", True),
        ("head", "linear", False),
    ]
    assert layers[1].input_shape == (2, 2, 2)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.first(x) + self.second(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Dependent(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), (4,), "'1' is a Sigmoid, which cannot be converted"),
        (nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), (2, 3, 3), "'0' has groups=2"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), (1, 3, 3), "'0' .*reflect"),
        (nn.Sequential(nn.BatchNorm2d(2)), (2, 3, 3), "'0' does not stand right behind"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)), (1, 3, 3), "'2' does not stand right behind"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
            (1, 3, 3),
            "'1' has no running statistics",
        ),
        (nn.Sequential(nn.ReLU()), (3,), "'0' has no layer before it"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(3, 3)), (1, 3, 3), "'1' takes an image .* Flatten"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(9, 3)), (1, 3, 3), "'0' goes from dimension 0"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), (1, 5, 5), "'0' has dilation"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1)), (1, 5, 5), "'0' counts its padding"),
        (Branch(), (4,), "'first' .* wanted|'second' takes|'add' takes"),
        (Twice(), (4,), "'layer' is used twice"),
        (Dependent(), (4,), "cannot be traced"),
        (nn.Sequential(nn.Linear(4, 4)), (5,), r"does not take inputs of shape \(5,\)"),
        (nn.Sequential(nn.Dropout()), (4,), "no layer to convert"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(module, shape, words):
    with pytest.raises(ConfigError, match=words):
        trace(module, torch.randn(2, *shape))

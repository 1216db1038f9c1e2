import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork
from pipeline.precision.reference import reference
from pipeline.precision.trace import check_trace, trace


def randomize(module, generator):
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1 if "var" in name
                            else torch.randn(value.shape, generator=generator))  # fmt: skip


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


class Residual(nn.Module):
    """Blocks whose shortcut is their input, a convolution, or what a ReLU gave, in functions, methods and modules."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, 2, 1)
        self.shortcut = nn.Conv2d(4, 6, 1, 2)
        self.relu = nn.ReLU(inplace=True)
        self.alone = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.norm(self.first(x)) + x)
        x = self.relu(self.shortcut(x) + self.second(x))
        y = functional.relu(self.alone(x))
        y += x + x
        y = functional.max_pool2d(y, 2, stride=1)
        y = functional.avg_pool2d(y, 2, 1)
        y = functional.dropout(y.mean((2, 3)), training=False)
        return self.head(y.reshape(y.size(0), -1))


def test_a_residual_network_computes_what_the_module_computes_in_float64(generator):
    module = Residual().eval()
    randomize(module, generator)
    x = torch.randn(3, 3, 9, 8, generator=generator)
    layers, results = traced_result(module, x)
    with torch.no_grad():
        wanted = module.double()(x.double())
    torch.testing.assert_close(results[-1], wanted, rtol=1e-12, atol=1e-12)
    assert [(layer.name, layer.kind, layer.source, layer.addend, layer.relu) for layer in layers] == [
        ("stem", "conv2d", "", None, True),
        ("first", "conv2d", "stem", "stem", True),
        ("shortcut", "conv2d", "first", None, False),
        ("second", "conv2d", "first", "shortcut", True),
        ("alone", "conv2d", "second", None, True),
        ("add_2", "add", "second", "second", False),
        ("add_3", "add", "alone", "add_2", False),
        ("max_pool2d", "max_pool2d", "add_3", None, False),
        ("avg_pool2d", "avg_pool2d", "max_pool2d", None, False),
        ("mean", "adaptive_avg_pool2d", "avg_pool2d", None, False),
        ("head", "linear", "mean", None, False),
    ]
    assert [layer.geometry.groups for layer in layers if layer.kind == "conv2d"] == [1, 2, 1, 1, 6]


class Shortcut(nn.Module):
    """The network's input is what a convolution's result is added to."""

    def __init__(self, normalized):
        super().__init__()
        self.other, self.body = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.BatchNorm2d(4) if normalized else None

    def forward(self, x):
        other = self.other(x)
        y = self.body(x) + x
        return y + other if self.last is None else self.last(y)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_sum_with_the_networks_input_is_neither_folded_over_nor_overwritten(normalized, generator):
    module = Shortcut(normalized).eval()
    randomize(module, generator)
    x = torch.randn(2, 4, 5, 5, generator=generator)
    _, results = traced_result(module, x)
    with torch.no_grad():
        torch.testing.assert_close(results[-1], module.double()(x.double()), rtol=1e-12, atol=1e-12)


class InPlace(nn.Module):
    """A sum with what a ReLU has overwritten, which no tracing of values sees."""

    def __init__(self):
        super().__init__()
        self.body, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        return self.relu(y) + y


def test_layers_that_compute_something_else_than_the_module_are_refused(generator):
    x = torch.randn(3, 4, 5, 5, generator=generator)
    module = InPlace()
    with pytest.raises(ConfigError, match=r"differs from the network's by 0\.\d+ of its norm .* in place"):
        check_trace(module, *trace(module, x), x)
    module.relu.inplace = False
    check_trace(module, *trace(module, x), x)
    with pytest.raises(ConfigError, match="differs from the network's"):
        HalfNetwork.convert(InPlace(), x)


def test_the_samples_are_left_as_they_were(generator):
    x = torch.randn(3, 4, 5, 5, generator=generator)
    before = x.clone()
    HalfNetwork.convert(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)), x)
    assert torch.equal(x, before)


class Constant(nn.Module):
    def forward(self, x):
        return x + 1


class Shapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return x + self.layer(x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x), x


class Reread(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        return torch.relu(y) + y


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
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), (1, 3, 3), "'0' .*reflect"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)), (4,), "'2' does not stand right behind"),
        pytest.param(
            nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), (1, 3, 3), "'0' has padding='same' and an even kernel",
            marks=pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
        ),
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
        (Constant(), (4,), "'add' adds something other than two layers"),
        (Shapes(), (4,), r"'add' adds shapes \(4,\) and \(1,\)"),
        (Two(), (4,), "gives something other than one tensor"),
        (Reread(), (4,), "ReLU 'relu' has no layer before it that it could be joined to"),
        (Twice(), (4,), "'layer' is used twice"),
        (Dependent(), (4,), "cannot be traced"),
        (nn.Sequential(nn.Linear(4, 4)), (5,), r"does not take inputs of shape \(5,\)"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4)),
            (4,),
            r"does not take inputs of shape \(4,\): expected 4D input",
        ),
        (nn.Sequential(nn.Dropout()), (4,), "no layer to convert"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(module, shape, words):
    with pytest.raises(ConfigError, match=words):
        trace(module, torch.randn(2, *shape))

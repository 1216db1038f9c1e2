import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from pipeline.precision import HalfNetwork
from pipeline.precision.record import double_copy
from pipeline.precision.reference import reference
from pipeline.precision.trace import tensors_of, trace


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
        ("add", "add", "second", "second", False),
        ("add#2", "add", "alone", "add", False),
        ("max_pool2d", "max_pool2d", "add#2", None, False),
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
    """A sum with what a ReLU has overwritten."""

    def __init__(self):
        super().__init__()
        self.body, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        return self.relu(y) + y


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


class Named(nn.Module):
    """Submodules that are called like operators."""

    def __init__(self):
        super().__init__()
        self.add, self.relu, self.mean = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.mean(self.relu(self.add(x)))


class Channels(nn.Module):
    """Squeeze and excitation, a split, a shuffle of channels, and both halves beside a third."""

    def __init__(self):
        super().__init__()
        self.stem, self.narrow, self.wide = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 2), nn.Conv2d(2, 6, 1)
        self.left = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3), nn.Hardswish())
        self.norm = nn.GroupNorm(3, 9)

    def forward(self, x):
        x = functional.silu(self.stem(x))
        gate = torch.relu(self.narrow(x.mean((2, 3))))
        x = x * torch.sigmoid(self.wide(gate[:, :, None, None]))
        left, right = x.chunk(2, 1)
        x = torch.cat((self.left(left), right, -right), 1)
        n, c, rows, columns = x.shape
        x = x.view(n, 3, c // 3, rows, columns).transpose(1, 2).reshape(n, c, rows, columns)
        return functional.interpolate(self.norm(x), scale_factor=2, mode="bilinear").amax((2, 3))


class Attention(nn.Module):
    """Tokens with one of their own in front, and a mask that is the same for every input."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 3, 3), nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1)
        mask = torch.triu(torch.full((x.shape[1], x.shape[1]), -1e4, dtype=x.dtype), 1)
        return self.head(self.block(x, mask)[:, 0])


class Windows(nn.Module):
    """Attention in shifted windows, as in Swin, with cosine similarities."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm = nn.Linear(4, 12), nn.LayerNorm(4)

    def forward(self, x):
        n, c, rows, columns = x.shape
        x = torch.roll(x.permute(0, 2, 3, 1), (1, 1), (1, 2))
        x = x.view(n, rows // 2, 2, columns // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        weights = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(1, 2)).softmax(
            -1
        )
        return (weights @ v).reshape(n, -1, c).mean(1)


class NormAct(nn.BatchNorm2d):
    """A normalization that holds its activation and calls the function by itself, as timm's do."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x):
        statistics = (self.running_mean, self.running_var, self.weight, self.bias)
        return self.act(self.drop(functional.batch_norm(x, *statistics, False, 0.0, self.eps)))


def pruned():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    prune.l1_unstructured(module[0], "weight", 0.5)
    module[3] = nn.utils.parametrizations.weight_norm(module[3])
    return module


def spectral():
    return nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 4, 3)), nn.Flatten(), nn.Linear(36, 3))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (InPlace, (4, 5, 5)),
        (Named, (2, 5, 4)),
        (Channels, (3, 7, 5)),
        (Attention, (3, 9, 7)),
        (Windows, (4, 4, 6)),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), NormAct(6), nn.Conv2d(6, 2, 1)), (3, 6, 5)),
        (pruned, (2, 5, 5)),
        (spectral, (2, 5, 5)),
        (Constant, (4,)),
        (Shapes, (4,)),
        (Reread, (4,)),
        (Twice, (4,)),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), (1, 3, 3)),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), (1, 3, 3)),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)), (4,)),
        (lambda: nn.Sequential(nn.ReLU()), (3,)),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(3, 3)), (1, 3, 3)),
        (lambda: nn.Sequential(nn.AvgPool2d(2, padding=1)), (1, 5, 5)),
        (lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, 2), nn.ReLU6()), (2, 6, 5)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.PReLU(6)), (4, 3, 5)),
        (lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.LeakyReLU(0.2), nn.PixelUnshuffle(2)), (3, 4, 6)),
    ],
)
def test_what_the_layers_compute_is_what_the_module_computes(build, shape, generator):
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(3, *shape, generator=generator)
    layers, parameters = trace(module, x)
    found = reference(layers, tensors_of(parameters), x)[-1]
    with torch.no_grad():
        wanted = double_copy(module)(x.double())
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("build", [pruned, spectral])
def test_computed_weights_are_read_and_the_module_stays_as_it_was(build, generator):
    module = build().eval()
    x = torch.randn(3, 2, 5, 5, generator=generator)
    before = module(x)
    trace(module, x)
    assert torch.equal(module(x), before)


@pytest.mark.filterwarnings("ignore:`isinstance")  # torch's own exporter
def test_an_exported_program_is_traced_like_its_module(generator):
    module, x = Channels().eval(), torch.randn(2, 3, 7, 5, generator=generator)
    exported = torch.export.export(module, (x[:1],)).module()
    layers, parameters = trace(exported, x)
    found = reference(layers, tensors_of(parameters), x[:1])[-1]
    with torch.no_grad():
        torch.testing.assert_close(found, double_copy(module)(x[:1].double()), rtol=1e-11, atol=1e-11)

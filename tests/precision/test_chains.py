"""Layers that hand their results on in strips give, bit for bit, what they give one after the other."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from pipeline.precision import HalfNetwork, _native
from pipeline.precision.execution import Execution


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.inner(x)


def depthwise(channels, kernel, stride=1, padding=None, dilation=1):
    padding = kernel // 2 * dilation if padding is None else padding
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)


NETWORKS = {
    "inverted residual": (
        lambda: Residual(
            nn.Conv2d(8, 48, 1), nn.ReLU6(), depthwise(48, 3), nn.ReLU6(), nn.Conv2d(48, 8, 1)
        ),
        (8, 67, 71),
    ),
    "strides, kernels and odd channels": (
        lambda: nn.Sequential(
            nn.Conv2d(5, 50, 1), nn.SiLU(), depthwise(50, 5, stride=2), nn.Conv2d(50, 200, 1),
            nn.ReLU(), depthwise(200, 3, stride=2, padding=0), nn.Conv2d(200, 3, 1),
        ),
        (5, 90, 97),
    ),
    "pixels alone": (
        lambda: nn.Sequential(nn.Conv2d(4, 40, 1), nn.ReLU(), nn.Conv2d(40, 48, 1), nn.Tanh(), nn.Conv2d(48, 2, 1)),
        (4, 83, 79),
    ),
    "windows that skip rows": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 34, 1), depthwise(34, 3, stride=5, padding=0), nn.Conv2d(34, 7, 1), nn.ReLU()
        ),
        (3, 89, 80),
    ),
    "an image that is seen as another": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 34, 1), depthwise(34, 3), nn.Flatten(2), nn.Unflatten(2, (70, 96)), depthwise(34, 3),
            nn.Conv2d(34, 2, 1),
        ),
        (3, 96, 70),
    ),
    "dilated windows of whole lines": (
        lambda: nn.Sequential(nn.Conv2d(3, 33, 1), depthwise(33, 3, dilation=4), nn.LeakyReLU(0.1)),
        (3, 101, 77),
    ),
    "one column": (
        lambda: nn.Sequential(nn.Conv2d(2, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, (3, 1), padding=(1, 0), groups=64)),
        (2, 4001, 1),
    ),
}  # fmt: skip


@pytest.fixture
def threads():
    before = _native.threads()
    yield _native.set_threads
    _native.set_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_strips_change_no_bit_and_no_count(instruction_set, name, precision, threads, generator):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.randn(3, *shape, generator=generator)
    network = HalfNetwork.convert(build().eval(), x[:1], instruction_set=instruction_set)
    execution = Execution(
        network.layers, network._half if precision == "fp16" else network._single, precision, instruction_set
    )
    steps = execution.activations(x)
    for n in (1, 2, 3):
        threads(n)
        found = execution(x)
        assert torch.equal(found, steps[-1].float())
        assert torch.equal(execution(x[1:2]), found[1:2])
    assert execution.n_saturated == 0
    assert execution.whole.n_stages < len(execution.layers)  # or there would be nothing to compare


def test_results_that_are_handed_on_take_no_memory(generator):
    build, shape = NETWORKS["inverted residual"]
    network = HalfNetwork.convert(build().eval(), torch.randn(1, *shape, generator=generator))
    execution = network._execution
    of_expanded = 64 * 48 * 67 * 71 * 2  # bytes, of a batch
    assert execution.whole.buffer_bytes < of_expanded


def test_what_caches_would_have_to_hold_of_a_batch_is_strips_scratch_and_results_between_stages(generator):
    build, shape = NETWORKS["inverted residual"]
    chained = HalfNetwork.convert(build().eval(), torch.randn(1, *shape, generator=generator)).execution
    assert chained.whole.n_stages == 1
    assert chained.resident_bytes(1) == chained.resident_bytes(64)
    module = nn.Sequential(nn.Linear(24, 160), nn.ReLU(), nn.Linear(160, 5)).eval()
    apart = HalfNetwork.convert(module, torch.randn(4, 24, generator=generator)).execution
    weights = sum(native.weight_bytes for native in apart.native)
    for batch in (1, 3, 64):
        scratch = max(native.workspace_bytes(n) for native in apart.native for n in (1, batch))
        assert apart.resident_bytes(batch) == weights + scratch + batch * 160 * 2
    assert apart.resident_bytes(1000) == apart.resident_bytes(64)  # which pass one after the other


def test_batches_beyond_the_buffers_pass_in_parts(generator):
    build, shape = NETWORKS["inverted residual"]
    network = HalfNetwork.convert(build().eval(), torch.randn(1, *shape, generator=generator))
    x = torch.randn(67, *shape, generator=generator)
    found = network(x)
    assert torch.equal(found[:2], network(x[:2]))
    assert torch.equal(found[-2:], network(x[-2:]))


def test_features_may_end_within_a_chain(generator):
    module = nn.Sequential(
        nn.Conv2d(2, 48, 1), nn.ReLU(), depthwise(48, 3), nn.Flatten(), nn.Linear(48 * 72 * 70, 3)
    ).eval()
    x = torch.randn(2, 2, 72, 70, generator=generator)
    network = HalfNetwork.convert(module, x)
    steps = network.execution.steps(x)
    given = steps[-1][0].view(2, 72, 70, 48).permute(0, 3, 1, 2).flatten(1)
    assert torch.equal(network.features(x), given.float())


def test_results_stored_as_float32_are_handed_on_too(generator):
    torch.manual_seed(0)
    build, shape = NETWORKS["inverted residual"]
    module, x = build().eval(), torch.randn(2, *shape, generator=generator)
    with torch.no_grad():
        module.inner[2].weight.mul_(
            1e6
        )  # its results are cut off at 6, those of the layer before are not large
        module.inner[4].weight.mul_(1e6)
    network = HalfNetwork.convert(module, x)
    assert "float32" in {layer.output_dtype for layer in network.layers[:-1]} | {
        network.layers[-1].output_dtype
    }
    assert torch.equal(network(x), network.execution.activations(x)[-1].float())


def test_what_saturates_in_a_strip_is_counted_once_whatever_the_threads(instruction_set, threads):
    layers = nn.Sequential(nn.Conv2d(4, 40, 1, bias=False), depthwise(40, 3), nn.Conv2d(40, 4, 1)).eval()
    with torch.no_grad():
        layers[0].weight.fill_(1.0)
        layers[1].weight.fill_(1e-6)
    x = torch.ones(1, 4, 80, 80)
    network = HalfNetwork.convert(layers, x, instruction_set=instruction_set)
    x[0, :, 31:47, 5:60] = 2e4  # their sums are 8e4
    for n in (1, 2, 3):
        threads(n)
        before = network.n_saturated
        with pytest.warns(UserWarning, match="binary16") if before == 0 else nullcontext():
            network(x)
        assert network.n_saturated - before == 16 * 55 * 40


@pytest.mark.parametrize("residual", ["none", "float16", "float32"])
@pytest.mark.parametrize("outputs", [16, 24, 40, 64])
@pytest.mark.parametrize("function", ["none", "relu", "clip"])
def test_results_are_finished_in_registers_as_float64_says(
    instruction_set, residual, outputs, function, generator
):
    n, inputs = 61, 12
    whole = {"generator": generator, "dtype": torch.float32}
    x = torch.randint(-9, 10, (n, inputs), **whole)
    weight = torch.randint(-9, 10, (outputs, inputs), **whole)
    bias = torch.randint(-9, 10, (outputs,), **whole)
    x[17, :], weight[5, :] = 8e3, 8.0  # 12 * 64e3 is beyond binary16
    weight[7, 0] = -3.0
    addend = torch.randint(-9, 10, (n, outputs), **whole)
    wanted = x.double() @ weight.double().T + bias.double() + (0 if residual == "none" else addend.double())
    if function == "relu":
        wanted = wanted.clamp(min=0)
    if function == "clip":
        wanted = wanted.clamp(-4.0, 6.0)
    n_large = int((wanted.abs() >= 65520).sum())
    for routine in _native.convolution_routines(instruction_set, (1, 1), (1, 1), (1, 1), 1, inputs, outputs):
        layer = _native.convolution(
            instruction_set, weight.half(), torch.ones(outputs), bias, image=(inputs, n, 1), kernel=(1, 1),
            stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, relu=function == "relu", half_input=True,
            half_output=True, residual=residual, routine=routine,
            function=("clip" if function == "clip" else "", -4.0, 6.0),
        )  # fmt: skip
        found = torch.empty(1, n * outputs, dtype=torch.float16)
        given = None if residual == "none" else addend.reshape(1, -1).to(getattr(torch, residual))
        assert layer.run(x.half().reshape(1, -1), found, given) == n_large
        exact = wanted.clamp(-65504, 65504).half()
        assert torch.equal(found.view(n, outputs), exact)

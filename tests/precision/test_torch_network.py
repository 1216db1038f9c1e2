"""The peer in timings computes what the plan says, and nothing of it is left from one run to the next."""

import pytest
import torch
from torch import nn

from pipeline.precision import HalfNetwork
from pipeline.precision.error import UNIT_SINGLE, relative_error
from pipeline.precision.reference import FORMATS, bind, reference
from pipeline.precision.torch_network import TorchNetwork, fastest_layer, fastest_network, formats_of


class Residual(nn.Module):
    """Sums behind a convolution, with the input, and by themselves."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.pool, self.mean = nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        y = torch.relu(self.a(x) + x)
        z = self.b(y)
        y = torch.relu(self.pool(z) + self.pool(y))
        return self.head(self.mean(y).flatten(1))


@pytest.fixture
def residual(generator):
    return HalfNetwork.convert(Residual().eval(), x := torch.randn(5, 4, 7, 6, generator=generator)), x


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_it_computes_the_plan_every_time(residual, memory_format):
    network, x = residual
    before = x.clone()
    wanted = reference(network.layers, network.parameters, x)[-1]
    peer = TorchNetwork(network.layers, network.parameters, x, memory_format)
    with torch.inference_mode():
        first, second = peer(), peer()
        assert len(peer.seconds_per_step()) == len(network.layers)
    assert torch.equal(x, before)
    assert torch.equal(first, second)
    # As in test_network.py: some roundings per layer, of numbers that cancel by a factor well below 20.
    assert relative_error(first, wanted) < 20 * 2 * len(network.layers) * UNIT_SINGLE


def test_half_the_digits_if_it_is_asked_for_them(residual):
    network, x = residual
    peer = TorchNetwork(network.layers, network.parameters, x, torch.channels_last, torch.bfloat16)
    assert peer().dtype == torch.bfloat16


def test_a_layer_by_itself_leaves_what_it_is_given_as_it_was(residual):
    network, x = residual
    values = {"": x} | dict(
        zip((layer.name for layer in network.layers), network.float_twin().activations(x), strict=True)
    )
    assert any(layer.kind == "add" for layer in network.layers)
    for layer in network.layers:
        given, addend = values[layer.source], None if layer.addend is None else values[layer.addend]
        copies = [None if value is None else value.clone() for value in (given, addend)]
        bind(layer, network.parameters, torch.float32)(given, addend)
        for value, copy in zip((given, addend), copies, strict=True):
            assert value is None or torch.equal(value, copy)


def test_the_faster_memory_format_is_named_and_what_is_no_image_has_none(residual):
    network, x = residual
    peer, name = fastest_network(network.layers, network.parameters, x)
    assert name.removeprefix("torch eager fp32, ") in FORMATS
    assert peer().shape == (5, 3)
    head = network.layers[-1]
    seconds, name = fastest_layer(head, network.parameters, torch.randn(5, *head.input_shape), None)
    assert seconds(3) > 0
    assert name.startswith("torch eager fp32")
    assert list(formats_of(torch.zeros(2, 3))) == [""]

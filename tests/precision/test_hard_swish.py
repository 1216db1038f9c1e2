"""Hard swish that a network spells out is found, however it is spelled; what is not quite one is left alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.precision import HalfNetwork
from pipeline.precision.trace import check_trace, trace

SPELLINGS = {
    "quotient of the product": lambda x: x * functional.relu6(x + 3) / 6,
    "other way round": lambda x: functional.relu6(x + 3) * x / 6,
    "product with the quotient": lambda x: x * (functional.relu6(x + 3) / 6),
    "clamp": lambda x: x * (x + 3.0).clamp(0, 6) * (1 / 6),
    "hardtanh": lambda x: functional.hardtanh(3 + x, 0.0, 6.0).mul(x).div(6.0),
}
OTHERS = {
    "another bound": lambda x: x * (x + 3).clamp(0, 5) / 6,
    "another shift": lambda x: x * functional.relu6(x + 2.9) / 6,
    "another factor": lambda x: x * functional.relu6(x + 3) / 5,
    "another number": lambda x: x.flip(1) * functional.relu6(x + 3) / 6,
}


class Spelled(nn.Module):
    def __init__(self, function, *, more=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 4, 1)
        self.function, self.more = function, more

    def forward(self, x):
        y = self.first(x)
        z = self.last(self.function(y))
        return z + y[:, :4] if self.more else z


def traced(module, x):
    layers, parameters = trace(module, x)
    check_trace(module, layers, parameters, x)
    assert set(parameters) <= {layer.name for layer in layers}
    return layers


@pytest.fixture
def x(generator):
    return 4 * torch.randn(3, 3, 6, 7, generator=generator)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_layer_before_applies_it(name, x):
    torch.manual_seed(0)
    layers = traced(Spelled(SPELLINGS[name]).eval(), x)
    assert [(layer.kind, layer.function) for layer in layers] == [("conv2d", "hard_swish"), ("conv2d", "")]


def test_it_is_one_layer_where_something_else_reads_what_it_is_given(x):
    layers = traced(Spelled(SPELLINGS["clamp"], more=True).eval(), x)
    assert [layer.function for layer in layers if layer.kind == "activation"] == ["hard_swish"]
    assert not any(layer.kind == "multiply" for layer in layers)


def test_several_of_them_follow_each_other(x):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return SPELLINGS["quotient of the product"](self.inner(SPELLINGS["clamp"](x)))

    layers = traced(nn.Sequential(nn.Conv2d(3, 3, 3), Block(), Block(), nn.Conv2d(3, 2, 1)).eval(), x)
    assert not any(layer.kind == "multiply" for layer in layers)
    assert sum(layer.function == "hard_swish" for layer in layers) == 4


@pytest.mark.parametrize("last", [True, False])
def test_it_may_begin_or_end_a_network(last, x):
    class Alone(nn.Module):
        def forward(self, x):
            return SPELLINGS["clamp"](x)

    module = (
        nn.Sequential(nn.Conv2d(3, 4, 1), Alone()) if last else nn.Sequential(Alone(), nn.Conv2d(3, 4, 1))
    )
    layers = traced(module.eval(), x)
    assert sum(layer.function == "hard_swish" for layer in layers) == 1
    assert not any(layer.kind == "multiply" for layer in layers)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_another_function_stays_as_it_is(name, x):
    layers = traced(Spelled(OTHERS[name]).eval(), x)
    assert not any(layer.function == "hard_swish" for layer in layers)


def test_the_half_network_is_that_of_the_module_that_torch_has(x):
    torch.manual_seed(0)
    module = Spelled(SPELLINGS["other way round"]).eval()
    named = Spelled(functional.hardswish).eval()
    named.load_state_dict(module.state_dict())
    assert torch.equal(HalfNetwork.convert(module, x)(x), HalfNetwork.convert(named, x)(x))

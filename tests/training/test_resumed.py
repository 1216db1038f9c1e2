"""K-FAC that goes on from a state: an uninterrupted run, or a closed form, is the oracle."""

import copy
from dataclasses import replace

import pytest
import torch
from single_samples import ALL, Network, batch, cross_entropies, drawn, expected_factors, require_factors
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from pipeline.training import KFAC


class Functional(nn.Module):
    """Applies its first layer by a function; the same as `Network`."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        h = functional.linear(x, self.a.weight, self.a.bias).tanh()
        return self.c(self.b(h).tanh())


class Transposed(nn.Module):
    """Also uses the weight of its first layer where no hook sees it, if asked to."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 4)
        self.transposes = True

    def forward(self, x):
        h = self.a(x).tanh()
        return self.b(h @ self.a.weight.T if self.transposes else h)


def run(model, kfac, steps):
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(12, 5, generator=rng, dtype=torch.float64)
        model.zero_grad()
        cross_entropy(model(x), torch.randint(4, (12,), generator=rng)).backward()
        kfac.step(0.1)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def resumed(model, kfac, settings, *, without=()):
    """A copy of the network with a new K-FAC that has the state of the other one."""
    state = copy.deepcopy(kfac.state_dict())
    for key in without:
        del state["scalars"][key]
    twin = copy.deepcopy(model)
    other = KFAC(twin, settings)
    other.load_state_dict(state)
    return twin, other


@pytest.mark.parametrize("without", [(), ("watches_functions", "left", "proven")])
@pytest.mark.filterwarnings("ignore:K-FAC does not precondition layer a")
@pytest.mark.parametrize("kind", [Functional, Network])
def test_layers_that_functions_apply_go_on_bit_by_bit(kind, without):
    settings = replace(ALL, factor_decay=0.9)
    model = drawn(kind())
    kfac = KFAC(model, settings)
    run(model, kfac, range(4))
    twin, other = resumed(model, kfac, settings, without=without)
    assert torch.equal(run(twin, other, range(4, 8)), run(model, kfac, range(4, 8)))
    for path, tensor in kfac.state_dict()["tensors"].items():
        assert torch.equal(other.state_dict()["tensors"][path], tensor)


def test_layers_that_functions_apply_have_statistics_after_look_again():
    model = drawn(Functional())
    kfac = KFAC(model, ALL)
    run(model, kfac, range(3))
    kfac.look_again()
    x, y = batch()
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    plain = Network().double()
    plain.load_state_dict(model.state_dict())
    expected = expected_factors(plain, cross_entropies(x, y))
    kfac.step(0.1)
    require_factors(kfac, expected)


@pytest.mark.filterwarnings("ignore:K-FAC does not precondition layer a")
@pytest.mark.parametrize("cut", [1, 5, 8, 12])
def test_a_layer_that_was_left_out_stays_so(cut):
    settings = replace(ALL, factor_interval=4, inverse_interval=4)
    model = drawn(Transposed())
    kfac = KFAC(model, settings)
    run(model, kfac, range(cut))
    twin, other = resumed(model, kfac, settings)
    assert other.not_preconditioned == kfac.not_preconditioned
    x, y = batch()
    cross_entropy(twin(x), y).backward()
    gradient = twin.a.weight.grad.clone()
    other.step(0.1)
    assert torch.equal(twin.a.weight.grad, gradient)
    twin, other = resumed(model, kfac, settings)
    assert torch.equal(run(twin, other, range(cut, 14)), run(model, kfac, range(cut, 14)))
    assert other.reasons == kfac.reasons


def test_a_use_that_is_switched_on_later_is_found_at_the_next_update_and_stays_found():
    model = drawn(Transposed())
    model.transposes = False
    kfac = KFAC(model, ALL)
    run(model, kfac, range(3))
    assert kfac.not_preconditioned == ()
    model.transposes = True
    with pytest.warns(UserWarning, match="does not precondition layer a"):
        run(model, kfac, range(3, 6))
    assert kfac.not_preconditioned == ("a.weight", "a.bias")
    model.transposes = False
    run(model, kfac, range(6, 8))
    assert kfac.not_preconditioned == ("a.weight", "a.bias")

"""K-FAC that goes on from a state: an uninterrupted run, or a closed form, is the oracle."""

import copy
from dataclasses import replace

import pytest
import torch
from single_samples import ALL, Network, batch, cross_entropies, drawn, expected_factors, require_factors
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from pipeline.training import KFAC, KFACOptimizer


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


def dense(kfac, layer, name, gradient, damping):
    """The damped natural gradient from the factors that the state holds, by dense solves."""
    tensors = kfac.state_dict()["tensors"]
    A, G = tensors[f"factor/A/{name}"], tensors[f"factor/G/{name}"]
    pi = (A.diagonal().mean() / G.diagonal().mean()).sqrt()
    A = A + pi * damping**0.5 * torch.eye(len(A)).double()
    G = G + damping**0.5 / pi * torch.eye(len(G)).double()
    return torch.linalg.solve(A, torch.linalg.solve(G, gradient).T).T


def gradient_of(layer):
    return torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)


def test_a_state_with_eigenbases_goes_on_without_them_if_they_are_switched_off():
    model = drawn(Network())
    kfac = KFAC(model, replace(ALL, ekfac=True))
    run(model, kfac, range(5))
    twin, other = resumed(model, kfac, replace(ALL, inverse_interval=10))
    x, y = batch()
    twin.zero_grad()
    cross_entropy(twin(x), y).backward()
    gradient = gradient_of(twin.a)
    other.step(0.1)
    torch.testing.assert_close(gradient_of(twin.a), dense(other, twin.a, "a", gradient, ALL.damping))
    assert all(path.startswith(("factor", "inverse")) for path in other.state_dict()["tensors"])


def test_long_adaptive_intervals_end_where_they_are_switched_off():
    model = drawn(Network())
    adaptive = replace(ALL, adaptive_change=1e6, factor_decay=0.9, factor_interval=3, inverse_interval=3)
    kfac = KFAC(model, adaptive)
    run(model, kfac, range(40))
    assert kfac.state_dict()["scalars"]["stretch"] > 1
    twin, other = resumed(model, kfac, replace(ALL, factor_decay=0.9))
    for step in range(40, 44):
        run(twin, other, [step])
        assert other.factor_age == other.inverse_age == 1
    # The other way round, and where nothing is changed, a state is taken as it is.
    twin, other = resumed(model, kfac, adaptive)
    assert torch.equal(run(twin, other, range(40, 50)), run(model, kfac, range(40, 50)))


def test_a_damping_that_a_state_overrides_is_named():
    model = drawn(Network())
    kfac = KFAC(model, ALL)
    run(model, kfac, range(2))
    with pytest.warns(
        UserWarning, match=r"the damping 0\.05 of the state .* 0\.5 of its settings; set the attr"
    ):
        _, other = resumed(model, kfac, replace(ALL, damping=0.5))
    assert other.damping == 0.05
    with pytest.warns(UserWarning, match="set the attribute damping"):
        resumed(model, kfac, replace(ALL, damping=0.5), without=("asked_damping",))
    kfac.damping = 0.2  # by hand, so a resumed run keeps it
    assert resumed(model, kfac, ALL)[1].damping == 0.2


@pytest.mark.parametrize("kind", ["frozen", "lazy"])
def test_parameters_that_are_unfrozen_or_given_a_shape_later_are_refused_by_name(kind):
    model, (x, y) = drawn(Network()), batch()
    if kind == "lazy":
        model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(4)).double()
    else:
        model.requires_grad_(False)
    kfac = KFAC(model, ALL)
    assert not kfac.preconditioned
    if kind == "frozen":
        model.requires_grad_(True)
    cross_entropy(model(x), y).backward()
    assert kfac.is_outdated
    how = "was added or unfrozen" if kind == "frozen" else "was given its shape"
    with pytest.raises(ValueError, match=rf"parameter (a|0)\.weight {how} .* call look_again\(\)"):
        kfac.step(0.1)
    kfac.look_again()
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    gradient = gradient_of(layer)
    kfac.step(0.1)
    name = kfac.preconditioned[0]
    torch.testing.assert_close(gradient_of(layer), dense(kfac, layer, name, gradient, ALL.damping))


def test_a_step_of_zeros_without_a_pass_leaves_no_trace():
    """As `torch.distributed.checkpoint` takes one to fill the state of an optimizer."""
    # Its import takes a second, which every process of the tests would spend.
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    settings = replace(ALL, factor_interval=5, inverse_interval=5, factor_decay=0.9)
    found = []
    for fills in (False, True):
        model = drawn(Network())
        optimizer = KFACOptimizer(model, lr=0.1, settings=settings)
        if fills:
            state = get_optimizer_state_dict(model, optimizer)
            with pytest.raises(
                ValueError, match=r"torch\.distributed\.checkpoint\.state_dict drops K-FAC's part"
            ):
                optimizer.load_state_dict(state)
            assert optimizer.kfac.n_done == 0
        for step in range(7):
            rng = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            x = torch.randn(12, 5, generator=rng, dtype=torch.float64)
            cross_entropy(model(x), torch.randint(4, (12,), generator=rng)).backward()
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)

"""Layers that one call uses several times or on folded rows, and inputs without samples: oracles are single samples."""

import warnings
from dataclasses import replace

import pytest
import torch
from single_samples import ALL
from torch import nn
from torch.nn import functional as F

from pipeline.training import KFAC, KFACSettings, SmoothedOptimizer, learning_rate_range_test
from pipeline.training.smoothing import SAM

N, STEPS = 12, 8


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


X = numbers(5, N, STEPS, 6)
Y = torch.randint(3, (N,), generator=torch.Generator().manual_seed(6))


class Normalized(nn.Module):
    """One function, whose normalization is called for all steps, for each step, or with steps folded into samples."""

    def __init__(self, how, norm):
        super().__init__()
        self.a, self.norm, self.head, self.how = nn.Linear(6, 6), norm, nn.Linear(6, 3), how

    def forward(self, x):
        if self.how == "for each step":
            h = torch.stack([self.norm(self.a(x[:, t])) for t in range(x.shape[1])], dim=1)
        elif self.how == "folded":
            h = self.norm(self.a(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        else:
            h = self.norm(self.a(x))
        return self.head(h.tanh().mean(dim=1))


def of_single_samples(model, parameters):
    """Gradients by single samples, shape (N, ..., number of parameters)."""
    return torch.stack([
        torch.stack(torch.autograd.grad(F.cross_entropy(model(x), y), parameters), dim=-1)
        for x, y in zip(X.split(1), Y.split(1), strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("how", ["for all steps", "for each step", "folded"])
def test_a_normalization_s_matrix_is_that_of_single_samples_however_its_steps_are_called(how, norm):
    torch.manual_seed(0)
    model = Normalized(how, norm(6)).double()
    own = of_single_samples(model, list(model.norm.parameters()))
    kfac = KFAC(model, ALL)
    F.cross_entropy(model(X), Y).backward()
    kfac.step(0.1)
    expected = torch.einsum("nui,nuj->uij", own, own) / N
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/U/norm"], expected)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_an_empty_micro_batch_changes_nothing(norm):
    torch.manual_seed(0)
    model, found = Normalized("for all steps", norm(6)).double(), []
    for sizes in ([N], [0, N]):
        model.zero_grad()
        kfac = KFAC(model, ALL)
        for x, y in zip(X.split(sizes), Y.split(sizes), strict=True):
            F.cross_entropy(model(x), y, reduction="sum").div(N).backward()
        kfac.step(0.1)
        found.append(kfac.state_dict()["tensors"]["factor/U/norm"])
        kfac.remove()
    torch.testing.assert_close(*found)


class Halves(nn.Module):
    """A network that cuts its batch: each use has other samples."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.cat([self.norm(part) for part in x.mean(dim=1).chunk(2)]))


def test_uses_of_other_samples_are_not_added_up():
    torch.manual_seed(0)
    model = Halves().double()
    own = of_single_samples(model, list(model.norm.parameters()))
    kfac = KFAC(model, ALL)
    F.cross_entropy(model(X), Y).backward()
    kfac.step(0.1)
    expected = torch.einsum("nui,nuj->uij", own, own) / N
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/U/norm"], expected)


class Twice(nn.Module):
    def __init__(self, folded):
        super().__init__()
        self.a, self.head, self.folded = nn.Linear(6, 6), nn.Linear(6, 3), folded

    def forward(self, x):
        folded = x.flatten(0, 1) if self.folded else self.a(x).tanh()
        h = self.a(folded).unflatten(0, x.shape[:2]) if self.folded else self.a(folded)
        return self.head(h.tanh().mean(dim=1))


@pytest.mark.parametrize("folded", [False, True])
def test_corrected_eigenvalues_of_a_layer_are_squares_of_gradients_of_single_samples(folded):
    torch.manual_seed(0)
    model = Twice(folded).double()
    own = of_single_samples(model, [model.a.weight])[..., 0]
    bias = of_single_samples(model, [model.a.bias])
    whole = torch.cat([own, bias], dim=2)
    settings = KFACSettings(
        factor_interval=1, inverse_interval=1, sample_fraction=1.0, kl_clip=0.0, factor_decay=0.0, ekfac=True
    )
    kfac = KFAC(model, settings)
    for _ in range(2):  # the first pass finds the bases
        model.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        kfac.step(0.1)
    squared = kfac.state_dict()["tensors"]["correction/S/a"].sum()  # in any orthogonal basis
    torch.testing.assert_close(squared, whole.square().sum() / N)


def test_a_share_of_a_batch_of_two_kinds_has_both():
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    x = torch.cat([numbers(1, 64, 6), 5 + numbers(2, 64, 6)])
    y = torch.arange(128) % 3
    kfac = KFAC(model, replace(ALL, sample_fraction=0.25))
    F.cross_entropy(model(x), y).backward()
    kfac.step(0.1)
    mean = torch.cat([x, torch.ones(128, 1).double()], dim=1).mean(dim=0)
    # A quarter of each kind: the mean of 32 inputs scatters by a sixth of their deviation.
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/A/"][-1], mean, rtol=0, atol=0.5)


class Positions(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.tokens, self.positions, self.how = nn.Embedding(11, 8), nn.Embedding(STEPS, 8), how
        self.queries, self.mix, self.head = nn.Parameter(torch.randn(3, 8)), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, t):
        places = torch.arange(t.shape[1])
        if self.how == "a row":
            places = places[None]
        elif self.how == "expanded":
            places = places.expand(len(t), -1)
        h = self.tokens(t) + self.positions(places)
        if self.how == "queries":
            h = h + self.mix(self.queries).mean(dim=0)
        return self.head(h.tanh().mean(dim=1))


@pytest.mark.parametrize("n", [4, 5, 12])  # of which 4 divides the number of steps
@pytest.mark.parametrize("how", ["once", "a row", "expanded", "queries"])
def test_a_layer_whose_inputs_are_the_same_for_all_samples_keeps_its_gradient_and_is_named(how, n):
    torch.manual_seed(0)
    model = Positions(how).double()
    t = torch.randint(11, (n, STEPS), generator=torch.Generator().manual_seed(1))
    kfac = KFAC(model, ALL)
    F.cross_entropy(model(t), t[:, 0] % 3).backward()
    before = model.positions.weight.grad.clone()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kfac.step(0.1)
    left = {"expanded": set(), "queries": {"positions", "mix"}}.get(how, {"positions"})
    named = [str(one.message) for one in told if "the same for all samples" in str(one.message)]
    assert len(named) == bool(left)
    assert all(name in named[0] for name in left)
    assert torch.equal(model.positions.weight.grad, before) == ("positions" in left)
    assert {f"{name}.weight" for name in left} <= set(kfac.not_preconditioned)
    assert all(kfac.reasons[f"{name}.weight"] == "its inputs are the same for all samples" for name in left)


def test_maximizing_the_negative_loss_climbs_as_minimizing_the_loss_does():
    def trained(sign):
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=sign < 0)
        smoothed = SmoothedOptimizer(model, optimizer, [SAM(rho=0.2)], n_steps=5)

        def closure():
            smoothed.zero_grad()
            loss = sign * F.cross_entropy(model(X.mean(dim=1)), Y)
            loss.backward()
            return loss

        for _ in range(5):
            smoothed.step(closure)
        return model.weight.detach()

    torch.testing.assert_close(trained(-1), trained(1))


@pytest.mark.parametrize("seed", range(6))
def test_the_scatter_of_batches_moves_the_rate_by_less_than_a_decade(seed):
    def steepest(batch_of):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def loss(step):
            return F.cross_entropy(model(x[batch_of(step)]), y[batch_of(step)])

        return learning_rate_range_test(model, optimizer, loss).steepest

    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(100, 64, 6, generator=rng)
    y = (x[..., :4] + 0.5 * torch.randn(100, 64, 4, generator=rng)).argmax(-1)
    # One batch again and again has no scatter.
    assert 0.1 < steepest(lambda step: step) / steepest(lambda _: 0) < 10


def test_layers_that_are_called_outside_of_the_network_are_not_judged_by_an_earlier_call_of_it():
    torch.manual_seed(0)
    model = Positions("expanded").double()
    kfac = KFAC(model, ALL, loss="mean")
    t = torch.randint(11, (6, STEPS), generator=torch.Generator().manual_seed(1))
    model(t)  # evaluates without a backward pass
    h = model.tokens(t[:5, 0])  # of five other samples
    F.cross_entropy(model.head(h.tanh()), t[:5, 0] % 3).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that have not been used
        kfac.step(0.1)
    assert "tokens.weight" not in kfac.not_preconditioned

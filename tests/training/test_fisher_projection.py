import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.runtime.communicator import run_in_threads
from pipeline.training import KFAC, KFACOptimizer, KFACSettings
from pipeline.training.fisher_projection import orthogonal_part, projected

EVERY = {"factor_interval": 1, "inverse_interval": 1, "sample_fraction": 1.0, "kl_clip": 0.0, "damping": 0.05}


def network():
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    return model


def halves(rng):
    x = torch.randn(11, 4, generator=rng, dtype=torch.float64)
    return x, torch.arange(11) % 3, slice(0, 5), slice(5, 11)


def gradients(model, x, y):
    return torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))


def stacked(weight, bias):
    return torch.cat([weight, bias[:, None]], dim=1)


def step(x, y, first, second, *, swapped=False, **settings):
    """One step of FOP: the network, its preconditioner, the gradient before, and the difference."""
    model = network()
    kfac = KFAC(model, KFACSettings(**EVERY, placement="replicate", **settings))
    g1, g2 = gradients(model, x[first], y[first]), gradients(model, x[second], y[second])
    sign = -1 if swapped else 1
    difference = {
        name: sign * (a - b) for (name, _), a, b in zip(model.named_parameters(), g1, g2, strict=True)
    }
    kfac.discard()
    functional.cross_entropy(model(x), y).backward()
    before = stacked(*(p.grad.clone() for p in model.parameters()))
    kfac.step(1.0, difference=difference)
    after = stacked(*(p.grad for p in model.parameters()))
    return kfac, before, stacked(*difference.values()), after


def dense(kfac):
    """The Fisher matrix of the rows of the weight and its damped inverse, as dense matrices."""
    tensors = kfac.state_dict()["tensors"]
    A, G = tensors["factor/A/0"], tensors["factor/G/0"]
    pi = torch.sqrt(A.diagonal().mean() / G.diagonal().mean())
    root = 0.05**0.5
    damped = torch.kron(
        G + root / pi * torch.eye(3, dtype=torch.float64), A + root * pi * torch.eye(5, dtype=torch.float64)
    )
    return torch.kron(G, A), torch.linalg.inv(damped)


def test_the_step_is_that_of_the_dense_fisher_matrix(rng):
    kfac, gradient, difference, after = step(*halves(rng), difference_weight=0.7)
    F, inverse = dense(kfac)
    g, d = gradient.flatten(), difference.flatten()
    p = d - (d @ F @ g) / (g @ F @ g) * g
    assert abs(p @ F @ g) < 1e-12 * (d @ F @ d)
    expected = inverse @ g + 0.7 * (g @ inverse @ p) / (p @ inverse @ p) * (inverse @ p)
    torch.testing.assert_close(after.flatten(), expected)


def test_the_addition_is_the_best_along_its_direction_for_the_step_size_that_its_weight_stands_for(rng):
    # In the quadratic model with Fisher matrix F, at steps eta F^-1 (g + a p), c = 1 / eta - 1.
    eta = 0.3
    A = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    F = A @ A.T + torch.eye(6, dtype=torch.float64)
    inverse = torch.linalg.inv(F)
    g, d = (torch.randn(6, generator=rng, dtype=torch.float64) for _ in range(2))
    p = orthogonal_part(d, g, lambda v: F @ v)

    def model_value(natural):
        return float(-eta * g @ natural + eta**2 / 2 * natural @ F @ natural)

    def value(weight):
        return model_value(projected(g, p, inverse @ g, inverse @ p, weight))

    best = value(1 / eta - 1)
    assert all(value(1 / eta - 1 + change) > best for change in (-0.1, 0.1))


def test_which_half_is_called_the_first_does_not_matter(rng):
    parts = halves(rng)
    *_, one = step(*parts, difference_weight=1.5)
    *_, other = step(*parts, difference_weight=1.5, swapped=True)
    torch.testing.assert_close(one, other)


def test_without_weight_it_is_kfac_and_tells_how_large_gradient_and_difference_are(rng):
    kfac, gradient, difference, after = step(*halves(rng))
    _, inverse = dense(kfac)
    g, d = gradient.flatten(), difference.flatten()
    torch.testing.assert_close(after.flatten(), inverse @ g)
    assert kfac.squares == pytest.approx((float(g @ inverse @ g), float(d @ inverse @ d)))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_halves_that_agree_add_nothing(scale, rng):
    g = torch.randn(5, generator=rng)
    p = orthogonal_part(scale * g, g, lambda v: v)
    torch.testing.assert_close(p, torch.zeros(5))
    assert torch.equal(projected(g, 0 * p, g, 0 * p, 1.0), g)


def test_a_gradient_of_no_length_takes_nothing_from_the_difference(rng):
    d = torch.randn(5, generator=rng)
    assert torch.equal(orthogonal_part(d, torch.zeros(5), lambda v: v), d)


def test_a_step_without_the_difference_is_refused():
    kfac = KFAC(network(), KFACSettings(difference_weight=1.0))
    with pytest.raises(ValueError, match=r"needs step\(lr, difference=...\)"):
        kfac.step(1.0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_a_wrapped_network_are_understood_and_missing_ones_named(prefix, rng):
    x, y, first, second = halves(rng)
    natural = []
    for start in ("", prefix):
        model = network()
        kfac = KFAC(model, KFACSettings(**EVERY, placement="replicate", difference_weight=0.5))
        apart = [
            a - b
            for a, b in zip(
                gradients(model, x[first], y[first]), gradients(model, x[second], y[second]), strict=True
            )
        ]
        functional.cross_entropy(model(x), y).backward()
        difference = {start + name: d for (name, _), d in zip(model.named_parameters(), apart, strict=True)}
        kfac.step(0.1, difference=difference)
        natural.append(stacked(model[0].weight.grad, model[0].bias.grad))
    assert torch.equal(*natural)
    model.zero_grad()
    functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"difference of gradients lacks parameter 0\.bias"):
        kfac.step(0.1, difference={"0.weight": apart[0]})


def test_factors_that_are_spread_are_refused():
    def work(communicator):
        with pytest.raises(ValueError, match="set placement to 'replicate', not 'hybrid'"):
            KFAC(network(), KFACSettings(difference_weight=1.0), communicator=communicator)

    run_in_threads(2, work)


def test_an_optimizer_that_sees_no_halves_refuses_the_weight():
    with pytest.raises(ValueError, match=r"does not see; use KFAC and its step"):
        KFACOptimizer(network(), lr=0.1, settings=KFACSettings(difference_weight=1.0))

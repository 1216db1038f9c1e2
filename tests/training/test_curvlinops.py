"""K-FAC beside curvlinops, written by others: the same factors, the same natural gradients."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings
from pipeline.training.randomness import Purpose, generator

with warnings.catch_warnings():
    # A package that it imports uses what torch deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator

DAMPING = 0.03
SETTINGS = {
    "damping": DAMPING,
    "factor_interval": 1,
    "inverse_interval": 1,
    "factor_decay": 0.0,
    "sample_fraction": 1.0,
    "kl_clip": 0.0,
    "block_size": 0,
}
NEAR = {"rtol": 1e-10, "atol": 1e-13}
N_CLASSES = 4


class Parallel(nn.Module):
    """Each layer takes its part of the channels: what one convolution in groups does."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        parts = zip(self.layers, x.chunk(len(self.layers), dim=1), strict=True)
        return torch.cat([layer(part) for layer, part in parts], dim=1)


def drawn(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model.double()


def network(bias=True):
    """Linear layers, and convolutions with stride, padding and dilation; the head may have no bias."""
    return drawn(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(3, 3, 2, dilation=(2, 1), padding=(0, 1), bias=bias),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(30, 5),
            nn.Tanh(),
            nn.Linear(5, N_CLASSES, bias=bias),
        )
    )


def batch(n=60, channels=2):
    rng = torch.Generator().manual_seed(7)
    images = torch.randn(n, channels, 8, 8, generator=rng, dtype=torch.float64)
    return images, torch.randint(N_CLASSES, (n,), generator=rng)


def ours(model, data, *, n_steps=1, **options):
    """Factors by name, and all natural gradients."""
    kfac = KFAC(model, KFACSettings(**(SETTINGS | options)), seed=2)
    x, y = data
    for _ in range(n_steps):
        model.zero_grad()
        scores = model(x)
        kfac.sample_fisher(scores, 0)
        functional.cross_entropy(scores, y).backward()
        kfac.step(1.0)
    return kfac.state_dict()["tensors"], [p.grad.clone() for p in model.parameters()]


def theirs(model, data, kind=KFACLinearOperator, fisher_type="empirical"):
    return kind(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [data],
        fisher_type=fisher_type,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )


def their_natural(operator, model, data, **damping):
    x, y = data
    gradient = torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
    return KFACInverseLinearOperator(operator, damping=DAMPING, **damping) @ list(gradient)


def require_equal_factors(tensors, operator):
    names = {name.split("/", 2)[2] for name in tensors if name.startswith("factor/A/")}
    assert names == set(operator._input_covariances)
    for name in names:
        torch.testing.assert_close(tensors[f"factor/A/{name}"], operator._input_covariances[name], **NEAR)
        torch.testing.assert_close(tensors[f"factor/G/{name}"], operator._gradient_covariances[name], **NEAR)


@pytest.mark.parametrize("bias", [True, False])
def test_factors_and_natural_gradients_of_the_empirical_fisher_matrix(bias):
    model, data = network(bias), batch()
    tensors, natural = ours(model, data)
    operator = theirs(model, data)
    expected = their_natural(operator, model, data, use_heuristic_damping=True)
    require_equal_factors(tensors, operator)
    for found, wanted in zip(natural, expected, strict=True):
        torch.testing.assert_close(found, wanted, **NEAR)


class SameClasses(KFACLinearOperator):
    """Theirs, told the classes that ours has drawn."""

    def draw_label(self, output):
        uniform = torch.from_numpy(generator(2, Purpose.FISHER, 0, 0).random(len(output)))
        below = output.softmax(1).cumsum(1) < uniform[:, None]
        return below.sum(1).clamp_max(N_CLASSES - 1)


def test_factors_and_natural_gradients_of_the_monte_carlo_fisher_matrix():
    model, data = network(), batch()
    tensors, natural = ours(model, data, fisher="monte_carlo")
    operator = theirs(model, data, SameClasses, fisher_type="mc")
    expected = their_natural(operator, model, data, use_heuristic_damping=True)
    require_equal_factors(tensors, operator)
    for found, wanted in zip(natural, expected, strict=True):
        torch.testing.assert_close(found, wanted, **NEAR)


def test_natural_gradients_with_corrected_eigenvalues():
    # The first step finds the eigenbases, the second the eigenvalues in them.
    model, data = network(), batch()
    _, natural = ours(model, data, ekfac=True, inverse_interval=5, n_steps=2)
    expected = their_natural(theirs(model, data, EKFACLinearOperator), model, data, use_exact_damping=True)
    for found, wanted in zip(natural, expected, strict=True):
        torch.testing.assert_close(found, wanted, **NEAR)


@pytest.mark.parametrize("groups", [2, 4])
def test_factors_of_a_convolution_in_groups_are_those_of_one_convolution_for_each(groups):
    # curvlinops averages over groups, so it gets them one by one.
    data, tail = batch(channels=4), [nn.Flatten(), nn.Linear(8 * 9, N_CLASSES)]
    model = drawn(nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=groups), *tail))
    parts = [nn.Conv2d(4 // groups, 8 // groups, 3, stride=2).double() for _ in range(groups)]
    for part, weight, bias in zip(
        parts, model[0].weight.chunk(groups), model[0].bias.chunk(groups), strict=True
    ):
        part.weight.data, part.bias.data = weight.detach().clone(), bias.detach().clone()
    apart = nn.Sequential(Parallel(parts), *tail)
    tensors, _ = ours(model, data)
    operator = theirs(apart, data)
    operator.compute_kronecker_factors()
    for i in range(groups):
        name = f"0.layers.{i}"
        torch.testing.assert_close(tensors["factor/A/0"][i], operator._input_covariances[name], **NEAR)
        torch.testing.assert_close(tensors["factor/G/0"][i], operator._gradient_covariances[name], **NEAR)

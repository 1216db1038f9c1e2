"""Weights that are used several times for a sample: at positions, in several calls, in several modules."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of a package that it imports
    from curvlinops import KFACLinearOperator

ALL = KFACSettings(
    factor_interval=1, inverse_interval=1, sample_fraction=1.0, kl_clip=0.0, block_size=0, damping=0.05
)
N, T, N_CLASSES = 9, 4, 3


def drawn(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model.double()


class Stacked(nn.Module):
    """A linear layer over positions, whose outputs are summed or averaged."""

    def __init__(self, together=torch.sum):
        super().__init__()
        self.layer = nn.Linear(5, 6)
        self.head = nn.Linear(6, N_CLASSES)
        self.together = together

    def forward(self, x):
        return self.head(self.together(self.layer(x).tanh(), dim=1))


class Called(Stacked):
    """The same function, with a call for each position."""

    def forward(self, x):
        calls = torch.stack([self.layer(part).tanh() for part in x.unbind(1)], dim=1)
        return self.head(self.together(calls, dim=1))


class Tied(Stacked):
    """The same function, with a module for each position that holds the same weight and bias."""

    def __init__(self):
        super().__init__()
        self.others = nn.ModuleList([nn.Linear(5, 6) for _ in range(T - 1)])
        for other in self.others:
            other.weight, other.bias = self.layer.weight, self.layer.bias

    def forward(self, x):
        layers = [self.layer, *self.others]
        calls = [layer(part).tanh() for layer, part in zip(layers, x.unbind(1), strict=True)]
        return self.head(torch.stack(calls, dim=1).sum(dim=1))


def batch():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(N, T, 5, generator=rng, dtype=torch.float64), torch.randint(
        N_CLASSES, (N,), generator=rng
    )


def after_a_step(model, settings=ALL):
    x, y = batch()
    kfac = KFAC(model, settings)
    functional.cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    return kfac, kfac.state_dict()["tensors"]


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("kind", [Called, Tied])
def test_calls_and_tied_modules_are_uses_like_positions(kind, sharing):
    settings = replace(ALL, weight_sharing=sharing)
    (_, expected), (kfac, found) = (after_a_step(drawn(k()), settings) for k in (Stacked, kind))
    assert kfac.preconditioned == ("layer", "head")
    assert kfac.not_preconditioned == ()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("together", [torch.sum, torch.mean])
def test_factors_of_both_settings_are_those_of_curvlinops(sharing, together):
    model = drawn(Stacked(together))
    _, found = after_a_step(model, replace(ALL, weight_sharing=sharing))
    operator = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [batch()],
        fisher_type="empirical",
        kfac_approx=sharing,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()
    for name in ("layer", "head"):
        torch.testing.assert_close(
            found[f"factor/A/{name}"], operator._input_covariances[name], rtol=1e-10, atol=1e-13
        )
        torch.testing.assert_close(
            found[f"factor/G/{name}"], operator._gradient_covariances[name], rtol=1e-10, atol=1e-13
        )


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("kind", [Called, Tied])
def test_factors_of_calls_are_sums_over_the_uses_of_single_samples(kind, sharing):
    model = drawn(kind())
    x, y = batch()
    layers = {id(module): module for module in model.modules() if isinstance(module, nn.Linear)}
    uses = [layer for layer in layers.values() if layer is not model.head]
    A, G = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    for one, target in zip(x, y, strict=True):
        seen = []

        def see(layer, inputs, output, seen=seen):
            seen.append((inputs[0], output))

        handles = [use.register_forward_hook(see) for use in uses]
        loss = functional.cross_entropy(model(one[None]), target[None])
        for handle in handles:
            handle.remove()
        inputs = torch.cat([a for a, _ in seen])
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
        gradients = torch.cat(torch.autograd.grad(loss, [output for _, output in seen]))
        if sharing == "reduce":  # KFAC-reduce of Eschenhagen et al.
            inputs, gradients = inputs.mean(dim=0, keepdim=True), gradients.sum(dim=0, keepdim=True)
        A += inputs.T @ inputs / len(inputs) / N
        G += gradients.T @ gradients / N
    _, found = after_a_step(model, replace(ALL, weight_sharing=sharing))
    torch.testing.assert_close(found["factor/A/layer"], A, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found["factor/G/layer"], G, rtol=1e-10, atol=1e-13)


def test_reduced_factors_are_exact_for_a_linear_network_that_averages_positions():
    # Without an activation all uses of a sample have the same output gradient [Eschenhagen et al., proposition 3].
    layer = drawn(nn.Linear(5, N_CLASSES, bias=False))
    x, y = batch()
    kfac = KFAC(layer, replace(ALL, weight_sharing="reduce"), loss="sum")
    functional.cross_entropy(layer(x).mean(dim=1)[:1], y[:1], reduction="sum").backward()
    gradient = layer.weight.grad.flatten().clone()
    kfac.step(1.0)
    tensors = kfac.state_dict()["tensors"]
    # One sample has a gradient, all have inputs: compare with the dense product of that sample alone.
    mean = x.mean(dim=1)
    A, G = tensors["factor/A/"], tensors["factor/G/"]
    torch.testing.assert_close(A, mean.T @ mean / N)
    expected = torch.outer(gradient, gradient).view(N_CLASSES, 5, N_CLASSES, 5)
    torch.testing.assert_close(G * N * (mean[0] @ mean[0]), torch.einsum("aibi->ab", expected))


def test_calls_with_other_numbers_of_samples_cannot_be_added_up():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x):
            return self.layer(x).sum() + self.layer(x[:4]).sum()

    model = drawn(Parts())
    kfac = KFAC(model, replace(ALL, weight_sharing="reduce"))
    loss = model(batch()[0][:, 0])
    with pytest.raises(
        ValueError,
        match="was called with 9 and with 4 samples in one call of the network; set weight_sharing",
    ):
        loss.backward()
    kfac.discard()


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("sizes", [(9,), (5, 4), (3, 3, 3)])
def test_calls_of_the_network_have_samples_of_their_own(sizes, sharing):
    (x, y), settings = batch(), replace(ALL, weight_sharing=sharing)
    _, expected = after_a_step(drawn(Stacked()), settings)
    model = drawn(Called())
    kfac = KFAC(model, settings)
    parts = zip(x.split(sizes), y.split(sizes), strict=True)
    (sum(functional.cross_entropy(model(a), b, reduction="sum") for a, b in parts) / N).backward()
    kfac.step(1.0)
    for name, tensor in kfac.state_dict()["tensors"].items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-13)


def test_weights_with_biases_of_their_own_are_one_layer_and_the_biases_are_named():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ("0",)
    assert kfac.not_preconditioned == ("0.bias", "2.bias")


def test_a_weight_that_kinds_share_which_do_not_add_up_is_left_with_a_reason():
    model = nn.ModuleList([nn.Linear(3, 4, bias=False), nn.LayerNorm((4, 3), bias=False)])
    model[1].weight = model[0].weight
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ()
    assert kfac.reasons == {"0.weight": "layers of different kinds share it: 0, 1"}


class Language(nn.Module):
    """A table that is looked up and scores its rows."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens).tanh())


def test_a_tied_head_is_preconditioned_by_the_partial_traces_of_the_sum_over_uses():
    model = drawn(Language())
    rng = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(7, (N, T), generator=rng), torch.randint(7, (N, T), generator=rng)
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ("table",)
    functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
    gradient = model.table.weight.grad.clone()
    kfac.step(1.0)
    # Every use by itself: a copy of the table for each, and the gradient of each single term.
    fisher = torch.zeros(28, 28, dtype=torch.float64)
    weight = model.table.weight.detach()
    for token, target in zip(tokens.flatten(), targets.flatten(), strict=True):
        up, down = weight.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = functional.cross_entropy(up[token].tanh() @ down.T, target)
        for g in torch.autograd.grad(loss, [up, down]):
            fisher += torch.outer(g.flatten(), g.flatten()) / tokens.numel()
    by_entry = fisher.view(7, 4, 7, 4)
    A = torch.einsum("iaja->ij", by_entry).diagonal()
    G = torch.einsum("iaib->ab", by_entry) / A.sum()
    pi = (A.mean() / G.diagonal().mean()).sqrt()
    root = ALL.damping**0.5
    expected = torch.linalg.solve(
        G + root / pi * torch.eye(4).double(), (gradient / (A + root * pi)[:, None]).T
    ).T
    torch.testing.assert_close(model.table.weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_tied_tables_count_all_look_ups():
    model = nn.ModuleList([nn.Embedding(5, 3), nn.Embedding(5, 3)]).double()
    model[1].weight = model[0].weight
    kfac = KFAC(model, ALL, loss="sum")
    x, y = torch.tensor([0, 1, 1]), torch.tensor([4, 1, 2])
    (model[0](x) + 2 * model[1](y)).sum().backward()
    kfac.step(1.0)
    A = kfac.state_dict()["tensors"]["factor/A/0"].flatten()
    torch.testing.assert_close(A, torch.bincount(torch.cat([x, y]), minlength=5).double() / 6)


class Padded(nn.Module):
    """Sums the rows of a table, padding included; the head may be the table itself."""

    def __init__(self, tied):
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=2)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens).sum(dim=1).tanh())


@pytest.mark.parametrize("tied", [False, True])
def test_padding_is_no_use_of_a_table(tied):
    model = drawn(Padded(tied))
    rng = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(7, (N, T), generator=rng), torch.randint(7, (N,), generator=rng)
    tokens[:, -2:] = 2
    kfac = KFAC(model, ALL)
    functional.cross_entropy(model(tokens), targets).backward()
    kfac.step(1.0)
    found = kfac.state_dict()["tensors"]
    # Every use by itself: the gradient at each row that was looked up, and at the head's weight, of each sample.
    A, G = torch.zeros(7, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    weight = model.head.weight.detach()
    for row, target in zip(tokens, targets, strict=True):
        up, down = model.table(row).detach().requires_grad_(), weight.clone().requires_grad_()
        loss = functional.cross_entropy((up.sum(dim=0).tanh() @ down.T)[None], target[None])
        at_rows, at_head = torch.autograd.grad(loss, [up, down])
        for index, g in zip(row, at_rows, strict=True):
            if index != 2:
                A[index] += (g.square().sum() if tied else 1.0) / N
                G += torch.outer(g, g) / N
        if tied:
            A += at_head.square().sum(dim=1) / N
            G += at_head.T @ at_head / N
    if not tied:
        A *= N / (tokens != 2).sum()
    torch.testing.assert_close(found["factor/A/table"].flatten(), A)
    torch.testing.assert_close(found["factor/G/table"], G)


def test_normalizations_that_share_a_weight_and_no_bias_are_a_layer_of_the_weight():
    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.LayerNorm(5), nn.LayerNorm(5), nn.Linear(5, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.head(self.b(self.a(x).tanh()))

    rng = torch.Generator().manual_seed(0)
    model, x, y = Norms().double(), torch.randn(12, 5, generator=rng).double(), torch.arange(12) % 4
    expected = 0.0
    for one, label in zip(x.split(1), y.split(1), strict=True):
        uses = [model.a.weight.detach().clone().requires_grad_() for _ in range(2)]
        h = functional.layer_norm(one, (5,), uses[0], model.a.bias).tanh()
        loss = functional.cross_entropy(
            model.head(functional.layer_norm(h, (5,), uses[1], model.b.bias)), label
        )
        expected = expected + sum(torch.autograd.grad(loss, uses)).square() / len(x)
    kfac = KFAC(model, ALL)
    functional.cross_entropy(model(x), y).backward()
    before = model.a.bias.grad.clone()
    kfac.step(1.0)
    assert {"a.bias", "b.bias"} == set(kfac.not_preconditioned)
    assert torch.equal(model.a.bias.grad, before)
    assert kfac.state_dict()["tensors"]["factor/U/a"].shape == (5, 1, 1)
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/U/a"][:, 0, 0], expected)

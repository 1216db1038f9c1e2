"""Weights that a network also uses where no hook sees it; parameters that change under K-FAC's hands."""

import copy
from dataclasses import replace

import pytest
import torch
from single_samples import ALL, Network, batch, cross_entropies, drawn, expected_factors, require_factors
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

from pipeline.training import KFAC, KFACOptimizer
from pipeline.training.uses import Fate, count_uses, fate_of_gradient


class Twice(nn.Module):
    """A layer that is called, and whose weight is used once more in another way."""

    def __init__(self, how):
        super().__init__()
        self.layer = nn.Embedding(5, 5) if how.startswith("embedding") else nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)
        self.how = how

    def forward(self, x):
        h = self.layer(x.argmax(dim=1) if isinstance(self.layer, nn.Embedding) else x).tanh()
        weight = self.layer.weight
        if self.how.endswith("product"):
            h = h @ weight
        elif self.how.endswith("transposed"):
            h = functional.linear(h, weight.T)
        else:
            h = functional.linear(h, weight)
        return self.head(h)


def train(model, n_steps=3, **options):
    """Yield the gradients before and after each step of K-FAC."""
    x, y = batch()
    kfac = KFAC(model, ALL, **options)
    steps = []
    for _ in range(n_steps):
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        before = {name: p.grad.clone() for name, p in model.named_parameters()}
        kfac.step(1.0)
        steps.append((before, {name: p.grad.clone() for name, p in model.named_parameters()}))
    return kfac, steps


@pytest.mark.parametrize("how", ["product", "transposed", "embedding and product", "embedding and linear"])
def test_a_layer_whose_weight_is_also_used_unseen_keeps_its_gradient_and_is_named(how):
    with pytest.warns(
        UserWarning, match="does not precondition layer layer: the network also uses its weight"
    ):
        kfac, steps = train(drawn(Twice(how)))
    assert kfac.preconditioned == ("head",)
    assert "layer.weight" in kfac.not_preconditioned
    assert "uses its weight other than" in kfac.reasons["layer.weight"]
    for before, after in steps:
        assert torch.equal(before["layer.weight"], after["layer.weight"])
        assert not torch.equal(before["head.weight"], after["head.weight"])


def test_a_weight_that_is_applied_by_a_call_and_by_linear_has_both_uses():
    model, (x, y) = drawn(Twice("linear")), batch()
    model.layer.bias = None
    kfac, _ = train(model, n_steps=2)
    assert kfac.preconditioned == ("layer", "head")
    spelled = copy.deepcopy(model)
    spelled.forward = lambda x: spelled.head(spelled.layer(spelled.layer(x).tanh()))
    losses = [
        lambda m, i=i: cross_entropy(m.head(m.layer(m.layer(x[i : i + 1]).tanh())), y[i : i + 1])
        for i in range(12)
    ]
    require_factors(kfac, expected_factors(spelled, losses))


def test_uses_are_counted_through_views_and_calls():
    W = torch.randn(3, 3, requires_grad=True)
    x = torch.randn(2, 3)
    assert count_uses({"scores": [functional.linear(functional.linear(x, W), W)], "n": 2})[id(W)] == 2
    assert count_uses(x @ W.T @ W)[id(W)] == 2
    assert count_uses(x) == {}


def unfreeze(model):
    model.b.requires_grad_(True)


def replace_parameters(model):
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)


def replace_a_layer(model):
    model.c = nn.Linear(6, 4).double()


def add_a_layer(model):
    model.d = nn.Linear(3, 3)


def freeze_a_bias(model):
    model.c.bias.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (unfreeze, "b.weight was added or unfrozen"),
        (replace_parameters, "a.weight was replaced"),
        (replace_a_layer, "c.weight was replaced"),
        (add_a_layer, "d.weight was added"),
        (freeze_a_bias, "c.bias was frozen or removed without the rest of its layer"),
    ],
)
def test_a_network_that_trains_other_parameters_than_when_it_was_looked_at_is_refused(change, named):
    model, (x, y) = drawn(Network()), batch()
    model.b.requires_grad_(False)
    kfac = KFAC(model, ALL)
    cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    model.zero_grad()
    change(model)
    cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=rf"parameter {named} .*; call look_again\(\)"):
        kfac.step(1.0)


@pytest.mark.parametrize("change", [unfreeze, replace_a_layer, freeze_a_bias])
def test_a_network_that_is_looked_at_again_has_factors_of_what_is_new_and_keeps_the_others(change):
    model, (x, y) = drawn(Network()), batch()
    model.b.requires_grad_(False)
    kfac = KFAC(model, replace(ALL, factor_decay=0.9, factor_interval=9, inverse_interval=9))
    former = expected_factors(model, cross_entropies(x[:5], y[:5]))
    cross_entropy(model(x[:5]), y[:5]).backward()
    kfac.step(1.0)
    model.zero_grad()
    assert not kfac.is_outdated
    change(model)
    assert kfac.is_outdated == (change is not freeze_a_bias)
    drawn(model)
    kfac.look_again()
    expected = expected_factors(model, cross_entropies(x[5:], y[5:]))
    cross_entropy(model(x[5:]), y[5:]).backward()
    kfac.step(1.0)
    if change is freeze_a_bias:
        expected["factor/A/c"] = expected["factor/A/c"][:-1, :-1]
        assert kfac.not_preconditioned == ()
    new = "b" if change is unfreeze else "c"
    if new == "c":
        expected = {path: matrix for path, matrix in expected.items() if not path.endswith("/b")}
    require_factors(
        kfac,
        {
            path: matrix if path.endswith(f"/{new}") else (former[path] + matrix) / 2
            for path, matrix in expected.items()
        },
    )


def test_layers_that_are_unfrozen_for_a_new_group_are_preconditioned_from_then_on():
    model, (x, y) = drawn(Network()), batch()
    model.a.requires_grad_(False)
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    for unfrozen in (False, True):
        if unfrozen:
            model.a.requires_grad_(True)
            optimizer.add_param_group({"params": list(model.a.parameters())})
            expected = expected_factors(model, cross_entropies(x, y))
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        assert optimizer.kfac.preconditioned == (("a", "b", "c") if unfrozen else ("b", "c"))
    require_factors(optimizer.kfac, expected)


def test_a_layer_that_is_frozen_later_is_left_alone_and_the_others_are_as_before():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    stale = model.b.weight.grad.clone()
    model.a.zero_grad(), model.c.zero_grad()
    model.b.requires_grad_(False)
    cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    assert torch.equal(model.b.weight.grad, stale)
    require_factors(kfac, expected_factors(model.requires_grad_(True), cross_entropies(x, y)))


def test_a_network_that_is_converted_between_steps_is_followed():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    held = kfac.state_dict()["tensors"]
    model.float().zero_grad()
    cross_entropy(model(x.float()), y).backward()
    kfac.step(1.0)
    assert all(t.dtype == torch.float32 for t in kfac.state_dict()["tensors"].values())
    other = KFAC(model, ALL)
    other.load_state_dict({"tensors": held, "scalars": kfac.state_dict()["scalars"]})
    assert all(t.dtype == torch.float32 for t in other.state_dict()["tensors"].values())


def test_a_gradient_is_made_natural_once():
    model, (x, y) = drawn(Network()), batch()
    first, second = KFAC(model, ALL), KFAC(model, ALL)
    cross_entropy(model(x), y).backward()
    first.step(1.0)
    for each in (first, second):
        with pytest.raises(
            ValueError, match="the gradient of layer a is a natural gradient already; call step once"
        ):
            each.step(1.0)
    model.zero_grad(set_to_none=False)
    cross_entropy(model(x), y).backward()
    second.step(1.0)


def test_parameters_of_unusual_kinds_keep_their_gradients_and_say_why():
    model = nn.ModuleDict(
        {
            "complex": nn.Linear(3, 2, dtype=torch.complex64),
            "lazy": nn.LazyLinear(3),
            "sparse": nn.Embedding(4, 3, sparse=True),
            "projected": nn.LSTM(3, 3, proj_size=2),
            "plain": nn.Linear(3, 2),
        }
    )
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ("plain",)
    assert kfac.reasons["complex.weight"] == kfac.reasons["complex.bias"] == "it is complex"
    assert "not known yet" in kfac.reasons["lazy.weight"]
    assert "sparse" in kfac.reasons["sparse.weight"]
    assert "proj_size" in kfac.reasons["projected.weight_hr_l0"]


def test_layers_of_other_kinds_and_own_forwards_say_why_they_are_left_out():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    class Shifted(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.ModuleDict(
        {
            "convolution": Doubled(1, 2, 3),
            "norm": Shifted(2),
            "bag": nn.EmbeddingBag(4, 3),
            "bilinear": nn.Bilinear(2, 2, 3),
            "parametrized": parametrizations.weight_norm(nn.Linear(3, 2, bias=False)),
            "attention": nn.MultiheadAttention(4, 2),
        }
    )
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ("attention.in_proj", "attention.out_proj")
    assert kfac.reasons.keys() >= {name for name in kfac.not_preconditioned if name != "bilinear.bias"}
    assert "Doubled has a forward method of its own" in kfac.reasons["convolution.weight"]
    assert "Shifted has" in kfac.reasons["norm.bias"]
    assert kfac.reasons["bag.weight"] == "EmbeddingBag is no kind of layer that K-FAC knows"
    assert "Bilinear" in kfac.reasons["bilinear.weight"]
    assert "parametrization" in kfac.reasons["parametrized.parametrizations.weight.original1"]


def test_parameters_in_place_of_the_network_are_refused_in_a_line():
    parameters = Network().parameters()
    with pytest.raises(TypeError, match=r"needs the nn\.Module itself, not generator"):
        KFAC(parameters, ALL)
    with pytest.raises(TypeError, match=r"needs the network, an nn\.Module, .* params="):
        KFACOptimizer(parameters, lr=0.1)


def test_classes_that_are_to_be_drawn_and_are_not_are_an_error():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, replace(ALL, fisher="monte_carlo"))
    cross_entropy(model(x), y).backward()
    with pytest.raises(
        ValueError, match=r"call sample_fisher\(scores\) between the forward and the backward pass"
    ):
        kfac.step(1.0)


def test_a_preconditioner_cannot_be_copied_and_takes_no_other_state():
    kfac = KFAC(Network(), ALL)
    with pytest.raises(
        TypeError, match="watches its network by hooks and cannot be copied; save its state_dict"
    ):
        copy.deepcopy(kfac)
    for state in ({}, {"tensors": {}, "scalars": {}}):
        with pytest.raises(ValueError, match="no state of K-FAC"):
            kfac.load_state_dict(state)


def test_the_fate_of_a_gradient_is_told_anew_after_changes_of_type_and_of_what_is_asked_for():
    layer, known, fates = nn.Linear(3, 2), {}, []
    x = torch.ones(1, 3)

    def told(go):
        output = layer(x.to(layer.weight.dtype))
        output.register_hook(lambda _: fates.append(fate_of_gradient(layer.weight, known)))
        go(output.sum())
        return fates.pop()

    def asked(loss):
        torch.autograd.grad(loss, layer.weight)

    def spared(loss):
        torch.autograd.grad(loss, layer.bias)

    for change in (nn.Linear.float, nn.Linear.double, nn.Linear.float, lambda m: m.double().float()):
        change(layer)
        assert [told(go) for go in (torch.Tensor.backward, asked, spared)] == [
            Fate.ADDED,
            Fate.ASKED,
            Fate.SPARED,
        ]
        assert told(torch.Tensor.backward) == Fate.ADDED
    layer.weight.requires_grad_(False)
    assert told(torch.Tensor.backward) == Fate.SPARED

"""Which calls and backward passes count, and how much, beside factors from passes of single samples."""

from dataclasses import dataclass, replace

import pytest
import torch
from single_samples import ALL, Network, batch, cross_entropies, drawn, expected_factors, require_factors
from torch import nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.checkpoint import checkpoint

from pipeline.training import KFAC

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")


class Checkpointed(Network):
    """The same function, whose middle is computed once more in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        h = checkpoint(lambda h: self.b(h).tanh(), self.a(x).tanh(), use_reentrant=self.reentrant)
        return self.c(h)


@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_change_nothing(reentrant, n_passes):
    model, (x, y) = drawn(Checkpointed(reentrant)), batch()
    kfac = KFAC(model, ALL)
    for images, labels in zip(x.chunk(n_passes), y.chunk(n_passes), strict=True):
        (cross_entropy(model(images), labels) / n_passes).backward()
    kfac.step(1.0)
    require_factors(kfac, expected_factors(drawn(Network()), cross_entropies(x, y)))


class Attending(nn.Module):
    """Attention or a recurrence, as it is or computed once more in the backward pass."""

    def __init__(self, kind, how):
        super().__init__()
        self.how = how
        self.layer = nn.LSTM(6, 6) if kind == "lstm" else nn.MultiheadAttention(6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        def part(x):
            return self.layer(x)[0] if isinstance(self.layer, nn.LSTM) else self.layer(x, x, x)[0]

        h = part(x) if self.how is None else checkpoint(part, x, use_reentrant=self.how)
        return self.head(h.sum(dim=0))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_weights_that_functions_apply_are_seen_in_checkpoints_too(kind, reentrant):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 7, 6, generator=rng).double().requires_grad_(), torch.arange(7) % 3
    tensors = []
    for how in (None, reentrant):
        model = drawn(Attending(kind, how))
        kfac = KFAC(model, ALL)
        cross_entropy(model(x), y).backward()
        kfac.step(1.0)
        tensors.append(kfac.state_dict()["tensors"])
    plain, checkpointed = tensors
    assert plain.keys() == checkpointed.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, rtol=1e-9, atol=1e-12)


def of_other_passes(name, model, x, y):
    """Passes that do not end in the gradients that the step sees."""
    if name == "a call without a backward pass":
        model(3 * x)
    elif name == "gradients at inputs":
        inputs = (2 * x).requires_grad_()
        torch.autograd.grad(cross_entropy(model(inputs), y), inputs)
    elif name == "products with the Hessian matrix":
        weights = list(model.parameters())
        first = torch.autograd.grad(cross_entropy(model(2 * x), y), weights, create_graph=True)
        torch.autograd.grad(sum(g.sum() for g in first), weights)
    elif name == "gradients set to None":
        cross_entropy(model(2 * x), y).backward()
        model.zero_grad()
    elif name == "gradients set to zero":
        cross_entropy(model(2 * x), y).backward()
        model.zero_grad(set_to_none=False)
    elif name == "weights of others":
        others = {key: (2 * p.detach()).requires_grad_() for key, p in model.named_parameters()}
        cross_entropy(torch.func.functional_call(model, others, (x,)), y).backward()
    elif name == "transformations":
        weights = {key: p.detach() for key, p in model.named_parameters()}

        def loss(weights, x, y):
            return cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

        torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, x, y)
    else:
        assert name == "a pass that fails"
        scores = model(2 * x)
        scores.register_hook(fail)
        hidden = model.a(2 * x)
        hidden.register_hook(fail)
        with pytest.raises(ArithmeticError):
            cross_entropy(model.c(model.b(hidden.tanh()).tanh()), y).backward()
        model.zero_grad()


def fail(gradient):
    raise ArithmeticError


@pytest.mark.parametrize("loss", ["learned", "mean"])
@pytest.mark.parametrize(
    "other",
    [
        "a call without a backward pass",
        "gradients at inputs",
        "products with the Hessian matrix",
        "gradients set to None",
        "gradients set to zero",
        "weights of others",
        "transformations",
        "a pass that fails",
    ],
)
def test_passes_that_do_not_add_to_the_gradient_of_the_step_leave_no_trace(other, loss):
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL, loss=loss)
    of_other_passes(other, model, x, y)
    for part in (slice(0, 6), slice(6, 12)):
        (cross_entropy(model(x[part]), y[part]) / 2).backward()
    kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


def test_gradients_that_are_asked_for_count_where_the_caller_puts_them_in_place():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient
    kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


def test_a_graph_is_gone_through_for_a_question_and_then_for_the_step():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    loss = cross_entropy(model(x), y)
    torch.autograd.grad(7 * loss, list(model.parameters()), retain_graph=True)
    loss.backward()
    kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


def test_a_discriminator_does_not_count_the_passes_of_its_generator():
    model, (x, _) = drawn(Network(n_classes=1)), batch()
    generator = nn.Linear(5, 5).double()
    kfac = KFAC(model, ALL)
    real, fake = torch.ones(12, 1).double(), torch.zeros(12, 1).double()
    binary_cross_entropy_with_logits(model(generator(x)), real).backward()
    model.zero_grad()
    made = generator(x).detach()
    binary_cross_entropy_with_logits(model(x), real).backward()
    binary_cross_entropy_with_logits(model(made), fake).backward()
    kfac.step(1.0)
    losses = [
        lambda model, i=i, x=images, y=label: binary_cross_entropy_with_logits(model(x[i : i + 1]), y[:1])
        for images, label in ((x, real), (made, fake))
        for i in range(12)
    ]
    require_factors(kfac, expected_factors(model, losses))


def test_a_caller_that_sums_gradients_itself_keeps_the_statistics_of_all_passes():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL, sums_gradients=True)
    for part in (slice(0, 5), slice(5, 12)):
        model.zero_grad()
        cross_entropy(model(x[part]), y[part]).backward()
    kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


@pytest.mark.parametrize("sizes", [(6, 6), (5, 4, 3), (11, 1)])
def test_several_calls_before_one_backward_pass_add_terms_to_one_mean(sizes):
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    parts = zip(x.split(sizes), y.split(sizes), strict=True)
    (sum(cross_entropy(model(images), labels, reduction="sum") for images, labels in parts) / 12).backward()
    kfac.step(1.0)
    assert kfac.terms.n == 12
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


@pytest.mark.parametrize("loss", ["learned", "mean", "sum"])
def test_an_empty_batch_is_no_pass(loss):
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL, loss=loss)
    cross_entropy(model(x[:0]), y[:0], reduction="sum").backward()
    cross_entropy(model(x), y, reduction="sum" if loss == "sum" else "mean").backward()
    kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


def test_a_gradient_penalty_of_no_weight_changes_nothing():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    inputs = x.clone().requires_grad_()
    loss = cross_entropy(model(inputs), y)
    slope = torch.autograd.grad(loss, inputs, create_graph=True)[0]
    (loss + 0 * slope.square().sum()).backward()
    with pytest.warns(
        UserWarning,
        match="if the loss contains the derivatives, K-FAC's factors cover what depends on the network's",
    ):
        kfac.step(1.0)
    require_factors(kfac, expected_factors(model, cross_entropies(x, y)))


def test_scores_that_are_changed_in_place_tell_nothing():
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, ALL)
    scores = model(x)
    scores /= 2
    cross_entropy(scores, y).backward()
    kfac.step(1.0)
    losses = [
        lambda model, i=i: functional.cross_entropy(model(x[i : i + 1]) / 2, y[i : i + 1]) for i in range(12)
    ]
    require_factors(kfac, expected_factors(model, losses))


def test_hooks_that_change_an_output_do_not_change_what_the_layer_itself_computes():
    model, (x, y) = drawn(Network()), batch()
    expected = expected_factors(model, cross_entropies(x, y))
    with torch.no_grad():
        model.b.weight /= 3
        model.b.bias /= 3
    model.b.register_forward_hook(lambda _, inputs, output: 3 * output)
    kfac = KFAC(model, ALL)
    cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    expected["factor/G/b"] = 9 * expected["factor/G/b"]
    require_factors(kfac, expected)


class Losses(Network):
    """Computes its loss itself."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns

    def forward(self, images, labels):
        scores = super().forward(images)
        return self.returns(cross_entropy(scores, labels), scores)


@dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "returns", [lambda loss, _: loss, Output, lambda *both: dict(zip("ls", both, strict=True))]
)
def test_networks_that_compute_their_loss_themselves_are_seen_as_others(returns):
    model, (x, y) = drawn(Losses(returns)), batch()
    kfac = KFAC(model, ALL)
    for images, labels in zip(x.chunk(3), y.chunk(3), strict=True):
        output = model(images=images, labels=labels)
        loss = output["l"] if isinstance(output, dict) else getattr(output, "loss", output)
        (loss / 3).backward()
    kfac.step(1.0)
    plain = drawn(Network())
    require_factors(kfac, expected_factors(plain, cross_entropies(x, y)))


class Heads(Network):
    """Two heads, in either order."""

    def __init__(self, swapped):
        super().__init__()
        self.d = nn.Linear(6, 3)
        self.swapped = swapped

    def forward(self, x):
        h = self.b(self.a(x).tanh()).tanh()
        both = self.c(h), self.d(h)
        return both[::-1] if self.swapped else both


def of_heads(outputs, y, weights, swapped):
    main, other = outputs[::-1] if swapped else outputs
    return weights[0] * cross_entropy(main, y) + weights[1] * cross_entropy(other, y.clamp(max=2))


@pytest.mark.parametrize("factor", [1.0, 0.05, 1024.0])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.3), (1.0, 0.0)])
def test_of_several_outputs_the_one_that_weighs_most_is_the_unit(weights, swapped, factor):
    model, (x, y) = drawn(Heads(swapped)), batch()
    kfac = KFAC(model, ALL)
    for images, labels in zip(x.chunk(3), y.chunk(3), strict=True):
        (factor / 3 * of_heads(model(images), labels, weights, swapped)).backward()
    kfac.step(1.0)
    losses = [
        lambda model, i=i: of_heads(model(x[i : i + 1]), y[i : i + 1], weights, swapped) for i in range(12)
    ]
    expected = expected_factors(model, losses)
    if not weights[1]:
        expected = {name: matrix for name, matrix in expected.items() if not name.endswith("/d")}
    require_factors(kfac, expected)


class Two(nn.Module):
    """Two heads over one trunk."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        h = self.a(x).tanh()
        return self.b(h), self.c(h)


def squares(scores, y):
    return (scores - functional.one_hot(y, 4)).square().sum(dim=1).mean()


@pytest.mark.parametrize("loss", ["learned", "mean", "sum"])
@pytest.mark.parametrize("part", [cross_entropy, squares])
def test_a_further_pass_over_a_graph_adds_a_part_of_the_loss_of_the_same_samples(part, loss):
    model, (x, y) = drawn(Two()), batch()
    kfac = KFAC(model, ALL, loss=loss)
    scale = len(x) if loss == "sum" else 1
    first, second = model(x)
    (scale * part(first, y)).backward(retain_graph=True)
    (scale * part(second, (y + 1) % 4)).backward()
    kfac.step(1.0)
    # The parts' gradients are not added up before they are squared.
    each = [
        expected_factors(
            model, [lambda m, i=i, of=of: of(m(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
        )
        for of in (
            lambda found, y: part(found[0], y) + 0 * found[1].sum(),
            lambda found, y: part(found[1], (y + 1) % 4) + 0 * found[0].sum(),
        )
    ]
    expected = {path: each[0][path] if "/A/" in path else each[0][path] + each[1][path] for path in each[0]}
    require_factors(kfac, expected)


@pytest.mark.parametrize("loss", ["learned", "mean", "sum"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_calls_of_other_sizes_in_one_pass_have_gradients_of_their_own_samples(order, loss, sharing):
    model, (x, y) = drawn(Network()), batch()
    kfac = KFAC(model, replace(ALL, weight_sharing=sharing), loss=loss)
    parts = [slice(0, 3), slice(3, 12)]
    sizes = [1 if loss != "sum" else part.stop - part.start for part in parts]
    losses = [n * squares(model(x[part]), y[part]) for n, part in zip(sizes, parts, strict=True)]
    sum(losses[::order]).backward()
    kfac.step(1.0)
    each = []
    for part in parts:
        own = [lambda m, i=i: squares(m(x[i : i + 1]), y[i : i + 1]) for i in range(part.start, part.stop)]
        each.append(expected_factors(model, own))
    weights = [n / 6 for n in sizes] if loss == "sum" else sizes
    expected = {
        path: weights[0] * G + weights[1] * each[1][path] for path, G in each[0].items() if "/G/" in path
    }
    require_factors(kfac, expected)


class Parts(Network):
    """A network whose parts a program may call one by one."""

    def features(self, x):
        return self.b(self.a(x).tanh()).tanh()


def by_parts(model, x):
    return model.c(model.features(x))


def by_rows(model, x):
    h = model.features(x)
    return model.c(h.flatten(0, -2)).unflatten(0, h.shape[:-1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(12,), (4, 3)])
@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("call", [by_parts, by_rows])
def test_parts_that_are_called_one_by_one_have_the_scale_of_the_last_layer(call, n_passes, shape, reduction):
    model, (x, y) = drawn(Parts()), batch()
    expected = expected_factors(model, cross_entropies(x, y))
    kfac = KFAC(model, ALL)
    for images, labels in zip(x.view(*shape, 5).chunk(n_passes), y.view(shape).chunk(n_passes), strict=True):
        scores = call(model, images).flatten(0, -2)
        (cross_entropy(scores, labels.flatten(), reduction=reduction) / n_passes).backward()
    kfac.step(1.0)
    require_factors(kfac, expected)
    assert kfac.terms.source == "softmax cross-entropy"


def test_parts_that_are_called_one_by_one_have_one_number_of_samples():
    model, (x, y) = drawn(Parts()), batch()
    kfac = KFAC(model, ALL)
    rows = model.features(x.view(4, 3, 5)).flatten(0, 1)
    squares(model.c(rows), y).backward()
    with pytest.warns(UserWarning, match="does not recognize this loss"):
        kfac.step(1.0)
    losses = [lambda m, i=i: squares(m(x[i : i + 1]), y[i : i + 1]) for i in range(12)]
    require_factors(kfac, expected_factors(model, losses))


def test_a_head_that_is_called_after_the_network_has_the_scores():
    model, (x, y) = drawn(Parts()), batch()
    whole = nn.ModuleDict({"body": nn.Sequential(model.a, nn.Tanh(), model.b, nn.Tanh()), "head": model.c})
    whole.forward = lambda x: whole["body"](x)
    kfac = KFAC(whole, ALL)
    cross_entropy(whole["head"](whole(x)), y, reduction="sum").backward()
    kfac.step(1.0)
    expected = expected_factors(model, cross_entropies(x, y))
    names = {"a": "body.0", "b": "body.2", "c": "head"}
    require_factors(kfac, {path[:-1] + names[path[-1]]: matrix for path, matrix in expected.items()})

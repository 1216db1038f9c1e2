"""Weights that functions apply: attention, recurrences, subclasses; gradients by autograd are the oracle."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings
from pipeline.training.functions import Watching

ALL = KFACSettings(
    factor_interval=1, inverse_interval=1, sample_fraction=1.0, kl_clip=0.0, block_size=0, damping=0.1
)
N, T = 5, 3


def drawn(module):
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return module.double()


def series(n_features=4, n=N, length=T):
    return torch.randn(n, length, n_features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Mean(nn.Module):
    """Some scores of what a layer gives."""

    def __init__(self, layer, forward):
        super().__init__()
        self.layer = layer
        self.given = forward

    def forward(self, x):
        out = self.given(self.layer, x)
        return out.flatten(1)[:, :3]


ATTENTION = {
    "self": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda layer, x: layer(x, x, x)[0]),
    "self, positions first": (
        lambda: nn.MultiheadAttention(4, 2),
        lambda layer, x: layer(*[x.transpose(0, 1)] * 3, need_weights=False)[0].transpose(0, 1),
    ),
    "cross": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda layer, x: layer(x[:, :2], x, x)[0],
    ),
}
RECURRENCES = {
    "lstm": lambda: nn.LSTM(4, 3, batch_first=True),
    "lstm, two layers, both ways": lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True),
    "lstm without biases": lambda: nn.LSTM(4, 3, bias=False),
    "gru": lambda: nn.GRU(4, 3, num_layers=2, batch_first=True),
    "gru both ways": lambda: nn.GRU(4, 3, bidirectional=True),
    "tanh": lambda: nn.RNN(4, 3, batch_first=True),
    "relu": lambda: nn.RNN(4, 3, nonlinearity="relu"),
}


@pytest.mark.parametrize("kind", RECURRENCES.values(), ids=RECURRENCES)
def test_recurrences_run_step_by_step_give_what_the_native_ones_do(kind):
    layer, x = drawn(kind()), series()
    expected = layer(x)
    told = []
    with Watching(lambda _: True, lambda *call: told.append(call)):
        found = layer(x)
    weights = [p for name, p in layer.named_parameters() if name.startswith("weight")]
    assert {id(call[0]) for call in told} == {id(p) for p in weights}
    flat = [[out[0], *(out[1] if isinstance(out[1], tuple) else [out[1]])] for out in (expected, found)]
    for one, other in zip(*flat, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_gives_the_same_and_tells_its_projections(case):
    build, forward = ATTENTION[case]
    layer, x = drawn(build()), series()
    expected = forward(layer, x)
    told = []
    with Watching(lambda _: True, lambda *call: told.append(call)):
        found = forward(layer, x)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    rows = [call[1] for call in told if call[0] is layer.in_proj_weight]
    assert rows == ([slice(0, 4), slice(4, 12)] if case == "cross" else [slice(0, 12)])
    assert any(call[0] is layer.out_proj.weight for call in told)


def projected(module, x):
    """The same attention with projections that are modules of their own, spelled out."""
    q, k, v = (functional.linear(x, w, b) for w, b in zip(module["weights"], module["biases"], strict=True))
    return q, k, v


def test_the_factors_of_attention_are_those_of_three_linear_layers():
    class Apart(nn.Module):
        """Attention written out, of the same weights."""

        def __init__(self, attention):
            super().__init__()
            parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
            self.parts = nn.ModuleList()
            for weight, bias in parts:
                linear = nn.Linear(4, 4, dtype=torch.float64)
                linear.weight.data, linear.bias.data = weight.detach().clone(), bias.detach().clone()
                self.parts.append(linear)
            self.out_proj = attention.out_proj

        def forward(self, x):
            q, k, v = (part(x).unflatten(-1, (2, 2)).transpose(1, 2) for part in self.parts)
            weights = (q @ k.mT / 2**0.5).softmax(-1)
            return functional.linear(
                (weights @ v).transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias
            )

    x, y = series(), torch.arange(N) % 3
    attention = drawn(nn.MultiheadAttention(4, 2, batch_first=True))
    found = []
    for layer, forward in ((attention, ATTENTION["self"][1]), (Apart(attention), lambda layer, x: layer(x))):
        model = Mean(layer, forward)
        kfac = KFAC(model, ALL)
        functional.cross_entropy(model(x), y).backward()
        kfac.step(1.0)
        kfac.remove()
        found.append((kfac, kfac.state_dict()["tensors"], [p.grad.clone() for p in model.parameters()]))
        model.zero_grad()
    (kfac, together, _), (_, apart, _) = found
    assert kfac.preconditioned == ("layer.in_proj", "layer.out_proj")
    assert kfac.not_preconditioned == ()
    for i in range(3):
        torch.testing.assert_close(together["factor/A/layer.in_proj"], apart[f"factor/A/layer.parts.{i}"])
        torch.testing.assert_close(together[f"factor/G{i}/layer.in_proj"], apart[f"factor/G/layer.parts.{i}"])


@pytest.mark.parametrize("kind", RECURRENCES.values(), ids=RECURRENCES)
def test_factors_of_a_recurrence_sum_over_its_steps(kind):
    layer, x, y = drawn(kind()), series(), torch.arange(N) % 3
    first = layer.batch_first

    def forward(layer, x):
        out = layer(x if first else x.transpose(0, 1))[0]
        return (out if first else out.transpose(0, 1))[:, -1]

    model = Mean(layer, forward)
    kfac = KFAC(model, ALL)
    # Gradients at what each weight gives, by autograd on a watched run of our own.
    told = []
    with Watching(lambda _: True, lambda *call: told.append(call)):
        scores = forward(layer, x).flatten(1)[:, :3]
    loss = functional.cross_entropy(scores, y, reduction="sum")
    gradients = torch.autograd.grad(loss, [call[3] for call in told])
    kfac.discard()
    functional.cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    tensors = kfac.state_dict()["tensors"]
    assert kfac.not_preconditioned == ()
    n_gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    for name, weight in layer.named_parameters():
        if not name.startswith("weight"):
            continue
        uses = [(call[2], g) for call, g in zip(told, gradients, strict=True) if call[0] is weight]
        a = torch.cat([use.flatten(0, -2) for use, _ in uses])
        a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1) if layer.bias else a
        key = f"layer.{name.removeprefix('weight_')}"
        torch.testing.assert_close(tensors[f"factor/A/{key}"], a.T @ a / len(a), rtol=1e-9, atol=1e-12)
        g = torch.cat([g.flatten(0, -2) for _, g in uses])
        G = g.T @ g / N
        for i in range(n_gates):
            gate = slice(i * 3, (i + 1) * 3)
            found = tensors[f"factor/G{i}/{key}" if n_gates > 1 else f"factor/G/{key}"]
            torch.testing.assert_close(found, G[gate, gate], rtol=1e-9, atol=1e-12)


CELLS = {
    "lstm": (nn.LSTMCell, nn.LSTM, {}),
    "gru without biases": (nn.GRUCell, nn.GRU, {"bias": False}),
    "relu": (nn.RNNCell, nn.RNN, {"nonlinearity": "relu"}),
    "tanh": (nn.RNNCell, nn.RNN, {}),
}


class Stepped(nn.Module):
    """Calls a cell step by step and gives its last output."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize(("cell", "whole", "how"), CELLS.values(), ids=CELLS)
def test_a_cell_that_is_called_step_by_step_has_the_factors_of_the_recurrence(cell, whole, how):
    x, y = series(), torch.arange(N) % 3
    stepped = Stepped(drawn(cell(4, 3, **how)))
    native = stepped(x)
    model = Mean(drawn(whole(4, 3, batch_first=True, **how)), lambda layer, x: layer(x)[0][:, -1])
    found = []
    for network in (stepped, model):
        kfac = KFAC(network, ALL)
        scores = network(x)
        torch.testing.assert_close(scores, native, rtol=1e-12, atol=1e-13)
        functional.cross_entropy(scores, y).backward()
        kfac.step(1.0)
        assert kfac.not_preconditioned == ()
        tensors = kfac.state_dict()["tensors"]
        found.append({name.replace("_l0", "").replace("/layer.", "/cell."): t for name, t in tensors.items()})
    assert found[0].keys() == found[1].keys()
    for name, matrix in found[0].items():
        torch.testing.assert_close(matrix, found[1][name], rtol=1e-9, atol=1e-12)


class Windowed(nn.Module):
    """Holds a linear layer and applies its weight by the function, as torchvision's Swin does."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return functional.linear(x, self.inner.weight, self.inner.bias)


class Doubled(nn.Linear):
    """A subclass that computes something around the map."""

    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """A subclass that computes what its base does."""


@pytest.mark.parametrize("kind", [Windowed, lambda: Doubled(4, 3), lambda: Renamed(4, 3)])
def test_a_weight_that_is_applied_as_it_is_is_preconditioned_however(kind):
    model, x, y = drawn(kind()), series()[:, 0], torch.arange(N) % 3
    kfac = KFAC(model, ALL)
    for _ in range(2):  # the first statistics may show that functions have to be watched
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        kfac.step(1.0)
    tensors = kfac.state_dict()["tensors"]
    extended = torch.cat([x, torch.ones(N, 1, dtype=torch.float64)], dim=1)
    A = next(tensor for name, tensor in tensors.items() if name.startswith("factor/A"))
    torch.testing.assert_close(A, extended.T @ extended / N)
    assert kfac.not_preconditioned == ()


class Standardized(nn.Conv2d):
    """A subclass whose weight is not the parameter."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_what_is_computed_of_a_weight_is_named_and_left():
    model = nn.Sequential(Standardized(2, 3, 2), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    kfac = KFAC(model, ALL)
    assert kfac.preconditioned == ()
    assert len(kfac.not_preconditioned) == len(list(model.parameters()))


def test_adapters_of_low_rank_are_layers_and_the_frozen_weight_is_not():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(4, 3).requires_grad_(False)
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    model, x, y = drawn(Adapted()), series()[:, 0], torch.arange(N) % 3
    kfac = KFAC(model, ALL)
    functional.cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    assert kfac.preconditioned == ("down", "up")
    inner = model.down(x)
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/A/up"], (inner.T @ inner / N).detach())


class Packed(nn.Module):
    """A recurrence over sequences of other lengths, or over none."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)
        self.packs = True

    def forward(self, x):
        if self.packs:
            lengths = torch.arange(len(x)) % T + 1
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(x)[1][0][0])


def test_a_layer_that_no_pass_comes_through_is_not_listed_until_one_does():
    model, x, y = drawn(Packed()), series(), torch.arange(N) % 3
    kfac = KFAC(model, ALL)
    weights = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
    for step in range(4):
        model.packs = step < 3
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        gradient = model.lstm.weight_ih_l0.grad.clone()
        if step == 0:
            with pytest.warns(UserWarning, match="saw no pass through layer lstm.ih_l0, lstm.hh_l0"):
                kfac.step(1.0)
        else:
            kfac.step(1.0)
        listed = () if step < 3 else ("lstm.ih_l0", "lstm.hh_l0")
        assert kfac.preconditioned == (*listed, "head")
        assert kfac.not_preconditioned == (() if listed else weights)
        assert set(kfac.reasons) == set(kfac.not_preconditioned)
        assert torch.equal(model.lstm.weight_ih_l0.grad, gradient) == (step < 3)

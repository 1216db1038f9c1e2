"""Where samples stand: a share of them must not become a share of the steps of a sequence."""

import copy
from dataclasses import replace

import pytest
import torch
from single_samples import ALL, drawn
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC

N, T = 6, 9


class Sequences(nn.Module):
    """A layer over the steps of sequences, and scores of its last step."""

    def __init__(self, layer, steps_first):
        super().__init__()
        self.layer, self.head, self.steps_first = layer, nn.Linear(4, 3), steps_first

    def forward(self, x):
        given = (x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else (x,)
        y = self.layer(*given)[0]
        return self.head(y[-1] if self.steps_first else y[:, -1])


def attention(batch_first, **options):
    return nn.MultiheadAttention(4, 2, batch_first=batch_first, **options)


def lstm(batch_first):
    return nn.LSTM(4, 4, batch_first=batch_first)


def gru(batch_first):
    return nn.GRU(4, 2, num_layers=2, bidirectional=True, batch_first=batch_first)


def apart(batch_first):
    return attention(batch_first, kdim=4, vdim=4, add_bias_kv=True)


def after_a_step(model, x, y, settings):
    model = copy.deepcopy(model)
    kfac = KFAC(model, settings)
    functional.cross_entropy(model(x), y).backward()
    kfac.step(1.0)
    return kfac.state_dict()["tensors"]


@pytest.mark.parametrize("steps_first", [False, True])
@pytest.mark.parametrize("build", [attention, apart, lstm, gru])
def test_a_share_of_the_samples_has_the_factors_of_a_batch_of_these_samples(build, steps_first):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(N, T, 4, generator=rng).double(), torch.randint(3, (N,), generator=rng)
    model = drawn(Sequences(build(batch_first=not steps_first), steps_first))
    whole, half = x, x[::2]
    if steps_first:
        whole, half = whole.transpose(0, 1), half.transpose(0, 1)
    found = after_a_step(model, whole, y, replace(ALL, sample_fraction=0.5))
    expected = after_a_step(model, half, y[::2], ALL)
    assert found.keys() == expected.keys()
    for name in found:
        if name.startswith("factor") and not name.endswith("/head"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-14)


class Windows(nn.Module):
    """Images are cut into windows of as many pixels as there are samples."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        windows = x.reshape(-1, len(x), 4)
        return self.head(self.norm(self.layer(windows)).tanh().reshape(len(x), -1, 4).mean(dim=1))


class Flattened(nn.Module):
    """Steps come before samples, both in one dimension."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        rows = self.layer(x.transpose(0, 1).flatten(0, 1)).tanh()
        return self.head(rows.view(x.shape[1], len(x), 4)[-1])


@pytest.mark.parametrize("build", [Windows, Flattened])
def test_where_samples_may_stand_anywhere_all_are_looked_at(build):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 8, 4, generator=rng).double(), torch.randint(3, (4,), generator=rng)
    model = drawn(build())
    found = after_a_step(model, x, y, replace(ALL, sample_fraction=0.5))
    expected = after_a_step(model, x, y, ALL)
    for name in ("factor/A/layer", "factor/G/layer"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("sharing", [{}, {"weight_sharing": "reduce"}, {"ekfac": True}])
@pytest.mark.parametrize("n_steps", [5, 8])
def test_a_transformer_of_steps_before_samples_has_the_factors_of_one_of_samples_before_steps(
    n_steps, sharing
):
    class Transformer(nn.Module):
        def __init__(self, steps_first):
            super().__init__()
            self.steps_first = steps_first
            self.layer = nn.TransformerEncoderLayer(
                4, 2, 8, dropout=0.0, batch_first=not steps_first, norm_first=True
            )
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.layer(x).sum(dim=0 if self.steps_first else 1))

    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, n_steps, 4, generator=rng).double(), torch.arange(4) % 3
    both = []
    for steps_first in (True, False):
        model = drawn(Transformer(steps_first))
        kfac = KFAC(model, replace(ALL, **sharing))
        for _ in range(3):  # of the first pass only what needs its samples late is right
            model.zero_grad()
            functional.cross_entropy(model(x.transpose(0, 1) if steps_first else x), y).backward()
            kfac.step(1.0)
            both.append({name: t.clone() for name, t in kfac.state_dict()["tensors"].items()})
    of_turned, straight = both[:3], both[3:]
    for step in range(3):
        for name, tensor in straight[step].items():
            if (step or not sharing) and name.startswith(("factor", "correction")):
                torch.testing.assert_close(of_turned[step][name], tensor, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("n_steps", [5, 8])
def test_normalizations_of_steps_before_samples_are_those_of_samples_before_steps(n_steps):
    class Both(nn.Module):
        def __init__(self, turns):
            super().__init__()
            self.norm, self.head, self.turns = nn.LayerNorm(4), nn.Linear(4, 3), turns
            self.after = nn.LSTM(4, 4)  # by which torch's convention of steps before samples is known

        def forward(self, x):
            y = self.norm(x.transpose(0, 1)).transpose(0, 1) if self.turns else self.norm(x)
            return self.head(y.tanh().sum(dim=1)) + 0 * self.after(x.transpose(0, 1))[0].sum()

    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, n_steps, 4, generator=rng).double(), torch.randint(3, (4,), generator=rng)
    turned, straight = (
        after_a_step(drawn(Both(turns)), x, y, ALL)["factor/U/norm"] for turns in (True, False)
    )
    torch.testing.assert_close(turned, straight)


class Normalized(nn.Module):
    """A recurrence or attention, and a normalization of every step."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.norm, self.head = layer, nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        given = (x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else (x,)
        order = 1 if self.layer.batch_first else 0
        return self.head(self.norm(self.layer(*given)[0]).mean(dim=order))


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 8), (1, 1)])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("build", [attention, lstm])
def test_a_normalization_has_the_moments_of_single_samples_with_as_many_steps_too(build, batch_first, shape):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(*shape, 4, generator=rng).double(), torch.arange(shape[0]) % 3
    model, expected = drawn(Normalized(build(batch_first))), 0.0
    for one, label in zip(x.split(1), y.split(1), strict=True):
        loss = functional.cross_entropy(model(one if batch_first else one.transpose(0, 1)), label)
        found = torch.stack(torch.autograd.grad(loss, [model.norm.weight, model.norm.bias]), dim=1)
        expected = expected + found[:, :, None] * found[:, None, :] / len(x)
    found = after_a_step(model, x if batch_first else x.transpose(0, 1), y, ALL)
    torch.testing.assert_close(found["factor/U/norm"], expected)

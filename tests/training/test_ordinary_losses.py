"""Losses as programs write them: the factors are those of single samples, by autograd and plain hooks."""

import warnings

import pytest
import torch
from single_samples import ALL, Network, batch, cross_entropies, drawn, expected_factors, require_factors
from torch import nn
from torch.nn import functional as F

from pipeline.training import KFAC

N, CLASSES = 12, 4
X, Y = batch(N, CLASSES)


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PARTS, VALUES, GAINS = numbers(1, N, CLASSES).softmax(1), numbers(2, N, CLASSES), numbers(5, N)
PRESENT, EMPHASIS = (PARTS > 0.25).double(), torch.tensor([3.0, 1.0, 2.0, 5.0]).double()


def distilled(scores, part):
    soft = F.kl_div(F.log_softmax(scores / 2, 1), PARTS[part], reduction="batchmean")
    return 0.5 * F.cross_entropy(scores, Y[part]) + 2.0 * soft


def policy_gradient(scores, part):
    logs = F.log_softmax(scores, 1)
    chosen = logs.gather(1, Y[part, None])[:, 0]
    return -(chosen * GAINS[part]).mean() + 0.01 * (logs.exp() * logs).sum(1).mean()


# A loss of scores and of the targets in a slice of the batch: a mean over the samples.
LOSSES = {
    "cross-entropy": lambda scores, part: F.cross_entropy(scores, Y[part]),
    "likelihood of log_softmax": lambda scores, part: F.nll_loss(F.log_softmax(scores, 1), Y[part]),
    "soft targets": lambda scores, part: F.cross_entropy(scores, PARTS[part]),
    "distillation": distilled,
    "weighted labels": lambda scores, part: F.binary_cross_entropy_with_logits(
        scores, PRESENT[part], pos_weight=EMPHASIS
    ),
    "squares": lambda scores, part: F.mse_loss(scores, VALUES[part]),
    "Huber": lambda scores, part: F.huber_loss(scores, VALUES[part]),
    "policy gradient": policy_gradient,
    "penalty on scores": lambda scores, part: F.cross_entropy(scores, Y[part]) + 0.1 * scores.abs().mean(),
}  # fmt: skip
# K-FAC learns their scale from the scores; for others it says that it takes them for a mean.
RECOGNIZED = {"cross-entropy", "likelihood of log_softmax"}


@pytest.mark.parametrize("name", LOSSES)
def test_factors_of_a_mean_over_samples_are_those_of_single_samples(name):
    loss, model = LOSSES[name], drawn(Network(CLASSES))
    expected = expected_factors(
        model,
        [lambda model, i=i: loss(model(X[i : i + 1]), slice(i, i + 1)) for i in range(N)],
    )
    kfac = KFAC(model, ALL)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loss(model(X), slice(None)).backward()
        kfac.step(0.1)
    require_factors(kfac, expected)
    assert [str(one.message).startswith("K-FAC does not recognize this loss") for one in told] == (
        [] if name in RECOGNIZED else [True]
    )


def in_unequal_parts(model):
    for part in (slice(0, 5), slice(5, 10), slice(10, 12)):
        (F.cross_entropy(model(X[part]), Y[part], reduction="sum") / N).backward()


def by_a_given_gradient(model):
    F.cross_entropy(model(X), Y, reduction="none").backward(torch.full((N,), 1 / N, dtype=torch.float64))


def after_adversarial_examples(model):
    x = X.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(model(x), Y), x)
    F.cross_entropy(model(x), Y).backward()
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()


def between_passes_without_gradient(model):
    with torch.no_grad():
        model.eval()(X[:3])
    model.train()(X[:7])
    F.cross_entropy(model(X), Y).backward()
    model(X[:2])


def with_decay_in_the_loss(model):
    decay = sum(p.square().sum() for p in model.parameters())
    (F.cross_entropy(model(X), Y) + 1e-2 * decay).backward()


PASSES = [
    in_unequal_parts, by_a_given_gradient, after_adversarial_examples, between_passes_without_gradient,
    with_decay_in_the_loss,
]  # fmt: skip


@pytest.mark.parametrize("passes", PASSES, ids=lambda passes: passes.__name__)
def test_factors_are_those_of_the_batch_however_its_passes_are_made(passes):
    model = drawn(Network(CLASSES))
    expected = expected_factors(model, cross_entropies(X, Y))
    kfac = KFAC(model, ALL)
    passes(model)
    kfac.step(0.1)
    require_factors(kfac, expected)


class TwoHeads(nn.Module):
    """A linear layer below two others."""

    def __init__(self):
        super().__init__()
        self.a, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, x):
        hidden = self.a(x).tanh()
        return self.first(hidden), self.second(hidden)


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("second", ["cross-entropy", "squares"])
def test_the_losses_of_two_heads_add_up_sample_by_sample(share, second):
    def loss(heads, part):
        return LOSSES["cross-entropy"](heads[0], part) + share * LOSSES[second](heads[1], part)

    model = drawn(TwoHeads())
    singles = [lambda model, i=i: loss(model(X[i : i + 1]), slice(i, i + 1)) for i in range(N)]
    expected = expected_factors(model, singles)
    kfac = KFAC(model, ALL)
    loss(model(X), slice(None)).backward()
    kfac.step(0.1)
    require_factors(kfac, expected)

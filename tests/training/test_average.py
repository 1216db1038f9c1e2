"""The mean of weights over the last steps, and what training makes of it."""

import pytest
import torch

from pipeline.training import Recipe, evaluate, train
from pipeline.training.average import Average
from pipeline.training.optimizers import SGD
from pipeline.training.smoothing import WeightAverage

PLAIN = Recipe(SGD(lr=0.05), batch_size=20, epochs=4, micro_batch=5)
AVERAGED = Recipe(SGD(lr=0.05), batch_size=20, epochs=4, micro_batch=5, smoothing=(WeightAverage(0.5),))


@pytest.fixture
def steps_of(small_network, training, validation):
    """Train and return the network and copies of its state after each of the twelve steps."""

    def run(recipe, **options):
        model, states = small_network(batch_norm=True), []

        def keep(*_):
            states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        history = train(model, recipe, training, validation, seed=3, on_step=keep, **options)
        return model, states, history

    return run


def test_training_ends_with_the_mean_of_the_last_weights_and_running_statistics(steps_of):
    model, _, _ = steps_of(AVERAGED)
    _, states, _ = steps_of(PLAIN)
    for name, found in model.state_dict().items():
        last = [state[name] for state in states[-6:]]
        if found.is_floating_point():
            torch.testing.assert_close(found, torch.stack(last).double().mean(dim=0).to(found))
        else:
            assert torch.equal(found, last[-1])


def test_the_steps_themselves_are_left_as_they_are(steps_of):
    for mine, theirs in zip(steps_of(AVERAGED)[1], steps_of(PLAIN)[1], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_epochs_are_measured_on_the_mean_so_far(steps_of, training, validation):
    model, _, history = steps_of(AVERAGED)
    _, _, plain = steps_of(PLAIN)
    assert [a.train_loss == b.train_loss for a, b in zip(history, plain, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert history[-1].train_loss == evaluate(model, training).loss
    assert history[-1].validation_loss == evaluate(model, validation).loss


def test_of_a_quadratic_with_noisy_steps_the_mean_is_nearer_to_the_minimum():
    # w <- w - (w + noise) / 2 wanders about 0 with variance 1/3; the mean of 400 steps has about 1/400.
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(200, 1, bias=False)
    average = Average(model)
    with torch.no_grad():
        model.weight.zero_()
        for _ in range(400):
            model.weight -= 0.5 * (model.weight + torch.randn(1, 200, generator=rng))
            average.add()
    assert float(model.weight.detach().square().mean()) > 1 / 6
    average.settle()
    assert float(model.weight.detach().square().mean()) < 2 / 400


def test_a_mean_that_is_shown_leaves_the_weights_their_bits(small_network, weights):
    model = small_network(batch_norm=True)
    average = Average(model)
    with average.shown():
        pass
    start = weights(model)
    assert torch.equal(start, weights(small_network(batch_norm=True)))
    average.add()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    average.add()
    before = weights(model)
    with average.shown():
        torch.testing.assert_close(weights(model), (start + before) / 2)
    assert torch.equal(weights(model), before)


def test_a_long_mean_of_half_precision_does_not_stand_still():
    model = torch.nn.Linear(1, 1).bfloat16()
    average = Average(model)
    with torch.no_grad():
        for step in range(2000):
            model.weight.fill_(1.0 if step < 1000 else 2.0)
            average.add()
    average.settle()
    assert model.weight.item() == 1.5
    assert model.weight.dtype == torch.bfloat16

"""Optimizers around another one: what one of them is told, both know."""

import copy

import pytest
import torch
from small_programs import batch, network, weights
from torch.nn.functional import cross_entropy

from pipeline.training import KFAC, KFACOptimizer, KFACSettings, SmoothedOptimizer, learning_rate_range_test
from pipeline.training.smoothing import SAM, WeightNoise


def with_curvature(model):
    return KFACOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9)


def smoothed(model):
    return SmoothedOptimizer(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), [], n_steps=9)


def smoothed_curvature(model):
    return SmoothedOptimizer(model, with_curvature(model), [], n_steps=9)


def loss_of(model, step):
    x, y = batch(step)
    return cross_entropy(model(x), y)


def step_by(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


@pytest.mark.parametrize("build", [with_curvature, smoothed, smoothed_curvature])
def test_an_optimizer_whose_inner_one_has_loaded_a_state_is_still_one(build):
    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step_by(plain, lambda: loss_of(model, 0))
    optimizer = build(model)
    inner = optimizer.inner if isinstance(optimizer.inner, torch.optim.SGD) else optimizer.inner.inner
    inner.load_state_dict(plain.state_dict())
    buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    assert all(
        torch.equal(b, plain.state[p]["momentum_buffer"])
        for b, p in zip(buffers, model.parameters(), strict=True)
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    step_by(optimizer, lambda: loss_of(model, 0))
    schedule.step()
    before = weights(model)
    step_by(optimizer, lambda: loss_of(model, 1))
    assert torch.equal(weights(model), before)
    new = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [new], "lr": 0.25, "momentum": 0.0})
    step_by(optimizer, lambda: loss_of(model, 1) + new.square().sum())
    torch.testing.assert_close(new.detach(), torch.full((3,), 0.5))


def test_a_range_test_of_the_inner_optimizer_leaves_both_one():
    model = network()
    optimizer = smoothed_curvature(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    learning_rate_range_test(model, optimizer.inner, lambda step: loss_of(model, step), n_steps=4)
    step_by(optimizer, lambda: loss_of(model, 0))
    schedule.step()
    before = weights(model)
    step_by(optimizer, lambda: loss_of(model, 1))
    assert torch.equal(weights(model), before)


def test_an_optimizer_in_place_of_its_class_and_a_copy_are_refused_in_a_line():
    model = network()
    with pytest.raises(TypeError, match=r"pass the class SGD and its options, as in KFACOptimizer\(model, "):
        KFACOptimizer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match="SmoothedOptimizer needs a torch optimizer, not type"):
        SmoothedOptimizer(model, torch.optim.SGD, [], n_steps=2)
    with pytest.raises(TypeError, match=r"SmoothedOptimizer .* cannot be copied; save its state_dict"):
        copy.deepcopy(smoothed(model))


HEAD = KFACSettings(factor_interval=2, inverse_interval=2, sample_fraction=1.0, damping=0.1)


def trained_head(of_all, steps=12, smoothing=()):
    """Train the last layer by its optimizer; the rest is frozen, or is only not the optimizer's."""
    model = network()
    model[0].requires_grad_(of_all)
    optimizer = KFACOptimizer(model, params=model[2].parameters(), settings=HEAD, lr=0.1, momentum=0.9)
    if smoothing:
        optimizer = SmoothedOptimizer(model, optimizer, smoothing, n_steps=steps)
    for step in range(steps):
        step_by(optimizer, lambda step=step: loss_of(model, step))
    return model, optimizer


@pytest.mark.parametrize("smoothing", [[], [SAM(0.05), WeightNoise(0.2)]])
def test_parameters_that_the_optimizer_does_not_step_are_left_alone_as_frozen_ones_are(smoothing):
    (model, _), (frozen, _) = (
        trained_head(True, smoothing=smoothing),
        trained_head(False, smoothing=smoothing),
    )
    assert torch.equal(weights(model), weights(frozen))
    if smoothing:
        return
    other, sums = network(), torch.zeros(6, 4)
    other.load_state_dict(network().state_dict())
    for step in range(12):  # the body's gradient is plain: the sum over steps, which nobody has cleared
        other[2].load_state_dict(trained_head(False, steps=step)[0][2].state_dict())
        sums += torch.autograd.grad(loss_of(other, step), other[0].weight)[0]
    torch.testing.assert_close(model[0].weight.grad, sums)


def test_a_bias_that_the_optimizer_does_not_step_is_no_part_of_its_layer():
    natural = []
    for frozen in (False, True):
        model = network()
        model[2].bias.requires_grad_(not frozen)
        kfac = KFAC(model, HEAD, params=[*model[0].parameters(), model[2].weight])
        loss_of(model, 0).backward()
        kfac.step(0.1)
        natural.append(torch.cat([p.grad.flatten() for p in (model[0].weight, model[2].weight)]))
    assert torch.equal(*natural)


def test_layers_of_a_group_that_is_added_are_preconditioned_and_former_states_with_more_layers_load():
    model = network()
    optimizer = KFACOptimizer(model, params=model[2].parameters(), settings=HEAD, lr=0.1)
    assert optimizer.kfac.preconditioned == ("2",)
    assert optimizer.kfac.not_preconditioned == ()
    of_all = KFAC(network(), HEAD)
    loss_of(of_all._model, 0).backward()
    of_all.step(0.1)
    state = {**optimizer.inner.state_dict(), "kfac": of_all.state_dict()}
    optimizer.load_state_dict(state)
    tensors = optimizer.kfac.state_dict()["tensors"]
    assert tensors.keys() == {p for p in of_all.state_dict()["tensors"] if p.endswith("/2")}
    optimizer.add_param_group({"params": list(model[0].parameters())})
    assert optimizer.kfac.preconditioned == ("0", "2")


def test_parameters_of_a_copy_are_refused_in_a_line():
    model, other = network(), network()
    for build in (
        lambda: KFAC(model, params=other.parameters()),
        lambda: KFACOptimizer(model, params=other.parameters(), lr=0.1),
        lambda: SmoothedOptimizer(model, torch.optim.SGD(other.parameters(), lr=0.1), [], n_steps=2),
    ):
        with pytest.raises(ValueError, match="steps no parameter of this network; build it from"):
            build()


def test_a_layer_that_is_replaced_or_unfrozen_without_the_optimizer_is_refused_until_it_is_told():
    model = network()
    optimizer = KFACOptimizer(model, settings=HEAD, lr=0.1)
    model[2] = torch.nn.Linear(6, 3)
    loss_of(model, 0).backward()
    with pytest.raises(
        ValueError, match=r"2\.weight was replaced since .* give the optimizer what it is to train"
    ):
        optimizer.step()
    optimizer.add_param_group({"params": list(model[2].parameters())})
    before = weights(model)
    step_by(optimizer, lambda: loss_of(model, 0))
    assert not torch.equal(weights(model)[-21:], before[-21:])
    model = network()
    model[0].requires_grad_(False)
    optimizer = KFACOptimizer(model, params=model[2].parameters(), settings=HEAD, lr=0.1)
    model[0].requires_grad_(True)
    loss_of(model, 0).backward()
    with pytest.raises(ValueError, match=r"0\.weight was added or unfrozen since"):
        optimizer.step()
    optimizer.kfac.look_again()  # it is to stay as it is
    step_by(optimizer, lambda: loss_of(model, 0))
    assert torch.equal(weights(model)[:30], weights(network())[:30])

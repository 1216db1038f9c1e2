"""Optimizers around another one: what one of them is told, both know."""

import copy

import pytest
import torch
from small_programs import batch, network, weights
from torch.nn.functional import cross_entropy

from pipeline.training import KFACOptimizer, SmoothedOptimizer, learning_rate_range_test


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
    with pytest.raises(TypeError, match="SmoothedOptimizer .* cannot be copied; save its state_dict"):
        copy.deepcopy(smoothed(model))

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.training import OPTIMIZERS, Recipe
from pipeline.training.optimizers import ScheduleFree, at_mean, set_rate, settle
from pipeline.training.schedule import Constant


def linear(weight, gradient):
    """A layer 2 -> 2 with this weight and gradient; its bias is (1, 1) with gradient (1, 0)."""
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.ones(2)
    layer.weight.grad, layer.bias.grad = torch.tensor(gradient), torch.tensor([1.0, 0.0])
    return layer


WEIGHT, GRADIENT = [[3.0, 0.0], [0.0, 4.0]], [[0.0, 6.0], [8.0, 0.0]]


def stepped(name, **options):
    layer = linear(WEIGHT, GRADIENT)
    optimizer = OPTIMIZERS[name](lr=0.1, **options).build(layer)
    optimizer.step()
    return layer


def test_lars_steps_by_a_part_of_the_weights_norm():
    # |W| = 5, |G| = 10: the step is lr * trust * |W| / |G| * G.
    layer = stepped("lars", momentum=0.0, weight_decay=0.0, trust=0.5)
    expected = torch.tensor(WEIGHT) - 0.1 * 0.5 * 5 / 10 * torch.tensor(GRADIENT)
    torch.testing.assert_close(layer.weight.data, expected)
    torch.testing.assert_close(layer.bias.data, torch.tensor([0.9, 1.0]))


def test_lamb_steps_by_the_weights_norm_from_the_first_step_on():
    layer = stepped("lamb", momentum=0.9, weight_decay=0.0)
    step = layer.weight.data - torch.tensor(WEIGHT)
    assert float(step.norm()) == pytest.approx(0.1 * 5, rel=1e-4)
    # Adam's first direction is that of the signs.
    torch.testing.assert_close(
        step, torch.tensor([[0.0, -1.0], [-1.0, 0.0]]) * 0.5 / 2**0.5, rtol=1e-4, atol=1e-6
    )


def test_muon_turns_hidden_weights_by_an_orthogonal_matrix_and_leaves_the_head_to_adam():
    hidden, head = linear(WEIGHT, GRADIENT), linear(WEIGHT, GRADIENT)
    optimizer = OPTIMIZERS["muon"](lr=0.1, weight_decay=0.0).build(nn.Sequential(hidden, head))
    optimizer.step()
    step = hidden.weight.data - torch.tensor(WEIGHT)
    # Five Newton-Schulz steps bring singular values to 0.7..1.2 only; the scale is 0.2 sqrt(2).
    values = torch.linalg.svdvals(step) / (0.1 * 0.2 * 2**0.5)
    assert ((values > 0.6) & (values < 1.3)).all()
    torch.testing.assert_close(
        head.weight.data - torch.tensor(WEIGHT), torch.tensor([[0.0, -0.1], [-0.1, 0.0]])
    )


def test_schedule_free_steps_end_at_the_mean_of_the_last_iterates_and_are_taken_in_between():
    # Defazio et al., equations 4 to 6, with a constant rate: z moves, x is its mean, gradients are taken at y.
    momentum, lr = 0.8, 0.1
    layer = linear(WEIGHT, GRADIENT)
    optimizer = OPTIMIZERS["schedule_free"](lr=lr, momentum=momentum, weight_decay=0.0).build(layer)
    x = z = torch.tensor(WEIGHT)
    for t in range(1, 5):
        gradient = layer.weight.detach() * t  # of a quadratic that changes
        layer.weight.grad = gradient.clone()
        optimizer.step()
        z = z - lr * gradient
        x = x + (z - x) / t
        torch.testing.assert_close(layer.weight.data, (1 - momentum) * z + momentum * x)
        before = layer.weight.detach().clone()
        with at_mean(optimizer):
            torch.testing.assert_close(layer.weight.data, x)
        assert torch.equal(layer.weight, before)
    settle(optimizer)
    torch.testing.assert_close(layer.weight.data, x)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "found schedule 'cosine'"),
        ({"schedule": Constant(), "coupled_momentum": True}, "coupled_momentum True"),
    ],
)
def test_schedule_free_refuses_a_schedule(options, found):
    with pytest.raises(
        ConfigError, match=rf"schedule_free keeps .*{found}.*set schedule to {{name: constant}}"
    ):
        Recipe(ScheduleFree(lr=1.0), batch_size=8, epochs=1, **options)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_weight_matrices_decay_and_biases_do_not(name):
    plain, decayed = (stepped(name, weight_decay=decay) for decay in (0.0, 0.5))
    assert torch.equal(plain.bias, decayed.bias)
    if name not in ("soap", "muon"):  # soap only looks at its first step; one layer alone is muon's head
        assert not torch.equal(plain.weight, decayed.weight)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_rate_and_momentum_reach_every_group(name):
    model = nn.Sequential(linear(WEIGHT, GRADIENT), linear(WEIGHT, GRADIENT))
    optimizer = OPTIMIZERS[name](lr=0.1).build(model)
    set_rate(optimizer, 0.03, 0.5)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.03
        assert group.get("momentum", group.get("betas", (0.5,))[0]) == 0.5
    assert len(optimizer.param_groups) == 2

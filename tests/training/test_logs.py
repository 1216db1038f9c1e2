"""Figures as JSON lines and scalars, and the range test of learning rates."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from pipeline.errors import ConvergenceError
from pipeline.training import JSONLines, KFACOptimizer, KFACSettings, learning_rate_range_test, to_tensorboard


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = KFACOptimizer(model, lr=0.1)
    cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
    optimizer.step()
    return optimizer.kfac


def test_statistics_are_written_one_object_a_line_and_appended(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in (1, 2):
        with JSONLines(path) as log:
            log(step, trained().statistics() | {"loss": math.nan, "name": "text"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["layers/0/A/trace"] > 0
    assert lines[0]["loss"] is None
    assert "name" not in lines[0]


def test_numbers_are_written_whatever_holds_them(tmp_path):
    @dataclass
    class Figures:
        loss: torch.Tensor

    weight = torch.ones(1, requires_grad=True)
    figures = {
        "tensor": 2 * weight.sum(),
        "single": np.float32(0.5),
        "count": np.int64(3),
        "array": np.array([[1.5]]),
        "half": torch.tensor(0.25, dtype=torch.bfloat16),
        "several": torch.ones(2),
        "nested": Figures(3 * weight),
    }
    path = tmp_path / "log.jsonl"
    with JSONLines(path) as log:
        log(1, figures)
        log(2, Figures(4 * weight))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    expected = {"step": 1, "tensor": 2.0, "single": 0.5, "count": 3, "array": 1.5, "half": 0.25}
    assert first == {**expected, "nested/loss": 3.0}
    assert second == {"step": 2, "loss": 4.0}


def test_scalars_go_to_a_writer_of_tensorboard_by_path():
    written = []

    class Writer:
        def add_scalar(self, tag, scalar_value, global_step):
            written.append((tag, scalar_value, global_step))

    kfac = trained()
    to_tensorboard(Writer(), 7, kfac.statistics())
    assert ("damping", kfac.damping, 7) in written
    assert any(tag == "layers/0/G/condition" for tag, _, _ in written)


def quadratic(curvature):
    """Gradient descent on w^2 curvature / 2 diverges for rates above 2 / curvature, and converges below."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    return (
        model,
        lambda _: curvature / 2 * mse_loss(model(torch.ones(1, 1).double()), torch.zeros(1, 1).double()),
    )


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_a_range_test_finds_the_order_of_the_largest_stable_rate_and_leaves_no_trace(curvature):
    model, loss_of = quadratic(curvature)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.123)
    found = learning_rate_range_test(model, optimizer, loss_of, lowest=1e-4, highest=1e3, n_steps=200)
    assert float(model.weight.detach()) == 1.0
    assert optimizer.param_groups[0]["lr"] == 0.123
    assert found.steepest < 2 / curvature
    # Once the weight is at rounding's level it takes several steps beyond the bound to come back.
    assert found.rates[-1] > 2 / curvature
    assert found.losses[0] == pytest.approx(curvature / 2)


@pytest.mark.parametrize("constant", [-20.0, 20.0])
def test_a_constant_that_is_added_to_the_loss_changes_no_range_test(constant):
    # The weights that gradient descent passes through are powers of 1 - rate; losses far below zero add rounding.
    found = []
    for offset in (0.0, constant):
        model, loss_of = quadratic(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found.append(
            learning_rate_range_test(
                model, optimizer, lambda step, f=loss_of, at=offset: f(step) + at, n_steps=90
            )
        )
    assert found[0].rates == found[1].rates
    assert found[0].rates[-1] > 2.0
    assert found[0].steepest == found[1].steepest


def test_noise_of_the_losses_ends_no_range_test():
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        model, loss_of = quadratic(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        noise = torch.randn(60, generator=rng)
        found = learning_rate_range_test(
            model, optimizer, lambda step, f=loss_of, add=noise: f(step) + add[step], highest=1e-3, n_steps=60
        )
        assert len(found.rates) == 60


def test_a_range_test_of_k_fac_starts_afresh_afterwards():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = KFACOptimizer(model, lr=0.1, settings=KFACSettings(kl_clip=0.0))
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    found = learning_rate_range_test(model, optimizer, lambda _: cross_entropy(model(x), y), n_steps=30)
    assert found.largest > 0.01
    assert not optimizer.kfac.state_dict()["tensors"]


def test_rates_that_do_not_grow_and_losses_that_are_not_finite_are_refused():
    model, loss_of = quadratic(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="0 < lowest < highest and two steps"):
        learning_rate_range_test(model, optimizer, loss_of, lowest=1.0, highest=0.1)
    with pytest.raises(ConvergenceError, match="first loss of the range test is not finite"):
        learning_rate_range_test(model, optimizer, lambda step: loss_of(step) * math.nan)

import math

import pytest

from pipeline.training import SCHEDULES
from pipeline.training.schedule import Constant, Cosine, Polynomial, coupled_momentum, learning_rate

HALFWAY = {"constant": 1.0, "cosine": 0.5, "polynomial": 0.25}


def test_every_schedule_has_a_case():
    assert set(HALFWAY) == set(SCHEDULES)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_starts_at_one_and_never_rises(name):
    schedule = SCHEDULES[name]()
    values = [schedule(i / 20) for i in range(21)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert schedule(0.5) == pytest.approx(HALFWAY[name])
    assert values[-1] == pytest.approx(1.0 if name == "constant" else 0.0)


def test_the_warm_up_is_linear_and_the_decay_follows_at_the_peak():
    rates = [learning_rate(t, 12, peak=0.8, n_warmup=4, schedule=Cosine()) for t in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([0.4 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


def test_without_a_warm_up_the_first_rate_is_the_peak():
    assert learning_rate(0, 10, peak=0.3, n_warmup=0, schedule=Polynomial(power=1)) == 0.3
    assert learning_rate(5, 10, peak=0.3, n_warmup=0, schedule=Polynomial(power=1)) == pytest.approx(0.15)


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_a_run_that_is_all_warm_up_never_decays(n_steps):
    rates = [
        learning_rate(t, n_steps, peak=1.0, n_warmup=n_steps, schedule=Constant()) for t in range(n_steps)
    ]
    assert rates == pytest.approx([(t + 1) / n_steps for t in range(n_steps)])


def test_no_step_has_rate_zero():
    assert all(learning_rate(t, 9, peak=1.0, n_warmup=3, schedule=Cosine()) > 0 for t in range(9))


def test_coupled_momentum_keeps_its_ratio_to_the_rate():
    assert coupled_momentum(0.4, momentum=0.9, peak=0.4) == pytest.approx(0.9)
    assert coupled_momentum(0.1, momentum=0.9, peak=0.4) == pytest.approx(0.225)

import math
from dataclasses import replace

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training import Recipe, train
from pipeline.training.halves import Halves, Noise
from pipeline.training.noise_scale import critical_batch, noise_scale
from pipeline.training.optimizers import SGD, SecondOrder
from pipeline.training.smoothing import WeightNoise

# 53 samples in batches of at most 20 are three of 17 or 18: halves differ in size.
PLAIN = Recipe(SGD(lr=0.05), batch_size=20, epochs=2, noise_scale=True)
KFAC = replace(PLAIN, optimizer=SecondOrder(lr=0.05))


def test_the_noise_scale_is_the_ratio_of_noise_to_gradient_and_infinite_where_noise_hides_it():
    assert noise_scale(Noise(12.0, 3.0)) == 4.0
    assert noise_scale(Noise(12.0, 0.0)) == noise_scale(Noise(12.0, -1.0)) == math.inf


@pytest.mark.parametrize("batch_size", [1, 64, 4096])
def test_a_constant_noise_scale_is_the_critical_batch_whatever_the_batch_that_measured_it(batch_size):
    phases = [(7, Noise(30.0, 2.0)), (3, Noise(15.0, 1.0))]
    assert critical_batch(phases, batch_size) == pytest.approx(15.0)


def test_a_small_batch_averages_harmonically_and_a_large_one_plainly():
    phases = [(10, Noise(100.0, 1.0)), (10, Noise(300.0, 1.0))]
    assert critical_batch(phases, 1e-6) == pytest.approx(150.0)
    assert critical_batch(phases, 1e9) == pytest.approx(200.0)


def test_a_phase_whose_gradient_noise_hides_makes_no_progress_and_needs_its_samples():
    shown = Noise(100.0, 1.0)
    # 10 steps of 100 at a scale of 100: 5 steps' progress, 500 samples; then 10 steps of 100 samples for nothing.
    assert critical_batch([(10, shown), (10, Noise(50.0, -1.0))], 100) == pytest.approx((500 + 1000) / 5)
    assert critical_batch([(10, Noise(50.0, -1.0))], 100) == math.inf
    assert critical_batch([], 100) == math.inf


@pytest.mark.parametrize("recipe", [PLAIN, KFAC], ids=["sgd", "kfac"])
def test_a_history_holds_the_mean_noise_of_each_epoch(
    recipe, small_network, training, validation, monkeypatch
):
    found = []
    measured = Halves.noise_of_squares

    def noted(halves, square, apart):
        found.append(measured(halves, square, apart))
        return found[-1]

    monkeypatch.setattr(Halves, "noise_of_squares", noted)
    history = train(small_network(), recipe, training, validation, seed=0)
    assert len(found) == 6
    for record, steps in zip(history, (found[:3], found[3:]), strict=True):
        assert record.noise_variance == pytest.approx(sum(noise.variance for noise in steps) / 3)
        assert record.noise_square == pytest.approx(sum(noise.square for noise in steps) / 3)
        assert record.noise_variance > 0


def test_noise_of_a_whole_data_set_in_one_step_is_that_of_its_samples(small_network, training, validation):
    """A step on all samples knows their gradients' mean; the halves' noise estimates their scatter within 53 / 52."""
    recipe = replace(PLAIN, batch_size=53, epochs=1)
    samples = []
    for i in range(len(training)):
        model = small_network()
        loss = torch.nn.functional.cross_entropy(
            model(training.images[i : i + 1]), training.labels[i : i + 1]
        )
        samples.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    gradients = torch.stack(samples).double()
    variances, squares = [], []
    for seed in range(40):
        (record,) = train(small_network(), recipe, training, validation, seed=seed)
        variances.append(record.noise_variance)
        squares.append(record.noise_square + record.noise_variance / 53)
    # The halves are a random division of a finite set, whose mean difference is that of its own variance.
    expected = float(gradients.var(dim=0).sum())
    values = torch.tensor(variances)
    assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / math.sqrt(len(values))
    # The mean gradient is the same whatever the order, up to single precision.
    assert squares == pytest.approx([float(gradients.mean(dim=0).square().sum())] * 40, rel=1e-4)


def test_noise_is_not_measured_unless_asked_for(small_network, training, validation):
    history = train(small_network(), replace(PLAIN, noise_scale=False), training, validation, seed=0)
    assert [(record.noise_variance, record.noise_square) for record in history] == [(0.0, 0.0)] * 2


def test_batches_without_two_halves_are_refused():
    with pytest.raises(ConfigError, match="found batch_size 1; set it to 2 or more"):
        replace(PLAIN, batch_size=1)


def test_antithetic_noise_must_lie_within_the_halves():
    noisy = (WeightNoise(0.1),)
    with pytest.raises(ConfigError, match="found 1; set micro_batch to 5, or antithetic to false"):
        replace(PLAIN, smoothing=noisy)
    replace(PLAIN, smoothing=noisy, micro_batch=5)
    replace(PLAIN, smoothing=(WeightNoise(0.1, antithetic=False),))

"""Smoothings around any torch optimizer; the laws that define them are the oracle."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pipeline.training import KFACOptimizer, KFACSettings, MixupCollate, SmoothedOptimizer
from pipeline.training.smoothing import (
    SAM,
    GradientNoise,
    LabelSmoothing,
    Mixup,
    RunningMixup,
    WeightAverage,
    WeightNoise,
)


def network():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def batch(step):
    rng = torch.Generator().manual_seed(step)
    return torch.randn(10, 4, generator=rng, dtype=torch.float64), torch.randint(3, (10,), generator=rng)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(model, optimizer, steps, seen=None):
    for step in steps:

        def closure(step=step):
            if seen is not None:
                seen.append(flat(model))
            optimizer.zero_grad()
            x, y = batch(step)
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return flat(model)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_without_smoothings_it_is_the_optimizer():
    model, other = network(), network()
    found = run(model, SmoothedOptimizer(model, sgd(model), [], n_steps=3), range(3))
    assert torch.equal(found, run(other, sgd(other), range(3)))


def test_sam_steps_by_the_gradient_at_the_top_of_its_climb_and_running_statistics_move_once():
    model, twin = network(), network()
    run(model, SmoothedOptimizer(model, sgd(model), [SAM(rho=0.3)], n_steps=1), range(1))
    x, y = batch(0)
    weights = list(twin.parameters())
    probe = copy.deepcopy(twin)
    gradients = torch.autograd.grad(cross_entropy(probe(x), y), list(probe.parameters()))
    length = torch.cat([g.flatten() for g in gradients]).norm()
    top = copy.deepcopy(twin)
    with torch.no_grad():
        for p, g in zip(top.parameters(), gradients, strict=True):
            p += 0.3 * g / length
    slopes = torch.autograd.grad(cross_entropy(top(x), y), list(top.parameters()))
    expected = torch.cat([(p - 0.1 * g).flatten() for p, g in zip(weights, slopes, strict=True)])
    torch.testing.assert_close(flat(model), expected.detach())
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, top[1].running_mean)


def test_noise_of_two_steps_is_opposite_and_weights_come_back():
    model, seen = network(), []
    start = flat(model)
    optimizer = SmoothedOptimizer(model, sgd(model, lr=0.0), [WeightNoise(std=0.3)], n_steps=4)
    assert torch.equal(run(model, optimizer, range(4), seen), start)
    first, second, third, _ = (weights - start for weights in seen)
    torch.testing.assert_close(first, -second)
    assert (first - third).norm() > 0.1 * first.norm() > 0


def test_the_average_of_the_last_steps_can_be_shown_and_kept():
    model, after = network(), []
    optimizer = SmoothedOptimizer(model, sgd(model), [WeightAverage(share=0.5)], n_steps=4)
    for step in range(4):
        after.append(run(model, optimizer, [step]))
    mean = (after[2] + after[3]) / 2
    with optimizer.shown():
        torch.testing.assert_close(flat(model), mean)
    assert torch.equal(flat(model), after[3])
    optimizer.settle()
    torch.testing.assert_close(flat(model), mean)


def test_exploring_passes_leave_no_trace_in_the_factors():
    settings = KFACSettings(factor_interval=1, inverse_interval=1, sample_fraction=1.0, damping=0.1)
    factors = []
    for smoothing in ([], [SAM(rho=1e-90)]):
        model = network()
        inner = KFACOptimizer(model, settings=settings, lr=0.1)
        run(model, SmoothedOptimizer(model, inner, smoothing, n_steps=2), range(2))
        factors.append(inner.kfac.state_dict()["tensors"])
    for name, tensor in factors[0].items():
        assert torch.equal(factors[1][name], tensor)


def test_a_run_goes_on_bit_by_bit_from_its_state():
    smoothing = [WeightNoise(std=0.2, annealed=True), SAM(rho=0.1), WeightAverage(share=1.0)]
    model = network()
    optimizer = SmoothedOptimizer(model, sgd(model), smoothing, n_steps=6)
    run(model, optimizer, range(3))
    state = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    fresh = network()
    fresh.load_state_dict(state[0])
    resumed = SmoothedOptimizer(fresh, sgd(fresh), smoothing, n_steps=6)
    resumed.load_state_dict(state[1])
    assert torch.equal(run(fresh, resumed, range(3, 6)), run(model, optimizer, range(3, 6)))
    for each in (optimizer, resumed):
        each.settle()
    assert torch.equal(flat(fresh), flat(model))


@pytest.mark.parametrize("smoothing", [Mixup(alpha=0.4), LabelSmoothing(amount=0.1), GradientNoise(std=0.1)])
def test_smoothings_that_need_samples_are_refused(smoothing):
    model = network()
    with pytest.raises(ValueError, match="needs samples or their single losses"):
        SmoothedOptimizer(model, sgd(model), [smoothing], n_steps=3)


def test_a_mixed_batch_is_a_convex_combination_of_its_samples():
    images, labels = torch.eye(6), torch.arange(6)
    loader = DataLoader(
        TensorDataset(images, labels), batch_size=6, collate_fn=MixupCollate(Mixup(alpha=1.0), 6)
    )
    torch.manual_seed(0)
    first, second = next(iter(loader)), next(iter(loader))
    for mixed, targets in (first, second):
        # Images and targets are the same here, so mixing both alike keeps them the same.
        torch.testing.assert_close(mixed, targets)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    assert not torch.equal(first[0], second[0])


def test_running_mixup_is_refused_as_a_collate_function():
    with pytest.raises(ValueError, match="needs former batches"):
        MixupCollate(RunningMixup(alpha=0.4), 3)


def test_integer_images_are_refused_by_the_collate_function():
    samples = [(torch.zeros(1, 2, 2, dtype=torch.uint8), 0), (torch.ones(1, 2, 2, dtype=torch.uint8), 1)]
    with pytest.raises(TypeError, match=r"mixes floating-point images, not torch\.uint8"):
        MixupCollate(Mixup(alpha=0.4), 3)(samples)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"image": torch.zeros(2), "label": 1}, "an image and a label"),
        ((torch.zeros(2), 1, 2), "an image and a label"),
        ((torch.zeros(2), 0.5), "the number of a class .* not torch.float64"),
        ((torch.zeros(2), torch.zeros(2).long()), r"the number of a class .* shape \(2, 2\)"),
    ],
)
def test_samples_that_cannot_be_mixed_are_refused_in_a_line(sample, words):
    with pytest.raises(TypeError, match=words):
        MixupCollate(Mixup(alpha=0.4), 3)([sample, sample])


def test_a_smoothing_that_does_not_mix_is_refused_as_a_collate_function():
    with pytest.raises(ValueError, match="SAM does not mix samples; give it to SmoothedOptimizer"):
        MixupCollate(SAM(0.1), 3)


def test_a_scheduler_moves_the_rate_of_the_optimizer_inside():
    model, expected = network(), network()
    optimizer = SmoothedOptimizer(model, sgd(model), [], n_steps=4)
    plain = sgd(expected)
    schedules = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (optimizer, plain)]
    for step in range(4):
        run(model, optimizer, [step])
        run(expected, plain, [step])
        for schedule in schedules:
            schedule.step()
    assert torch.equal(flat(model), flat(expected))
    assert optimizer.param_groups[0]["lr"] == 0.1 / 16
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_a_step_without_a_closure_is_refused_in_a_line():
    model = network()
    with pytest.raises(ValueError, match=r"pass step a closure .* scaler="):
        SmoothedOptimizer(model, sgd(model), [SAM(0.1)], n_steps=4).step()


def scaled(model, optimizer, scaler, step, factor=1.0):
    def closure():
        optimizer.zero_grad()
        x, y = batch(step)
        loss = factor * cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        return loss

    optimizer.step(closure)
    scaler.update()


@pytest.mark.parametrize("curvature", [False, True])
def test_a_gradient_scaler_changes_nothing_and_passes_over_steps_that_overflow(curvature):
    def build(**options):
        model = network()
        inner = KFACOptimizer(model, lr=0.1, settings=KFACSettings(damping=0.1)) if curvature else sgd(model)
        return model, SmoothedOptimizer(model, inner, [WeightNoise(0.2), SAM(0.1)], n_steps=8, **options)

    (expected, plain), scaler = build(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model, optimizer = build(scaler=scaler)
    for step in range(3):
        run(expected, plain, [step])
        scaled(model, optimizer, scaler, step)
    torch.testing.assert_close(flat(model), flat(expected), rtol=1e-12, atol=1e-14)
    before = flat(model)
    n_done = optimizer.n_done
    scaled(model, optimizer, scaler, 3, factor=1e308)
    assert optimizer.n_done == n_done
    assert torch.equal(flat(model), before)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert scaler.get_scale() == 2.0**9


def test_an_optimizer_of_several_passes_a_step_is_refused():
    model = network()
    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times a step"):
        SmoothedOptimizer(model, torch.optim.LBFGS(model.parameters()), [SAM(0.1)], n_steps=4)


def test_weights_that_are_frozen_later_stay_and_those_that_are_unfrozen_are_displaced():
    model, seen = network(), []
    first, last = (next(layer.parameters()) for layer in (model[0], model[-1]))
    first.requires_grad_(False)
    optimizer = SmoothedOptimizer(model, sgd(model), [WeightNoise(0.2), SAM(0.1)], n_steps=4)
    first.requires_grad_(True)
    last.requires_grad_(False)
    before = flat(model)
    run(model, optimizer, [0], seen)
    n = first.numel()
    assert not torch.equal(seen[0][:n], before[:n])
    assert all(
        torch.equal(weights[-last.numel() - 3 : -3], before[-last.numel() - 3 : -3]) for weights in seen
    )


class Spectral(nn.Module):
    """A layer with complex weights, as one complex parameter or as one of real and imaginary parts."""

    def __init__(self, is_complex):
        super().__init__()
        parts = 0.5 * torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.weight = nn.Parameter(torch.view_as_complex(parts) if is_complex else parts)

    def forward(self, x):
        weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
        return (x.to(weight.dtype) @ weight.T).abs()


@pytest.mark.parametrize("smoothing", [SAM(0.3), WeightNoise(0.2), WeightNoise(0.2, filter_wise=True)])
def test_complex_weights_are_smoothed_like_their_real_and_imaginary_parts(smoothing):
    found = []
    for is_complex in (True, False):
        model = Spectral(is_complex)
        optimizer = SmoothedOptimizer(model, sgd(model), [smoothing, WeightAverage(1.0)], n_steps=4)
        run(model, optimizer, range(4))
        optimizer.settle()
        weight = model.weight.detach()
        found.append(torch.view_as_real(weight) if is_complex else weight)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sparse_gradients_are_climbed_like_dense_ones(adaptive):
    found = []
    for sparse in (True, False):
        model = nn.Sequential(nn.Embedding(7, 5, sparse=sparse), nn.Linear(5, 3)).double()
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        optimizer = SmoothedOptimizer(model, sgd(model), [SAM(0.3, adaptive=adaptive)], n_steps=3)
        for _ in range(3):

            def closure(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = cross_entropy(model(torch.tensor([1, 1, 4, 6])), torch.tensor([0, 1, 2, 1]))
                loss.backward()
                return loss

            optimizer.step(closure)
        found.append(flat(model))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_a_closure_that_leaves_no_gradients_is_refused_in_a_line():
    model = network()
    optimizer = SmoothedOptimizer(model, sgd(model), [SAM(0.1)], n_steps=3)
    before = flat(model)
    with pytest.raises(ValueError, match=r"closure left no gradients .* must call backward"):
        optimizer.step(lambda: cross_entropy(model(batch(0)[0]), batch(0)[1]))
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, bool, int])
def test_labels_of_any_kind_of_integer_are_mixed(kind):
    torch.manual_seed(0)
    samples = [(torch.rand(3), kind(i % 2)) for i in range(6)]
    images, targets = MixupCollate(Mixup(0.4), 3)(samples)
    torch.manual_seed(0)
    samples = [(torch.rand(3), torch.tensor(i % 2)) for i in range(6)]
    expected = MixupCollate(Mixup(0.4), 3)(samples)
    assert torch.equal(images, expected[0])
    assert torch.equal(targets, expected[1])


@pytest.mark.parametrize("label", [-100, 3])
def test_labels_that_are_no_class_are_refused_in_a_line(label):
    with pytest.raises(ValueError, match=rf"label {label} is no class from 0 to 2; set n_classes, and leave"):
        MixupCollate(Mixup(0.4), 3)([(torch.rand(3), 1), (torch.rand(3), label)])


def test_what_a_module_adds_to_its_state_is_no_weight_to_be_averaged():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

    model, after = nn.Sequential(Extra(4, 3)).double(), []
    optimizer = SmoothedOptimizer(model, sgd(model), [WeightAverage(1.0)], n_steps=2)
    for step in range(2):
        after.append(run(model, optimizer, [step]))
    optimizer.settle()
    torch.testing.assert_close(flat(model), (after[0] + after[1]) / 2)

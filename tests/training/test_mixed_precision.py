"""Activations and their gradients in half precision: errors of rounding only, and no gradient lost to it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Serial, run_in_threads
from pipeline.training import KFAC, Recipe, Samples, evaluate, objective, train
from pipeline.training.objective import Objective
from pipeline.training.optimizers import SGD, SecondOrder
from pipeline.training.sampling import Batches

UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # largest relative error of a rounding
SETTINGS = SecondOrder(lr=0.05, factor_interval=1, inverse_interval=1, sample_fraction=1.0)
RECIPES = {
    "sgd": Recipe(SGD(lr=0.05), batch_size=20, epochs=15, micro_batch=5),
    "kfac": Recipe(SETTINGS, batch_size=20, epochs=15, micro_batch=5),
}


def objective_of(model, training, precision, kfac=None):
    return Objective(
        model,
        training,
        Batches(len(training), 1, 0),
        n_classes=3,
        smoothing=(),
        micro_batch=20,
        seed=0,
        communicator=Serial(),
        kfac=kfac,
        precision=precision,
    )


def gradient_of(model, training, precision):
    objective_of(model, training, precision).backward(0, done=0.0)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def smooth_network():
    """Without rectifiers, of which rounding may turn one on or off."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def test_gradients_are_off_by_rounding_only(training):
    exact = gradient_of(smooth_network(), training, "float32")
    single = [gradient_of(smooth_network(), training[i : i + 1], "float32") for i in range(len(training))]
    # Their mean is smaller than they are, and its error is theirs.
    size = sum(float(gradient.norm()) for gradient in single) / len(single)
    errors = {}
    for precision, unit in UNITS.items():
        found = gradient_of(smooth_network(), training, precision)
        assert found.dtype == torch.float32
        errors[precision] = float((found - exact).norm()) / size
        # Two layers, forward and backward, each rounds two operands and its result.
        assert errors[precision] < 12 * unit
    # Three more bits, of which chance may take one and a half.
    assert 8 / 3 < errors["bfloat16"] / errors["float16"] < 8 * 3


@pytest.mark.parametrize("precision", UNITS)
@pytest.mark.parametrize("name", RECIPES)
def test_training_learns_and_weights_stay_whole(name, precision, small_network, training, validation):
    model = small_network()
    before = evaluate(model, training).loss
    history = train(model, replace(RECIPES[name], precision=precision), training, validation, seed=0)
    assert history[-1].train_loss < before / 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", UNITS)
def test_the_number_of_processes_does_not_matter(precision, small_network, weights, training, validation):
    recipe = replace(RECIPES["kfac"], precision=precision)

    def work(communicator=None):
        model = small_network()
        train(model, recipe, training, validation, seed=3, communicator=communicator)
        return weights(model)

    alone = work()
    for found in run_in_threads(2, work):
        assert (found - alone).norm() <= 1e-5 * alone.norm()


def sure_network():
    """Certain of class 0 to 1e-8: the slopes at the other scores are below what half precision holds, 6e-8."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([18.42, 0.0, 0.0]))
    return model


def test_small_gradients_survive_half_precision(training, monkeypatch):
    right = Samples(training.images, torch.zeros_like(training.labels))
    exact = gradient_of(sure_network(), right, "float32")
    found = gradient_of(sure_network(), right, "float16")
    # Scaled by 2^10 the slopes of 1e-8 are subnormal numbers, multiples of 6e-8.
    assert (found - exact).norm() < 0.01 * exact.norm()
    monkeypatch.setattr(objective, "LOSS_SCALES", (1.0,))
    assert (gradient_of(sure_network(), right, "float16") - exact).norm() > 0.5 * exact.norm()


def steep_network():
    """Its last weights are so large that slopes of 2^10 times the loss overflow in half precision."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        model[3].weight.mul_(3000)
    return model


def test_where_scaled_gradients_overflow_a_smaller_scale_is_taken_and_no_statistics_are_kept(
    training, monkeypatch
):
    found = []
    for scales in (objective.LOSS_SCALES, objective.LOSS_SCALES[1:]):
        monkeypatch.setattr(objective, "LOSS_SCALES", scales)
        model = steep_network()
        kfac = KFAC(model, SETTINGS, loss="sum")
        objective_of(model, training, "float16", kfac).backward(0, done=0.0)
        gradients = [p.grad.clone() for p in model.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)
        kfac.step(0.1)
        found.append([*gradients, *kfac.state_dict()["tensors"].values()])
        assert kfac.n_skipped == 0
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    monkeypatch.setattr(objective, "LOSS_SCALES", (2.0**10,))
    with pytest.raises(ConvergenceError, match="step 1"):
        objective_of(steep_network(), training, "float16").backward(0, done=0.0)


def test_factors_are_those_of_unscaled_losses(training):
    factors = []
    for precision in ("float32", "float16"):
        model = sure_network()
        with torch.no_grad():
            model[1].bias.zero_()
        kfac = KFAC(model, SETTINGS, loss="sum")
        objective_of(model, training, precision, kfac).backward(0, done=0.0)
        kfac.step(0.1)
        factors.append({n: t for n, t in kfac.state_dict()["tensors"].items() if n.startswith("factor")})
    for name, exact in factors[0].items():
        assert factors[1][name].dtype == torch.float32
        # Inputs and slopes are rounded once, and a product of two has twice the error.
        assert (factors[1][name] - exact).norm() <= 4 * UNITS["float16"] * exact.norm()

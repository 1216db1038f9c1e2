"""K-FAC with another optimizer as one torch optimizer, used as trainers use them."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from small_programs import batch, network, weights
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from pipeline.errors import ConvergenceError
from pipeline.training import KFAC, KFACOptimizer, KFACSettings

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")

ALL = KFACSettings(factor_interval=2, inverse_interval=2, sample_fraction=1.0, damping=0.1)


def loss_of(model, step):
    x, y = batch(step)
    return cross_entropy(model(x), y)


def run(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return weights(model)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1})],
)
def test_it_does_what_both_do_one_after_the_other(kind, options):
    model = network()
    found = run(model, KFACOptimizer(model, kind, settings=ALL, **options), range(5))
    model = network()
    kfac, inner = KFAC(model, ALL), kind(model.parameters(), **options)
    for step in range(5):
        inner.zero_grad()
        loss_of(model, step).backward()
        kfac.step(options["lr"])
        inner.step()
    assert torch.equal(found, weights(model))


def test_damping_follows_the_steps_of_the_whole_training_and_goes_on_from_a_state():
    settings = replace(ALL, damping_rule="scheduled", damping=1.0, final_damping=1e-2)
    model = network()
    optimizer = KFACOptimizer(model, lr=0.01, settings=settings, n_steps=4)
    run(model, optimizer, range(3))
    assert optimizer.kfac.damping == pytest.approx(1e-1)
    resumed = KFACOptimizer(model, lr=0.01, settings=settings, n_steps=4)
    resumed.load_state_dict(optimizer.state_dict())
    for step, damping in [(3, 10**-1.5), (4, 1e-2), (5, 1e-2)]:
        run(model, resumed, [step])
        assert resumed.kfac.damping == pytest.approx(damping)
    with pytest.raises(ValueError, match="'scheduled' needs n_steps"):
        KFACOptimizer(network(), lr=0.01, settings=settings)


def test_adaptive_damping_is_judged_around_the_step():
    model = network()
    settings = replace(ALL, damping_rule="adaptive", placement="replicate")
    optimizer = KFACOptimizer(model, lr=0.1, settings=settings)
    for _ in range(6):
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        optimizer.step()
        if optimizer.kfac.wants_verdict:
            with torch.no_grad():
                optimizer.kfac.judge(float(loss), float(loss_of(model, 0)))
    # Small steps on one batch do what the quadratic model predicts, twice.
    assert optimizer.kfac.damping == pytest.approx(settings.damping * (19 / 20) ** 10)
    with pytest.raises(ValueError, match=r"judge\(before, after\)"):
        run(model, optimizer, range(10))


def test_a_closure_computes_loss_and_gradients():
    model, other = network(), network()
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    for step in range(3):

        def closure(step=step):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
    expected = run(other, KFACOptimizer(other, lr=0.1, settings=ALL), range(3))
    assert torch.equal(weights(model), expected)


def test_a_schedule_moves_the_rate_of_the_optimizer_that_steps():
    model = network()
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    run(model, optimizer, range(1))
    schedule.step()
    assert optimizer.inner.param_groups[0]["lr"] == 0.05
    before = run(model, optimizer, [])
    optimizer.zero_grad()
    loss_of(model, 1).backward()
    optimizer.step()
    natural = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(run(model, optimizer, []), before - 0.05 * natural)


def test_clipping_counts_every_layer_by_the_rate_of_its_group():
    model = network()

    def groups():
        return [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.3}]

    clip = KFACSettings(**(vars(ALL) | {"kl_clip": 1e-6}))
    sizes = []
    for settings in (KFACSettings(**(vars(ALL) | {"kl_clip": 0.0})), clip):
        optimizer = KFACOptimizer(
            model,
            params=groups(),
            settings=settings,
            lr=1.0,
        )
        optimizer.zero_grad()
        loss_of(model, 0).backward()
        plain = [torch.cat([p.grad.flatten() for p in layer.parameters()]) for layer in (model[0], model[2])]
        kfac = optimizer.kfac
        kfac.step(optimizer._rates())
        natural = [
            torch.cat([p.grad.flatten() for p in layer.parameters()]) for layer in (model[0], model[2])
        ]
        sizes.append((kfac.step_size, [u @ g for u, g in zip(natural, plain, strict=True)]))
        kfac.remove()
    size, products = sizes[0]
    assert size == pytest.approx(float(0.1**2 * products[0] + 0.3**2 * products[1]), rel=1e-5)
    assert sizes[1][0] == pytest.approx(1e-6, rel=1e-5)


def test_a_saved_state_goes_on_bit_by_bit():
    model = network()
    optimizer = KFACOptimizer(model, torch.optim.AdamW, lr=0.01, settings=ALL)
    run(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    expected = run(model, optimizer, range(3, 6))
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    fresh = network()
    fresh.load_state_dict(state["model"])
    resumed = KFACOptimizer(fresh, torch.optim.AdamW, lr=0.5, settings=ALL)
    resumed.load_state_dict(state["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.01
    assert torch.equal(run(fresh, resumed, range(3, 6)), expected)


def test_the_state_of_the_other_optimizer_alone_is_refused():
    model = network()
    optimizer = KFACOptimizer(model, lr=0.1)
    with pytest.raises(ValueError, match="no entry 'kfac'"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())


@pytest.mark.parametrize("unscaled_before", [False, True])
@pytest.mark.parametrize("loss", ["cross-entropy", "squares"])
def test_a_gradient_scaler_changes_nothing(unscaled_before, loss):
    def loss_at(model, step):
        return (
            loss_of(model, step)
            if loss == "cross-entropy"
            else mse_loss(model(batch(step)[0]), torch.ones(10, 3))
        )

    found = []
    for scales in (False, True):
        model = network()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, enabled=scales)
        told = scaler if unscaled_before else None
        optimizer = KFACOptimizer(model, lr=0.1, settings=ALL, scaler=told)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_at(model, step)).backward()
            if unscaled_before:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        found.append(weights(model))
    # A power of two scales exactly; what is learned of the scale is rounded.
    torch.testing.assert_close(found[1], found[0])


def test_a_step_of_infinite_gradients_leaves_no_trace():
    model = network()
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    scaler = torch.amp.GradScaler("cpu")
    before = run(model, optimizer, [])
    scaler.scale(loss_of(model, 0) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(run(model, optimizer, []), before)
    assert not optimizer.state_dict()["kfac"]["tensors"]
    assert scaler.get_scale() == 2.0**15
    run(model, optimizer, range(2))
    (loss_of(model, 0) * float("inf")).backward()
    with pytest.raises(ConvergenceError, match="is not finite"):
        optimizer.step()


def test_gradients_that_were_unscaled_by_an_unknown_amount_are_refused():
    model = network()
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(mse_loss(model(batch(0)[0]), torch.ones(10, 3))).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"pass scaler=\.\.\. to KFACOptimizer"):
        scaler.step(optimizer)


def test_groups_can_be_added_and_hold_parameters_that_are_not_preconditioned():
    model = network()
    scale = nn.Parameter(torch.ones(3))
    optimizer = KFACOptimizer(model, lr=0.1, settings=ALL)
    optimizer.add_param_group({"params": [scale], "lr": 0.2})
    assert optimizer.inner.param_groups[1]["lr"] == 0.2
    x, y = batch(0)
    cross_entropy(model(x) * scale, y).backward()
    gradient = scale.grad.clone()
    optimizer.step()
    torch.testing.assert_close(scale.detach(), 1 - 0.2 * gradient)


def test_what_cannot_be_right_is_refused():
    model = network()
    for build in (torch.optim.LBFGS, lambda groups, **how: torch.optim.LBFGS(groups, **how)):
        with pytest.raises(ValueError, match="LBFGS evaluates the loss several times a step"):
            KFACOptimizer(model, build)
    with pytest.raises(TypeError, match="cannot be copied; save its state_dict"):
        copy.deepcopy(KFACOptimizer(model, lr=0.1))

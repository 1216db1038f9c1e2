import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConvergenceError
from pipeline.runtime.communicator import Serial, run_in_threads
from pipeline.training import KFAC, KFACSettings, curvature
from pipeline.training.kronecker import split_damping
from pipeline.training.layers import KroneckerProduct

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")


def preconditioner_of(model, *, communicator=None, loss="learned", **options):
    """K-FAC that looks at all samples in every step, unless told otherwise."""
    every = {"factor_decay": 0.95, "factor_interval": 1, "inverse_interval": 1, "sample_fraction": 1.0}
    settings = KFACSettings(**(every | options))
    return KFAC(model, settings, communicator=communicator, loss=loss)


def linear(n_inputs=4, n_outputs=3, bias=True):
    layer = nn.Linear(n_inputs, n_outputs, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    return nn.Sequential(layer)


def batch(n, n_inputs=4, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(n_classes, (n,), generator=generator)


def factors(preconditioner, layer="0"):
    tensors = preconditioner.state_dict()["tensors"]
    return tensors[f"factor/A/{layer}"], tensors[f"factor/G/{layer}"]


def per_sample_gradients(model, x, y):
    """Each sample's gradient by a backward pass of its own, as matrices (n_outputs, n_inputs + 1)."""
    layer = model[0]
    rows = []
    for i in range(len(x)):
        loss = functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        gradient = torch.autograd.grad(loss, list(layer.parameters()))
        rows.append(torch.cat([gradient[0].flatten(1), *(g[:, None] for g in gradient[1:])], dim=1))
    return torch.stack(rows)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_factors_of_a_linear_layer_are_second_moments_over_single_samples(reduction):
    model, (x, y) = linear(), batch(7)
    gradients = per_sample_gradients(model, x, y)
    preconditioner = preconditioner_of(model, damping=0.1, kl_clip=0, loss=reduction)
    functional.cross_entropy(model(x), y, reduction=reduction).backward()
    preconditioner.step(1.0)
    A, G = factors(preconditioner)
    extended = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(A, extended.T @ extended / 7)
    # The last column is the gradient of the bias, which is that at the output.
    at_outputs = gradients[:, :, -1]
    torch.testing.assert_close(G, at_outputs.T @ at_outputs / 7)


@pytest.mark.parametrize("bias", [True, False])
def test_with_one_sample_the_kronecker_product_is_the_exact_empirical_fisher_matrix(bias):
    model, (x, y) = linear(bias=bias), batch(1)
    gradient = per_sample_gradients(model, x, y)[0].flatten()
    preconditioner = preconditioner_of(model, damping=0.1, kl_clip=0)
    functional.cross_entropy(model(x), y).backward()
    preconditioner.step(1.0)
    A, G = factors(preconditioner)
    torch.testing.assert_close(torch.kron(G, A), torch.outer(gradient, gradient))


def test_when_inputs_and_output_gradients_are_independent_the_factors_give_the_exact_fisher_matrix():
    # Every input meets every output gradient once, so E[aa' ⊗ gg'] = E[aa'] ⊗ E[gg']. The loss is linear in
    # the output, so that the output gradient does not depend on the input.
    model = linear(bias=False)
    inputs, slopes = batch(3)[0], batch(5, n_inputs=3, seed=1)[0]
    x, slope = inputs.repeat_interleave(5, dim=0), slopes.repeat(3, 1)
    preconditioner = preconditioner_of(model, damping=0.1, kl_clip=0)
    (model(x) * slope).sum(dim=1).mean().backward()
    preconditioner.step(1.0)
    single = torch.einsum("no,ni->noi", slope, x).flatten(1)
    torch.testing.assert_close(torch.kron(*reversed(factors(preconditioner))), single.T @ single / 15)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (0, 2)}])
def test_factors_of_a_convolution_are_those_of_a_linear_layer_at_every_position(options, bias, rng):
    model = nn.Sequential(nn.Conv2d(2, 3, (3, 2), bias=bias, dtype=torch.float64, **options))
    x = torch.randn(4, 2, 7, 6, generator=rng, dtype=torch.float64)
    captured = []
    preconditioner = preconditioner_of(model, damping=0.1, kl_clip=0)
    output = model(x)
    output.register_hook(captured.append)
    output.square().sum(dim=(1, 2, 3)).mean().backward()
    preconditioner.step(1.0)
    A, G = factors(preconditioner)
    layer = model[0]
    patches = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    if bias:
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], dim=1)
    gradient = captured[0].flatten(2) * 4
    n_positions = patches.shape[2]
    torch.testing.assert_close(A, torch.einsum("nit,njt->ij", patches, patches) / (4 * n_positions))
    torch.testing.assert_close(G, torch.einsum("nit,njt->ij", gradient, gradient) / 4)


def test_the_natural_gradient_is_the_dense_solve_with_the_damped_kronecker_product():
    model, (x, y) = linear(), batch(9)
    preconditioner = preconditioner_of(model, damping=0.05, kl_clip=0)
    functional.cross_entropy(model(x), y).backward()
    layer = model[0]
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
    preconditioner.step(1.0)
    A, G = factors(preconditioner)
    for_A, for_G = split_damping(A.diagonal().mean().item(), G.diagonal().mean().item(), 0.05)
    dense = torch.kron(G + for_G * torch.eye(3).double(), A + for_A * torch.eye(5).double())
    expected = torch.linalg.solve(dense, gradient.flatten()).view(3, 5)
    torch.testing.assert_close(torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1), expected)


def test_statistics_of_accumulated_passes_are_those_of_one_pass():
    x, y = batch(10)
    found = []
    for pieces in ([10], [3, 7]):
        model = linear()
        preconditioner = preconditioner_of(model, damping=0.1, loss="sum")
        for xs, ys in zip(x.split(pieces), y.split(pieces), strict=True):
            functional.cross_entropy(model(xs), ys, reduction="sum").backward()
        preconditioner.step(1.0)
        found.append((*factors(preconditioner), model[0].weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_share_of_each_pass_is_evenly_spaced_samples():
    model, (x, y) = linear(), batch(10)
    preconditioner = preconditioner_of(model, damping=0.1, sample_fraction=0.25)
    functional.cross_entropy(model(x), y).backward()
    preconditioner.step(1.0)
    extended = torch.cat([x[[0, 3, 6]], torch.ones(3, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(factors(preconditioner)[0], extended.T @ extended / 3)


def run_steps(preconditioner, model, n, lr=0.1):
    """Take `n` steps on new batches; return the factor A after each and the one its batch alone has."""
    seen = []
    for step in range(n):
        x, y = batch(6, seed=step)
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        preconditioner.step(lr)
        extended = torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], dim=1)
        seen.append((factors(preconditioner)[0].clone(), extended.T @ extended / 6))
    return seen


def test_factors_follow_a_moving_average_that_starts_as_a_plain_mean():
    model = linear()
    seen = run_steps(preconditioner_of(model, damping=0.1, factor_decay=0.7), model, 5)
    average = torch.zeros(5, 5, dtype=torch.float64)
    for i, (found, fresh) in enumerate(seen):
        decay = min(0.7, i / (i + 1))
        average = decay * average + (1 - decay) * fresh
        torch.testing.assert_close(found, average)


def test_factors_and_inverses_move_at_their_intervals_only():
    model = linear()
    preconditioner = preconditioner_of(model, damping=0.1, factor_interval=2, inverse_interval=3)
    changes = []
    before: dict = {}
    for step in range(7):
        x, y = batch(6, seed=step)
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        preconditioner.step(0.1)
        tensors = {name: t.clone() for name, t in preconditioner.state_dict()["tensors"].items()}
        moved = {
            name[:6] for name in tensors if name not in before or not torch.equal(tensors[name], before[name])
        }
        changes.append(("factor" in moved, "invers" in moved))
        before = tensors
    assert [factor for factor, _ in changes] == [True, False, True, False, True, False, True]
    assert [inverse for _, inverse in changes] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("kl_clip", [1e-4, 1e4])
def test_clipping_bounds_the_step_and_keeps_its_direction(kl_clip):
    lr, natural = 0.3, []
    for clip in (0.0, kl_clip):
        model, (x, y) = linear(), batch(9)
        preconditioner = preconditioner_of(model, damping=0.05, kl_clip=clip)
        functional.cross_entropy(model(x), y).backward()
        plain = torch.cat([p.grad.flatten() for p in model.parameters()])
        preconditioner.step(lr)
        natural.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    size = lr**2 * (natural[0] @ plain)
    scale = min(1.0, math.sqrt(kl_clip / size))
    torch.testing.assert_close(natural[1], scale * natural[0])


def test_what_is_not_preconditioned_is_listed_and_keeps_its_gradient(rng):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2))
    preconditioner = preconditioner_of(model, damping=0.1)
    assert preconditioner.preconditioned == ("0", "2", "4")
    assert preconditioner.not_preconditioned == ("1.weight",)
    model(torch.randn(5, 2, 6, 6, generator=rng)).square().mean().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    preconditioner.step(0.1)
    same = {name for name, p in model.named_parameters() if torch.equal(p.grad, before[name])}
    assert same == set(preconditioner.not_preconditioned)


def test_frozen_layers_and_layers_that_are_never_used_are_left_alone(rng):
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    preconditioner = preconditioner_of(model, damping=0.1)
    assert preconditioner.preconditioned == ("used", "unused")
    assert preconditioner.not_preconditioned == ()

    def backward():
        model.zero_grad()
        model["frozen"](model["used"](torch.randn(4, 3, generator=rng))).sum(dim=1).mean().backward()

    backward()
    preconditioner.step(0.1)  # the next passes are watched for functions that apply its weight, too
    backward()
    words = r"no pass through layer unused;.*compiled before K-FAC was attached .*torch\.compiler\.reset\(\)$"
    with pytest.warns(UserWarning, match=words):
        preconditioner.step(0.1)
    backward()
    preconditioner.step(0.1)  # and says so once
    assert model["unused"].weight.grad is None
    assert {name.split("/")[2] for name in preconditioner.state_dict()["tensors"]} == {"used"}


def test_a_network_without_supported_layers_passes_through(rng):
    model = nn.Sequential(nn.PReLU())
    preconditioner = preconditioner_of(model, damping=0.1)
    model(torch.randn(4, 3, generator=rng)).square().mean().backward()
    before = model[0].weight.grad.clone()
    preconditioner.step(0.1)
    assert torch.equal(model[0].weight.grad, before)


def test_evaluation_and_passes_without_gradients_leave_no_statistics():
    model, (x, y) = linear(), batch(5)
    preconditioner = preconditioner_of(model, damping=0.1)
    functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        model(2 * x)
    model.eval()
    functional.cross_entropy(model(3 * x), y).backward()
    preconditioner.step(0.1)
    extended = torch.cat([x, torch.ones(5, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(factors(preconditioner)[0], extended.T @ extended / 5)


@pytest.mark.parametrize("ekfac", [False, True])
def test_inputs_wait_for_the_backward_pass_only_where_it_needs_them(ekfac, monkeypatch, rng):
    kept = []
    moments = KroneckerProduct.gradient_moments

    def spy(structure, inputs, gradient):
        kept.append(inputs.untyped_storage().nbytes())
        return moments(structure, inputs, gradient)

    monkeypatch.setattr(KroneckerProduct, "gradient_moments", spy)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    preconditioner = preconditioner_of(model, damping=0.1, ekfac=ekfac)
    for _ in range(2):  # the eigenbases that EKFAC takes squares in are there from the second step
        model(torch.randn(5, 2, 6, 6, generator=rng)).square().mean().backward()
        preconditioner.step(0.1)
    assert len(kept) == 4
    assert [n_bytes > 0 for n_bytes in kept] == [False, False, ekfac, ekfac]


def test_removed_hooks_see_nothing():
    model, (x, y) = linear(), batch(5)
    preconditioner = preconditioner_of(model, damping=0.1)
    preconditioner.remove()
    functional.cross_entropy(model(x), y).backward()
    preconditioner.step(0.1)
    with pytest.warns(UserWarning, match="no pass through layer 0"):
        preconditioner.step(0.1)
    assert not preconditioner.state_dict()["tensors"]


def failing_inverse(n_failures):
    """`damped_inverse` whose next `n_failures` calls fail, and the dampings it was asked for."""
    asked = []

    def invert(factor, damping):
        asked.append(damping)
        if len(asked) <= n_failures:
            return None
        return torch.linalg.inv(factor + damping * torch.eye(len(factor), dtype=factor.dtype))

    return invert, asked


def test_a_failed_inversion_is_tried_again_with_ten_times_the_damping(monkeypatch):
    model, (x, y) = linear(), batch(5)
    invert, asked = failing_inverse(1)
    monkeypatch.setattr(curvature, "damped_inverse", invert)
    preconditioner = preconditioner_of(model, damping=0.1)
    functional.cross_entropy(model(x), y).backward()
    preconditioner.step(0.1)
    assert asked[1] == pytest.approx(10 * asked[0])
    assert (preconditioner.n_retries, preconditioner.n_stale) == (1, 0)


def test_a_layer_whose_inversions_fail_keeps_its_last_inverse_or_the_identity(monkeypatch):
    model, (x, y) = linear(), batch(5)
    monkeypatch.setattr(curvature, "damped_inverse", lambda factor, damping: None)
    preconditioner = preconditioner_of(model, damping=0.1, kl_clip=0)
    functional.cross_entropy(model(x), y).backward()
    before = model[0].weight.grad.clone()
    preconditioner.step(0.1)
    torch.testing.assert_close(model[0].weight.grad, before)
    monkeypatch.undo()
    run_steps(preconditioner, model, 1)
    last = preconditioner.state_dict()["tensors"]["inverse/A/0"].clone()
    monkeypatch.setattr(curvature, "damped_inverse", lambda factor, damping: None)
    run_steps(preconditioner, model, 1)
    assert torch.equal(preconditioner.state_dict()["tensors"]["inverse/A/0"], last)
    assert (preconditioner.n_retries, preconditioner.n_stale) == (0, 4)


def test_statistics_that_are_not_finite_do_not_enter_the_average():
    model = linear()
    preconditioner = preconditioner_of(model, damping=0.1)
    run_steps(preconditioner, model, 1)
    before = [factor.clone() for factor in factors(preconditioner)]
    model.zero_grad()
    functional.cross_entropy(
        model(torch.full((2, 4), math.inf, dtype=torch.float64)), torch.tensor([0, 1])
    ).backward()
    for p in model.parameters():
        p.grad.zero_()
    preconditioner.step(0.1)
    assert preconditioner.n_skipped == 2
    assert all(torch.equal(a, b) for a, b in zip(before, factors(preconditioner), strict=True))


def test_a_natural_gradient_that_is_not_finite_is_an_error_that_names_step_and_layer():
    model, (x, y) = linear(), batch(5)
    preconditioner = preconditioner_of(model, damping=0.1)
    functional.cross_entropy(model(x), y).backward()
    model[0].weight.grad[0, 0] = math.nan
    with pytest.raises(ConvergenceError, match="layer 0 is not finite at step 1; raise damping"):
        preconditioner.step(0.1)


def test_a_state_goes_on_bit_equal_in_a_fresh_object():
    model = linear()
    options = {"damping": 0.1, "factor_interval": 2, "inverse_interval": 3}
    preconditioner = preconditioner_of(model, **options)
    run_steps(preconditioner, model, 4)
    state = preconditioner.state_dict()
    resumed_model = linear()
    resumed = preconditioner_of(resumed_model, **options)
    resumed.load_state_dict({"tensors": dict(state["tensors"]), "scalars": dict(state["scalars"])})
    for one, its_model in ((preconditioner, model), (resumed, resumed_model)):
        run_steps(one, its_model, 3)
    assert torch.equal(model[0].weight.grad, resumed_model[0].weight.grad)
    assert preconditioner.state_dict()["scalars"] == resumed.state_dict()["scalars"]


def test_the_state_of_another_network_is_refused():
    model = linear()
    preconditioner = preconditioner_of(model, damping=0.1)
    run_steps(preconditioner, model, 1)
    with pytest.raises(ValueError, match=r"factor/A/0 of shape \(5, 5\), the network \(8, 8\)"):
        preconditioner_of(linear(n_inputs=7), damping=0.1).load_state_dict(preconditioner.state_dict())


def test_damping_must_be_positive():
    with pytest.raises(ValueError, match="damping must be positive, not 0"):
        preconditioner_of(linear(), damping=0)


@pytest.mark.parametrize("n_processes", [2, 3, 5])
def test_processes_with_parts_of_a_batch_find_the_natural_gradient_of_the_whole(n_processes):
    x, y = batch(7)

    def work(communicator):
        model = nn.Sequential(linear(4, 6)[0], nn.Tanh(), linear(6, 3)[0])
        preconditioner = preconditioner_of(model, damping=0.05, communicator=communicator, loss="sum")
        part = slice(communicator.rank, None, communicator.size)
        if len(x[part]):
            functional.cross_entropy(model(x[part]), y[part], reduction="sum").backward()
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            communicator.all_reduce(p.grad)
        preconditioner.step(0.1)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = work(Serial())
    parts = run_in_threads(n_processes, work)
    assert all(torch.equal(part, parts[0]) for part in parts)
    torch.testing.assert_close(parts[0], whole, rtol=1e-9, atol=1e-12)


def test_all_processes_count_the_failures_of_one(monkeypatch):
    def invert(factor, damping):
        return None if len(factor) == 5 else torch.eye(len(factor), dtype=factor.dtype)

    monkeypatch.setattr(curvature, "damped_inverse", invert)

    def work(communicator):
        model = linear()
        preconditioner = preconditioner_of(model, damping=0.1, communicator=communicator)
        x, y = batch(4, seed=communicator.rank)
        functional.cross_entropy(model(x), y).backward()
        for p in model.parameters():
            communicator.all_reduce(p.grad)
        preconditioner.step(0.1)
        return preconditioner.n_stale, preconditioner.state_dict()["tensors"]["inverse/A/0"]

    for n_stale, inverse in run_in_threads(2, work):
        assert n_stale == 1
        assert torch.equal(inverse, torch.eye(5, dtype=torch.float64))


def test_a_network_without_layers_that_are_known_keeps_its_gradients_and_has_an_empty_state():
    model = nn.Sequential(nn.PReLU())
    kfac = KFAC(model)
    model(torch.randn(4, 3)).sum().backward()
    before = model[0].weight.grad.clone()
    kfac.step(0.1)
    assert torch.equal(model[0].weight.grad, before)
    assert kfac.not_preconditioned == ("0.weight",)
    assert kfac.state_dict()["tensors"] == {}
    kfac.load_state_dict(kfac.state_dict())
    assert kfac.statistics()["layers"] == {}

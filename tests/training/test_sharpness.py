import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import Samples, evaluate
from pipeline.training.sharpness import (
    STD,
    hessian_product,
    largest_eigenvalue,
    measure_sharpness,
    perturbation_rise,
)


@pytest.fixture
def samples(rng):
    return Samples(torch.randn(11, 1, 2, 2, generator=rng, dtype=torch.float64), torch.arange(11) % 3)


@pytest.fixture
def model(rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=rng)
    return model


def dense_hessian(model, samples):
    sizes = [p.numel() for p in model.parameters()]
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(flat):
        parts = zip(shapes.items(), flat.split(sizes), strict=True)
        weights = {name: part.view(shape) for (name, shape), part in parts}
        return functional.cross_entropy(
            torch.func.functional_call(model, weights, samples.images), samples.labels
        )

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def test_the_product_is_that_of_the_dense_hessian(model, samples, rng, monkeypatch):
    monkeypatch.setattr("pipeline.training.sharpness.CHUNK", 4)
    H = dense_hessian(model, samples)
    v = torch.randn(len(H), generator=rng, dtype=torch.float64)
    torch.testing.assert_close(hessian_product(model, samples, v), H @ v, rtol=1e-10, atol=1e-12)


def test_the_largest_eigenvalue_is_that_of_the_dense_hessian(model, samples):
    expected = float(torch.linalg.eigvalsh(dense_hessian(model, samples))[-1])
    found = measure_sharpness(model, samples, seed=0).largest_eigenvalue
    assert found == pytest.approx(expected, rel=1e-2)
    assert found <= expected * (1 + 1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_lanczos_finds_the_largest_and_not_the_largest_in_size(n):
    spectrum = torch.linspace(-5.0, 2.0, n, dtype=torch.float64) if n > 1 else torch.tensor([-3.0]).double()
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    A = Q @ torch.diag(spectrum) @ Q.T
    found = largest_eigenvalue(lambda v: A @ v, n, like=A, seed=1, tolerance=1e-9, max_products=60)
    assert found == pytest.approx(float(spectrum[-1]), rel=1e-8)


def test_a_matrix_of_zeros_has_the_eigenvalue_zero():
    assert largest_eigenvalue(torch.zeros_like, 5, like=torch.ones(1).double(), seed=0) == 0.0


def test_the_perturbation_of_a_quadratic_is_half_the_trace_of_its_curvature(rng):
    # Scores w x and 0 with tiny w: the cross-entropy is quadratic in w with curvature x^2 / 4.
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1, 50), 1e-3, dtype=torch.float64))

        def forward(self, x):
            score = x.flatten(1) @ self.weight.T
            return torch.cat([score, torch.zeros_like(score)], dim=1)

    images = torch.randn(400, 1, 5, 10, generator=rng, dtype=torch.float64)
    samples = Samples(images, torch.arange(400) % 2)
    expected = 0.5 * (STD * 1e-3) ** 2 * float(images.square().sum()) / 400 / 4
    # Eight pairs of 50 normal numbers: the deviation of their mean square is sqrt(2 / 400).
    assert perturbation_rise(Linear(), samples, seed=0) == pytest.approx(expected, rel=4 * (2 / 400) ** 0.5)


def test_the_weights_keep_their_bits(model, samples):
    before = [p.clone() for p in model.parameters()]
    found = measure_sharpness(model, samples, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert found == measure_sharpness(model, samples, seed=0)
    assert found.n_samples == 11


def test_the_perturbation_does_not_depend_on_the_scale_of_a_layer(model, samples):
    """With a rectifier two layers may trade a factor, which changes the Hessian but not this measure."""
    model[2] = nn.ReLU()
    model[1].bias.data.zero_()
    one = measure_sharpness(model, samples, seed=0)
    loss = evaluate(model, samples).loss
    model[1].weight.data *= 8
    model[3].weight.data /= 8
    other = measure_sharpness(model, samples, seed=0)
    assert evaluate(model, samples).loss == pytest.approx(loss)
    assert other.perturbation == pytest.approx(one.perturbation, rel=1e-9)
    assert other.largest_eigenvalue > 2 * one.largest_eigenvalue

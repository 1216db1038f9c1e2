"""Kriging, likelihood and classification against dense linear algebra and SciPy's distributions."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import gaussian_process as gp
from pipeline.hmatrix.kernels import Matern, SquaredExponential


@dataclass(frozen=True)
class DenseFactorization:
    """The factorization of a dense matrix, made of a slightly different one to be as loose as a compressed one."""

    matrix: torch.Tensor

    def solve(self, b):
        return torch.linalg.solve(self.matrix, b)

    def logdet(self):
        return torch.logdet(self.matrix)


KERNEL = Matern(nu=1.5, length_scale=0.3, variance=2.0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


@pytest.fixture
def field(generator):
    """Points in the unit square, a covariance with nugget, and a sample of it."""
    points = torch.rand(150, 2, dtype=torch.float64, generator=generator)
    A = KERNEL(points, points) + 0.01 * torch.eye(150, dtype=torch.float64)
    values = torch.linalg.cholesky(A) @ torch.randn(150, dtype=torch.float64, generator=generator)
    return points, A, values


def loose(A):
    return DenseFactorization(A + 1e-3 * torch.eye(len(A), dtype=A.dtype))


def test_the_log_likelihood_is_that_of_the_normal_distribution(field):
    _, A, values = field
    expected = multivariate_normal(cov=A.numpy()).logpdf(values.numpy())
    assert gp.log_likelihood(values, A, DenseFactorization(A)) == pytest.approx(expected, rel=1e-9)


def test_a_loose_factorization_does_not_change_the_weights(field):
    _, A, values = field
    expected = torch.linalg.solve(A, values)
    torch.testing.assert_close(
        gp.kriging_weights(values, A, loose(A), tolerance=1e-12), expected, rtol=1e-8, atol=1e-8
    )


def test_predictions_interpolate_when_there_is_no_nugget(field):
    points, A, values = field
    exact = A - 0.01 * torch.eye(150, dtype=torch.float64)
    weights = gp.kriging_weights(values, exact, DenseFactorization(exact))
    torch.testing.assert_close(gp.predict(KERNEL, points, weights, points), values, rtol=0, atol=1e-7)


def test_predictions_in_blocks_are_those_at_once(field, generator, monkeypatch):
    points, A, values = field
    new_points = torch.rand(37, 2, dtype=torch.float64, generator=generator)
    weights = torch.linalg.solve(A, torch.stack([values, -values], dim=1))
    monkeypatch.setattr(gp.kriging, "_BLOCK_ENTRIES", 1000)
    expected = KERNEL(new_points, points) @ weights
    torch.testing.assert_close(gp.predict(KERNEL, points, weights, new_points), expected)
    assert gp.predict(KERNEL, points, weights, new_points[:0]).shape == (0, 2)


def test_predictive_variance_is_the_schur_complement(field, generator):
    points, A, _ = field
    new_points = torch.rand(70, 2, dtype=torch.float64, generator=generator)
    cross = KERNEL(points, new_points)
    expected = (KERNEL(new_points, new_points) - cross.T @ torch.linalg.solve(A, cross)).diagonal()
    variance = gp.predictive_variance(KERNEL, points, A, loose(A), new_points, tolerance=1e-10)
    torch.testing.assert_close(variance, expected, rtol=1e-6, atol=1e-8)
    assert gp.predictive_variance(KERNEL, points, A, loose(A), new_points[:0]).shape == (0,)


def test_kriging_beats_the_mean_predictor_where_the_field_is_correlated(field, generator):
    points, A, values = field
    held = torch.randperm(150, generator=generator) < 30
    kept = ~held
    inner = A[kept][:, kept]
    weights = gp.kriging_weights(values[kept], inner, DenseFactorization(inner))
    error = gp.root_mean_square_error(gp.predict(KERNEL, points[kept], weights, points[held]), values[held])
    baseline = gp.root_mean_square_error(values[kept].mean().expand(int(held.sum())), values[held])
    assert error < 0.5 * baseline


def test_classification_separates_clusters(generator):
    labels = torch.arange(90) % 3
    centers = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    points = centers[labels] + torch.randn(90, 2, dtype=torch.float64, generator=generator) * 0.4
    kernel = SquaredExponential(length_scale=1.0)
    A = kernel(points[:60], points[:60]) + 0.1 * torch.eye(60, dtype=torch.float64)
    weights = gp.kriging_weights(gp.one_hot(labels[:60], 3), A, DenseFactorization(A))
    assert torch.equal(gp.predict_labels(kernel, points[:60], weights, points[60:]), labels[60:])


def test_one_hot_rows_sum_to_zero():
    targets = gp.one_hot(torch.tensor([0, 2, 1, 2]), 3)
    torch.testing.assert_close(targets.sum(dim=1), torch.zeros(4, dtype=torch.float64))
    assert targets.argmax(dim=1).tolist() == [0, 2, 1, 2]


def test_the_fit_finds_the_parameters_that_made_the_field(generator):
    points = torch.rand(1500, 2, dtype=torch.float64, generator=generator)
    truth = Matern(length_scale=0.1, variance=3.0)
    A = truth(points, points) + 0.3 * torch.eye(1500, dtype=torch.float64)
    values = torch.linalg.cholesky(A) @ torch.randn(1500, dtype=torch.float64, generator=generator)
    fit = gp.fit_matern(points, values, generator=generator, subsample=1500)
    # What the data fix well is the slope at the origin, variance/length_scale [Zhang 2004], and the nugget.
    assert fit.kernel.variance / fit.kernel.length_scale == pytest.approx(30.0, rel=0.35)
    assert fit.nugget == pytest.approx(0.3, rel=0.35)
    assert 0.03 < fit.kernel.length_scale < 0.3


def test_the_fit_scales_with_points_and_values(field, generator):
    points, _, values = field
    fit = gp.fit_matern(points, values, generator=torch.Generator().manual_seed(1))
    scaled = gp.fit_matern(10 * points, 3 * values, generator=torch.Generator().manual_seed(1))
    assert scaled.kernel.length_scale == pytest.approx(10 * fit.kernel.length_scale, rel=1e-6)
    assert scaled.kernel.variance == pytest.approx(9 * fit.kernel.variance, rel=1e-6)
    assert scaled.nugget == pytest.approx(9 * fit.nugget, rel=1e-6)


def test_the_fit_bounds_the_nugget_from_below(generator):
    points = torch.rand(200, 1, dtype=torch.float64, generator=generator)
    fit = gp.fit_matern(points, points[:, 0] - 0.5, generator=generator, smallest_nugget=0.01)
    assert fit.nugget >= 0.01 * fit.kernel.variance


def test_the_fit_refuses_what_says_nothing(generator):
    with pytest.raises(ValueError, match="not all 0"):
        gp.fit_matern(torch.rand(5, 2), torch.zeros(5), generator=generator)


def test_a_matrix_that_is_not_positive_definite_is_reported(field):
    _, A, values = field
    shifted = A - 0.5 * torch.eye(150, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="not positive definite"):
        gp.kriging_weights(values, shifted, DenseFactorization(A))


def test_median_distance_is_in_the_unit_of_the_points(generator):
    points = torch.rand(300, 3, dtype=torch.float64, generator=generator)
    median = gp.median_distance(points, torch.Generator().manual_seed(2))
    assert 0.4 < median < 0.9
    assert gp.median_distance(7 * points, torch.Generator().manual_seed(2)) == pytest.approx(7 * median)


def test_arrays_give_what_tensors_give_as_arrays(field, generator):
    points, A, values = field
    new = torch.rand(7, 2, dtype=torch.float64, generator=generator)

    def answers(points, A, values, new):
        F = DenseFactorization(torch.as_tensor(A))
        weights = gp.kriging_weights(values, A, F)
        return (
            weights,
            gp.predict(KERNEL, points, weights, new),
            gp.predictive_variance(KERNEL, points, A, F, new),
        )

    expected = answers(points, A, values, new)
    found = answers(*(tensor.numpy() for tensor in (points, A, values, new)))
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, other)
    assert gp.root_mean_square_error(values.numpy(), np.zeros(150)) == pytest.approx(
        float(values.square().mean() ** 0.5)
    )


def test_a_fit_and_predictions_in_single_precision_far_from_the_origin_are_those_near_it(field, generator):
    points, _, values = field
    # A grid of quarters of a meter is exact in single precision at 4,000 km.
    near = (points * 400 * 4).round() / 4
    far = (near + 4e6).float()
    fits = [
        gp.fit_matern(place, values, generator=torch.Generator().manual_seed(0), nu=1.5, group=50)
        for place in (near, far)
    ]
    assert fits[1].kernel.length_scale == pytest.approx(fits[0].kernel.length_scale, rel=1e-6)
    assert gp.median_distance(far, generator) == pytest.approx(gp.median_distance(near, generator), rel=1e-6)
    predictions = [gp.predict(fits[0].kernel, place, values, place[:9]) for place in (near, far)]
    torch.testing.assert_close(predictions[1], predictions[0], rtol=1e-4, atol=1e-4)

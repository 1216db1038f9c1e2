"""Empirical variograms of fields whose variogram is known."""

import numpy as np

from pipeline.hmatrix import kernels
from pipeline.hmatrix.gaussian_process import variogram

POINTS = np.random.default_rng(0).random((1201, 2))


def test_white_noise_has_its_variance_at_all_distances():
    noise = 2.0 * np.random.default_rng(1).standard_normal(1201)
    found = variogram(POINTS, noise)
    # A semivariance of m pairs over n points scatters by sqrt(2 / n) or more; short classes have few pairs.
    many = found.n_pairs > 500
    assert np.abs(found.semivariance[many, 0] / 4 - 1).max() < 0.25
    assert (np.diff(found.distance) > 0).all()


def test_a_correlated_field_rises_from_its_nugget_as_its_covariance_falls():
    kernel = kernels.Matern(nu=0.5, length_scale=0.05)
    root = np.linalg.cholesky(kernel(POINTS, POINTS) + 1e-8 * np.eye(1201))
    fields = root @ np.random.default_rng(2).standard_normal((1201, 40))
    found = variogram(POINTS, fields)
    expected = 1 - np.exp(-found.distance / 0.05)
    many = found.n_pairs > 300
    np.testing.assert_allclose(found.semivariance.mean(axis=1)[many], expected[many], atol=0.08)


def test_few_points_have_few_classes_and_one_has_none():
    assert len(variogram(POINTS[:1], np.ones(1)).distance) == 0
    assert variogram(POINTS[:17], np.arange(17.0)).n_pairs.sum() >= 17
    assert len(variogram(np.zeros((5, 2)), np.arange(5.0)).distance) == 0

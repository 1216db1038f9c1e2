"""Thin-plate splines: a conditionally positive definite kernel beside its trend, against the dense saddle point."""

import numpy as np
import pytest
from random_problems import STATED_ERRORS
from scipy.interpolate import RBFInterpolator

from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process.anchored import Anchored, conditional_degree, is_covariance
from pipeline.hmatrix.gaussian_process.trend import Regressors

N, NUGGET = 401, 1e-2
NAMES = {1: "cubic", 2: "thin_plate_spline", 3: "linear"}  # as SciPy calls the spline of each dimension


def problem(dimension):
    generator = np.random.default_rng(dimension)
    points = generator.random((N, dimension))
    values = np.sin(6 * points).sum(axis=1) + 2 * points[:, 0] + 0.1 * generator.standard_normal(N)
    return points, values, generator.random((97, dimension))


def process(**options):
    given = {"nugget": NUGGET, "optimizer": None, "tolerance": 1e-8, "method": "reml", "trend": "linear"}
    return GaussianProcess(kernels.ThinPlate(), **given | options)


def monomials(points):
    return np.column_stack([np.ones(len(points)), points])


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_means_are_those_of_scipys_spline_and_deviations_those_of_the_saddle_point(dimension):
    points, values, new = problem(dimension)
    found, std = process().fit(points, values).predict(new, return_std=True)
    spline = RBFInterpolator(points, values, kernel=NAMES[dimension], smoothing=NUGGET, degree=1)
    np.testing.assert_allclose(found, spline(new), atol=1e-5)
    k, H = kernels.ThinPlate(), monomials(points)
    p = H.shape[1]
    saddle = np.block([[k(points, points) + NUGGET * np.eye(N), H], [H.T, np.zeros((p, p))]])
    right = np.vstack([k(points, new), monomials(new).T])
    variance = k.diagonal(new) - (right * np.linalg.solve(saddle, right)).sum(axis=0)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-3)


def test_many_deviations_and_left_out_values_are_those_of_the_saddle_point_too():
    points, values, _ = problem(2)
    gp = process().fit(points, values)
    new = np.random.default_rng(5).random((300, 2))
    exact = gp.predict(new, return_std=True, exact=True)[1]
    found = gp.predict(new, return_std=True)[1]
    assert np.sqrt(np.mean((found / exact - 1) ** 2)) < STATED_ERRORS * gp.std_error_ + 1e-4
    mean, std = gp.leave_one_out()
    rest = np.arange(N) != 7
    again = process().fit(points[rest], values[rest])
    expected, deviation = again.predict(points[7:8], return_std=True, include_noise=True)
    assert mean[7] == pytest.approx(expected[0], abs=0.02 * deviation[0])
    assert std[7] == pytest.approx(deviation[0], rel=0.02)


def test_the_restricted_likelihood_is_that_of_contrasts():
    points, values, _ = problem(2)
    gp = process().fit(points, values)
    H = Regressors.of("linear", points)(points)
    contrasts = np.linalg.qr(H, mode="complete")[0][:, 3:]
    covariance = contrasts.T @ (kernels.ThinPlate()(points, points) + NUGGET * np.eye(N)) @ contrasts
    z = contrasts.T @ values
    expected = -0.5 * (
        np.linalg.slogdet(covariance)[1]
        + z @ np.linalg.solve(covariance, z)
        + (N - 3) * np.log(2 * np.pi)
        + np.linalg.slogdet(H.T @ H)[1]
    )
    assert gp.log_likelihood_ == pytest.approx(expected, abs=1e-3)


def test_variance_and_nugget_are_fitted():
    points, values, _ = problem(2)
    gp = process(nugget="fit", optimizer="scoring", tolerance=1e-6).fit(points, values)
    assert gp.kernel_.name == "thin_plate"
    assert gp.nugget_ == pytest.approx(0.01, rel=0.4)
    for name, factor in (("variance", 1.3), ("variance", 1 / 1.3), ("nugget", 1.3), ("nugget", 1 / 1.3)):
        variance, nugget = gp.kernel_.variance, gp.nugget_
        moved = {"variance": (variance * factor, nugget), "nugget": (variance, nugget * factor)}[name]
        other = process(nugget=moved[1], tolerance=1e-6)
        other.kernel = kernels.ThinPlate(moved[0])
        assert other.fit(points, values).log_likelihood_ < gp.log_likelihood_


def test_it_does_not_matter_where_a_spline_is_anchored():
    points, values, new = problem(2)
    shift = np.array([30.0, -7.0])
    shifted = process().fit(points + shift, values).predict(new + shift)
    np.testing.assert_allclose(shifted, process().fit(points, values).predict(new), atol=1e-5)


def test_an_anchored_kernel_is_positive_definite_and_differs_by_polynomials():
    points = problem(2)[0][:60]
    kernel = Anchored.at(kernels.ThinPlate(variance=3.0), points)
    matrix = kernel(points, points)
    assert np.linalg.eigvalsh(matrix)[0] > 0
    contrasts = np.linalg.qr(monomials(points), mode="complete")[0][:, 3:]
    exact = contrasts.T @ kernels.ThinPlate(variance=3.0)(points, points) @ contrasts
    np.testing.assert_allclose(contrasts.T @ matrix @ contrasts, exact, atol=1e-12)


def test_sums_with_covariances_are_conditionally_positive_definite():
    total = kernels.Matern() + 2.0 * kernels.ThinPlate()
    assert (conditional_degree(total), is_covariance(total)) == (1, True)
    assert not is_covariance(-1.0 * kernels.ThinPlate())
    assert not is_covariance(kernels.ThinPlate() * kernels.ThinPlate())


def test_what_a_spline_lacks_is_said():
    points, values, _ = problem(2)
    with pytest.raises(ConfigError, match="give one of linear, quadratic, not 'constant'"):
        process(trend="constant").fit(points, values)
    with pytest.raises(ConfigError, match="give method='reml'"):
        process(method="ml").fit(points, values)
    line = np.column_stack([points[:, 0], 2 * points[:, 0]])
    with pytest.raises(ConfigError, match=r"do not determine|linearly dependent"):
        process().fit(line, values)
    with pytest.raises(ValueError, match="1 to 3 dimensions, not in 4"):
        kernels.ThinPlate()(np.zeros((2, 4)), np.zeros((2, 4)))

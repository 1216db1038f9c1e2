"""The likelihood, its gradient and its information against dense linear algebra."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pipeline.hmatrix import kernels
from pipeline.hmatrix.gaussian_process.likelihood import Likelihood
from pipeline.hmatrix.gaussian_process.parameters import free_parameters, logarithms, with_logarithms
from pipeline.hmatrix.gaussian_process.probes import (
    colors_of,
    colors_of_rows,
    diagonal_of_inverse_trace,
)

N = 601
ANISOTROPIC = kernels.Matern(nu=1.5, length_scale=(0.2, 0.1), variance=2.0)
TWO = kernels.Matern(nu=0.5, length_scale=0.05, variance=0.5) + kernels.SquaredExponential(0.3, 1.5)
CASES = {
    "matern": (kernels.Matern(nu=0.5, length_scale=0.1, variance=1.3), 0.02),
    "anisotropic": (ANISOTROPIC, 0.05),
    "sum": (TWO, 0.1),
    "rational quadratic": (kernels.RationalQuadratic(0.2, 1.0, alpha=1.5), 0.05),
    "small nugget": (kernels.Matern(nu=1.5, length_scale=0.3), 1e-4),
}
# Whether the likelihood is restricted changes a term that knows no kernel: each kernel has it one way, one has it both.
COMBINED = [
    ("matern", False),
    ("matern", True),
    ("anisotropic", True),
    ("sum", False),
    ("rational quadratic", True),
    ("small nugget", False),
]


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(3)
    points = generator.random((N, 2))
    noise = generator.uniform(0.5, 2.0, N)
    return points, noise, generator.standard_normal(N)


def model(data, kernel, nugget, *, restricted=False, basis=True):
    points, noise, normal = data
    covariance = kernel(points, points) + nugget * np.diag(noise)
    columns = np.column_stack([np.ones(N), points]) if basis else np.zeros((N, 0))
    values = np.linalg.cholesky(covariance) @ normal + 4.0 * basis
    return Likelihood(
        points, values, columns, noise, kernel, free_parameters(kernel), nugget, True, restricted=restricted
    )


def dense_value(likelihood, theta):
    kernel, nugget = likelihood.parameters_at(theta)
    covariance = kernel(likelihood.points, likelihood.points) + nugget * np.diag(likelihood.noise)
    root = np.linalg.cholesky(covariance)
    n, p = likelihood.basis.shape
    y, H = (np.linalg.solve(root, b) for b in (likelihood.values, likelihood.basis))
    gram = H.T @ H
    residual = y - H @ np.linalg.solve(gram, H.T @ y) if p else y
    value = -np.log(np.diag(root)).sum() - 0.5 * residual @ residual
    value -= 0.5 * (n - p * likelihood.restricted) * math.log(2 * math.pi)
    return value - 0.5 * np.linalg.slogdet(gram)[1] * likelihood.restricted if p else value


@pytest.mark.parametrize(("case", "restricted"), COMBINED)
def test_the_value_is_that_of_the_dense_matrix_to_a_tenth_of_a_nat(data, case, restricted):
    likelihood = model(data, *CASES[case], restricted=restricted)
    found = likelihood.at(likelihood.start)
    assert found.value == pytest.approx(dense_value(likelihood, likelihood.start), abs=0.1)
    assert found.error <= 0.05


@pytest.mark.parametrize(("case", "restricted"), COMBINED)
def test_the_gradient_is_that_of_the_dense_value_within_a_fraction_of_its_standard_deviation(
    data, case, restricted
):
    likelihood = model(data, *CASES[case], restricted=restricted)
    derivatives = likelihood.derivatives(likelihood.at(likelihood.start))
    deviation = np.sqrt(np.diag(derivatives.information))
    for i in range(len(likelihood.names)):
        step = np.zeros(len(likelihood.names))
        step[i] = 1e-3
        ends = [dense_value(likelihood, likelihood.start + sign * step) for sign in (1, -1)]
        # A gradient that errs by a twentieth of its standard deviation moves the maximum by a twentieth of a standard
        # error, and costs a thousandth of a nat.
        assert derivatives.gradient[i] == pytest.approx(
            (ends[0] - ends[1]) / 2e-3, abs=0.05 * deviation[i] + 3 * derivatives.error[i]
        )


def test_the_information_is_half_of_the_quadratic_form_of_images(data):
    likelihood = model(data, ANISOTROPIC, 0.05)
    theta = likelihood.start
    information = likelihood.derivatives(likelihood.at(theta)).information
    covariances = []
    for i in range(len(theta)):
        ends = []
        for sign in (1, -1):
            kernel, nugget = likelihood.parameters_at(theta + sign * 1e-4 * np.eye(len(theta))[i])
            ends.append(kernel(likelihood.points, likelihood.points) + nugget * np.diag(likelihood.noise))
        covariances.append((ends[0] - ends[1]) / 2e-4)
    kernel, nugget = likelihood.parameters_at(theta)
    inverse = np.linalg.inv(kernel(likelihood.points, likelihood.points) + nugget * np.diag(likelihood.noise))
    H = likelihood.basis
    P = inverse - inverse @ H @ np.linalg.solve(H.T @ inverse @ H, H.T @ inverse)
    images = np.stack([D @ P @ likelihood.values for D in covariances])
    np.testing.assert_allclose(information, 0.5 * images @ P @ images.T, rtol=1e-3, atol=0.05)


def test_equal_arguments_give_equal_results(data):
    likelihood = model(data, *CASES["matern"])
    first, second = (likelihood.at(likelihood.start) for _ in range(2))
    assert first.value == second.value
    np.testing.assert_array_equal(
        likelihood.derivatives(first).gradient, likelihood.derivatives(second).gradient
    )


def test_the_value_is_smooth_along_a_line(data):
    likelihood = model(data, *CASES["matern"])
    direction = np.array([1.0, -1.0, 0.5])
    steps = np.linspace(-0.02, 0.02, 9)
    values = np.array([likelihood.at(likelihood.start + t * direction).value for t in steps])
    exact = np.array([dense_value(likelihood, likelihood.start + t * direction) for t in steps])
    # Errors have a common part; what is left of them must not hide a difference that a line search decides on.
    assert np.ptp(values - exact) < 0.01


def test_a_tolerance_too_loose_for_the_likelihood_is_tightened(data):
    likelihood = model(data, *CASES["small nugget"])
    loose = Likelihood(
        **{k: v for k, v in vars(likelihood).items() if k not in ("names", "tolerance")}, tolerance=1e-3
    )
    found = loose.at(loose.start)
    assert found.tolerance < 1e-3
    assert found.value == pytest.approx(dense_value(loose, loose.start), abs=0.1)


def test_a_part_of_the_values_predicts_the_tolerance_of_all(data):
    likelihood = model(data, *CASES["small nugget"], basis=False)
    part = replace(
        likelihood, **{k: getattr(likelihood, k)[::8] for k in ("points", "values", "basis", "noise")}
    )
    at, n_part = part.at(part.start, tolerance=1e-4), len(part.points)
    # Half of the allowed error is aimed at, of what as many more values err at the same tolerance.
    foreseen = likelihood.foreseen(replace(at, tolerance=1e-4, error=0.05), n_part)
    assert foreseen == pytest.approx(1e-4 * 0.5 / (N / n_part) ** 1.9)
    assert likelihood.foreseen(replace(at, tolerance=1e-9, error=1e9), n_part) == 1e-10
    assert likelihood.foreseen(replace(at, tolerance=1e-4, error=0.0), n_part) == likelihood.tolerance


def test_the_trace_of_an_inverse_errs_by_what_it_states(data):
    points, noise, _ = data
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    likelihood = model(data, kernel, 0.05, basis=False)
    at = likelihood.at(likelihood.start)
    exact = float((np.diag(np.linalg.inv(kernel(points, points) + 0.05 * np.diag(noise))) * noise).sum())
    colors = colors_of_rows(points, at.A, len(points))
    found = [diagonal_of_inverse_trace(at.F, colors, noise, seed) for seed in range(6)]
    errors = np.array([trace - exact for trace, _ in found])
    stated = math.sqrt(np.mean([error**2 for _, error in found]))
    assert np.abs(errors).max() < 4 * stated + 1e-6 * exact
    assert stated < 2e-3 * exact


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000])
def test_colors_are_equally_frequent_and_far_apart(n):
    points = np.random.default_rng(n).random((n, 2))
    colors = colors_of(points, 16)
    counts = np.bincount(colors, minlength=16)
    assert counts.max() - counts.min() <= 1
    if n == 1000:
        generator = np.random.default_rng(0)
        random = [mean_gap(points, generator.permutation(colors)) for _ in range(99)]
        assert mean_gap(points, colors) > max(random)


def mean_gap(points, colors):
    """Return the mean distance of a point to the next one of its color."""
    own = [points[colors == color] for color in np.unique(colors)]
    return np.mean([cKDTree(part).query(part, k=2)[0][:, 1].mean() for part in own])


def test_parameters_are_named_replaced_and_fixed():
    kernel = ANISOTROPIC + 2.0 * kernels.SquaredExponential(0.3)
    free = free_parameters(kernel)
    assert [p.name for p in free] == [
        "terms[0].length_scale[0]", "terms[0].length_scale[1]", "terms[0].variance",
        "terms[1].kernel.length_scale", "terms[1].kernel.variance",
    ]  # fmt: skip
    moved = with_logarithms(kernel, free, np.log([0.5, 0.6, 3.0, 0.7, 4.0]))
    assert isinstance(moved.terms[0], kernels.Matern)
    assert moved.terms[0].nu == 1.5
    assert moved.terms[1].factor == 2.0
    assert moved.terms[1].kernel.length_scale == pytest.approx(0.7)
    np.testing.assert_allclose(np.exp(logarithms(moved, free)), [0.5, 0.6, 3.0, 0.7, 4.0])
    assert [p.name for p in free_parameters(ANISOTROPIC, fixed=["length_scale"])] == ["variance"]
    product = kernels.Matern(length_scale=1.0) * kernels.RationalQuadratic(1.0)
    assert sum(p.field == "variance" for p in free_parameters(product)) == 1
    assert [p.name for p in free_parameters(kernels.Matern(), smoothness=True)][-1] == "nu"
    with pytest.raises(Exception, match="no parameter 'width'"):
        free_parameters(ANISOTROPIC, fixed=["width"])


def test_a_factorization_that_had_to_be_tighter_serves_a_tighter_matrix_as_well(monkeypatch):
    """Small nuggets make factorizations tighten by themselves; what the matrix lost is then all that is wrong."""
    points = np.random.default_rng(0).random((1200, 2))
    kernel = kernels.Matern(nu=1.5, length_scale=0.5)
    values = np.sin(7 * points[:, 0]) + points[:, 1]
    likelihood = Likelihood(
        points, values, np.zeros((1200, 0)), np.ones(1200), kernel, (), 3e-7, False, tolerance=1e-4
    )
    used = []
    evaluate = Likelihood._evaluate

    def told(*arguments):
        found = evaluate(*arguments)
        used.append((found.tolerance, found.F))
        return found

    monkeypatch.setattr(Likelihood, "_evaluate", told)
    found = likelihood.at(likelihood.start)
    assert found.value == pytest.approx(dense_value(likelihood, likelihood.start), abs=0.1)
    (_, first), (tolerance, second), *_ = used
    assert first.used_tolerance <= tolerance
    assert second is first

"""Standard deviations where few near values tell little, and where noise is far below what a factorization loses."""

import numpy as np
import pytest
import torch
from random_problems import STATED_ERRORS

from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process import local, variances

KERNEL = kernels.Matern(nu=1.5, length_scale=0.3)


def deviations(points, noise, new):
    """Return standard deviations by dense algebra."""
    cross = KERNEL(points, new)
    solved = np.linalg.solve(KERNEL(points, points) + np.diag(noise), cross)
    return np.sqrt(KERNEL.diagonal(new) - (cross * solved).sum(axis=0))


def predicted(points, noise, new, **options):
    """Return the process and its standard deviations; no mean is asked for, so any values will do."""
    process = GaussianProcess(KERNEL, nugget=1.0, trend=None, optimizer=None, **options)
    process.fit(points, np.random.default_rng(1).standard_normal(len(points)), noise=noise)
    return process, process.predict(new, return_std=True, exact=False)[1]


def relative_error(std, expected):
    return np.sqrt(np.mean((std / expected - 1) ** 2))


@pytest.fixture
def solves(monkeypatch):
    """Count the points whose variances cost a solve."""
    counted, solve = [], variances.exact_variances

    def counting(model, points, noise, new_points):
        counted.append(len(new_points))
        return solve(model, points, noise, new_points)

    monkeypatch.setattr(variances, "exact_variances", counting)
    return counted


def test_between_rows_of_dense_values_more_near_values_serve_and_no_solves(solves):
    """As at the poles of a grid of the globe: 40 near values lie in one row, and do not tell the slope across."""
    along, across = np.meshgrid(np.linspace(0, 1, 251), np.linspace(0, 1, 9), indexing="ij")
    points = np.stack([along.ravel(), across.ravel()], axis=1)
    noise = np.full(len(points), 1e-3)
    generator = np.random.default_rng(0)
    new = np.stack([generator.random(400), generator.integers(0, 8, 400) / 8 + 1 / 32], axis=1)
    process, std = predicted(points, noise, new)
    assert relative_error(std, deviations(points, noise, new)) <= STATED_ERRORS * process.std_error_ + 1e-6
    assert process.std_error_ < 0.05
    assert sum(solves) == variances.SOLVED


def polar_grid(radii, n_angles):
    """Return the places of a grid around its pole."""
    angles = 2 * np.pi * np.arange(n_angles) / n_angles
    return (radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).reshape(-1, 2)


def test_at_the_pole_of_a_grid_new_points_share_as_many_near_values_as_tell_all(solves):
    """Where values crowd, 640 of them lie in a ring or two: thousands serve hundreds of new points."""
    points = polar_grid(np.arange(1, 5) / 12, 800)
    new = polar_grid(np.array([1 / 24, 1 / 8, 5 / 24]), 100)
    noise = np.full(len(points), 0.1)
    process, std = predicted(points, noise, new)
    assert relative_error(std, deviations(points, noise, new)) <= STATED_ERRORS * process.std_error_ + 1e-6
    assert process.std_error_ < 0.01
    assert sum(solves) == variances.SOLVED


def test_groups_reach_a_fraction_of_the_way_to_their_neighbors():
    generator = np.random.default_rng(7)
    points, new = generator.random((3001, 2)) ** 3, generator.random((2003, 2)) ** 3
    chosen = np.flatnonzero(generator.random(2003) < 0.9)
    groups = local.groups_within_reach(KERNEL, points, new, chosen, 160)
    np.testing.assert_array_equal(np.unique(np.concatenate([part.ravel() for part in groups])), chosen)
    assert sum(len(np.unique(group)) for part in groups for group in part) == len(chosen)
    for group in (group for part in groups for group in part):
        center = new[group].mean(axis=0)
        farthest = np.sort(np.linalg.norm(points - center, axis=1))[159]
        assert (
            len(np.unique(group)) == 1 or np.linalg.norm(new[group] - center, axis=1).max() <= 0.3 * farthest
        )
    assert max(part.shape[1] for part in groups) > 20


def test_places_that_are_checked_are_middles_of_equal_parts():
    np.testing.assert_array_equal(variances.spread(5, 16), np.arange(5))
    np.testing.assert_array_equal(variances.spread(1600, 16), 50 + 100 * np.arange(16))


def test_coincident_values_count_as_one_of_less_noise():
    generator = np.random.default_rng(2)
    points = np.concatenate([np.full((300, 2), 0.5), generator.random((500, 2))])
    noise = np.full(len(points), 0.1)
    new = 0.5 + 0.02 * generator.standard_normal((300, 2))
    process, std = predicted(points, noise, new)
    assert relative_error(std, deviations(points, noise, new)) <= STATED_ERRORS * process.std_error_ + 1e-6
    assert process.std_error_ < 0.05


@pytest.mark.parametrize("exact", [False, True])
def test_noise_of_many_decades_below_the_tolerance_leaves_deviations_right(exact):
    generator = np.random.default_rng(3)
    points, new = generator.random((701, 2)), generator.random((301, 2))
    noise = 10.0 ** generator.uniform(-9, 1, len(points))
    process = GaussianProcess(KERNEL, nugget=1.0, trend=None, optimizer=None, tolerance=1e-4)
    process.fit(points, generator.standard_normal(len(points)), noise=noise)
    std = process.predict(new, return_std=True, exact=exact)[1]
    assert relative_error(std, deviations(points, noise, new)) <= STATED_ERRORS * process.std_error_ + 1e-5
    assert process.std_error_ < 0.05


def test_near_values_of_hardly_any_noise_tell_their_own_error():
    """The jitter that keeps coincident values solvable is as large as the noise, and no part of the variance."""
    generator = np.random.default_rng(6)
    points = generator.random((40, 2))
    noise = np.full(40, 1e-10)
    new = points[:7] + 1e-6 * generator.standard_normal((7, 2))
    found = np.concatenate([p.variances.numpy() for p in local.neighborhoods(KERNEL, points, noise, new)])
    expected = deviations(points, noise, new) ** 2
    # Jitter as large as the noise s adds at most s l / (l + 2 s)^2 of the variance by eigenvalue l: 1/8, at l = 2 s.
    np.testing.assert_allclose(found.ravel(), expected, rtol=1 / 8)
    assert (found.ravel() >= (1 - 1e-3) * expected).all()


def test_threads_change_no_bit_and_torchs_own_come_back(monkeypatch):
    monkeypatch.setattr(local, "_ENTRIES", 2**18)  # batches of nine groups
    generator = np.random.default_rng(5)
    points, new = generator.random((501, 2)), generator.random((4001, 2))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            parts = list(local.neighborhoods(KERNEL, points, np.full(501, 0.1), new, n_neighbors=160))
            assert torch.get_num_threads() == count
            found.append([np.concatenate([part.variances.numpy().ravel() for part in parts]), len(parts)])
    finally:
        torch.set_num_threads(before)
    assert found[0][1] > 3
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_the_bound_on_stated_errors_follows_from_the_moments_of_a_mean_of_squares():
    """E u^8 of u = (mean of 32 squares - 1) / sqrt(2 / 32), by the cumulants of a gamma variable of shape 16."""
    shape = variances.FIELDS / 2
    k3, k4, k5, k6, k8 = (math_factorial * shape ** (1 - order / 2) for order, math_factorial in
                          ((3, 2), (4, 6), (5, 24), (6, 120), (8, 5040)))  # fmt: skip
    eighth = k8 + 28 * k6 + 56 * k5 * k3 + 35 * k4**2 + 210 * k4 + 280 * k3**2 + 105
    drawn = np.random.default_rng(4).chisquare(variances.FIELDS, 10**6)
    u = (drawn / variances.FIELDS - 1) / np.sqrt(2 / variances.FIELDS)
    assert np.mean(u**8) == pytest.approx(eighth, rel=0.1)
    assert eighth / STATED_ERRORS**8 < 0.01

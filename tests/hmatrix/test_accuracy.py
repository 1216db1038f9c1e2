"""The error of compression against dense matrices, over point sets, seeds and tolerances."""

import functools
import logging

import numpy as np
import pytest
import torch

from pipeline.data import hold_out, load_points
from pipeline.hmatrix import H2Matrix, Weak, compression, kernels

TOLERANCES = [1e-3, 1e-5, 1e-6, 1e-8]  # in single precision, and in double


def airports(seed):
    """The training part of a subset of the airports, as a kriging takes it."""
    points = load_points("airports", n_points=1400, seed=seed).points
    kept, _ = hold_out(1400, n_held_out=140, seed=seed)
    return points[kept]


@functools.cache
def cities(seed):
    return load_points("cities", n_points=1200, seed=seed).points


def clusters(seed):
    generator = np.random.default_rng(seed)
    centers = generator.random((10, 2))[generator.integers(0, 10, 1200)]
    return centers + 10 ** generator.uniform(-6, -1, (1200, 1)) * generator.standard_normal((1200, 2))


def sphere(seed):
    points = np.random.default_rng(seed).standard_normal((1200, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


POINTS = {
    "airports": airports,
    "cities": cities,
    "clusters": clusters,
    "sphere": sphere,
    "square": lambda seed: np.random.default_rng(seed).random((1200, 2)),
    "cube": lambda seed: np.random.default_rng(seed).random((1200, 3)),
    "line": lambda seed: np.random.default_rng(seed).random((1200, 1)) ** 3 * np.array([[1.0, 2.0, -1.0]]),
}


def dense(kernel, points, diagonal):
    points = torch.from_numpy(points)
    matrix = kernel(points, points).numpy()
    return matrix + diagonal * np.eye(len(points))


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 0) for name in POINTS), ("airports", 1), ("clusters", 3)]
)
def test_products_with_the_dense_matrix_agree_at_every_tolerance(name, seed):
    points = POINTS[name](seed)
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    x = np.random.default_rng(7).standard_normal((len(points), 10))
    wanted = dense(kernel, points, 1e-2) @ x
    for tolerance in TOLERANCES:
        A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2, tolerance=tolerance)
        assert relative(A @ x, wanted) <= 2 * tolerance
        assert A.notes == ()


def test_no_row_of_three_thousand_airports_stands_out():
    points = load_points("airports", n_points=3000, seed=0).points
    kept, _ = hold_out(3000, n_held_out=300, seed=0)
    points, kernel = points[kept], kernels.Matern(nu=0.5, length_scale=0.1)
    A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2, tolerance=1e-5)
    matrix = dense(kernel, points, 1e-2)
    x = np.random.default_rng(7).standard_normal((len(points), 10))
    errors = np.linalg.norm(A @ x - matrix @ x, axis=1)
    assert relative(A @ x, matrix @ x) <= 1e-5
    assert errors.max() <= 50 * np.sqrt((errors**2).mean())


@pytest.mark.parametrize("kernel", [kernels.LaplaceSingleLayer(), kernels.Matern(nu=1.5, length_scale=0.3)])
def test_kernels_of_long_range_are_as_accurate_on_clustered_points(kernel):
    points = cities(0)
    x = np.random.default_rng(7).standard_normal((len(points), 10))
    wanted = dense(kernel, points, 3.0) @ x
    for tolerance in TOLERANCES:
        A = H2Matrix.from_kernel(points, kernel, diagonal=3.0, tolerance=tolerance)
        assert relative(A @ x, wanted) <= 2 * tolerance


def test_points_that_are_all_near_each_other_keep_their_tolerance():
    points = np.random.default_rng(5).random((1500, 2))
    kernel = kernels.Matern(nu=2.5, length_scale=0.5)
    A = H2Matrix.from_kernel(points, kernel, diagonal=0.1, tolerance=1e-4, admissibility=Weak())
    x = np.random.default_rng(7).standard_normal((1500, 10))
    assert relative(A @ x, dense(kernel, points, 0.1) @ x) <= 2e-4


def test_the_estimate_sees_a_single_wrong_box():
    points = np.random.default_rng(6).random((1200, 2))
    A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5, length_scale=0.1), diagonal=1e-2, tolerance=1e-6)
    p = int(np.argmax(np.diff(A.near.start)))
    A.near.values[A.near.start[p]] += 0.1
    assert A.error_estimate() > 1e-4


def test_an_error_between_one_and_two_tolerances_is_noted(monkeypatch, caplog):
    points = np.random.default_rng(8).random((600, 2))
    monkeypatch.setattr(compression, "sampled_error", lambda *_, **__: 1.5e-4)
    with caplog.at_level(logging.WARNING, logger="pipeline.hmatrix"):
        A = H2Matrix.from_kernel(points, kernels.Matern(), diagonal=0.1, tolerance=1e-4)
    assert "relative error of 1.5e-04, above the tolerance of 1e-04" in A.notes[0]
    assert A.notes[0] in caplog.text

"""Products with cross-covariances of new points that take their places in the values' tree."""

import numpy as np
import pytest

from pipeline.hmatrix import GaussianProcess, H2Matrix, kernels
from pipeline.hmatrix.gaussian_process import conditional, cross

N, Q = 1203, 1501


def product(sources, new, x, *, at_a_time):
    """Return the product part by part, as predictions take it."""
    places, result = sources.places_of(new), np.empty((len(new), x.shape[1]))
    for chosen in places.parts(at_a_time):
        result[chosen] = sources.product(places, chosen, x)
    for chosen in places.parts_outside(at_a_time):
        result[chosen] = sources.apart(new[chosen], x)
    return result


def new_points(kind, generator, dimension):
    inside = generator.random((Q, dimension))
    return {
        "inside": inside,
        "wider": 3 * inside - 1,
        "in a corner": 1e-3 * inside,
        "one place": np.tile(inside[:1], (Q, 1)),
        "far away": inside + 5,
        "one": inside[:1],
        "none": inside[:0],
    }[kind]


KERNELS = {
    "smooth": kernels.Matern(nu=1.5, length_scale=0.3),
    "stretched": kernels.Matern(nu=0.5, length_scale=(0.5, 0.02), variance=9.0),
    "of long range": kernels.RationalQuadratic(length_scale=0.2, alpha=1.5),
}


# Length scales stretch the boxes in which new points lie; a kernel of long range is felt far away.
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        *(("stretched", kind) for kind in ("inside", "wider", "in a corner", "one place", "far away", "one", "none")),
        ("smooth", "wider"),
        ("of long range", "wider"),
        ("of long range", "far away"),
    ],
)  # fmt: skip
def test_the_product_is_that_of_the_dense_matrix_wherever_new_points_lie(kernel, kind):
    kernel, generator = KERNELS[kernel], np.random.default_rng(0)
    points = generator.random((N, 2))
    new, x = new_points(kind, generator, 2), generator.standard_normal((N, 3))
    sources = cross.Sources.of(H2Matrix.from_kernel(points, kernel, diagonal=0.1).form, 1e-6)
    expected = kernel(new, points) @ x
    found = product(sources, new, x, at_a_time=500)
    # The tolerance is that of the rows of values; rows of new points far from all may be smaller.
    rows = np.linalg.norm(kernel(points, points) @ x) * np.sqrt(len(new) / N)
    assert np.linalg.norm(found - expected) <= 2e-6 * rows


def test_a_volume_and_points_on_the_globe_are_served_too():
    generator = np.random.default_rng(1)
    kernel = kernels.Matern(nu=1.5, length_scale=0.5)
    for points, new in (
        (generator.random((N, 3)), generator.random((Q, 3))),
        *[tuple(p / np.linalg.norm(p, axis=1)[:, None] for p in generator.standard_normal((2, N, 3)))],
    ):
        x = generator.standard_normal((N, 1))
        sources = cross.Sources.of(H2Matrix.from_kernel(points, kernel, diagonal=0.1).form, 1e-6)
        expected = kernel(new, points) @ x
        assert np.linalg.norm(product(sources, new, x, at_a_time=10_000) - expected) <= 2e-6 * np.linalg.norm(
            expected
        )


def test_near_blocks_beyond_the_limit_are_computed_in_halves(monkeypatch):
    generator = np.random.default_rng(2)
    points, new, x = generator.random((N, 2)), generator.random((Q, 2)), generator.standard_normal((N, 2))
    kernel = kernels.Matern(nu=1.5, length_scale=0.3)
    sources = cross.Sources.of(H2Matrix.from_kernel(points, kernel, diagonal=0.1).form, 1e-6)
    monkeypatch.setattr(cross, "_NEAR_ENTRIES", 5e4)
    expected = kernel(new, points) @ x
    assert np.linalg.norm(product(sources, new, x, at_a_time=Q) - expected) <= 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("nugget", [1e-6, 1e-2])
def test_predictions_without_an_optimizer_are_those_of_dense_algebra(monkeypatch, nugget):
    """A nugget far below tolerance times norm: the factorization preconditions, and is not what is solved with."""
    monkeypatch.setattr(conditional, "_DIRECT", 0)
    kernel = kernels.Matern(nu=1.5, length_scale=0.3)
    generator = np.random.default_rng(3)
    points, new = generator.random((1201, 2)), generator.random((701, 2))
    K = kernel(points, points)
    y = np.linalg.cholesky(K + nugget * np.eye(len(K))) @ generator.standard_normal(len(K)) + 3
    gp = GaussianProcess(kernel, nugget=nugget, trend=None, optimizer=None, tolerance=1e-5).fit(points, y)
    mean, std = gp.predict(new, return_std=True)
    C = kernel(new, points)
    solved = np.linalg.solve(K + nugget * np.eye(len(K)), C.T)
    expected, deviation = solved.T @ y, np.sqrt(1 - (C.T * solved).sum(axis=0))
    # A hundredth of the noise may be left of the values, which the mean smooths.
    assert np.sqrt(np.mean((mean - expected) ** 2)) <= 0.01 * np.sqrt(nugget) + 2e-5 * y.std()
    assert gp.residual_ <= max(0.01 * np.sqrt(nugget), 1e-5 * y.std())
    assert np.sqrt(np.mean((std / deviation - 1) ** 2)) < 0.02
    exact = gp.predict(new[:50], return_std=True)[1]
    np.testing.assert_allclose(exact, deviation[:50], rtol=1e-2)
    sign, size = np.linalg.slogdet(K + nugget * np.eye(len(K)))
    truth = -0.5 * (size + y @ np.linalg.solve(K + nugget * np.eye(len(K)), y) + len(y) * np.log(2 * np.pi))
    assert sign == 1
    assert gp.log_likelihood_ == pytest.approx(truth, abs=0.1)


def test_new_points_around_coincident_values_have_a_place_among_them():
    """A grid of the globe has all longitudes of the pole at one place."""
    generator = np.random.default_rng(4)
    points = np.concatenate([np.full((400, 2), 0.5), generator.random((N, 2))])
    new, x = 0.5 + 0.005 * generator.standard_normal((300, 2)), generator.standard_normal((len(points), 1))
    kernel = kernels.Matern(nu=1.5, length_scale=0.3)
    sources = cross.Sources.of(H2Matrix.from_kernel(points, kernel, diagonal=0.1).form, 1e-6)
    assert len(sources.places_of(new).outside) == 0
    expected = kernel(new, points) @ x
    assert np.linalg.norm(product(sources, new, x, at_a_time=Q) - expected) <= 2e-6 * np.linalg.norm(expected)

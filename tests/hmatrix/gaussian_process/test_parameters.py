"""Which numbers of a kernel a fit may change, against the rank of the covariance's derivatives."""

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.hmatrix import GaussianProcess, kernels
from pipeline.hmatrix.gaussian_process.parameters import (
    Parameter,
    free_parameters,
    logarithms,
    with_logarithms,
)

A = kernels.SquaredExponential(0.5, variance=1.3)
B = kernels.Matern(nu=1.5, length_scale=0.3, variance=0.7)
C = kernels.RationalQuadratic(0.8, variance=2.0)
POINTS = np.random.default_rng(0).random((40, 2))

COMBINED = {
    "sum": A + B,
    "product": A * B,
    "sum times": (A + B) * C,
    "times sum": C * (A + B),
    "two sums": (A + B) * (C + B),
    "multiple": 3.0 * (A + B),
    "nested": A * (B * (C + A)),
    "sum of products": A * B + C * A,
    "multiple within": (2.0 * A + B) * C,
}


def rank(kernel, parameters):
    """Return the rank of the covariance's derivatives by the logarithms of parameters."""
    theta, step = logarithms(kernel, parameters), 1e-6
    columns = []
    for i in range(len(theta)):
        ends = [
            with_logarithms(kernel, parameters, theta + sign * step * np.eye(len(theta))[i])(POINTS, POINTS)
            for sign in (1, -1)
        ]
        columns.append((ends[0] - ends[1]).ravel() / (2 * step))
    return int(np.linalg.matrix_rank(np.array(columns), tol=1e-5))


@pytest.mark.parametrize("kernel", COMBINED.values(), ids=COMBINED)
def test_free_variances_are_as_many_as_directions_in_which_the_covariance_moves(kernel):
    scales = [p for p in free_parameters(kernel) if p.field in ("variance", "factor")]
    assert rank(kernel, scales) == len(scales)
    everything = [*scales, *(p for p in every_scale(kernel) if p.name not in {q.name for q in scales})]
    assert rank(kernel, everything) == len(scales)


def every_scale(kernel, path=(), name=""):
    """Yield all variances and factors, by a walk of our own."""
    for i, term in enumerate(getattr(kernel, "terms", ())):
        yield from every_scale(term, (*path, "terms", i), f"{name}{i}.")
    if hasattr(kernel, "kernel"):
        yield Parameter(f"{name}factor", (*path, "factor"))
        yield from every_scale(kernel.kernel, (*path, "kernel"), f"{name}k.")
    if hasattr(kernel, "variance"):
        yield Parameter(f"{name}variance", (*path, "variance"))


def test_another_scale_varies_where_one_is_fixed():
    names = [p.name for p in free_parameters((A + B) * C, fixed=["terms[1].variance"])]
    assert {"terms[0].terms[0].variance", "terms[0].terms[1].variance"} <= set(names)
    # A sum of which one term is held cannot be multiplied by a number: nothing stands for the other factor's scale.
    names = [p.name for p in free_parameters((A + B) * C, fixed=["terms[0].terms[0].variance"])]
    assert {"terms[0].terms[1].variance", "terms[1].variance"} <= set(names)


def test_entries_of_length_scales_are_fixed_and_bounded_by_the_name_of_the_whole():
    kernel = kernels.Matern(length_scale=(0.2, 0.3)) + A
    free = free_parameters(kernel, fixed=["terms[0].length_scale"])
    assert [p.name for p in free] == ["terms[0].variance", "terms[1].length_scale", "terms[1].variance"]
    with pytest.raises(ConfigError, match="no parameter 'terms'"):
        free_parameters(kernel, fixed=["terms"])
    # Values that need both terms: of noise, a variance falls to its bound and leaves a length without effect.
    X = POINTS
    y = np.sin(6 * X[:, 0]) + np.cos(5 * X[:, 1]) + 0.3 * np.random.default_rng(1).standard_normal(40)
    bounds = {"terms[0].length_scale": (0.21, 0.22), "terms[0].length_scale[1]": (0.4, 0.41)}
    with pytest.warns(UserWarning, match="bound"):
        fitted = GaussianProcess(kernel, bounds=bounds).fit(X, y).kernel_.terms[0].length_scale
    assert 0.21 <= fitted[0] <= 0.22
    assert 0.4 <= fitted[1] <= 0.41


def test_variances_within_an_inner_product_have_no_unit_of_their_own_either():
    free = {p.name: p for p in free_parameters((A * (B + C)) * (C + B))}
    assert [p.name for p in free.values() if p.field == "variance" and not p.is_relative] == [
        "terms[0].terms[0].variance"
    ]
    assert sum(p.is_relative for p in free.values()) == 2

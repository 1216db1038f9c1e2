"""Parts of many points foretell what a factorization of all will leave."""

import numpy as np
import pytest

from pipeline.hmatrix import H2Matrix, factor, foresight, kernels

N = 20_000
KERNEL = kernels.Matern(nu=1.5, length_scale=0.1)


@pytest.fixture
def few(monkeypatch):
    """Look ahead from few points on, by parts that are large enough to be compressed."""
    monkeypatch.setattr(factor, "MANY", N)
    monkeypatch.setattr(foresight, "_FEWER", (2, 8))


def matrix(nugget):
    points = np.random.default_rng(0).random((N, 2))
    return H2Matrix.from_kernel(points, KERNEL, diagonal=nugget, tolerance=1e-5)


def test_a_tolerance_that_would_fail_is_not_tried(few):
    F = matrix(1e-3).factorize(1e-5)
    assert F.tolerance == 1e-5 > F.used_tolerance
    assert F.trust.residual <= np.sqrt(1e-5)
    (note,) = F.notes  # and none of an attempt in vain
    assert "parts of the points foretell" in note


def test_growth_from_part_to_part_foretells_what_is_measured(few, monkeypatch):
    monkeypatch.setattr(factor, "_allowed_residual", lambda A, tolerance: np.inf)
    for nugget in (1e-3, 1e-1):
        A = matrix(nugget)
        F = A.factorize(1e-5)
        assert F.used_tolerance == 1e-5
        foretold = foresight.foretold_residual(A.form, lambda part: factor._residual_of(part, "auto", 1e-5))
        assert 1 / 3 < foretold / F.trust.residual < 3


def test_a_tolerance_that_serves_is_kept(few):
    F = matrix(1.0).factorize(1e-5)
    assert F.used_tolerance == 1e-5
    assert F.notes == ()

"""Subsets of many points predict the residual that a factorization of all points leaves."""

import numpy as np
import pytest

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, factor, foresight, kernels
from pipeline.hmatrix.trust import TIGHTEST

N = 12_000
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
    assert "subsets of the points predict" in note


def test_growth_from_part_to_part_predicts_what_is_measured(few, monkeypatch):
    monkeypatch.setattr(factor, "allowed_residual", lambda dtype, tolerance: np.inf)
    for nugget in (1e-3, 1e-1):
        A = matrix(nugget)
        F = A.factorize(1e-5)
        assert F.used_tolerance == 1e-5
        predicted = foresight.predicted_residual(A.form, lambda part: factor._residual_of(part, "auto", 1e-5))
        # What is predicted too low by more than this would be found only after an attempt in vain.
        assert foresight._CLOSE < predicted / F.trust.residual < 3


def test_a_tolerance_that_serves_is_kept(few, monkeypatch):
    looked, look_ahead = [], factor.look_ahead
    monkeypatch.setattr(factor, "look_ahead", lambda *given: looked.append(1) or look_ahead(*given))
    F = matrix(1.0).factorize(1e-5)
    assert looked
    assert F.used_tolerance == 1e-5
    assert F.notes == ()


@pytest.mark.parametrize(
    ("predicted", "tolerance", "begins_at"),
    [
        (np.nan, 1e-6, 1e-6),
        (np.inf, 1e-6, 1e-6),
        (0.0, 1e-6, 1e-6),
        (1.0, 1e-10, TIGHTEST),
        (1e-2, 1e-6, 3e-8),
    ],
)
def test_what_is_predicted_never_leads_beyond_the_tightest_tolerance(
    monkeypatch, predicted, tolerance, begins_at
):
    monkeypatch.setattr(foresight, "predicted_residual", lambda A, residual_of: predicted)
    used, notes = foresight.look_ahead(None, tolerance, 1e-3, None)
    assert used == pytest.approx(begins_at)
    assert bool(notes) == (used != tolerance)


def test_a_residual_that_rounding_alone_leaves_is_given_up_after_few_attempts(caplog):
    points = np.random.default_rng(0).random((1000, 2))
    A = H2Matrix.from_kernel(
        points, kernels.SquaredExponential(length_scale=0.3), diagonal=1e-13, tolerance=1e-3
    )
    with caplog.at_level("INFO"), pytest.raises(ConvergenceError, match="add a nugget"):
        A.factorize(kind="ldlt")
    assert sum("factorizing at" in message for message in caplog.messages) <= 4


def test_a_definite_kernel_is_never_said_to_be_indefinite():
    points = np.random.default_rng(0).random((2000, 2))
    A = H2Matrix.from_kernel(
        points, kernels.SquaredExponential(length_scale=0.3), diagonal=1e-11, tolerance=1e-6
    )
    with pytest.raises(ConvergenceError) as raised:
        A.factorize()
    assert "add a nugget" in str(raised.value)
    assert "ldlt" not in str(raised.value)

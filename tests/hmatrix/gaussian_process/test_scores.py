"""Scores of normal predictions against their definitions."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from pipeline.hmatrix.gaussian_process import coverage, scores

GENERATOR = np.random.default_rng(0)
MEAN, STD = GENERATOR.standard_normal(7), GENERATOR.uniform(0.5, 2.0, 7)
OBSERVED = MEAN + STD * GENERATOR.standard_normal(7)


def test_the_continuous_ranked_probability_score_is_its_integral():
    integrals = [
        quad(
            lambda x, y=y, m=m, s=s: (norm.cdf(x, m, s) - (x >= y)) ** 2, m - 12 * s, m + 12 * s, points=[y]
        )[0]
        for y, m, s in zip(OBSERVED, MEAN, STD, strict=True)
    ]
    assert scores(OBSERVED, MEAN, STD)["crps"] == pytest.approx(np.mean(integrals), rel=1e-6)


def test_the_log_score_is_the_mean_density():
    expected = -np.mean(norm.logpdf(OBSERVED, MEAN, STD))
    assert scores(OBSERVED, MEAN, STD)["log_score"] == pytest.approx(expected, rel=1e-12)


def test_coverage_counts_observations_within_the_interval():
    observed = np.array([0.0, 1.0, 1.9, 2.0])
    found = coverage(observed, np.zeros(4), np.ones(4), [0.5, 0.95])
    assert found == {0.5: 0.25, 0.95: 0.75}


def test_unusable_predictions_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        scores(OBSERVED, MEAN[:3], STD)
    with pytest.raises(ValueError, match="0 or less"):
        scores(OBSERVED, MEAN, 0 * STD)

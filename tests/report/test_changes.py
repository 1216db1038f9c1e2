"""What counts as a change against past runs."""

import numpy as np
import pytest
from scipy import stats

from pipeline.report.changes import CONFIDENCE, RULES, compare, expected, rule_of


def judged(figure, past, value):
    found = compare("a", {figure: value}, [{figure: one} for one in past])
    return found.changes[0].verdict if found.changes else ("" if found.n_figures else None)


@pytest.mark.parametrize(
    ("figure", "past", "value", "verdict"),
    [
        ("cost.seconds", [10.0, 10.5, 9.5, 10.2], 30.0, "worse"),
        ("cost.seconds", [10.0, 10.5, 9.5, 10.2], 3.0, "better"),
        ("cost.seconds", [10.0, 10.0, 10.0], 10.9, ""),  # within the floor of a tenth
        ("cost.seconds", [10.0, 14.0, 7.0], 15.0, ""),  # such noise explains it
        ("cost.seconds", [10.0, 10.0], 30.0, None),  # nobody knows yet how much it scatters
        ("scores.test.accuracy", [0.9, 0.9], 0.89, "worse"),
        ("scores.test.accuracy", [0.9, 0.9], 0.91, "better"),
        ("scores.test.accuracy", [0.9, 0.9], 0.9, ""),
        ("scores.test.accuracy", [0.9], 0.8, "different"),  # one past run tells of no noise
        ("scores.test.accuracy", [0.9], 0.9, ""),
        ("cost.seconds", [10.0], 30.0, None),
        ("fc.64.speedup", [1.5, 1.52, 1.48], 0.7, "worse"),
        ("solve.relative_residual", [1e-9, 1e-9], 1.5e-9, ""),
        ("solve.relative_residual", [1e-9, 1e-9], 1e-6, "worse"),
        ("solve.logdet", [-5.0, -5.0], -6.0, "different"),
        ("n_changed", [0.0, 0.0], 0.0, ""),
        ("n_changed", [0.0, 0.0], 3.0, "different"),
        ("compress.n_bytes", [100.0, 100.0], 120.0, "worse"),
    ],
)
def test_a_figure_is_judged_by_what_it_is_and_how_past_runs_scatter(figure, past, value, verdict):
    assert judged(figure, past, value) == verdict


def test_every_rule_but_the_last_is_the_first_for_some_name():
    names = ("speedup", "seconds", "residual", "accuracy", "loss", "anything")
    assert [rule_of(f"x.{name}") for name in names] == list(RULES)


def test_the_interval_covers_the_next_value_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, trials = 5, 4000
    samples = np.exp(rng.standard_normal((trials, n + 1)))
    inside = sum(low <= row[-1] <= high for row in samples for low, high in [expected(row[:-1], 0.0)])
    # Within four standard deviations of a binomial.
    assert abs(inside / trials - CONFIDENCE) < 4 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / trials)


def test_the_interval_is_students():
    low, high = expected([-1.0, 0.0, 1.0], 0.0)
    assert high == pytest.approx(stats.t.ppf(0.995, 2) * np.sqrt(4 / 3))
    assert low == -high


def test_a_figure_that_past_runs_lack_is_not_judged():
    assert compare("a", {"new": 1.0}, [{"old": 1.0}, {"old": 1.0}]).n_figures == 0

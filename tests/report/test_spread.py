import math
import re

import numpy as np
import pytest
from scipy import stats

from pipeline.report.spread import Difference, Spread, difference, paired, power_law, said_of_seeds


def test_a_spread_leaves_out_what_is_not_a_number():
    spread = Spread.of([1.0, None, float("nan"), 3, True, "4", np.float32(2.0)])
    assert spread.values == (1.0, 3.0, 2.0)
    assert spread.mean == 2.0
    assert spread.sd == 1.0


def test_one_value_has_no_deviation_and_none_no_mean():
    assert (Spread.of([5.0]).mean, Spread.of([5.0]).sd) == (5.0, None)
    assert (Spread({}).mean, Spread({}).sd) == (None, None)


def test_the_interval_is_that_of_scipy_on_common_seeds():
    first = Spread.of({"0": 3.0, "1": 5.0, "2": 4.5, "3": None, "9": 1.0})
    second = Spread.of({"2": 4.0, "1": 3.0, "3": 7.0, "0": 2.5, "7": 8.0})
    found = difference(first, second)
    known = stats.ttest_rel([3.0, 5.0, 4.5], [2.5, 3.0, 4.0]).confidence_interval(0.90)
    assert found.mean - found.half_width == pytest.approx(known.low)
    assert found.mean + found.half_width == pytest.approx(known.high)


def test_values_without_names_are_paired_by_their_places():
    found = difference(Spread.of([3.0, 4.5]), Spread.of([1.0, 2.0]))
    known = stats.ttest_rel([3.0, 4.5], [1.0, 2.0]).confidence_interval(0.90)
    assert (found.mean, found.half_width) == pytest.approx((2.25, (known.high - known.low) / 2))


def test_runs_without_a_common_seed_have_no_interval():
    assert difference(Spread.of({"0": 2.0}), Spread.of({"1": 1.0})) == Difference(1.0, None)
    assert difference(Spread.of({"0": None}), Spread.of({"0": 1.0})) is None


def test_without_repeated_seeds_there_is_no_bound():
    found = difference(Spread.of([2.0]), Spread.of([1.0]))
    assert found == Difference(1.0, None)
    assert found.exceeds(0.0) is None


def test_one_common_seed_has_no_interval():
    assert difference(Spread.of([2.0]), Spread.of([1.0, 1.02, 0.98])) == Difference(1.0, None)


@pytest.mark.parametrize("others", [(1.0, 1.0), (0.9, 1.1), (1.0, 1.0 + 1e-15)])
def test_equal_differences_have_no_interval(others):
    found = difference(Spread.of(value + 1.0 for value in others), Spread.of(others))
    assert found.mean == pytest.approx(1.0)
    assert found.half_width is None
    assert found.exceeds(0.0) is None


def test_values_are_paired_by_their_seeds():
    first, second = Spread.of({"0": 3.0, "1": 5.0, "9": 1.0}), Spread.of({"2": 4.0, "1": 3.0, "0": 2.5})
    assert paired(first, second) == (Spread({"0": 3.0, "1": 5.0}), Spread({"0": 2.5, "1": 3.0}))
    alone = Spread.of({"7": 1.0})
    assert paired(first, alone) == (first, alone)
    assert said_of_seeds(first, second) == " (over the 2 seeds in common of 3 and 3)"
    assert said_of_seeds(first, first) == said_of_seeds(first, Spread({})) == ""


@pytest.mark.parametrize(("threshold", "answer"), [(0.0, True), (0.95, None), (1.2, False)])
def test_exceeding_is_yes_no_or_open(threshold, answer):
    assert Difference(1.0, 0.1).exceeds(threshold) is answer


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.07, 2.0])
def test_power_law_finds_its_exponent(exponent):
    sizes = [1000, 3000, 5000, 7000]
    found = power_law(sizes, [3.0 * n**exponent for n in sizes])
    assert (found.exponent, found.constant) == pytest.approx((exponent, 3.0))
    assert found.half_width == pytest.approx(0.0, abs=1e-6)


def test_the_interval_of_an_exponent_is_that_of_least_squares():
    # Against the textbook's formula: t(n - 2) sqrt(sum of squares / (n - 2) / sum (x - mean)^2).
    x, noise = np.log([1000.0, 2000.0, 4000.0, 8000.0, 16000.0]), np.array([0.1, -0.2, 0.05, 0.15, -0.1])
    y = 1.1 * x + noise
    found = power_law(list(np.exp(x)), list(np.exp(y)))
    slope, start = np.polyfit(x, y, 1)
    squares = float(np.sum((y - slope * x - start) ** 2))
    error = math.sqrt(squares / 3 / float(np.sum((x - x.mean()) ** 2)))
    assert found.exponent == pytest.approx(slope)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 3) * error)
    assert re.fullmatch(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)", found.text)


def test_power_law_needs_four_sizes():
    assert power_law([], []) is None
    assert power_law([8, 16, 32], [1.0, 2.0, 4.0]) is None
    assert power_law([8, 8, 16, 32], [1.0, 2.0, 2.0, 4.0]) is None
    assert power_law([8, 16, 32, 64], [1.0, None, 0.0, 3.0]) is None
    found = power_law([8, 16, 32, 64, 128], [1.0, float("nan"), 4.0, 8.0, 16.0])
    assert (found.exponent, found.constant) == pytest.approx((1.0, 1 / 8))

"""When factors and inverses are due, by a simulation of steps."""

from itertools import pairwise

import pytest

from pipeline.training.intervals import LONGEST, Intervals


def simulate(intervals, n_steps, change=None):
    """The steps in which factors and inverses were renewed."""
    renewed = ([], [])
    for step in range(n_steps):
        if intervals.factors_are_due:
            renewed[0].append(step)
            intervals.factors_moved(change)
        if intervals.inverses_are_due:
            renewed[1].append(step)
            intervals.inverted()
        intervals.step += 1
    return renewed


@pytest.mark.parametrize(("factors", "inverses"), [(1, 1), (2, 3), (5, 1), (7, 20)])
def test_fixed_intervals_are_multiples(factors, inverses):
    intervals = Intervals(factors, inverses)
    assert simulate(intervals, 23) == (list(range(0, 23, factors)), list(range(0, 23, inverses)))
    assert intervals.factor_age == 23 - 22 // factors * factors
    assert intervals.inverse_age == 23 - 22 // inverses * inverses


def test_intervals_double_while_factors_stay_and_are_bounded():
    intervals = Intervals(2, 1, adaptive_change=0.1)
    found, _ = simulate(intervals, 400, change=0.05)
    lengths = [later - earlier for earlier, later in pairwise(found)]
    assert lengths[:5] == [4, 8, 16, 32, 32]
    assert intervals.stretch == LONGEST
    intervals.factors_moved(0.2)
    assert intervals.stretch == LONGEST // 2


def test_a_state_goes_on_where_it_was():
    whole, first = Intervals(3, 4, 0.1), Intervals(3, 4, 0.1)
    expected = simulate(whole, 40, change=0.05)
    head = simulate(first, 17, change=0.05)
    second = Intervals(3, 4, 0.1)
    second.load(first.state() | {"damping": 0.1})
    tail = simulate(second, 23, change=0.05)
    for kind in range(2):
        assert head[kind] + [17 + step for step in tail[kind]] == expected[kind]
    assert second.state() == whole.state()

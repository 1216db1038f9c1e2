"""Lists of different lengths in rows of arrays, and buckets of arrays of like sizes."""

import numpy as np
import pytest

from pipeline.hmatrix.batched import padding


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_buckets_hold_everything_once_and_no_more_than_is_allowed_padding_included(n, monkeypatch):
    monkeypatch.setattr(padding, "LARGEST", 5000)
    heights, widths = np.random.default_rng(0).integers(0, 80, (2, n))
    found = list(padding.buckets(heights, widths))
    assert sorted(np.concatenate([np.zeros(0, int), *found])) == list(range(n))
    for group in found:
        assert len(group) == 1 or len(group) * heights[group].max() * widths[group].max() <= 5000


def test_chained_lists_follow_one_another():
    lists, places = padding.chained(np.array([[2, 0, 1], [1, 1, 0]]))
    np.testing.assert_array_equal(lists, [[0, 0, 2], [0, 1, 3]])
    np.testing.assert_array_equal(places, [[0, 1, 0], [0, 0, 0]])


def test_ranges_are_padded_to_the_longest():
    found = padding.ranges(np.array([5, 0, 9]), np.array([2, 0, 3]), -1)
    np.testing.assert_array_equal(found, [[5, 6, -1], [-1, -1, -1], [9, 10, 11]])

import numpy as np
import pytest

from pipeline.hmatrix.exact_rows import nth_largest


@pytest.mark.parametrize("columns", [8, 9, 63, 64, 65, 130, 1001])
def test_the_nth_largest_is_that_of_a_sorted_row(columns):
    values = np.random.default_rng(columns).standard_normal((7, columns))
    values[0, :] = 1.0
    values[1, -9:] = np.arange(20, 29)[-columns:]
    values[2, : columns // 2] = np.inf
    for nth in (1, 3, 8):
        assert np.array_equal(nth_largest(values, nth), np.sort(values, axis=1)[:, -nth])

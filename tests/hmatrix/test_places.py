import numpy as np
import pytest

from pipeline.hmatrix.places import distinct


@pytest.mark.parametrize("n", [0, 1, 2, 31, 1009])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_distinct_values_are_those_of_a_set_in_order(n, dtype):
    values = np.random.default_rng(n).integers(-20, 20, n).astype(dtype)
    found = distinct(values)
    assert found.dtype == dtype
    assert found.tolist() == sorted(set(values.tolist()))


def test_values_of_a_table_are_taken_together():
    assert distinct(np.array([[3, 1], [1, 2]])).tolist() == [1, 2, 3]

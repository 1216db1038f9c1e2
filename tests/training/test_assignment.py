import itertools

import pytest

from pipeline.training.assignment import assign


def makespan(sizes, owners, n_processes):
    return max(
        sum(n**3 for n, owner in zip(sizes, owners, strict=True) if owner == p) for p in range(n_processes)
    )


@pytest.mark.parametrize("n_processes", [1, 2, 3, 9])
@pytest.mark.parametrize("sizes", [[], [7], [5, 4, 3, 3, 3], [26, 16, 145, 32, 289, 64, 97, 10], [2] * 7])
def test_the_busiest_process_stays_within_grahams_bound_of_the_best_assignment(sizes, n_processes):
    owners = assign(sizes, n_processes)
    assert len(owners) == len(sizes)
    assert all(0 <= owner < n_processes for owner in owners)
    if n_processes ** len(sizes) < 10_000:
        every = itertools.product(range(n_processes), repeat=len(sizes))
        best = min(makespan(sizes, one, n_processes) for one in every)
        assert makespan(sizes, owners, n_processes) <= (4 / 3 - 1 / (3 * n_processes)) * best


def test_one_large_matrix_has_a_process_of_its_own():
    owners = assign([10, 1025, 96, 97], 2)
    assert [owner == owners[1] for owner in owners] == [False, True, False, False]

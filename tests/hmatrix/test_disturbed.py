"""Processes that fail or dawdle at random places: all end, and a delay changes nothing."""

import threading

import numpy as np
import pytest
from disturbed import Disturbance, Disturbed, dawdle, fail

from pipeline.errors import PipelineError
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

N_PROCESSES = 3
COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
POINTS = np.random.default_rng(0).random((160, 2))
EDGES = np.arange(N_PROCESSES + 1) * len(POINTS) // N_PROCESSES


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.distributed.factor._DENSE_END", 60)


def solved(comm, kernel=COVARIANCE):
    """Build, factorize and solve; return own rows of the solution."""
    own = slice(*EDGES[comm.rank : comm.rank + 2])
    A = DistributedH2Matrix.from_kernel(POINTS[own], kernel, comm, diagonal=0.1, leaf_size=16)
    return A.factorize(parts=N_PROCESSES).solve(POINTS[own, 0])


@pytest.fixture(scope="module")
def n_calls():
    """How often each process calls its communicator."""

    def run(comm):
        counted = Disturbed(comm, at=-1, disturb=fail)
        solved(counted)
        return counted.calls

    return run_in_threads(N_PROCESSES, run)


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_at_any_call_ends_all_processes(seed, n_calls):
    rng = np.random.default_rng(seed)
    who = int(rng.integers(N_PROCESSES))
    at = int(rng.integers(1, n_calls[who] + 1))
    with pytest.raises(Disturbance):
        run_in_threads(
            N_PROCESSES, lambda comm: solved(Disturbed(comm, at=at if comm.rank == who else -1, disturb=fail))
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_delay_at_any_call_changes_no_bit(seed, n_calls):
    rng = np.random.default_rng(seed)
    who = int(rng.integers(N_PROCESSES))
    at = int(rng.integers(1, n_calls[who] + 1))
    found = run_in_threads(
        N_PROCESSES,
        lambda comm: solved(Disturbed(comm, at=at if comm.rank == who else -1, disturb=dawdle)),
        at_once=True,
    )
    for part, expected in zip(found, run_in_threads(N_PROCESSES, solved), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_kernel_that_fails_on_one_process_is_told_by_all_with_the_process_and_the_level(seed):
    rng = np.random.default_rng(seed)
    who, here = int(rng.integers(N_PROCESSES)), threading.local()

    def work(comm, last):
        here.rank, here.count = comm.rank, 0

        def entries(x, y):
            here.count += 1
            if here.rank == who and here.count == last:
                raise MemoryError("no room for a block")
            return COVARIANCE(x, y)

        kernel = kernels.Custom(entries, symmetric=True, positive_definite=True)
        own = slice(*EDGES[comm.rank : comm.rank + 2])
        A = DistributedH2Matrix.from_kernel(POINTS[own], kernel, comm, diagonal=0.1, leaf_size=16)
        built = here.count
        try:
            A.factorize(parts=N_PROCESSES)
        except (PipelineError, MemoryError) as error:
            return built, here.count, str(error)
        return built, here.count, ""

    built, whole, _ = run_in_threads(N_PROCESSES, lambda comm: work(comm, -1))[who]
    last = int(rng.integers(built + 1, whole + 1))
    texts = [text for _, _, text in run_in_threads(N_PROCESSES, lambda comm: work(comm, last))]
    assert len(set(texts)) == 1
    # Whether the entry was wanted by the factorization or by its check on exact rows.
    assert texts[0].startswith((f"process {who} failed on level ", f"process {who}: "))
    assert "no room for a block" in texts[0]

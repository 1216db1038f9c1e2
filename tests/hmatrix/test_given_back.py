"""What blocks of a part leave free goes back to the system where other processes need it, and changes no number."""

import mmap
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from part_cases import EXPONENTIAL

from pipeline.hmatrix import _native
from pipeline.hmatrix.admissibility import Strong, interactions
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.parts import Problem, Team, eliminate
from pipeline.hmatrix.skeleton import FarSampling

N = 24_000
# What stays free at this size; `give_back` in native/eliminate.cpp waits for 256 MB or twice the bytes in use.
LEAST, SHARE = 32 << 20, 1 / 8
STATM = Path("/proc/self/statm")


def resident():
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE


@pytest.fixture(scope="module")
def problem():
    tree, _ = trees_of(np.random.default_rng(0).random((N, 2)), None)
    lists, double = interactions(tree, tree, Strong()), np.dtype(float)
    norm = EXPONENTIAL(tree.points[:1], tree.points).std() * N
    return Problem(
        kernel_matrix(EXPONENTIAL, tree, tree), tree, lists.near, lists.far, np.full(N, 0.1), 0, double, double,
        FarSampling.for_tolerance(1e-6, float(norm), tree.n_boxes), lists.first_far_level(tree), 600,
    )  # fmt: skip


def eliminated(problem):
    """Return the factorization, and how many bytes more than before the process had at most."""
    _native.release_memory()
    before, most = resident(), [0]

    def watch(done, total):
        most[0] = max(most[0], resident() - before)

    found, failure = eliminate(problem, Team(1, 1), watch)
    assert failure is None
    return found, most[0]


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not STATM.exists(),
    reason="gives memory back on Linux with glibc only",
)
def test_a_part_that_gives_back_takes_little_more_than_it_counts_and_finds_the_same(problem):
    plain, _ = eliminated(problem)
    giving = replace(problem, fetch=lambda wanted: (problem.matrix, problem.diagonal, None), kept=(0, N))
    found, most = eliminated(giving)
    assert found.determinant == plain.determinant
    for one, other in zip(found.stages, plain.stages, strict=True):
        for a, b in zip(one.steps.get(0, []), other.steps.get(0, []), strict=True):
            assert np.array_equal(a.values, b.values)
            assert np.array_equal(a.index, b.index)
    assert most <= (1 + SHARE) * found.peak_bytes[0] + LEAST

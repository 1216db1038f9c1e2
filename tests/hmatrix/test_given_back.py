"""What blocks of a part leave free goes back to the system where other processes need it, and changes no number.

How much memory that saves is measured by benchmarks/distributed.py, with four million points.
"""

from dataclasses import replace

import numpy as np
import pytest
from part_cases import EXPONENTIAL

from pipeline.hmatrix.admissibility import Strong, interactions
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.parts import Problem, Team, eliminate
from pipeline.hmatrix.skeleton import FarSampling

N = 80_000  # of which blocks of more than 256 MB are freed: `give_back` in native/eliminate.cpp waits for so many


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
    found, failure = eliminate(problem, Team(1, 1))
    assert failure is None
    return found


def test_a_part_that_gives_back_finds_the_same(problem):
    plain = eliminated(problem)
    giving = replace(problem, fetch=lambda wanted: (problem.matrix, problem.diagonal, None), kept=(0, N))
    found = eliminated(giving)
    assert found.determinant == plain.determinant
    for one, other in zip(found.stages, plain.stages, strict=True):
        for a, b in zip(one.steps.get(0, []), other.steps.get(0, []), strict=True):
            assert np.array_equal(a.values, b.values)
            assert np.array_equal(a.index, b.index)

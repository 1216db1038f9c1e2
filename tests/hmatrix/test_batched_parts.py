"""Parts that work in batches beside native ones: the same messages, and solutions of the dense system."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from part_cases import EXPONENTIAL, WAVE, dense, in_tree_order, off, points_of, problem_of

from pipeline.hmatrix.parts import Substitution, Team, eliminate
from pipeline.runtime.communicator import run_in_threads

CPU = torch.device("cpu")


def factorized(problem, n_parts, batched, **options):
    team = Team(n_parts, 1, devices=dict.fromkeys(batched, CPU), **options)
    eliminated, failure = eliminate(problem, team)
    assert failure is None
    return eliminated, Substitution(eliminated, team, problem.kind, problem.stored)


@pytest.mark.parametrize(
    ("name", "kind", "n_parts", "batched"),
    [
        ("square", "cholesky", *parts)
        for parts in ((1, [0]), (3, [0]), (3, [1]), (3, [0, 1, 2]), (8, [0, 3, 5]))
    ]
    + [(*matrix, 8, [0, 3, 5]) for matrix in (("clusters", "ldlt"), ("duplicates", "lu"))],
)
def test_batched_parts_among_native_ones_solve_the_dense_system(name, kind, n_parts, batched):
    points = points_of(name, 800)  # of fewer, no part takes over a block that it has touched
    problem = replace(problem_of(points, kind=kind), kernel=EXPONENTIAL)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    eliminated, substitution = factorized(problem, n_parts, batched)
    b = np.random.default_rng(1).standard_normal((len(points), 2))
    assert off(matrix, substitution.solve(b, 2), b) <= 1e-7
    np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], rtol=1e-9)


def test_steps_of_batched_parts_are_rounded_to_single_precision_as_native_ones_are():
    points = points_of("square", 1500)
    problem = replace(problem_of(points, stored="float32", tolerance=1e-6), kernel=EXPONENTIAL)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    eliminated, substitution = factorized(problem, 3, [1])
    b = np.random.default_rng(2).standard_normal(1500)
    assert off(matrix, substitution.solve(b, 1), b) <= 1e-4
    np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], rtol=1e-5)
    native, _ = factorized(problem, 3, [])
    assert eliminated.n_bytes == pytest.approx(native.n_bytes, rel=0.02)


def test_complex_matrices_are_eliminated_by_batched_parts():
    points = points_of("cube", 700)
    problem = problem_of(points, WAVE, 30.0, kind="ldlt", working="complex128", tolerance=1e-9, leaf_size=20)
    matrix = in_tree_order(problem, dense(points, WAVE, 30.0))
    eliminated, substitution = factorized(replace(problem, kernel=WAVE), 3, [0, 2])
    b = np.random.default_rng(3).standard_normal(700)
    assert off(matrix, substitution.solve(b, 1), b) <= 1e-7
    sign, size = np.linalg.slogdet(matrix)
    np.testing.assert_allclose(eliminated.determinant[0], sign, atol=1e-5)
    np.testing.assert_allclose(eliminated.determinant[1], size, rtol=1e-7)


def test_a_batched_process_beside_one_of_cores_gets_what_one_process_gets():
    problem = replace(problem_of(points_of("square")), kernel=EXPONENTIAL)
    b = np.random.default_rng(4).standard_normal(len(problem.tree.points))
    _, alone = factorized(problem, 2, [1])
    expected = alone.solve(b, 1)

    def work(communicator):
        team = Team(2, 1, communicator, devices={1: CPU} if communicator.rank else {})
        eliminated, failure = eliminate(problem, team)
        assert failure is None
        substitution = Substitution(eliminated, team, problem.kind, problem.stored)
        return substitution.solve(b[slice(*substitution.own_range)], 1)

    np.testing.assert_array_equal(np.concatenate(run_in_threads(2, work)), expected)


def test_a_pivot_that_fails_in_a_batched_part_is_told_by_its_place():
    problem = replace(problem_of(points_of("square"), diagonal=-1.5, tolerance=1e-2), kernel=EXPONENTIAL)
    team = Team(2, 1, devices={0: CPU, 1: CPU})
    eliminated, failure = eliminate(problem, team)
    assert eliminated is None
    _, place, pivot = failure
    assert 0 <= place < len(problem.tree.points)
    assert not pivot > 0


def test_a_matrix_without_a_kernel_is_not_eliminated_in_batches():
    problem = problem_of(points_of("square"))
    with pytest.raises(ValueError, match="only a kernel's entries can be eliminated in batches"):
        eliminate(problem, Team(1, devices={0: CPU}))

"""Factorization by parts against dense algebra, one part, and any number of threads and processes."""

from dataclasses import replace

import numpy as np
import pytest
from part_cases import DRIFT, EXPONENTIAL, WAVE, N, dense, in_tree_order, off, points_of, problem_of

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.admissibility import Strong, Weak
from pipeline.hmatrix.entries import kernel_matrix
from pipeline.hmatrix.parts import Substitution, Team, eliminate, elimination
from pipeline.runtime.communicator import run_in_threads


def factorized(problem, n_parts, n_threads=1, **options):
    team = Team(n_parts, n_threads, **options)
    eliminated, failure = eliminate(problem, team)
    assert failure is None
    return eliminated, Substitution(eliminated, team, problem.kind, problem.stored)


@pytest.mark.parametrize(
    ("name", "n_parts"),
    [("square", n_parts) for n_parts in (1, 2, 3, 5, 8, 16)]
    + [(name, n_parts) for name in ("line", "cube", "clusters") for n_parts in (3, 16)],
)
def test_any_number_of_parts_solves_the_dense_system(name, n_parts):
    points = points_of(name)
    problem = problem_of(points, leaf_size=40 if name == "cube" else 10)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    eliminated, substitution = factorized(problem, n_parts)
    b = np.random.default_rng(1).standard_normal((N, 3))
    assert off(matrix, substitution.solve(b, 3), b) <= 1e-7
    assert off(matrix, substitution.solve(b[:, 0], 1), b[:, 0]) <= 1e-7
    np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], rtol=1e-9)
    if n_parts > 1 and name != "cube":
        assert eliminated.stages[0].plan.n_active == n_parts


@pytest.mark.parametrize(
    ("kind", "working", "stored", "reached"),
    [
        ("cholesky", "float64", "float32", 1e-5),
        ("cholesky", "float32", "float32", 1e-4),
        ("ldlt", "float64", "float64", 1e-7),
        ("ldlt", "float32", "float32", 1e-4),
        ("lu", "float64", "float64", 1e-7),
        ("lu", "float64", "float32", 1e-5),
    ],
)
@pytest.mark.parametrize("n_parts", [2, 7])
def test_all_kinds_and_real_types_factorize_by_parts(kind, working, stored, reached, n_parts):
    points = points_of("square")
    problem = problem_of(
        points, kind=kind, working=working, stored=stored, tolerance=max(1e-10, reached / 1e3)
    )
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    eliminated, substitution = factorized(problem, n_parts)
    b = np.random.default_rng(2).standard_normal(N)
    assert off(matrix, substitution.solve(b, 1), b) <= reached
    np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], rtol=reached)
    assert eliminated.determinant[0] == 1


@pytest.mark.parametrize(
    ("kind", "stored", "reached"),
    [("ldlt", "complex128", 1e-7), ("lu", "complex128", 1e-7), ("ldlt", "complex64", 1e-4)],
)
def test_complex_matrices_factorize_by_parts(kind, stored, reached):
    points = points_of("cube", 700)
    problem = problem_of(
        points, WAVE, 30.0, kind=kind, working="complex128", stored=stored, tolerance=1e-9, leaf_size=20
    )
    matrix = in_tree_order(problem, dense(points, WAVE, 30.0))
    b = np.random.default_rng(3).standard_normal(700)
    for n_parts in (1, 3):
        eliminated, substitution = factorized(problem, n_parts)
        assert off(matrix, substitution.solve(b, 1), b) <= reached
        sign, size = np.linalg.slogdet(matrix)
        np.testing.assert_allclose(eliminated.determinant[1], size, rtol=reached)
        np.testing.assert_allclose(eliminated.determinant[0], sign, atol=100 * reached)


def test_a_nonsymmetric_matrix_is_solved_transposed_too():
    points = points_of("square", 600)
    problem = problem_of(points, DRIFT, 5.0, kind="lu", tolerance=1e-8)
    matrix = in_tree_order(problem, dense(points, DRIFT, 5.0))
    b = np.random.default_rng(4).standard_normal((600, 2))
    for n_parts in (1, 2, 6):
        _, substitution = factorized(problem, n_parts)
        assert off(matrix, substitution.solve(b, 2), b) <= 1e-6
        assert off(matrix.T, substitution.solve_transposed(b, 2), b) <= 1e-6


@pytest.mark.parametrize("n_parts", [1, 2, 5, 16])
def test_roots_multiply_to_the_matrix(n_parts):
    points = points_of("square", 700)
    problem = problem_of(points)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    _, substitution = factorized(problem, n_parts)
    root = substitution.multiply_root(np.eye(700), 700).reshape(700, 700)
    np.testing.assert_allclose(root @ root.T, matrix, atol=1e-7)
    transposed = substitution.multiply_root_transposed(np.eye(700), 700).reshape(700, 700)
    np.testing.assert_allclose(transposed, root.T, atol=1e-12)


@pytest.mark.parametrize("rule", [Strong(), Weak()])
@pytest.mark.parametrize("n_parts", [2, 3, 16])
def test_both_admissibilities_factorize_by_parts(rule, n_parts):
    points, kernel = points_of("line"), kernels.Matern(nu=1.5, length_scale=0.05)
    problem = problem_of(points, kernel, rule=rule)
    matrix = in_tree_order(problem, dense(points, kernel, 0.1))
    eliminated, substitution = factorized(problem, n_parts)
    b = np.random.default_rng(5).standard_normal(N)
    assert off(matrix, substitution.solve(b, 1), b) <= 1e-6
    np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], rtol=1e-9)


@pytest.mark.parametrize("n_parts", [2, 8])
def test_duplicates_across_a_seam_are_solved(n_parts):
    points = points_of("duplicates")
    problem = problem_of(points)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    _, substitution = factorized(problem, n_parts)
    b = np.random.default_rng(6).standard_normal(N)
    assert off(matrix, substitution.solve(b, 1), b) <= 1e-6


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 40])
def test_there_may_be_more_parts_than_leaves_and_points(n):
    points = points_of("square", n)
    problem = problem_of(points)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    b = np.arange(1.0, n + 1)
    for n_parts in (2, 16):
        eliminated, substitution = factorized(problem, n_parts, 3)
        np.testing.assert_allclose(substitution.solve(b, 1), np.linalg.solve(matrix, b), rtol=1e-7)
        np.testing.assert_allclose(eliminated.determinant[1], np.linalg.slogdet(matrix)[1], atol=1e-8)


def both_roots(substitution, x):
    """L x beside L^T x, for two columns."""
    products = (substitution.multiply_root(x, 2), substitution.multiply_root_transposed(x, 2))
    return np.column_stack([product.reshape(-1, 2) for product in products])


@pytest.mark.parametrize("kind", ["cholesky", "lu"])
def test_threads_and_processes_do_not_change_a_bit(kind):
    problem = problem_of(points_of("square"), kind=kind, stored="float32", tolerance=1e-6)
    b = np.random.default_rng(7).standard_normal((N, 2))
    alone, substitution = factorized(problem, 5)
    x = substitution.solve(b, 2)
    root = both_roots(substitution, b) if kind == "cholesky" else None
    for n_threads in (2, 3):
        eliminated, substitution = factorized(problem, 5, n_threads)
        assert eliminated.determinant == alone.determinant
        assert np.array_equal(substitution.solve(b, 2), x)

    def work(communicator):
        eliminated, substitution = factorized(problem, 5, communicator=communicator)
        first, last = substitution.own_range
        assert eliminated.determinant == alone.determinant
        own = b[first:last]
        return substitution.solve(own, 2), both_roots(substitution, own) if kind == "cholesky" else None

    for n_processes in (1, 2, 4, 7):
        found = run_in_threads(n_processes, work)
        assert np.array_equal(np.concatenate([part for part, _ in found]), x)
        if root is not None:
            assert np.array_equal(np.concatenate([part for _, part in found]), root)


def test_ranges_in_proportion_to_speed_solve_the_same_system():
    points = points_of("square", 1500)
    problem = problem_of(points)
    matrix = in_tree_order(problem, dense(points, EXPONENTIAL, 0.1))
    shares = np.array([7.0, 1.0, 3.0])
    eliminated, substitution = factorized(problem, 3, shares=shares)
    b = np.random.default_rng(8).standard_normal(1500)
    assert off(matrix, substitution.solve(b, 1), b) <= 1e-7
    sizes = np.diff(eliminated.stages[0].plan.cuts)
    n_boxes = sizes.sum()
    assert n_boxes == 256
    # Seams are work as well; all boxes within two steps of others' would at most be all of the smallest share.
    assert np.abs(sizes - shares / 11 * n_boxes).max() < n_boxes / 11


def test_parts_share_memory_and_work():
    problem = problem_of(points_of("square", 6000), stored="float32", tolerance=1e-4)
    (one, _), (four, _) = (factorized(problem, n_parts) for n_parts in (1, 4))
    assert sum(four.peak_bytes.values()) <= 1.6 * one.peak_bytes[0]
    assert max(four.peak_bytes.values()) <= 0.5 * one.peak_bytes[0]
    assert four.n_bytes <= 1.1 * one.n_bytes


def test_a_pivot_that_fails_is_found_by_all_processes():
    points = points_of("square")
    problem = problem_of(points, diagonal=-1.5, tolerance=1e-2)
    expected = eliminate(problem, Team(5))
    assert expected[0] is None
    level, place, pivot = expected[1]
    assert level == problem.tree.n_levels - 1
    assert 0 <= place < N
    assert pivot <= 0
    found = run_in_threads(3, lambda communicator: eliminate(problem, Team(5, communicator=communicator))[1])
    assert found == [expected[1]] * 3


def test_an_exception_of_one_process_ends_all_with_its_name():
    points = points_of("square", 600)
    problem = problem_of(points)

    def work(communicator):
        def fails(x, y):
            if communicator.rank == 1:
                raise MemoryError("no memory left")
            return EXPONENTIAL(x, y)

        tree = problem.tree
        matrix = kernel_matrix(kernels.Custom(fails, symmetric=True), tree, tree)
        with pytest.raises(ConvergenceError, match="no memory left") as caught:
            eliminate(replace(problem, matrix=matrix), Team(3, communicator=communicator))
        return str(caught.value)

    texts = run_in_threads(3, work)
    assert texts[0].startswith("process 1 failed on level")
    assert len(set(texts)) == 1


def test_an_exception_out_of_progress_stops_all_threads():
    problem = problem_of(points_of("square"))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        eliminate(problem, Team(4, 3), progress=stop)


def test_progress_is_told_in_the_callers_thread_to_the_end():
    told = []
    problem = problem_of(points_of("square"))
    eliminate(problem, Team(4, 3), progress=lambda done, total: told.append((done, total)))
    assert told
    assert all(total == problem.tree.n_boxes for _, total in told)
    assert told[-1] == (problem.tree.n_boxes,) * 2


def test_a_long_factorization_writes_a_line_for_every_level(monkeypatch, caplog):
    problem = problem_of(points_of("square"))
    caplog.set_level("INFO", logger="pipeline.hmatrix")
    eliminate(problem, Team(2), clock=lambda: 0.0)
    assert "factorization: level" not in caplog.text
    monkeypatch.setattr(elimination, "_LONG", -1.0)
    eliminate(problem, Team(2), clock=lambda: 0.0)
    lines = [line for line in caplog.messages if line.startswith("factorization: level")]
    finest = problem.tree.n_levels - 1
    # Levels go up one by one, until the rest is solved densely.
    assert lines == [
        f"factorization: level {finest - i} of {finest} done after 0 s" for i in range(len(lines))
    ]
    assert lines

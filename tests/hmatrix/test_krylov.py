"""Krylov methods against dense solutions and their own theory."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.errors import ConvergenceError
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient, gmres
from pipeline.runtime.communicator import run_in_threads

SOLVERS = {"cg": conjugate_gradient, "gmres": gmres}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def spd_matrix(n, condition, generator, dtype=torch.float64):
    """A Hermitian matrix with eigenvalues spread evenly over [1, condition] on a logarithmic scale."""
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=dtype, generator=generator))
    return (q * torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ q.mH


def has_residual_below(tolerance, matrix, x, b):
    return bool(torch.all((b - matrix @ x).norm(dim=0) <= 1.001 * tolerance * b.norm(dim=0)))


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(61,), (61, 1), (61, 5), (61, 0), (1,), (0, 3)])
def test_the_residual_is_as_small_as_asked(solve, dtype, shape, generator):
    matrix = spd_matrix(shape[0], 1e3, generator, dtype)
    b = torch.randn(shape, dtype=dtype, generator=generator)
    x, info = solve(lambda v: matrix @ v, b, tolerance=1e-10)
    assert x.shape == b.shape
    assert has_residual_below(1e-10, matrix, x, b)
    assert info.converged
    assert info.iterations == len(info.residuals) - 1


def test_gmres_solves_a_nonsymmetric_system_within_n_steps(generator):
    matrix = torch.randn(40, 40, dtype=torch.complex128, generator=generator)
    b = torch.randn(40, 3, dtype=torch.complex128, generator=generator)
    x, info = gmres(lambda v: matrix @ v, b, tolerance=1e-9)
    assert info.iterations <= 40
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-6)


def test_gmres_goes_on_after_a_restart(generator):
    matrix = torch.eye(50, dtype=torch.float64) + 0.08 * torch.randn(
        50, 50, dtype=torch.float64, generator=generator
    )
    b = torch.randn(50, 2, dtype=torch.float64, generator=generator)
    x, info = gmres(lambda v: matrix @ v, b, tolerance=1e-10, restart=7)
    assert info.iterations > 7
    assert has_residual_below(1e-10, matrix, x, b)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_the_exact_inverse_as_preconditioner_needs_one_step(solve, generator):
    matrix = spd_matrix(30, 1e6, generator)
    inverse = torch.linalg.inv(matrix)
    b = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    _, info = solve(lambda v: matrix @ v, b, preconditioner=lambda r: inverse @ r, tolerance=1e-7)
    assert info.iterations == 1


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_k_distinct_eigenvalues_need_k_steps(solve, generator):
    q, _ = torch.linalg.qr(torch.randn(45, 45, dtype=torch.float64, generator=generator))
    matrix = (q * torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(15)) @ q.T
    _, info = solve(lambda v: matrix @ v, q.sum(dim=1), tolerance=1e-12)
    assert info.iterations == 3


def test_cg_converges_at_the_rate_of_its_theory(generator):
    condition = 400.0
    matrix = spd_matrix(300, condition, generator)
    b = torch.randn(300, dtype=torch.float64, generator=generator)
    _, info = conjugate_gradient(lambda v: matrix @ v, b, tolerance=1e-8)
    rate = (math.sqrt(condition) - 1) / (math.sqrt(condition) + 1)
    # Of the error in the energy norm; in the 2-norm of the residual one more factor sqrt(condition).
    assert info.iterations <= math.log(1e-8 / (2 * math.sqrt(condition))) / math.log(rate)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_columns_do_not_disturb_each_other(solve, generator):
    matrix = spd_matrix(40, 100, generator)
    b = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    b[:, 1] = 0
    b[:, 2] *= 1e-30
    x, _ = solve(lambda v: matrix @ v, b, tolerance=1e-11)
    alone, _ = solve(lambda v: matrix @ v, b[:, 2], tolerance=1e-11)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-7, atol=1e-38)
    torch.testing.assert_close(x[:, 2], alone, rtol=1e-8, atol=0)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_the_solution_as_start_needs_no_step(solve, generator):
    matrix = spd_matrix(20, 10, generator)
    x = torch.randn(20, dtype=torch.float64, generator=generator)
    found, info = solve(lambda v: matrix @ v, matrix @ x, start=x)
    assert info.iterations == 0
    assert torch.equal(found, x)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("n_processes", [1, 2, 5, 13])
def test_the_solution_does_not_depend_on_the_number_of_processes(solve, n_processes, generator):
    matrix = spd_matrix(11, 50, generator)
    b = torch.randn(11, 2, dtype=torch.float64, generator=generator)
    expected, _ = solve(lambda v: matrix @ v, b, tolerance=1e-12)

    def work(communicator):
        mine = torch.arange(11).tensor_split(communicator.size)[communicator.rank]

        def product(x):
            return matrix[mine] @ torch.cat(communicator.all_gather(x))

        return solve(product, b[mine], tolerance=1e-12, communicator=communicator)[0]

    parts = run_in_threads(n_processes, work)
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-10, atol=1e-10)


def test_cg_reports_a_matrix_that_is_not_positive_definite(generator):
    matrix = spd_matrix(20, 10, generator)
    matrix -= 5 * torch.eye(20, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"matrix not positive definite.*nugget"):
        conjugate_gradient(lambda v: matrix @ v, torch.ones(20, dtype=torch.float64))


def test_cg_reports_a_preconditioner_that_is_not_positive_definite(generator):
    matrix = spd_matrix(20, 10, generator)
    with pytest.raises(ConvergenceError, match="preconditioner not positive definite"):
        conjugate_gradient(
            lambda v: matrix @ v, torch.ones(20, dtype=torch.float64), preconditioner=torch.neg
        )


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_too_few_iterations_are_reported_with_the_residual_and_a_remedy(solve, generator):
    matrix = spd_matrix(50, 1e4, generator)
    b = torch.randn(50, dtype=torch.float64, generator=generator)
    with pytest.raises(
        ConvergenceError, match=r"after 5 iterations \(wanted 1e-10\); factorize at a smaller tolerance"
    ):
        solve(lambda v: matrix @ v, b, tolerance=1e-10, max_iterations=5)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_a_tolerance_below_rounding_is_reported_as_stagnation(solve, generator):
    matrix = spd_matrix(50, 1e8, generator)
    b = torch.randn(50, dtype=torch.float64, generator=generator)
    with pytest.raises(ConvergenceError, match=r"stagnated at relative residual .*e-(09|1[0-9])"):
        solve(lambda v: matrix @ v, b, tolerance=1e-17, max_iterations=100_000)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_values_that_are_not_finite_are_refused(solve):
    with pytest.raises(ValueError, match="NaN"):
        solve(lambda v: v, torch.tensor([1.0, math.nan]))
    with pytest.raises(ConvergenceError):
        solve(lambda v: v * math.nan, torch.ones(3))


def test_how_a_solve_went_is_told_in_one_line():
    info = SolveInfo("CG", 2, (1.0, 1e-3, 3.04e-9), True, ("a note",), 8.21e-8)
    assert str(info) == "CG: 2 iterations, relative residual 3.0e-09, 8.2e-08 on exact rows; a note"
    assert str(replace(info, iterations=1, notes=(), exact_residual=None)) == (
        "CG: 1 iteration, relative residual 3.0e-09"
    )

"""Products and solves by any number of processes against those of one."""

import pytest
import torch

from pipeline.data.meshes import cube_mesh
from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix
from pipeline.hmatrix.boundary_elements import SingleLayer, TriangleMesh, capacitance, solve_capacitance
from pipeline.hmatrix.distributed import distributed_product, distributed_solve
from pipeline.hmatrix.kernels import Custom, LaplaceSingleLayer, Matern
from pipeline.runtime.communicator import Serial, run_in_threads

N_PROCESSES = [1, 2, 5]


@pytest.fixture(scope="module")
def matrix():
    points = torch.rand(700, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return H2Matrix.from_kernel(points, Matern(length_scale=0.2), diagonal=1e-2, tolerance=1e-8, leaf_size=32)


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(700, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("n_processes", N_PROCESSES)
def test_the_product_does_not_depend_on_the_number_of_processes(n_processes, matrix, vectors):
    for x in (vectors, vectors[:, 0], vectors[:, :0]):
        for found in run_in_threads(
            n_processes, lambda communicator, x=x: distributed_product(matrix, x, communicator)
        ):
            torch.testing.assert_close(found, matrix @ x, rtol=1e-12, atol=1e-12)


def test_the_product_of_a_nonsymmetric_matrix_is_shared_too(vectors):
    points = torch.rand(700, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    kernel = Custom(lambda x, y: Matern()(x, 1.1 * y))
    matrix = H2Matrix.from_kernel(points, kernel, tolerance=1e-6, leaf_size=32)
    for found in run_in_threads(3, lambda communicator: distributed_product(matrix, vectors, communicator)):
        torch.testing.assert_close(found, matrix @ vectors, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_points", [0, 1, 2])
def test_there_may_be_more_processes_than_boxes_and_points(n_points):
    points = torch.rand(n_points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    matrix = H2Matrix.from_kernel(points, Matern(), diagonal=0.1)
    F = matrix.factorize()
    b = torch.ones(n_points, dtype=torch.float64)

    def work(communicator):
        x, _ = distributed_solve(matrix, F, b, communicator)
        return distributed_product(matrix, x, communicator)

    for found in run_in_threads(5, work):
        torch.testing.assert_close(found, b, rtol=1e-7, atol=0)


@pytest.mark.parametrize("n_processes", N_PROCESSES)
def test_the_solution_does_not_depend_on_the_number_of_processes(n_processes, matrix, vectors):
    F = matrix.factorize(tolerance=1e-3)
    solutions = run_in_threads(
        n_processes, lambda communicator: distributed_solve(matrix, F, vectors, communicator, tolerance=1e-10)
    )
    for x, info in solutions:
        assert torch.equal(x, solutions[0][0])
        assert info == solutions[0][1]
    alone, _ = distributed_solve(matrix, F, vectors, Serial(), tolerance=1e-10)
    residual = (vectors - matrix @ solutions[0][0]).norm(dim=0) / vectors.norm(dim=0)
    assert residual.max() <= 1.001e-10
    # Two solutions within the tolerance differ by at most the condition number (700 · 100 at most) times it.
    torch.testing.assert_close(solutions[0][0], alone, rtol=0, atol=1e-10 * 7e4 * float(alone.abs().max()))


def test_the_capacitance_does_not_depend_on_the_number_of_processes():
    vertices, triangles = (torch.from_numpy(part) for part in cube_mesh(6, grading=1.5))
    layer = SingleLayer(TriangleMesh(vertices, triangles))
    A = layer.operator(H2Matrix.from_kernel(layer.points, LaplaceSingleLayer(), tolerance=1e-6))
    centers = H2Matrix.from_kernel(
        layer.mesh.centroids, LaplaceSingleLayer(), diagonal=layer.safe_diagonal, tolerance=1e-4
    )
    F = centers.factorize()
    expected, _, _ = solve_capacitance(A, F)
    ones = torch.ones(len(layer.mesh), dtype=torch.float64)
    for charges, _ in run_in_threads(3, lambda communicator: distributed_solve(A, F, ones, communicator)):
        assert capacitance(charges) == pytest.approx(expected, rel=1e-7)


def test_failure_is_raised_by_every_process(matrix, vectors):
    def work(communicator):
        with pytest.raises(ConvergenceError, match="after 2 iterations"):
            distributed_solve(matrix, None, vectors, communicator, max_iterations=2)

    run_in_threads(3, work)

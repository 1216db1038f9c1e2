"""Boundary elements on divided triangles against those of one process."""

import numpy as np
import pytest
import torch

from pipeline.data.meshes import cube_mesh
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix
from pipeline.hmatrix.boundary_elements import SingleLayer, TriangleMesh, capacitance, solve_capacitance
from pipeline.hmatrix.distributed import DistributedSingleLayer, OwnTriangles
from pipeline.hmatrix.kernels import LaplaceSingleLayer
from pipeline.hmatrix.krylov import conjugate_gradient
from pipeline.runtime.communicator import run_in_threads

VERTICES, TRIANGLES = cube_mesh(4, grading=1.5)


def edges_of(n, n_processes):
    """Split rows anyhow; the second of several processes has none."""
    inner = np.sort(np.random.default_rng(1).integers(0, n + 1, max(n_processes - 1, 0)))
    inner[1:2] = inner[0:1]
    return np.concatenate([[0], inner, [n]])


def dense_layer():
    layer = SingleLayer(TriangleMesh(torch.from_numpy(VERTICES), torch.from_numpy(TRIANGLES)))
    return layer, LaplaceSingleLayer()(layer.points, layer.points)


@pytest.mark.parametrize("n_processes", [1, 2, 5])
def test_products_and_near_rows_are_those_of_the_whole_mesh(n_processes):
    layer, dense = dense_layer()
    edges = edges_of(len(TRIANGLES), n_processes)
    x = torch.randn(len(TRIANGLES), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = layer.operator(dense) @ x

    def work(comm):
        first, last = (int(edge) for edge in edges[comm.rank : comm.rank + 2])
        own = OwnTriangles.of(VERTICES, TRIANGLES, first, last)
        torch.testing.assert_close(own.points, layer.points[3 * first : 3 * last])
        near = own.near_field()
        torch.testing.assert_close(near.safe_diagonal, layer.safe_diagonal[first:last])
        far = DistributedH2Matrix.from_kernel(own.points, LaplaceSingleLayer(), comm, tolerance=1e-8)
        return DistributedSingleLayer.of(far, near, own.others, edges, comm) @ x[first:last]

    found = torch.cat(run_in_threads(n_processes, work))
    # The product of K is within 1e-8 of its norm.
    assert torch.linalg.norm(found - expected) <= 1e-7 * torch.linalg.norm(expected)


def test_the_capacitance_does_not_depend_on_the_number_of_processes():
    layer, _ = dense_layer()
    K = H2Matrix.from_kernel(layer.points, LaplaceSingleLayer(), tolerance=1e-8)
    expected, _, _ = solve_capacitance(layer.operator(K))
    edges = edges_of(len(TRIANGLES), 3)

    def work(comm):
        first, last = (int(edge) for edge in edges[comm.rank : comm.rank + 2])
        own = OwnTriangles.of(VERTICES, TRIANGLES, first, last)
        near = own.near_field()
        far = DistributedH2Matrix.from_kernel(own.points, LaplaceSingleLayer(), comm, tolerance=1e-8)
        centers = DistributedH2Matrix.from_kernel(
            own.centroids, LaplaceSingleLayer(), comm, diagonal=near.safe_diagonal, tolerance=1e-4
        )
        A = DistributedSingleLayer.of(far, near, own.others, edges, comm)
        F = centers.factorize(1e-2)
        ones = torch.ones(last - first, dtype=torch.float64)
        charges, _ = conjugate_gradient(A.__matmul__, ones, preconditioner=F.solve, communicator=comm)
        return charges

    assert capacitance(torch.cat(run_in_threads(3, work))) == pytest.approx(expected, rel=1e-6)

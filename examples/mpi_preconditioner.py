"""Precondition the conjugate gradients of an MPI program of one's own.

    mpiexec -n 4 python examples/mpi_preconditioner.py

The program keeps its rows, its vectors and its iteration. From the library it takes one operator over its own rows.
"""

import numpy as np
from mpi4py import MPI

from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.runtime.mpi import MpiCommunicator

n, world = 1000, MPI.COMM_WORLD
points = np.random.default_rng(0).random((n, 2))
own = slice(n * world.rank // world.size, n * (world.rank + 1) // world.size)

# The program's own matrix: exact rows of a covariance, each process with its own, and a roughness of its own.
scaled = np.linalg.norm(points[own, None] - points, axis=2) / 0.3
rows = np.exp(-scaled)
rows[:, own] += np.diag(1e-2 * (1 + points[own, 0]))


def product(x: np.ndarray) -> np.ndarray:
    return rows @ np.concatenate(world.allgather(x))


def inner(x: np.ndarray, y: np.ndarray) -> float:
    return float(world.allreduce(x @ y))


def conjugate_gradients(b: np.ndarray, precondition, tolerance: float = 1e-6) -> tuple[np.ndarray, int]:
    x, r, z = np.zeros_like(b), b.copy(), precondition(b)
    p, rho, size = z, inner(r, z), inner(b, b)
    for iteration in range(1, 1000):
        image = product(p)
        length = rho / inner(p, image)
        x, r = x + length * p, r - length * image
        if inner(r, r) <= tolerance**2 * size:
            return x, iteration
        z = precondition(r)
        rho, before = inner(r, z), rho
        p = z + rho / before * p
    raise RuntimeError("no convergence")


A = DistributedH2Matrix.from_kernel(
    points[own], kernels.Matern(nu=0.5, length_scale=0.3), MpiCommunicator(), diagonal=1e-2, tolerance=1e-4
)
approximate_inverse = A.factorize(1e-3).as_linear_operator()

b = np.sin(7 * points[own, 0])
_, plain = conjugate_gradients(b, lambda r: r)
x, preconditioned = conjugate_gradients(b, approximate_inverse.matvec)
residual = np.sqrt(inner(product(x) - b, product(x) - b) / inner(b, b))
if world.rank == 0:
    counts = f"{plain} iterations alone, {preconditioned} preconditioned"
    print(f"{world.size} processes: {counts}, residual {residual:.1e}")
assert residual <= 1e-5
assert preconditioned < plain / 3

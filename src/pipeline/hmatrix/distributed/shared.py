"""Products and solves shared by several processes.

Every process holds the whole matrix, or can read it, and multiplies with a share of its blocks; the sum over the
processes is the product. Vectors of the iteration are divided by rows, and every decision in it rests on sums over the
processes that are bit-equal on all of them: processes on unlike machines stay in step.
"""

from typing import Protocol

import torch
from torch import Tensor

from pipeline.hmatrix.gaussian_process import Operator
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient
from pipeline.runtime.communicator import Communicator


class Divisible(Protocol):
    """A matrix whose product is the sum of its shares' products: `H2Matrix`, `SingleLayerOperator`."""

    def part(self, number: int, count: int, /) -> Operator:
        """Return share `number` of `count`."""


class Solver(Protocol):
    """A factorization."""

    def solve(self, b: Tensor, /) -> Tensor:
        """Return the solution for b of shape (n,) or (n, m)."""


def distributed_product(A: Divisible, x: Tensor, communicator: Communicator) -> Tensor:
    """Return A x on every process, given x on every process; shape (n,) or (n, m).

    Costs each process its share of the blocks, and one sum over the processes.
    """
    return _summed(A.part(communicator.rank, communicator.size), x, communicator)


def distributed_solve(
    A: Divisible,
    F: Solver | None,
    b: Tensor,
    communicator: Communicator,
    tolerance: float = 1e-8,
    max_iterations: int = 300,
) -> tuple[Tensor, SolveInfo]:
    """Solve A x = b for a symmetric positive definite A by preconditioned conjugate gradients on all processes.

    The preconditioner is applied whole by every process: it is the cheaper half where F is loose.

    Args:
        A: The matrix.
        F: Factorization of A, or of something near it; None for none.
        b: Right-hand sides on every process, shape (n,) or (n, m).
        communicator: Of the processes.
        tolerance: Relative residual |b - A x| / |b|, 2-norm, of each column.
        max_iterations: Largest number of iterations of conjugate gradients.

    Returns:
        x on every process, equal to that of one process within the tolerance, and how it went.

    Raises:
        ConvergenceError: On every process, if A is not positive definite or the tolerance is not reached.
    """
    share = A.part(communicator.rank, communicator.size)
    own = torch.arange(len(b), device=b.device).tensor_split(communicator.size)[communicator.rank]

    def whole(rows: Tensor) -> Tensor:
        return torch.cat(communicator.all_gather(rows.contiguous()))

    x, info = conjugate_gradient(
        lambda rows: _summed(share, whole(rows), communicator)[own],
        b[own],
        preconditioner=None if F is None else lambda rows: F.solve(whole(rows))[own],
        tolerance=tolerance,
        max_iterations=max_iterations,
        communicator=communicator,
    )
    return whole(x), info


def _summed(share: Operator, x: Tensor, communicator: Communicator) -> Tensor:
    total = (share @ x).contiguous()
    communicator.all_reduce(total)
    return total

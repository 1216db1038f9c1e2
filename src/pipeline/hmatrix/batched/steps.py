"""Results of eliminations, and their action on vectors: solve.cpp's mathematics, bucket by bucket.

Vectors end with a row of zeros, to which padding points: the row is read, and written again as zeros.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.precision import full_precision

SOLVE, SOLVE_TRANSPOSED, MULTIPLY_ROOT, MULTIPLY_ROOT_TRANSPOSED = range(4)


@dataclass(frozen=True, eq=False)
class Elimination:
    """Eliminations of boxes of one color. All arrays but places are padded with zeros, X with a unit matrix.

    D are a box's redundant unknowns, S its skeletons, and N the skeletons and the unknowns left of the near boxes. With
    Cholesky X = L L^T, `left` is W = A_ND L^-T; else `left` is W = A_ND X^-1, and `right` is V^T = X^-1 A_DN, or None
    if V = W.

    Attributes:
        redundant: Shape (b, d), places of D.
        outer: Shape (b, k + r), places of N, of which the first k are S.
        T: Shape (b, k, d), the interpolation of the far field.
        factor: Shape (b, d, d), L or the LU factors of X_DD.
        pivots: Pivots of the LU factors, shape (b, d), or None.
        left: Shape (b, k + r, d).
        right: Shape (b, d, k + r), or None if the matrix is symmetric.
    """

    redundant: Tensor
    outer: Tensor
    T: Tensor
    factor: Tensor
    pivots: Tensor | None
    left: Tensor
    right: Tensor | None

    @property
    def n_bytes(self) -> int:
        tensors = (getattr(self, f.name) for f in fields(self))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    @property
    def skeletons(self) -> Tensor:
        return self.outer[:, : self.T.shape[1]]

    def couplings(self, *, transposed: bool) -> tuple[Tensor, Tensor]:
        """Return W and V, both of shape (b, k + r, d)."""
        if self.right is None:
            return self.left, self.left
        return (self.right.mT, self.left) if transposed else (self.left, self.right.mT)

    def forward(self, x: Tensor, *, transposed: bool) -> None:
        """x_D <- (X^-1, or L^-1) (x_D - T^T x_S); x_N <- x_N - W x_D."""
        own = x[self.redundant] - self.T.mT.to(x.dtype) @ x[self.skeletons]
        if self.pivots is None:
            own = torch.linalg.solve_triangular(self.factor.to(x.dtype), own, upper=False)
        W, _ = self.couplings(transposed=transposed)
        x[self.outer] = x[self.outer] - W.to(x.dtype) @ own
        x[self.redundant] = own if self.pivots is None else self._solved(own, transposed=transposed)

    def backward(self, x: Tensor, *, transposed: bool) -> None:
        """x_D <- (1, or L^-T) (x_D - V^T x_N); x_S <- x_S - T x_D."""
        _, V = self.couplings(transposed=transposed)
        own = x[self.redundant] - V.mT.to(x.dtype) @ x[self.outer]
        if self.pivots is None:
            own = torch.linalg.solve_triangular(self.factor.mT.to(x.dtype), own, upper=True)
        x[self.redundant] = own
        x[self.skeletons] = x[self.skeletons] - self.T.to(x.dtype) @ own

    def multiply(self, x: Tensor) -> None:
        """Undo `forward`: x_N <- x_N + W x_D, x_D <- L x_D + T^T x_S. Cholesky only."""
        own = x[self.redundant]
        x[self.outer] = x[self.outer] + self.left.to(x.dtype) @ own
        x[self.redundant] = self.factor.to(x.dtype) @ own + self.T.mT.to(x.dtype) @ x[self.skeletons]

    def multiply_transposed(self, x: Tensor) -> None:
        """Undo `backward`: x_S <- x_S + T x_D, x_D <- L^T x_D + W^T x_N. Cholesky only."""
        own = x[self.redundant]
        x[self.skeletons] = x[self.skeletons] + self.T.to(x.dtype) @ own
        x[self.redundant] = self.factor.mT.to(x.dtype) @ own + self.left.mT.to(x.dtype) @ x[self.outer]

    def _solved(self, x: Tensor, *, transposed: bool) -> Tensor:
        # X^-T y is the conjugate of X^-H conj(y).
        given = x.conj() if transposed else x
        solved: Tensor = torch.linalg.lu_solve(
            self.factor.to(x.dtype), self.pivots, given, adjoint=transposed
        )
        return solved.conj() if transposed else solved


@dataclass(frozen=True, eq=False)
class BatchedSteps:
    """The eliminations of one level on a device; the last "level" is the dense end.

    Attributes:
        eliminations: The eliminations in their order, one color after the other.
        determinant: Real and imaginary part of the determinant's phase, and the logarithm of its absolute value.
        table: Numbers of boxes, unknowns and skeletons.
    """

    eliminations: tuple[Elimination, ...]
    determinant: NDArray[np.float64]
    table: NDArray[np.int32]
    seconds: float

    @property
    def n_bytes(self) -> int:
        """Bytes on the device, padding included."""
        return sum(batch.n_bytes for batch in self.eliminations)

    def __repr__(self) -> str:
        boxes, unknowns, skeletons = self.table
        return (
            f"BatchedSteps({boxes} boxes, {unknowns} unknowns, {skeletons} skeletons in {len(self.eliminations)} "
            f"batches, {self.n_bytes / 1e6:.1f} MB)"
        )


@full_precision()
def act(levels: tuple[BatchedSteps, ...], action: int, x: Tensor) -> Tensor:
    """Return A^-1 x, A^-T x, L x or L^T x for x of shape (n, m) in tree order, of the type that computes."""
    eliminations = [batch for level in levels for batch in level.eliminations]
    y = torch.cat([x, x.new_zeros(1, x.shape[1])])
    transposed = action == SOLVE_TRANSPOSED
    if action == MULTIPLY_ROOT:
        for batch in reversed(eliminations):
            batch.multiply(y)
    elif action == MULTIPLY_ROOT_TRANSPOSED:
        for batch in eliminations:
            batch.multiply_transposed(y)
    else:
        for batch in eliminations:
            batch.forward(y, transposed=transposed)
        for batch in reversed(eliminations):
            batch.backward(y, transposed=transposed)
    return y[:-1]

"""The interpolative decomposition of many matrices at once: skeleton.hpp's mathematics without reordering.

A basis is a matrix P of shape (n, n) with M ~ M P: rows of unknowns that are no skeletons are zero, columns of
skeletons are unit vectors, and the others hold T. The next pass expresses the residual by new skeletons, M - M P ~
(M - M P) Q, so that M ~ M (P + Q - P Q). Passes are thus joined by products alone, and padding is columns of zeros.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.padding import to_host

_CHECKED_EVERY = 16  # pivots between checks whether any matrix needs more: the host waits for the answer


@dataclass(frozen=True, eq=False)
class Bases:
    """Interpolative decompositions of a bucket.

    Attributes:
        P: Shape (b, n, n).
        turn: Shape (b, n), which pivot an unknown was, or n if it is no skeleton.
        rank: Shape (b,), on the host.
    """

    P: Tensor
    turn: Tensor
    rank: NDArray[np.int64]


def interpolate(M: Tensor, budget: float) -> Bases:
    """Choose skeletons among the columns of each matrix.

    The skeletons are the pivots of a Cholesky factorization of the Gram matrix, in which the squared residual has an
    error of the rounding of the trace. If the budget is smaller, the residual's own Gram matrix is factorized next.
    Costs O(m n^2) in products of matrices and O(n^2 k) in the pivoted factorization, whose k steps are taken one by one
    for the whole bucket.

    Args:
        M: Shape (b, m, n), real or complex.
        budget: Squared Frobenius norm that each matrix may lose.
    """
    epsilon = torch.finfo(M.dtype).eps
    gram_floor = 18 * epsilon
    b, _, n = M.shape
    P, turn = None, torch.full((b, n), n, device=M.device)
    rank = np.zeros(b, np.int64)
    residual, all_of_it = M, None
    while True:
        gram = residual.mH @ residual
        rest = gram.diagonal(dim1=1, dim2=2).real.sum(1)
        all_of_it = rest if all_of_it is None else all_of_it
        enough = (gram_floor * epsilon * all_of_it).clamp(min=budget)
        wanted = torch.where(rest > enough, torch.maximum(enough, gram_floor * rest), torch.inf)
        Q, pivots = _pass(gram, wanted)
        counted, unfinished = to_host(
            torch.stack([(pivots < n).sum(1), ((rest > enough) & (enough < gram_floor * rest)).long()])
        )
        slots = torch.arange(pivots.shape[1], device=M.device) + (turn < n).sum(1, keepdim=True)
        turn = torch.cat([turn, turn.new_zeros(b, 1)], 1).scatter(1, pivots, slots)[:, :n]
        P = Q if P is None else P + Q - P @ Q
        rank += counted
        if not (unfinished.astype(bool) & (counted > 0) & (rank < n)).any():
            return Bases(P, turn, rank)
        residual = (M - M @ P) * (turn == n)[:, None, :]


def _pass(gram: Tensor, enough: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q, shape (b, n, n), and pivots, shape (b, k), n where a matrix has no more. Overwrites `gram`."""
    pivots, L = _pivoted_cholesky(gram, enough)
    b, n, k = L.shape
    if k == 0:
        return torch.zeros_like(gram), pivots
    present = pivots < n
    rows = pivots.clamp(max=n - 1)[:, :, None].expand(b, k, k)
    corner = L.gather(1, rows).where(present[:, :, None], 0)
    corner = corner + torch.diag_embed((~present).to(L.dtype))
    # Any other column j is the pivots' columns times conj((L corner^-1)[j]), however L's columns are scaled.
    Z = torch.linalg.solve_triangular(corner, L, upper=False, left=False)
    Q = gram.new_zeros(b, n + 1, n)
    Q.scatter_(1, pivots[:, :, None].expand(b, k, n), Z.mH.where(present[:, :, None], 0))
    return Q[:, :n], pivots


def _pivoted_cholesky(gram: Tensor, enough: Tensor) -> tuple[Tensor, Tensor]:
    """Factorize until the residual trace of each matrix is at most `enough`. Overwrites `gram`.

    A pivot costs five operations on the whole bucket. A matrix that is done goes on with the others without affecting
    them; its further pivots are dropped in the end.

    Returns:
        Pivots, shape (b, k), n where a matrix needs no more, and L of shape (b, n, k), rows in the order of the
        unknowns, columns not divided by the root of the pivot.
    """
    b, n, _ = gram.shape
    left = gram.diagonal(dim1=1, dim2=2).real
    rest, value = left.new_empty(2, n, b)
    chosen = torch.empty(n, b, dtype=torch.int64, device=gram.device)
    columns = gram.new_empty(n, b, n)
    k = 0
    for trace, most, pivot, column in zip(rest, value, chosen, columns, strict=True):
        torch.linalg.vector_norm(left, ord=1, dim=1, out=trace)
        torch.max(left, 1, out=(most, pivot))
        if k % _CHECKED_EVERY == 0 and not to_host(_going(rest[: k + 1], value[: k + 1], enough)[-1].any()):
            break
        torch.gather(gram, 2, pivot[:, None, None].expand(b, n, 1), out=column[:, :, None])
        # Leaves nothing positive of the pivot's own entry, so that it is not chosen again.
        gram.baddbmm_(column[:, :, None], (column / most[:, None])[:, None, :].conj(), alpha=-1)
        k += 1
    pivots = chosen[:k].where(_going(rest[:k], value[:k], enough), n).T
    slots = torch.arange(k, device=gram.device)
    turn = torch.full((b, n + 1), k, device=gram.device).scatter_(1, pivots, slots.expand(b, k))
    wanted = (turn[:, :n, None] >= slots) & (pivots < n)[:, None, :]
    return pivots, columns[:k].permute(1, 2, 0).where(wanted, 0)


def _going(rest: Tensor, value: Tensor, enough: Tensor) -> Tensor:
    """Return for each step so far, shape (k, b), if a matrix takes it: it needs more, and its pivot is positive."""
    return ((rest > enough) & (value > 0)).int().cumprod(0) > 0

"""Eliminations of a bucket of boxes at once: eliminate.cpp's mathematics on padded arrays."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg.lapack
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.batched.blocks import LevelMatrix
from pipeline.hmatrix.batched.compression import BoxBases
from pipeline.hmatrix.batched.padding import Integers, to_device, to_host
from pipeline.hmatrix.batched.steps import Elimination


class BrokenDown(Exception):
    """A pivot that is not positive, or vanishes."""

    def __init__(self, place: int, pivot: float) -> None:
        self.place, self.pivot = place, pivot


@dataclass(eq=False)
class Recorded:
    """The results of a level, as they are added."""

    eliminations: list[Elimination]
    determinants: list[Tensor]
    table: NDArray[np.int32]

    @property
    def determinant(self) -> NDArray[np.float64]:
        """Real and imaginary part of the determinant's phase, and the logarithm of its size."""
        parts = to_host(torch.stack(self.determinants)) if self.determinants else np.zeros((0, 3))
        phase = np.prod(parts[:, 0] + 1j * parts[:, 1])
        return np.array([phase.real, phase.imag, parts[:, 2].sum()])


def eliminate_bucket(
    kind: str,
    store: torch.dtype,
    matrix: LevelMatrix,
    boxes: Integers,
    others: Integers,
    basis: BoxBases,
    recorded: Recorded,
    told: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eliminate the redundant unknowns of boxes, given their bases and near boxes (b, p), -1 for padding.

    Let D be the redundant unknowns, S the skeletons, and N the skeletons and the unknowns left of the near boxes. D
    less T^T S is decoupled from the far field: W = A_ND - A_NS T, V^T = A_DN - T^T A_SN, X = A_DD - A_DS T - T^T W_S,
    and the block of N is updated by - W X^-1 V^T.

    Args:
        kind: "cholesky", "ldlt" or "lu".
        store: Type of the steps.
        matrix: The matrix of the level.
        boxes, others: The boxes, shape (b,), and near ones, shape (b, p).
        basis: Bases of the boxes.
        recorded: The results of the level, to which these are added.
        told: Shape (b,), boxes whose update is sent to others in the type of the steps: here it is rounded as well.

    Returns:
        The factors of the update, shapes (b, k + r, d) and (b, d, k + r).
    """
    general, (_, k, d) = not matrix.symmetric, basis.T.shape
    n = matrix.size[boxes]
    parts = np.concatenate([boxes[:, None], others], axis=1)
    pairs_on_host = matrix.table(parts, parts)
    pairs = to_device(pairs_on_host, matrix.device)
    near = matrix.unknowns(np.where(np.arange(parts.shape[1]) > 0, parts, -1))
    D, S, T = basis.redundant, basis.skeletons, basis.T
    N = S.followed_by(near)
    left = matrix.read(pairs, N, D) - matrix.read(pairs, N, S) @ T
    right = matrix.read(pairs, D, N) - T.mT @ matrix.read(pairs, S, N) if general else left.mT
    across = matrix.read(pairs, D, S) if general else matrix.read(pairs, S, D).mT
    X = matrix.read(pairs, D, D) - across @ T - T.mT @ left[:, :k]
    matrix.keep(boxes, basis.rank, S)
    if d == 0:
        return left, right
    padding = D.index == matrix.n_unknowns
    X.diagonal(dim1=1, dim2=2).add_(padding)
    redundant = matrix.points[D.index]
    if kind == "cholesky":
        factor, pivots = _cholesky(X, redundant), None
        left = _rounded(torch.linalg.solve_triangular(factor.mT, left, upper=True, left=False), store, told)
        update = left, left.mT
        matrix.subtract(pairs, N, N, left @ left.mT)
        determinant = _determinant(factor.diagonal(dim1=1, dim2=2).square())
    else:
        factor, pivots = _lu(X, redundant, padding)
        right = torch.linalg.lu_solve(factor, pivots, right)
        update = _rounded(left, store, told), _rounded(right, store, told)
        matrix.subtract(pairs, N, N, update[0] @ update[1])
        left = torch.linalg.lu_solve(factor, pivots, left, left=False) if general else right.mT
        swapped = pivots != torch.arange(1, d + 1, device=pivots.device, dtype=pivots.dtype)
        determinant = _determinant(factor.diagonal(dim1=1, dim2=2), swapped.sum())
    matrix.touch(pairs_on_host[n > basis.rank])
    recorded.determinants.append(determinant)
    recorded.eliminations.append(
        Elimination(
            redundant, matrix.points[N.index], T.to(store), factor.to(store), pivots,
            left.to(store).contiguous(), right.to(store) if general else None,
        )
    )  # fmt: skip
    return update


def _rounded(values: Tensor, store: torch.dtype, which: Tensor | None) -> Tensor:
    """Return values, those of some boxes rounded to the type in which steps are stored."""
    if which is None or store == values.dtype:
        return values
    return torch.where(which[:, None, None], values.to(store).to(values.dtype), values)


def _determinant(pivots: Tensor, n_swaps: Tensor | None = None) -> Tensor:
    """Return real and imaginary part of the phase of a product, and the logarithm of its size."""
    wide = pivots.to(torch.complex128 if pivots.is_complex() else torch.float64)
    phase = torch.sgn(wide).prod()
    if n_swaps is not None:
        phase = phase * (1 - 2 * (n_swaps % 2))
    real = torch.view_as_real(phase) if wide.is_complex() else torch.stack([phase, torch.zeros_like(phase)])
    return torch.cat([real, wide.abs().log().sum()[None]])


def _cholesky(X: Tensor, places: Tensor) -> Tensor:
    """Return L, if the pivots are positive beyond rounding."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(X)
    epsilon = torch.finfo(X.dtype).eps
    roots = factor.diagonal(dim1=1, dim2=2)
    positive = roots.square() > 8 * epsilon * X.diagonal(dim1=1, dim2=2)
    sound = to_host((info == 0) & positive.all(1))
    if not sound.all():
        b = int(np.argmin(sound))
        block = to_host(X[b])
        potrf = {"float32": scipy.linalg.lapack.spotrf, "float64": scipy.linalg.lapack.dpotrf}[
            block.dtype.name
        ]
        found, info = potrf(block, lower=1)
        # If LAPACK accepts a block that the device did not, blame the least pivot relative to its diagonal entry.
        squares = np.diag(found) ** 2
        bad = np.flatnonzero(~(squares > 8 * epsilon * np.diag(block)))
        i = info - 1 if info > 0 else int(bad[0]) if len(bad) else int(np.argmin(squares / np.diag(block)))
        raise BrokenDown(int(to_host(places[b, i])), float(found[i, i] if info > 0 else squares[i]))
    return factor


def _lu(X: Tensor, places: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return LU factors and pivots, if no pivot vanishes against the largest."""
    factor, pivots, _ = torch.linalg.lu_factor_ex(X)
    sizes = factor.diagonal(dim1=1, dim2=2).abs()
    largest = sizes.masked_fill(padding, 0).amax(1, keepdim=True)
    sound = to_host((sizes > torch.finfo(X.dtype).eps * largest) | padding)
    if not sound.all():
        b, i = (int(index[0]) for index in np.nonzero(~sound))
        raise BrokenDown(int(to_host(places[b, i])), float(to_host(sizes[b, i])))
    return factor, pivots

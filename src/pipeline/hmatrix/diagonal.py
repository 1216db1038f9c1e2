"""The diagonal of an H2 matrix, and forms with another diagonal term that share everything else."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.hmatrix.blocks import Blocks
from pipeline.hmatrix.cluster import Ints
from pipeline.hmatrix.form import H2Form
from pipeline.hmatrix.inputs import as_diagonal
from pipeline.hmatrix.rounding import wide_type
from pipeline.hmatrix.vectors import result_type


def diagonal(A: H2Form) -> NDArray[Any]:
    """Return the diagonal, shape (n,), in the caller's order."""
    A.require_square("diagonal")
    values = _near_diagonal(A)
    if A.diagonal_term is not None:
        values = values + A.diagonal_term
    result = np.empty(len(values), dtype=A.dtype)
    result[A.rows.permutation] = values
    return result


def add_diagonal(A: H2Form, added: "complex | NDArray[Any] | Tensor") -> H2Form:
    """Return A with a number, or numbers of shape (n,) in the caller's order, added to its diagonal."""
    A.require_square("add_diagonal")
    term = as_diagonal(added, A.shape[0])
    if term is None:
        return A
    term = term[A.rows.permutation]
    return with_diagonal_term(A, term if A.diagonal_term is None else A.diagonal_term + term)


def with_diagonal_term(A: H2Form, term: NDArray[Any] | None) -> H2Form:
    """Return the form with another `diagonal_term`; a complex one makes it complex."""
    return replace(A, diagonal_term=term, dtype=A.dtype if term is None else result_type(A.dtype, term.dtype))


def _near_diagonal(A: H2Form) -> NDArray[Any]:
    """Return the diagonal of the near field, in tree order."""
    if not A.has_blocks and A.kernel is not None:
        return np.asarray(A.kernel.diagonal(A.rows.points))
    return diagonal_of_blocks(A.near, A.rows.start, A.rows.stop, A.shape[0])


def diagonal_of_blocks(near: Blocks, start: Ints, stop: Ints, n: int) -> NDArray[Any]:
    """Return the diagonal of a near field, shape (n,), in double precision; box b has rows start[b] to stop[b] - 1."""
    result = np.zeros(n, wide_type(near.values.dtype))
    for blocks in near.in_pieces():
        for p in np.flatnonzero(blocks.first == blocks.second):
            low, high = start[blocks.first[p]], stop[blocks.first[p]]
            if high > low:
                result[low:high] = blocks.values[blocks.start[p] : blocks.start[p + 1]][:: high - low + 1]
    return result

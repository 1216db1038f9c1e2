"""Multiples of a divided matrix: the same blocks and bases, scaled."""

from dataclasses import replace

import numpy as np

from pipeline.hmatrix.distributed.form import OwnBasis, OwnBlocks, OwnForm
from pipeline.hmatrix.transpose import as_factor, times, type_of_multiple, widened
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import require_alike, together
from pipeline.runtime.words import shown


def scaled(A: OwnForm, factor: complex, communicator: Communicator) -> OwnForm:
    """Return factor · A; collective.

    Raises:
        ConfigError: If processes pass different factors.
        TypeError: If a factor is not a number; all processes raise it.
        ValueError: As `transpose.scaled` does; all processes raise it.
    """
    with together(communicator):
        _require_number(factor)
        factor = as_factor(factor)
    require_alike(communicator, {"factor": factor})
    with together(communicator):
        column_basis = _scaled_basis(A.column_basis, factor)
        return replace(
            A,
            near=_scaled_blocks(A.near, factor),
            far=_scaled_blocks(A.far, factor),
            row_basis=column_basis if A.row_basis is A.column_basis else _scaled_basis(A.row_basis, factor),
            column_basis=column_basis,
            diagonal_term=None if A.diagonal_term is None else factor * A.diagonal_term,
            kernel=factor * A.kernel,
            norm=abs(factor) * A.norm,
            dtype=type_of_multiple(A.dtype, factor),
        )


def divided(A: OwnForm, divisor: complex, communicator: Communicator) -> OwnForm:
    """Return A / divisor; collective, and it raises like `scaled`."""
    with together(communicator):
        _require_number(divisor)
        if divisor == 0:
            raise ValueError("a matrix cannot be divided by 0")
    return scaled(A, 1 / divisor, communicator)


def _require_number(factor: object) -> None:
    if not isinstance(factor, int | float | complex | np.number):
        raise TypeError(
            f"a divided matrix is multiplied and divided by numbers alone, not by {shown(factor)}"
        )


def _scaled_blocks(blocks: OwnBlocks, factor: complex) -> OwnBlocks:
    return OwnBlocks(times(blocks.inner, factor), times(blocks.outer, factor))


def _scaled_basis(side: OwnBasis, factor: complex) -> OwnBasis:
    return OwnBasis(widened(side.basis, factor), side.rank)

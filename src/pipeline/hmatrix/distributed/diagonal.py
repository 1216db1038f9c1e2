"""The diagonal of a divided matrix, and diagonal terms, which have the same type on all processes."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hmatrix.diagonal import diagonal_of_blocks
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.inputs import as_array, as_diagonal
from pipeline.hmatrix.swap import Array, gather
from pipeline.hmatrix.vectors import result_type
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together


def own_diagonal(A: OwnForm) -> Array:
    """Return the diagonal of own rows, in tree order."""
    if A.has_blocks:
        tree, first = A.division.tree, A.division.first
        values = diagonal_of_blocks(A.near.inner, tree.start - first, tree.stop - first, A.n_own)
    else:
        values = np.asarray(A.kernel.diagonal(A.points.own))
    return values if A.diagonal_term is None else values + A.diagonal_term


def add_diagonal(
    A: OwnForm, added: "complex | NDArray[Any] | Tensor | None", communicator: Communicator
) -> OwnForm:
    """Return A with a number, or numbers for own rows in the caller's order, added to its diagonal; collective."""
    with together(communicator):
        term = as_diagonal(added, A.route.n_rows)
    term = common_term(added, term, A.route.n_rows, communicator)
    if term is None:
        return A
    term = A.route.there(communicator, term)
    term = term if A.diagonal_term is None else A.diagonal_term + term
    return replace(A, diagonal_term=term, dtype=result_type(A.dtype, term.dtype))


def common_term(
    diagonal: "complex | NDArray[Any] | Tensor | None", term: Array | None, n: int, communicator: Communicator
) -> Array | None:
    """Return a process's diagonal term in a type that fits all processes; collective.

    Args:
        diagonal: The argument as the caller passed it.
        term: The diagonal term of the n own rows, or None.
        n: Number of own rows.
        communicator: The processes.

    Raises:
        ConfigError: If processes pass different numbers.
    """
    _require_alike_numbers(diagonal, communicator)
    kinds = gather(communicator, np.array([0 if term is None else 1 + (term.dtype.kind == "c")]))
    kind = max(int(own[0]) for own in kinds)
    if kind == 0:
        return None
    wide = np.dtype(np.complex128 if kind > 1 else np.float64)  # where one process has a diagonal, all have
    return np.zeros(n, wide) if term is None else term.astype(wide)


def _require_alike_numbers(diagonal: object, communicator: Communicator) -> None:
    """Raise ConfigError on all processes if they pass different numbers as the diagonal; collective.

    Arrays may differ, and a process without a diagonal counts as passing zeros if another one passes an array.
    """
    number = None if diagonal is None or np.ndim(as_array(diagonal)) else complex(as_array(diagonal))
    own = np.array([] if number is None else [number], np.complex128)
    found = [(rank, complex(part[0])) for rank, part in enumerate(gather(communicator, own)) if len(part)]
    for rank, theirs in found:
        first, wanted = found[0]
        if theirs != wanted:
            shown = [f"{value if value.imag else value.real:g}" for value in (wanted, theirs)]
            raise ConfigError(
                f"diagonal: process {first} passes {shown[0]} and process {rank} {shown[1]}; pass the same number on "
                "all processes, or an array"
            )

"""The caller's vectors: checked on all processes together, moved to the tree order and back."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.hmatrix.batched.padding import to_device
from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.inputs import as_array
from pipeline.hmatrix.swap import Array, Ids, exchange
from pipeline.hmatrix.vectors import Vectors, plain_type
from pipeline.runtime.communicator import Communicator, Counting
from pipeline.runtime.together import require_alike, together


def act(
    form: OwnForm, own_x: Vectors, action: Callable[[Array], Array], communicator: Counting, what: str
) -> Vectors:
    """Return own rows of the result of an action on vectors in tree order; collective.

    Args:
        form: The matrix.
        own_x: Shape (own rows,) or (own rows, m), in the caller's order.
        action: Takes and returns the rows that this process owns in tree order.
        communicator: The processes.
        what: Name of the operation in error texts.

    Raises:
        ConfigError, TypeError, ValueError: If the vectors of one process do not fit; all processes raise it.
    """
    values = checked(form.route.n_rows, own_x, communicator.inner, what)
    result = form.route.back(communicator, action(form.route.there(communicator, values)))
    return to_device(result, own_x.device) if isinstance(own_x, Tensor) else result


def checked(n: int, own_x: Any, communicator: Communicator, what: str) -> Array:
    """Return vectors of n own rows as an array, or raise on all processes if those of one do not fit; collective."""
    with together(communicator):
        values = as_array(own_x)
        if values.dtype.kind not in "biufc":
            raise TypeError(
                f"{what} needs numbers in an array or a tensor, not {type(own_x).__name__} of {values.dtype}"
            )
        if values.ndim not in (1, 2) or len(values) != n:
            raise ValueError(f"{what} needs shape ({n},) or ({n}, m), not {values.shape}")
        values = values.astype(plain_type(values.dtype), copy=False)
    require_alike(communicator, {"type of x": values.dtype.name, "columns of x": list(values.shape[1:])})
    return values


def shifted(rows: Array, first: int, ranges: Ids, communicator: Communicator) -> Array:
    """Return this process's rows in another division of the same order; collective.

    Args:
        rows: Rows that this process has now.
        first: Place of the first of them.
        ranges: Shape (processes, 2): first and last + 1 of the places that each process gets.
        communicator: The processes.
    """
    sent = {}
    for rank, (low, high) in enumerate(ranges.tolist()):
        begin, end = max(low - first, 0), min(high - first, len(rows))
        if begin < end:
            sent[rank] = rows[begin:end]
    return np.concatenate([rows[:0], *exchange(communicator, sent).values()])

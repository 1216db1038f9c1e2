"""What each process holds, has computed and sent, and how long it waited: a row per process and level."""

from typing import Any

import numpy as np

from pipeline.hmatrix.distributed.form import OwnForm
from pipeline.hmatrix.distributed.structure import level_rows
from pipeline.hmatrix.parts import Substitution
from pipeline.hmatrix.swap import gather
from pipeline.runtime.communicator import Communicator, Counting

_OF_MATRIX = (
    "level", "boxes", "bytes", "product_flops", "messages", "sent_bytes", "seconds", "waiting_seconds",
)  # fmt: skip
_OF_FACTOR = (
    "level", "boxes", "unknowns", "skeletons", "bytes", "flops", "messages", "sent_bytes", "seconds",
    "waiting_seconds",
)  # fmt: skip
_WHOLE = {"seconds", "waiting_seconds"}  # the columns that are not whole numbers


def of_matrix(A: OwnForm, communicator: Counting) -> dict[str, Any]:
    """Return what `DistributedH2Matrix.statistics` describes; collective."""
    own = {
        "rows": A.n_own,
        "n_bytes": A.n_bytes,
        "points_of_others": A.n_fetched,
        "sent_bytes": int(sum(communicator.n_bytes.values())),
        "calls": int(sum(communicator.n_calls.values())),
        "waiting_seconds": float(sum(communicator.waiting.values())),
    }
    table = np.stack(gather(communicator.inner, np.array([list(own.values())]).reshape(1, -1)))[:, 0]
    result: dict[str, Any] = {
        name: [float(v) if name in _WHOLE else int(v) for v in table[:, i]] for i, name in enumerate(own)
    }
    levels = [
        row
        | {
            "messages": communicator.level_calls[row["level"]],
            "sent_bytes": communicator.level_bytes[row["level"]],
            "waiting_seconds": communicator.level_waiting[row["level"]],
        }
        for row in level_rows(A)
    ]
    return result | {"levels": _everybodys(levels, _OF_MATRIX, communicator.inner)}


def of_factorization(steps: Substitution, communicator: Communicator) -> list[dict[str, Any]]:
    """Return a row per process and level of a factorization, leaves first; collective."""
    return _everybodys(steps.level_rows(), _OF_FACTOR, communicator)


def _everybodys(
    rows: list[dict[str, Any]], names: tuple[str, ...], communicator: Communicator
) -> list[dict[str, Any]]:
    """Return the rows of all processes, each with its `process`; collective."""
    own = np.array([[float(row[name]) for name in names] for row in rows]).reshape(len(rows), len(names))
    return [
        {"process": process}
        | {n: float(v) if n in _WHOLE else int(v) for n, v in zip(names, row, strict=True)}
        for process, table in enumerate(gather(communicator, own))
        for row in table.tolist()
    ]

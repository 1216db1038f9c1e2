"""Points and kernels of a study's matrices."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.store import Artifact, Draft
from pipeline.hmatrix import DistributedH2Matrix
from pipeline.hmatrix.boundary_elements import NearField
from pipeline.hmatrix.distributed import DistributedSingleLayer, OwnTriangles
from pipeline.hmatrix.kernels import Kernel
from pipeline.runtime.communicator import Communicator
from pipeline.stages.parts.divided import edges_of, own_range, own_rows, save_rows


def own_triangles(points: Artifact, communicator: Communicator) -> OwnTriangles:
    """Return this process's triangles of a mesh that the stage `points` has written, and the triangles near them."""
    triangles = points.array("triangles")
    first, last = own_range(len(triangles), communicator)
    return OwnTriangles.of(points.array("vertices"), triangles, first, last)


def save_near_field(
    draft: Draft | None, near_field: NearField, own: OwnTriangles, n: int, communicator: Communicator
) -> None:
    """Write the near field of all processes, in the numbering of the whole mesh of n triangles; collective.

    Its integrals are costly: the stage `solve` reads them.
    """
    first, last = own_range(n, communicator)
    numbers = np.concatenate([np.arange(first, last), own.others])
    rows, columns = numbers[near_field.indices.numpy()]
    for name, values in (
        ("near_rows", rows),
        ("near_columns", columns),
        ("near_values", near_field.values.numpy()),
        ("near_safe_diagonal", near_field.safe_diagonal.numpy()),
    ):
        save_rows(draft, name, values, communicator)


def single_layer_of(
    compressed: Artifact, far: DistributedH2Matrix, communicator: Communicator
) -> DistributedSingleLayer:
    """Assemble the operator of boundary elements from the files of the stage `compress`; collective."""
    safe = own_rows(compressed, "near_safe_diagonal", communicator)
    n = len(compressed.array("near_safe_diagonal"))
    first, last = own_range(n, communicator)
    low, high = np.searchsorted(compressed.array("near_rows"), (first, last))
    rows, columns = (
        np.array(compressed.array(name)[low:high], np.int64) for name in ("near_rows", "near_columns")
    )
    is_own = (columns >= first) & (columns < last)
    others: NDArray[np.int64] = np.unique(columns[~is_own])
    local = np.where(is_own, columns - first, last - first + np.searchsorted(others, columns))
    near_field = NearField(
        indices=torch.from_numpy(np.stack([rows - first, local])),
        values=torch.from_numpy(np.array(compressed.array("near_values")[low:high])),
        safe_diagonal=torch.from_numpy(safe),
    )
    return DistributedSingleLayer.of(far, near_field, others, edges_of(n, communicator), communicator)


def in_words(kernel: Kernel) -> str:
    """Write a kernel for readers: its name, and its parameters to four digits."""
    parameters = {key: value for key, value in kernel.to_dict().items() if key != "name"}
    words = ", ".join(
        f"{key} {value:.4g}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else f"{key} {value}"
        for key, value in parameters.items()
    )
    return f"{type(kernel).__name__}({words})"

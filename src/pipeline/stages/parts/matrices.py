"""A study's matrices in words, the near fields of meshes, and systems of equations, all divided by rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Artifact, Draft
from pipeline.config.matrices import SolveSpec
from pipeline.data.vectors import finite_rows, open_vectors
from pipeline.errors import errors_about
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.boundary_elements import NearField
from pipeline.hmatrix.distributed import DistributedLowRank, DistributedSingleLayer, OwnTriangles
from pipeline.hmatrix.gaussian_process import one_hot
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.stages.parts.divided import edges_of, mean_and_deviation, own_range, own_rows, save_rows
from pipeline.stages.parts.work import CompressedMatrix


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


def _single_layer(
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


def in_words(kernel: kernels.Kernel) -> str:
    """Write a kernel for readers: its name, and its parameters to four digits."""
    parameters = {key: value for key, value in kernel.to_dict().items() if key != "name"}
    words = ", ".join(
        f"{key} {value:.4g}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else f"{key} {value}"
        for key, value in parameters.items()
    )
    return f"{type(kernel).__name__}({words})"


class DividedProduct(Protocol):
    """A matrix whose rows are divided among the processes."""

    def __matmul__(self, own_x: Tensor, /) -> Tensor:
        """Return own rows of A x, shape (own,) or (own, m)."""


@dataclass(frozen=True)
class DividedSystem:
    """This process's rows of a system of equations.

    `operator` is the matrix to solve with, to the study's tolerance; `preconditioner` is the compressed matrix that is
    factorized. Own rows of the right-hand side have the shape (own,) or (own, m).
    """

    operator: DividedProduct
    preconditioner: CompressedMatrix
    right_hand_side: Tensor


def problem_of(
    spec: SolveSpec, points: Artifact, compressed: Artifact, communicator: Communicator
) -> DividedSystem:
    """Set up this process's rows of the equations of a task; collective."""
    n = points.facts_as(PointsFacts).n
    first, last = own_range(n, communicator)
    own = last - first

    def loaded(folder: str, rows: int) -> DistributedH2Matrix:
        return DistributedH2Matrix.load(compressed.folder / folder, communicator, n_own_rows=rows)

    if spec.task == "capacitance":
        per_triangle = compressed.facts_as(OperatorFacts).compress.n_rows // n
        layer = _single_layer(compressed, loaded("operator", per_triangle * own), communicator)
        ones = torch.ones(own, dtype=torch.float64)
        return DividedSystem(layer, loaded("preconditioner", own), ones)
    operator: CompressedMatrix
    if compressed.facts_as(OperatorFacts).compress.form == "low_rank":
        operator = DistributedLowRank.load(compressed.folder / "operator", communicator, n_own_rows=own)
    else:
        operator = loaded("operator", own)
    if spec.task in ("solve", "product", "logdet", "sample"):
        with together(communicator):
            b = _right_hand_side(spec, points, communicator)
        if kernels.from_dict(compressed.facts_as(OperatorFacts).kernel_parameters).is_complex:
            b = b.to(torch.complex128)
    elif spec.task == "kriging":
        known = torch.from_numpy(own_rows(points, "values", communicator)).double()
        values = known if known.ndim == 1 else known[:, 0].contiguous()  # the first of several
        mean, deviation = mean_and_deviation(values, communicator)
        b = (values - mean) / (deviation or 1.0)
    else:
        n_classes = int(points.array("labels").max()) + 1
        b = one_hot(torch.from_numpy(own_rows(points, "labels", communicator)), n_classes)
    return DividedSystem(operator, operator, b)


def _right_hand_side(spec: SolveSpec, points: Artifact, communicator: Communicator) -> Tensor:
    """Return own rows of the right-hand side, or of vectors to multiply: a file, the values at the points, or ones."""
    n = points.facts_as(PointsFacts).n
    first, last = own_range(n, communicator)
    key, path = (
        ("vectors", spec.vectors) if spec.task == "product" else ("right_hand_side", spec.right_hand_side)
    )
    if path is None:
        if points.has("values"):
            return torch.from_numpy(own_rows(points, "values", communicator)).double()
        return torch.ones(last - first, dtype=torch.float64)
    with errors_about(key):
        values = open_vectors(Path(path), n)
        return torch.from_numpy(finite_rows(Path(path), values[first:last], first))

"""Systems of equations with divided rows: the matrix, its preconditioner, and the right-hand side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import SolveSpec
from pipeline.data.vectors import finite_rows, open_vectors
from pipeline.errors import errors_about
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.distributed import DistributedLowRank
from pipeline.hmatrix.gaussian_process import one_hot
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.stages.parts.divided import mean_and_deviation, own_range, own_rows
from pipeline.stages.parts.matrices import single_layer_of
from pipeline.stages.parts.work import CompressedMatrix


class DividedProduct(Protocol):
    """A matrix whose rows are divided among the processes."""

    def __matmul__(self, own_x: Tensor, /) -> Tensor:
        """Return own rows of A x, shape (own,) or (own, m)."""


@dataclass(frozen=True)
class DividedSystem:
    """This process's rows of a system of equations.

    Attributes:
        operator: The matrix to solve with, to the study's tolerance.
        preconditioner: The compressed matrix that is factorized.
        right_hand_side: Own rows, shape (own,) or (own, m).
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
        layer = single_layer_of(compressed, loaded("operator", per_triangle * own), communicator)
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

"""A solution of which each process has rows, and what is computed from it: predictions and the exact residual."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import SolveSpec
from pipeline.hmatrix import kernels
from pipeline.hmatrix.distributed import DistributedFactorization, LowRankFactorization
from pipeline.hmatrix.gaussian_process import predict
from pipeline.runtime.communicator import Communicator
from pipeline.stages.parts.divided import edges_of, own_rows

EXACT_ROWS = 512


@dataclass(frozen=True)
class Solved:
    """A solution with all that its answer is computed from.

    Attributes:
        spec: What is to be answered.
        points, compressed: The artefacts.
        solution: Own rows.
        of: The right-hand side of task solve, or the vectors of task product, in words.
        communicator: The processes.
        factorization: What the system was solved with; a product needs none.
    """

    spec: SolveSpec
    points: Artifact
    compressed: Artifact
    solution: Tensor
    of: str
    communicator: Communicator
    factorization: DistributedFactorization | LowRankFactorization | None = None

    @property
    def kernel(self) -> kernels.Kernel:
        """The kernel of the matrix."""
        return kernels.from_dict(self.compressed.facts_as(OperatorFacts).kernel_parameters)

    def summed(self, own: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, on all of them; collective."""
        total = own.clone().contiguous()
        self.communicator.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
        return total

    def predicted(self, places: Tensor) -> Tensor:
        """Return k(places, points) solution, shape (q,) or (q, m), from the rows of all processes; collective."""
        rows = torch.from_numpy(own_rows(self.points, "points", self.communicator))
        return self.summed(predict(self.kernel, rows, self.solution, places))


def exact_residual(solved: Solved, right_hand_side: Tensor) -> float | None:
    """|b - A x| / |b| over random rows of the exact matrix; None for boundary elements, whose rows are integrals."""
    if not solved.points.has("points"):
        return None
    points, communicator = solved.points.array("points"), solved.communicator
    n, rank = len(points), communicator.rank
    first, last = edges_of(n, communicator)[rank:][:2]
    chosen = np.sort(np.random.default_rng(0).choice(n, min(EXACT_ROWS, n), replace=False))
    product = solved.predicted(torch.from_numpy(np.array(points[chosen])))
    here = np.flatnonzero((chosen >= first) & (chosen < last))
    own = torch.from_numpy(chosen[here] - first)
    b = right_hand_side[own]
    off = b - product[torch.from_numpy(here)]
    off = off - solved.compressed.facts_as(OperatorFacts).nugget * solved.solution[own]
    squares = solved.summed(torch.stack([off.abs().square().sum(), b.abs().square().sum()]))
    return float((squares[0] / squares[1]).sqrt())

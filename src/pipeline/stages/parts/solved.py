"""A solution whose rows are divided among the processes, values computed from it, and the answer that is saved."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.solution import Result, SolutionFacts, SolveCost
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import SolveSpec
from pipeline.hmatrix import kernels
from pipeline.hmatrix.distributed import DistributedFactorization, LowRankFactorization
from pipeline.hmatrix.gaussian_process import predict
from pipeline.runtime.communicator import Communicator
from pipeline.stages.parts.divided import created, own_range, own_rows, save_rows

EXACT_ROWS = 512
DENSE_ROWS = 2048  # in the block of the dense matrix that is timed: 34 MB, a tenth of a second
Arrays = dict[str, tuple[NDArray[Any], str]]


@dataclass(frozen=True)
class Answer:
    """The answer of a solution: numbers for the report, lines of the log, arrays with units, tables and further files.

    `rows` are arrays of which each process has its own rows; all other fields may be empty except on process 0.
    """

    result: Result | None = None
    lines: tuple[str, ...] = ()
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    tables: dict[str, Iterable[Any]] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    cost: SolveCost | None = None

    def save(self, options: Namespace, spec: SolveSpec, communicator: Communicator) -> None:
        """Write the artefact of a stage, and print the lines; collective."""
        with created(options, spec, communicator, kind="solution") as draft:
            for name, own in self.rows.items():
                save_rows(draft, name, own, communicator)
            if draft is not None:
                for name, (values, unit) in self.arrays.items():
                    draft.save_array(name, values, unit=unit)
                for name, table in self.tables.items():
                    draft.save_table(name, table)
                for name, write in self.files.items():
                    write(draft.path(name))
                assert self.result is not None
                draft.facts = SolutionFacts(result=self.result, solve=self.cost)
        if communicator.rank == 0:
            for line in self.lines:
                print(f"solve {options.output.parent.name}: {line}")


@dataclass(frozen=True)
class Solved:
    """A process's rows of a solution, with everything that its answer is computed from; a product has no factors.

    `of` names in words the right-hand side of the solution, or the vectors of the product.
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
        return kernels.from_dict(self.compressed.facts_as(OperatorFacts).kernel_parameters)

    def summed(self, own: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, on all of them; collective."""
        total = own.clone().contiguous()
        self.communicator.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
        return total

    def norm(self, own: Tensor) -> float:
        """Return the 2-norm of a tensor that is divided among the processes; collective."""
        return float(self.summed(own.abs().square().sum().reshape(1)).sqrt())

    def predicted(self, places: Tensor) -> Tensor:
        """Return k(places, points) solution, shape (q,) or (q, m), from the rows of all processes; collective."""
        rows = torch.from_numpy(own_rows(self.points, "points", self.communicator))
        return self.summed(predict(self.kernel, rows, self.solution, places))


def exact_residual(solved: Solved, right_hand_side: Tensor) -> float | None:
    """|b - A x| / |b| over random rows of the exact matrix; None for boundary elements, whose rows are integrals."""
    if not solved.points.has("points"):
        return None
    points, communicator = solved.points.array("points"), solved.communicator
    n = len(points)
    first, last = own_range(n, communicator)
    chosen = np.sort(np.random.default_rng(0).choice(n, min(EXACT_ROWS, n), replace=False))
    product = solved.predicted(torch.from_numpy(np.array(points[chosen])))
    here = np.flatnonzero((chosen >= first) & (chosen < last))
    own = torch.from_numpy(chosen[here] - first)
    b = right_hand_side[own]
    off = b - product[torch.from_numpy(here)]
    off = off - solved.compressed.facts_as(OperatorFacts).nugget * solved.solution[own]
    squares = solved.summed(torch.stack([off.abs().square().sum(), b.abs().square().sum()]))
    return float((squares[0] / squares[1]).sqrt())


def dense_seconds(solved: Solved, n_columns: int) -> float | None:
    """Estimate the time of one process to evaluate, factorize and solve the dense matrix, as if memory sufficed.

    The time of a small block is scaled up: entries as n², a Cholesky factorization as n³, a solve as n². Small blocks
    run at a lower rate than large ones, so the true time is a little less. Only covariances are timed: the entries of
    boundary elements are integrals, for which a block would tell nothing.
    """
    kernel = solved.kernel
    if not solved.points.has("points") or not kernel.positive_definite or kernel.singular:
        return None
    points = solved.points.array("points")
    n = len(points)
    chosen = np.sort(np.random.default_rng(0).choice(n, min(DENSE_ROWS, n), replace=False))
    rows = torch.from_numpy(np.array(points[chosen], np.float64))
    right = torch.ones(len(rows), max(n_columns, 1), dtype=torch.float64)
    start = time.perf_counter()
    block = kernel(rows, rows)
    evaluated = time.perf_counter()
    # Any matrix takes the same time to factorize; this one is certainly definite.
    block.diagonal().add_(block.abs().sum(dim=1))
    ready = time.perf_counter()
    factor = torch.linalg.cholesky(block)
    factorized = time.perf_counter()
    torch.cholesky_solve(right, factor)
    done = time.perf_counter()
    times = n / max(len(rows), 1)
    return times**2 * (evaluated - start + done - factorized) + times**3 * (factorized - ready)

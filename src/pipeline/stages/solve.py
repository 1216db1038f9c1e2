"""Stage `solve`: factorize, solve on all processes, and answer the matrix's question."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import (
    CapacitanceResult,
    ClassificationResult,
    Result,
    SolutionFacts,
    SolveCost,
    SystemResult,
)
from pipeline.artifacts.store import Artifact, create
from pipeline.config.matrices import Solve, SolveSpec
from pipeline.errors import ConfigError
from pipeline.hmatrix import Factorization, H2Matrix, kernels
from pipeline.hmatrix.boundary_elements import capacitance
from pipeline.hmatrix.distributed import Divisible, distributed_product, distributed_solve
from pipeline.hmatrix.gaussian_process import one_hot, predict, predict_labels
from pipeline.hmatrix.krylov import SolveInfo
from pipeline.runtime.clock import Stopwatch
from pipeline.runtime.communicator import Serial
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts import kriging
from pipeline.stages.parts.matrices import single_layer_of, standardized
from pipeline.stages.parts.progress import boxes
from pipeline.stages.parts.spec import errors_about, read_spec
from pipeline.stages.parts.tensors import tensor

EXACT_ROWS = 512


@dataclass(frozen=True)
class Problem:
    """A system of equations.

    Attributes:
        definite: Whether the matrix is positive definite, so that conjugate gradients solve it.
        operator: What is solved with, to the study's tolerance.
        preconditioner: The H2 matrix that is factorized.
        right_hand_side: Shape (n,) or (n, m).
    """

    operator: Divisible
    preconditioner: H2Matrix
    right_hand_side: Tensor
    definite: bool = True


@dataclass(frozen=True)
class Solved:
    """A solution with all that its answer is computed from."""

    spec: SolveSpec
    points: Artifact
    compressed: Artifact
    solution: Tensor
    logdet: float | None
    of: str  # the right-hand side of task solve, in words

    @property
    def kernel(self) -> kernels.Kernel:
        """The kernel of the matrix."""
        return kernels.from_dict(self.compressed.facts_as(OperatorFacts).kernel_parameters)


@dataclass(frozen=True)
class Answer:
    """What a solution says: numbers for the report, a line for the log, arrays with units, and what writes files."""

    result: Result
    line: str
    arrays: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)


def run(options: Namespace) -> None:
    """Solve on all processes that started together; the first one writes the answer."""
    name = options.output.parent.name
    with errors_about(f"matrices.{name}"):
        _solve(options, name, MpiCommunicator.of(options.processes))


def _solve(options: Namespace, name: str, communicator: MpiCommunicator) -> None:
    spec = read_spec(options.spec, SolveSpec)
    first = communicator.rank == 0
    points = Artifact.open(options.points, "points", contents=first)
    compressed = Artifact.open(options.operator, "operator", contents=first)
    watch = Stopwatch()
    with watch.part("assemble"):
        problem = problem_of(spec, points, compressed)
    with watch.part("factorize"), boxes(f"factorize {name}", shown=first) as progress:
        factorization = problem.preconditioner.factorize(
            spec.factor.tolerance, kind=spec.factor.kind, parts=spec.factor.parts, progress=progress
        )
    with watch.part("solve"):
        solution, info = _solution(problem, factorization, spec.solve, communicator)
    shared = distributed_product(problem.operator, solution, communicator)
    if not first:
        return
    alone = distributed_product(problem.operator, solution, Serial())
    logdet = factorization.logdet() if factorization.kind == "cholesky" else None
    given = "values at the points" if points.has("values") else "ones"
    solved = Solved(spec, points, compressed, solution, logdet, spec.right_hand_side or given)
    answer = ANSWERS[spec.task](solved)
    with create(
        options.output,
        kind="solution",
        spec=spec.model_dump(mode="json"),
        provenance=provenance(options.code),
    ) as draft:
        draft.save_array("solution", solution.numpy())
        draft.save_table("residuals", [{"iteration": i, "residual": r} for i, r in enumerate(info.residuals)])
        for array, (values, unit) in answer.arrays.items():
            draft.save_array(array, values, unit=unit)
        for name_of_file, write in answer.files.items():
            write(draft.path(name_of_file))
        draft.facts = SolutionFacts(
            result=answer.result,
            solve=SolveCost(
                assemble_seconds=watch.seconds["assemble"],
                factorize_seconds=watch.seconds["factorize"],
                factor_bytes=factorization.n_bytes,
                factor_tolerance=factorization.used_tolerance,
                factor_kind=factorization.kind,
                solve_seconds=watch.seconds["solve"],
                iterations=info.iterations,
                relative_residual=info.residuals[-1],
                exact_residual=exact_residual(solved, problem.right_hand_side),
                logdet=logdet,
                processes=communicator.size,
                difference_to_one_process=float((shared - alone).norm() / alone.norm()),
                notes=list(factorization.notes),
                tolerance=spec.solve.tolerance,
            ),
        )
    for note in factorization.notes:
        print(f"solve {name}: {note}")
    plural = "es" if communicator.size > 1 else ""
    print(
        f"solve {name}: factorized in {watch.seconds['factorize']:.1f} s, {info.iterations} iterations on "
        f"{communicator.size} process{plural}, residual {info.residuals[-1]:.1e} of the compressed matrix"
    )
    print(f"solve {name}: {answer.line}")


def _solution(
    problem: Problem, factorization: Factorization, options: Solve, communicator: MpiCommunicator
) -> tuple[Tensor, SolveInfo]:
    """Solve by conjugate gradients on all processes, or alike on every process where they do not apply."""
    operator = problem.operator
    if isinstance(operator, H2Matrix) and not problem.definite:
        # GMRES, which is not distributed.
        return operator.solve(
            problem.right_hand_side,
            options.tolerance,
            factorization=factorization,
            max_iterations=options.max_iterations,
        )
    return distributed_solve(
        operator,
        factorization,
        problem.right_hand_side,
        communicator,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )


def problem_of(spec: SolveSpec, points: Artifact, compressed: Artifact) -> Problem:
    """Set up the equations of a task."""
    task, operator = spec.task, H2Matrix.load(compressed.folder / "operator")
    if task == "solve":
        kernel = kernels.from_dict(compressed.facts_as(OperatorFacts).kernel_parameters)
        return Problem(operator, operator, _right_hand_side(spec, points), kernel.positive_definite)
    if task == "capacitance":
        layer = single_layer_of(points, compressed)
        centers = H2Matrix.load(compressed.folder / "preconditioner")
        return Problem(layer.operator(operator), centers, torch.ones_like(layer.mesh.areas))
    if task == "kriging":
        return Problem(operator, operator, standardized(points)[0])
    labels = tensor(points, "labels")
    return Problem(operator, operator, one_hot(labels, int(labels.max()) + 1))


def _right_hand_side(spec: SolveSpec, points: Artifact) -> Tensor:
    """What task solve solves for: a file, the values at the points, or ones.

    Raises:
        ConfigError: If the file is not an array of finite numbers with a row for every point.
    """
    n = points.facts_as(PointsFacts).n
    if spec.right_hand_side is None:
        return (
            tensor(points, "values").double() if points.has("values") else torch.ones(n, dtype=torch.float64)
        )
    where = f"right_hand_side: {spec.right_hand_side}"
    try:
        values = np.load(spec.right_hand_side)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: not a readable array ({error}); write it with numpy.save") from None
    if values.ndim not in (1, 2) or len(values) != n or values.dtype.kind not in "fiu":
        raise ConfigError(
            f"{where}: holds {values.dtype} of shape {values.shape}; wanted real numbers of shape ({n},) or ({n}, m), "
            "a row for every point that is not held out"
        )
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ConfigError(f"{where}: row {bad[0][0] + 1} holds NaN or infinity; mend it")
    return torch.from_numpy(values.astype(np.float64))


def exact_residual(solved: Solved, right_hand_side: Tensor) -> float | None:
    """|b - A x| / |b| over random rows of the exact matrix; None for boundary elements, whose rows are integrals."""
    if not solved.points.has("points"):
        return None
    rows = tensor(solved.points, "points")
    chosen = torch.from_numpy(
        np.random.default_rng(0).choice(len(rows), min(EXACT_ROWS, len(rows)), replace=False)
    )
    product = predict(solved.kernel, rows, solved.solution, rows[chosen])
    off = (
        right_hand_side[chosen]
        - product
        - solved.compressed.facts_as(OperatorFacts).nugget * solved.solution[chosen]
    )
    return float(off.norm() / right_hand_side[chosen].norm())


def _kriging(solved: Solved) -> Answer:
    """Predict the held-out values and a map with their uncertainty, and judge by the mean predictor."""
    facts = solved.compressed.facts_as(OperatorFacts)
    found = kriging.answer(
        solved.points, solved.kernel, facts.nugget, facts.compress.tolerance, solved.spec.predict
    )
    result = found.result
    return Answer(
        result=result,
        line=f"{result.quantity} of {result.n_held_out} held-out places to {result.rmse:.4g} {result.unit} RMSE, "
        f"mean predictor {result.rmse_mean_predictor:.4g}; {result.coverage_95:.1%} lie in 95 % intervals",
        arrays=found.arrays,
        files={result.predictions: found.field.write} if result.predictions and found.field else {},
    )


def _system(solved: Solved) -> Answer:
    """Say how large the solution of a system is; its exact residual stands beside it."""
    norm = float(solved.solution.norm())
    n_columns = 1 if solved.solution.ndim == 1 else solved.solution.shape[1]
    return Answer(
        result=SystemResult(right_hand_side=solved.of, n_columns=n_columns, solution_norm=norm),
        line=f"solved for {solved.of}; the solution's norm is {norm:.6g}",
    )


def _classification(solved: Solved) -> Answer:
    """Predict the test labels, and judge by the network's own soft-max head."""
    rows, tests = (tensor(solved.points, name) for name in ("points", "held_out_points"))
    labels = tensor(solved.points, "held_out_labels")
    predicted = predict_labels(solved.kernel, rows, solved.solution, tests)
    accuracy = float((predicted == labels).double().mean())
    by_head = solved.points.facts_as(PointsFacts).softmax_accuracy
    return Answer(
        result=ClassificationResult(accuracy=accuracy, softmax_accuracy=by_head, n_test=len(labels)),
        line=f"test accuracy {accuracy:.4f} by kernel ridge regression, {(by_head or 0.0):.4f} by the soft-max head",
        arrays={"predicted_labels": (predicted.numpy(), "class")},
    )


def _capacitance(solved: Solved) -> Answer:
    """Sum the charges of the conductor at unit potential, and compare with the known value."""
    value, reference = capacitance(solved.solution), solved.points.facts_as(PointsFacts).reference
    assert reference is not None  # every mesh of ours has one
    error = abs(value - reference) / reference
    return Answer(
        result=CapacitanceResult(capacitance=value, reference=reference, relative_error=error, unit="4π ε₀"),
        line=f"capacitance {value:.6f} of 4π ε₀, known {reference:.6f}, relative error {error:.1e}",
    )


ANSWERS: dict[str, Callable[[Solved], Answer]] = {
    "kriging": _kriging,
    "classification": _classification,
    "capacitance": _capacitance,
    "solve": _system,
}

"""Stage `solve`: factorize, solve on all processes, and answer the matrix's question."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import (
    CapacitanceResult,
    ClassificationResult,
    LogdetResult,
    ProductResult,
    Result,
    SampleResult,
    SolutionFacts,
    SolveCost,
    SystemResult,
)
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Solve, SolveSpec, Wave
from pipeline.errors import ConfigError
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.boundary_elements import capacitance
from pipeline.hmatrix.distributed import DistributedFactorization
from pipeline.hmatrix.gaussian_process import one_hot, predict
from pipeline.hmatrix.krylov import SolveInfo, conjugate_gradient, gmres
from pipeline.runtime.clock import Stopwatch
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.provenance import provenance
from pipeline.runtime.together import together
from pipeline.stages.parts import kriging, scattering
from pipeline.stages.parts.divided import created, edges_of, mean_and_deviation, own_rows, save_rows
from pipeline.stages.parts.matrices import single_layer_of
from pipeline.stages.parts.progress import boxes
from pipeline.stages.parts.spec import errors_about, read_spec
from pipeline.stages.parts.tensors import tensor
from pipeline.stages.parts.work import foretold_of, work_of_factorization

EXACT_ROWS = 512


class Product(Protocol):
    """A matrix of which each process has rows."""

    def __matmul__(self, own_x: Tensor, /) -> Tensor:
        """Return own rows of A x, shape (own,) or (own, m)."""


@dataclass(frozen=True)
class Problem:
    """A system of equations of which this process has rows.

    Attributes:
        operator: What is solved with, to the study's tolerance.
        preconditioner: The H2 matrix that is factorized.
        right_hand_side: Own rows, shape (own,) or (own, m).
    """

    operator: Product
    preconditioner: DistributedH2Matrix
    right_hand_side: Tensor


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
    factorization: DistributedFactorization | None = None

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


@dataclass(frozen=True)
class Answer:
    """What a solution says: numbers for the report, a line for the log, arrays with units, and what writes files.

    `rows` are arrays of which each process has its own rows.
    """

    result: Result
    line: str
    arrays: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)


def run(options: Namespace) -> None:
    """Solve on all processes that started together; the first one writes the answer."""
    name = options.output.parent.name
    with errors_about(f"matrices.{name}"):
        _solve(options, name, MpiCommunicator.of(options.processes))


def _solve(options: Namespace, name: str, communicator: MpiCommunicator) -> None:
    first = communicator.rank == 0
    with together(communicator):
        spec = read_spec(options.spec, SolveSpec)
        points = Artifact.open(options.points, "points", contents=first)
        compressed = Artifact.open(options.operator, "operator", contents=first)
    if spec.task == "scattering":
        _scatter(options, spec, points, compressed, communicator)
        return
    watch = Stopwatch()
    with watch.part("assemble"):
        problem = problem_of(spec, points, compressed, communicator)
    if spec.task == "product":
        _multiply(
            options,
            problem,
            Solved(spec, points, compressed, problem.right_hand_side, spec.vectors or "", communicator),
        )
        return
    factor_tolerance = spec.factor.tolerance
    if spec.task in ("logdet", "sample"):  # the factorization is the answer, and no preconditioner
        factor_tolerance = min(factor_tolerance, compressed.facts_as(OperatorFacts).compress.tolerance)
    with watch.part("factorize"), boxes(f"factorize {name}", shown=first) as progress:
        factorization = problem.preconditioner.factorize(
            factor_tolerance,
            kind=spec.factor.kind,
            parts=spec.factor.parts,
            progress=progress if first else None,
        )
    with watch.part("solve"):
        solution, info = _solution(problem, factorization, spec.solve, communicator)
    logdet = factorization.logdet() if factorization.kind == "cholesky" else None
    given = "values at the points" if points.has("values") else "ones"
    solved = Solved(
        spec, points, compressed, solution, spec.right_hand_side or given, communicator, factorization
    )
    answer = ANSWERS[spec.task](solved)
    residual = exact_residual(solved, problem.right_hand_side)
    seconds = sum(watch.seconds.values())
    tolerance = compressed.facts_as(OperatorFacts).compress.tolerance
    foretold = foretold_of(
        points, tolerance, factor_tolerance, communicator.size, kriging=spec.task == "kriging"
    )
    work = work_of_factorization(factorization, seconds, foretold.solve_bytes, communicator)
    if answer is None:  # process 0 alone has one
        answer = Answer(SystemResult(right_hand_side="", n_columns=0, solution_norm=None), "")
    with created(
        options.output,
        communicator,
        kind="solution",
        spec=spec.model_dump(mode="json"),
        provenance=provenance(options.code),
    ) as draft:
        save_rows(draft, "solution", solution.numpy(), communicator)
        for array, own in answer.rows.items():
            save_rows(draft, array, own, communicator)
        if draft is not None:
            draft.save_table(
                "residuals", [{"iteration": i, "residual": r} for i, r in enumerate(info.residuals)]
            )
            work.save(draft)
            for array, (values, unit) in answer.arrays.items():
                draft.save_array(array, values, unit=unit)
            for name_of_file, write in answer.files.items():
                write(draft.path(name_of_file))
            draft.facts = SolutionFacts(
                result=answer.result,
                solve=SolveCost(
                    assemble_seconds=watch.seconds["assemble"],
                    factorize_seconds=watch.seconds["factorize"],
                    factor_bytes=work.n_bytes,
                    factor_tolerance=factorization.used_tolerance,
                    factor_kind=factorization.kind,
                    solve_seconds=watch.seconds["solve"],
                    iterations=info.iterations,
                    relative_residual=info.residuals[-1],
                    exact_residual=residual,
                    logdet=logdet,
                    processes=communicator.size,
                    notes=[*factorization.notes, *info.notes],
                    tolerance=spec.solve.tolerance,
                ),
            )
    if not first:
        return
    for note in factorization.notes:
        print(f"solve {name}: {note}")
    plural = "es" if communicator.size > 1 else ""
    print(
        f"solve {name}: factorized in {watch.seconds['factorize']:.1f} s, {info.iterations} iterations on "
        f"{communicator.size} process{plural}, residual {info.residuals[-1]:.1e} of the compressed matrix"
    )
    print(f"solve {name}: {answer.line}")


def _multiply(options: Namespace, problem: Problem, given: Solved) -> None:
    """Multiply the vectors of a file, and compare with rows of the exact matrix."""
    watch = Stopwatch()
    with watch.part("product"):
        product = problem.operator @ problem.right_hand_side
    residual = exact_residual(given, product)
    norm = float(given.summed(product.abs().square().sum().reshape(1)).sqrt())
    n_columns = 1 if product.ndim == 1 else product.shape[1]
    seconds = watch.seconds["product"]
    with created(
        options.output,
        given.communicator,
        kind="solution",
        spec=given.spec.model_dump(mode="json"),
        provenance=provenance(options.code),
    ) as draft:
        save_rows(draft, "product", product.numpy(), given.communicator)
        if draft is not None:
            result = ProductResult(
                vectors=given.of,
                n_columns=n_columns,
                product_norm=norm,
                relative_error=residual,
                seconds=seconds,
            )
            draft.facts = SolutionFacts(result=result)
    if given.communicator.rank == 0:
        name = options.output.parent.name
        print(
            f"solve {name}: product with {given.of} in {seconds:.2g} s, off by {residual:.1e} in exact rows"
        )


def _scatter(
    options: Namespace, spec: SolveSpec, points: Artifact, compressed: Artifact, communicator: Communicator
) -> None:
    """Scatter a wave in process 0; layers with normal derivatives are not divided among processes."""
    facts, found = compressed.facts_as(OperatorFacts), None
    with together(communicator):
        if communicator.rank == 0:
            kernel = kernels.from_dict(facts.kernel_parameters)
            assert isinstance(kernel, kernels.Helmholtz)
            found = scattering.answer(
                scattering.mesh_of(points),
                complex(kernel.wavenumber).real,
                spec.wave or Wave(),
                facts.compress.tolerance,
                spec.solve,
            )
    with created(
        options.output,
        communicator,
        kind="solution",
        spec=spec.model_dump(mode="json"),
        provenance=provenance(options.code),
    ) as draft:
        if draft is not None and found is not None:
            draft.save_array("solution", found.density)
            draft.save_array("angle", found.angles, unit="degrees")
            draft.save_array("far_field", found.far_field)
            draft.facts = SolutionFacts(result=found.result, solve=found.cost)
    if found is not None:
        name, result = options.output.parent.name, found.result
        print(
            f"solve {name}: {found.cost.iterations} iterations, residual {found.cost.relative_residual:.1e} of the "
            f"compressed matrix; scattering cross-section {result.cross_section:.6g}, power kept to "
            f"{result.power_imbalance:.1e}"
        )


def _solution(
    problem: Problem, factorization: DistributedFactorization, options: Solve, communicator: Communicator
) -> tuple[Tensor, SolveInfo]:
    """Solve by conjugate gradients, or by GMRES where the matrix is not positive definite; collective."""
    method = conjugate_gradient if factorization.kind == "cholesky" else gmres
    return method(
        problem.operator.__matmul__,
        problem.right_hand_side,
        preconditioner=factorization.solve,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
        communicator=communicator,
    )


def problem_of(
    spec: SolveSpec, points: Artifact, compressed: Artifact, communicator: Communicator
) -> Problem:
    """Set up this process's rows of the equations of a task; collective."""
    n = points.facts_as(PointsFacts).n
    own = int(np.diff(edges_of(n, communicator))[communicator.rank])

    def loaded(folder: str, rows: int) -> DistributedH2Matrix:
        return DistributedH2Matrix.load(compressed.folder / folder, communicator, n_own_rows=rows)

    if spec.task == "capacitance":
        per_triangle = compressed.facts_as(OperatorFacts).compress.n_rows // n
        layer = single_layer_of(compressed, loaded("operator", per_triangle * own), communicator)
        ones = torch.ones(own, dtype=torch.float64)
        return Problem(layer, loaded("preconditioner", own), ones)
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
    return Problem(operator, operator, b)


def _right_hand_side(spec: SolveSpec, points: Artifact, communicator: Communicator) -> Tensor:
    """Return own rows of what is solved for or multiplied: a file, the values at the points, or ones.

    Raises:
        ConfigError: If the file is not an array of finite numbers with a row for every point.
    """
    n = points.facts_as(PointsFacts).n
    first, last = edges_of(n, communicator)[communicator.rank :][:2].tolist()
    key, path = (
        ("vectors", spec.vectors) if spec.task == "product" else ("right_hand_side", spec.right_hand_side)
    )
    if path is None:
        if points.has("values"):
            return torch.from_numpy(own_rows(points, "values", communicator)).double()
        return torch.ones(last - first, dtype=torch.float64)
    where = f"{key}: {path}"
    try:
        values = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: not a readable array ({error}); write it with numpy.save") from None
    if values.ndim not in (1, 2) or len(values) != n or values.dtype.kind not in "fiu":
        raise ConfigError(
            f"{where}: holds {values.dtype} of shape {values.shape}; wanted real numbers of shape ({n},) or ({n}, m), "
            "a row for every point that is not held out"
        )
    own = np.array(values[first:last], np.float64)
    bad = np.argwhere(~np.isfinite(own))
    if len(bad):
        raise ConfigError(f"{where}: row {first + bad[0][0] + 1} holds NaN or infinity; mend it")
    return torch.from_numpy(own)


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


def _kriging(solved: Solved) -> Answer | None:
    """Predict the held-out values and a map with their uncertainty, and judge by the mean predictor."""
    facts = solved.compressed.facts_as(OperatorFacts)
    found = kriging.answer(
        solved.points, solved.kernel, facts.nugget, facts.compress.tolerance, solved.spec.predict,
        solved.communicator,
    )  # fmt: skip
    if found is None:
        return None
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
    norm = float(solved.summed(solved.solution.abs().square().sum().reshape(1)).sqrt())
    n_columns = 1 if solved.solution.ndim == 1 else solved.solution.shape[1]
    return Answer(
        result=SystemResult(right_hand_side=solved.of, n_columns=n_columns, solution_norm=norm),
        line=f"solved for {solved.of}; the solution's norm is {norm:.6g}",
    )


def _logdet(solved: Solved) -> Answer:
    """Say the logarithm of the determinant; the residual of a solve stands beside it."""
    assert solved.factorization is not None
    n, logdet = solved.points.facts_as(PointsFacts).n, solved.factorization.logdet()
    return Answer(
        result=LogdetResult(log_determinant=logdet, n=n), line=f"log-determinant {logdet:.10g} of {n} rows"
    )


def _sample(solved: Solved) -> Answer:
    """Draw from the normal distribution whose covariance is the matrix, and compare variances."""
    assert solved.factorization is not None
    n_samples, seed = solved.spec.samples or 1, solved.spec.seed or 0
    drawn = np.asarray(solved.factorization.sample(np.random.default_rng(seed), n_samples))
    rows = own_rows(solved.points, "points", solved.communicator)
    nugget = solved.compressed.facts_as(OperatorFacts).nugget
    variance = np.asarray(solved.kernel.diagonal(rows)).sum() + nugget * len(rows)
    sums = solved.summed(torch.tensor([np.square(drawn).sum(), variance, len(rows)], dtype=torch.float64))
    found, expected = float(sums[0] / sums[2]) / n_samples, float(sums[1] / sums[2])
    return Answer(
        result=SampleResult(n_samples=n_samples, seed=seed, mean_square=found, variance=expected),
        line=f"{n_samples} samples drawn, mean square {found:.4g} where the variance is {expected:.4g}",
        rows={"samples": drawn},
    )


def _classification(solved: Solved) -> Answer:
    """Predict the test labels, and judge by the network's own soft-max head."""
    tests, labels = (tensor(solved.points, name) for name in ("held_out_points", "held_out_labels"))
    predicted = solved.predicted(tests).argmax(dim=1)
    accuracy = float((predicted == labels).double().mean())
    by_head = solved.points.facts_as(PointsFacts).softmax_accuracy
    return Answer(
        result=ClassificationResult(accuracy=accuracy, softmax_accuracy=by_head, n_test=len(labels)),
        line=f"test accuracy {accuracy:.4f} by kernel ridge regression, {(by_head or 0.0):.4f} by the soft-max head",
        arrays={"predicted_labels": (predicted.numpy(), "class")},
    )


def _capacitance(solved: Solved) -> Answer:
    """Sum the charges of the conductor at unit potential, and compare with the known value."""
    value = capacitance(solved.summed(solved.solution.sum().reshape(1)))
    reference = solved.points.facts_as(PointsFacts).reference
    error = None if reference is None else abs(value - reference) / reference
    known = "" if error is None else f", known {reference:.6f}, relative error {error:.1e}"
    return Answer(
        result=CapacitanceResult(capacitance=value, reference=reference, relative_error=error, unit="4π ε₀"),
        line=f"capacitance {value:.6f} of 4π ε₀{known}",
    )


ANSWERS: dict[str, Callable[[Solved], Answer | None]] = {
    "kriging": _kriging,
    "classification": _classification,
    "capacitance": _capacitance,
    "solve": _system,
    "logdet": _logdet,
    "sample": _sample,
}

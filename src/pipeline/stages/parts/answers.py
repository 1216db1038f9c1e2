"""What a solution says of the question of its task: a function for each task that is solved for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import (
    CapacitanceResult,
    ClassificationResult,
    LogdetResult,
    Result,
    SampleResult,
    SystemResult,
)
from pipeline.hmatrix.boundary_elements import capacitance
from pipeline.hmatrix.distributed import DistributedFactorization
from pipeline.runtime.words import counted
from pipeline.stages.parts import kriging
from pipeline.stages.parts.divided import own_rows
from pipeline.stages.parts.solved import Solved
from pipeline.stages.parts.tensors import tensor


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
    error = f"{result.rmse:.4g} {result.unit}".rstrip()  # where there is a unit
    return Answer(
        result=result,
        line=f"{result.quantity} of {result.n_held_out} held-out places to {error} RMSE, "
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
        result=LogdetResult(log_determinant=logdet, n=n),
        line=f"log-determinant {logdet:.10g} of {counted(n, 'row')}",
    )


def _sample(solved: Solved) -> Answer:
    """Draw from the normal distribution whose covariance is the matrix, and compare variances."""
    assert isinstance(solved.factorization, DistributedFactorization)
    n_samples, seed = solved.spec.samples or 1, solved.spec.seed or 0
    drawn = np.asarray(solved.factorization.sample(np.random.default_rng(seed), n_samples))
    rows = own_rows(solved.points, "points", solved.communicator)
    nugget = solved.compressed.facts_as(OperatorFacts).nugget
    variance = np.asarray(solved.kernel.diagonal(rows)).sum() + nugget * len(rows)
    sums = solved.summed(torch.tensor([np.square(drawn).sum(), variance, len(rows)], dtype=torch.float64))
    found, expected = float(sums[0] / sums[2]) / n_samples, float(sums[1] / sums[2])
    return Answer(
        result=SampleResult(n_samples=n_samples, seed=seed, mean_square=found, variance=expected),
        line=f"{counted(n_samples, 'sample')} drawn, mean square {found:.4g} where the variance is {expected:.4g}",
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

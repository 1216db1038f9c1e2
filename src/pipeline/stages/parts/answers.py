"""The answer of a matrix to the question of its task: one function for each task."""

import time
from collections.abc import Callable

import numpy as np
import torch

from pipeline.artifacts.results.operator import OperatorFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import (
    CapacitanceResult,
    ClassificationResult,
    LogdetResult,
    ProductResult,
    SampleResult,
    SystemResult,
)
from pipeline.hmatrix.boundary_elements import capacitance
from pipeline.hmatrix.distributed import DistributedFactorization
from pipeline.runtime.words import counted
from pipeline.stages.parts import kriging
from pipeline.stages.parts.divided import own_rows
from pipeline.stages.parts.solved import Answer, Solved, exact_residual
from pipeline.stages.parts.systems import DividedSystem


def _kriging(solved: Solved) -> Answer:
    """Predict the held-out values and a map with their uncertainty, and compare with predicting the mean."""
    facts = solved.compressed.facts_as(OperatorFacts)
    return kriging.answer(
        solved.points, solved.kernel, facts.nugget, facts.compress.tolerance, solved.spec.predict,
        solved.communicator,
    )  # fmt: skip


def _system(solved: Solved) -> Answer:
    """Report the norm of a system's solution; its exact residual stands beside it."""
    norm = solved.norm(solved.solution)
    return Answer(
        SystemResult(
            right_hand_side=solved.of,
            n_columns=1 if solved.solution.ndim == 1 else solved.solution.shape[1],
            solution_norm=norm,
        ),
        (f"solved for {solved.of}; the solution's norm is {norm:.6g}",),
    )


def _logdet(solved: Solved) -> Answer:
    """Report the logarithm of the determinant; the residual of a solve stands beside it."""
    assert solved.factorization is not None
    n, logdet = solved.points.facts_as(PointsFacts).n, solved.factorization.logdet()
    return Answer(
        LogdetResult(log_determinant=logdet, n=n), (f"log-determinant {logdet:.10g} of {counted(n, 'row')}",)
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
        SampleResult(n_samples=n_samples, seed=seed, mean_square=found, variance=expected),
        (
            f"{counted(n_samples, 'sample')} drawn, mean square {found:.4g} where the variance is {expected:.4g}",
        ),
        rows={"samples": drawn},
    )


def _classification(solved: Solved) -> Answer:
    """Predict the test labels, and compare with the network's own soft-max head."""
    tests, labels = (solved.points.tensor(name) for name in ("held_out_points", "held_out_labels"))
    predicted = solved.predicted(tests).argmax(dim=1)
    accuracy = float((predicted == labels).double().mean())
    by_head = solved.points.facts_as(PointsFacts).softmax_accuracy
    return Answer(
        ClassificationResult(accuracy=accuracy, softmax_accuracy=by_head, n_test=len(labels)),
        (
            f"test accuracy {accuracy:.4f} by kernel ridge regression, {(by_head or 0.0):.4f} by the soft-max head",
        ),
        arrays={"predicted_labels": (predicted.numpy(), "class")},
    )


def _capacitance(solved: Solved) -> Answer:
    """Sum the charges of the conductor at unit potential, and compare with the known value."""
    value = capacitance(solved.summed(solved.solution.sum().reshape(1)))
    reference = solved.points.facts_as(PointsFacts).reference
    error = None if reference is None else abs(value - reference) / reference
    known = "" if error is None else f", known {reference:.6f}, relative error {error:.1e}"
    return Answer(
        CapacitanceResult(capacitance=value, reference=reference, relative_error=error, unit="4π ε₀"),
        (f"capacitance {value:.6f} of 4π ε₀{known}",),
    )


def product(system: DividedSystem, given: Solved) -> Answer:
    """Multiply the vectors of a file, and compare the product with rows of the exact matrix; collective."""
    start = time.perf_counter()
    found = system.operator @ system.right_hand_side
    seconds = time.perf_counter() - start
    error = exact_residual(given, found)
    result = ProductResult(
        vectors=given.of,
        n_columns=1 if found.ndim == 1 else found.shape[1],
        product_norm=given.norm(found),
        relative_error=error,
        seconds=seconds,
    )
    line = f"product with {given.of} in {seconds:.2g} s, off by {error:.1e} in exact rows"
    return Answer(result, (line,), rows={"product": found.numpy()})


ANSWERS: dict[str, Callable[[Solved], Answer]] = {
    "kriging": _kriging,
    "classification": _classification,
    "capacitance": _capacitance,
    "solve": _system,
    "logdet": _logdet,
    "sample": _sample,
}

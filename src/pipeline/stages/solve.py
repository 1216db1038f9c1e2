"""Stage `solve`: factorize, solve on all processes, and answer the matrix's question."""

import math
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.store import Artifact, create
from pipeline.errors import PipelineError
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.boundary_elements import capacitance
from pipeline.hmatrix.distributed import Divisible, distributed_solve
from pipeline.hmatrix.gaussian_process import one_hot, predict, predict_labels, root_mean_square_error
from pipeline.runtime.clock import Stopwatch
from pipeline.runtime.communicator import Serial
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.provenance import provenance
from pipeline.stages.compress import single_layer_of, standardized
from pipeline.stages.shared import read_spec

MAP_DEGREES = 2.0


@dataclass(frozen=True)
class Problem:
    """A system of equations, and what its solution is judged by.

    Attributes:
        operator: What is solved with, to the study's tolerance.
        preconditioner: The H2 matrix that is factorized.
        right_hand_side: Shape (n,) or (n, m).
    """

    operator: Divisible
    preconditioner: H2Matrix
    right_hand_side: Tensor


@dataclass(frozen=True)
class Answer:
    """What a solution says: numbers for the report, and arrays with their units for its figures."""

    result: dict[str, Any]
    arrays: dict[str, tuple[NDArray[Any], str]]


def run(options: Namespace) -> None:
    """Solve on all processes that started together; the first one writes the answer."""
    name = options.output.parent.name
    try:
        _solve(options, name)
    except PipelineError as error:
        raise type(error)(f"matrices.{name}: {error}") from error


def _solve(options: Namespace, name: str) -> None:
    communicator = MpiCommunicator()
    spec = read_spec(options.spec)
    points = Artifact.open(options.points, "points")
    compressed = Artifact.open(options.operator, "operator")
    problem = problem_of(spec["task"], points, compressed)
    accuracy = {"tolerance": spec["solve"]["tolerance"], "max_iterations": spec["solve"]["max_iterations"]}
    watch = Stopwatch()
    with watch.part("factorize"):
        factorization = problem.preconditioner.factorize(
            spec["factor"]["tolerance"], kind=spec["factor"]["kind"]
        )
    right_hand_side = problem.right_hand_side
    with watch.part("solve"):
        solution, info = distributed_solve(
            problem.operator, factorization, right_hand_side, communicator, **accuracy
        )
    if communicator.rank != 0:
        return
    difference = 0.0
    if communicator.size > 1:
        alone, _ = distributed_solve(problem.operator, factorization, right_hand_side, Serial(), **accuracy)
        difference = float((solution - alone).norm() / alone.norm())
    with watch.part("answer"):
        logdet = factorization.logdet() if factorization.kind == "cholesky" else None
        answer = ANSWERS[spec["task"]](points, compressed, solution, logdet)
    with create(options.output, kind="solution", spec=spec, provenance=provenance(options.code)) as draft:
        draft.save_array("solution", solution.numpy())
        draft.save_table("residuals", [{"iteration": i, "residual": r} for i, r in enumerate(info.residuals)])
        for array, (values, unit) in answer.arrays.items():
            draft.save_array(array, values, unit=unit)
        draft.facts |= {
            "result": answer.result,
            "solve": {
                "factorize_seconds": watch.seconds["factorize"],
                "factor_bytes": factorization.n_bytes,
                "factor_tolerance": factorization.used_tolerance,
                "factor_kind": factorization.kind,
                "solve_seconds": watch.seconds["solve"],
                "iterations": info.iterations,
                "relative_residual": info.residuals[-1],
                "logdet": logdet,
                "processes": communicator.size,
                "difference_to_one_process": difference,
                "notes": list(factorization.notes),
            },
        }
    for note in factorization.notes:
        print(f"solve {name}: {note}")
    print(
        f"solve {name}: factorized in {watch.seconds['factorize']:.1f} s, {info.iterations} iterations on "
        f"{communicator.size} processes, residual {info.residuals[-1]:.1e}"
    )
    print(f"solve {name}: " + ", ".join(f"{key} {value}" for key, value in answer.result.items()))


def problem_of(task: str, points: Artifact, compressed: Artifact) -> Problem:
    """Set up the equations of a task."""
    operator = H2Matrix.load(compressed.folder / "operator")
    if task == "capacitance":
        layer = single_layer_of(points)
        centers = H2Matrix.load(compressed.folder / "preconditioner")
        return Problem(layer.operator(operator), centers, torch.ones_like(layer.mesh.areas))
    if task == "kriging":
        return Problem(operator, operator, standardized(points)[0])
    labels = torch.from_numpy(np.array(points.array("labels")))
    return Problem(operator, operator, one_hot(labels, int(labels.max()) + 1))


def _kriging(points: Artifact, compressed: Artifact, weights: Tensor, logdet: float | None) -> Answer:
    """Predict the held-out values and a map, and judge by the mean predictor."""
    kernel = kernels.from_dict(compressed.facts["kernel_parameters"])
    rows = torch.from_numpy(np.array(points.array("points")))
    values, mean, deviation = standardized(points)
    observed = torch.from_numpy(np.array(points.array("held_out_values"))).double()
    places = torch.from_numpy(np.array(points.array("held_out_points")))
    predicted = predict(kernel, rows, weights, places) * deviation + mean
    longitude = np.arange(-180.0, 180.0, MAP_DEGREES) + MAP_DEGREES / 2
    latitude = np.arange(-90.0, 90.0, MAP_DEGREES) + MAP_DEGREES / 2
    world = torch.from_numpy(_unit_vectors(latitude, longitude))
    field = predict(kernel, rows, weights, world) * deviation + mean
    likelihood = None
    if logdet is not None:
        n = len(values)
        quadratic = float(values @ weights)
        likelihood = -0.5 * (quadratic + logdet + n * math.log(2 * math.pi)) - n * math.log(deviation)
    unit = points.facts["unit"]
    return Answer(
        result={
            "rmse": root_mean_square_error(predicted, observed),
            "rmse_mean_predictor": root_mean_square_error(torch.full_like(observed, mean), observed),
            "unit": unit,
            "n_held_out": len(observed),
            "log_likelihood": likelihood,
        },
        arrays={
            "longitude": (np.array(points.array("held_out_longitude")), "degrees"),
            "latitude": (np.array(points.array("held_out_latitude")), "degrees"),
            "values": (observed.numpy(), unit),
            "predicted": (predicted.numpy(), unit),
            "grid_longitude": (longitude, "degrees"),
            "grid_latitude": (latitude, "degrees"),
            "grid": (field.numpy().reshape(len(latitude), len(longitude)), unit),
        },
    )


def _unit_vectors(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the unit sphere at all pairs of a latitude and a longitude, in degrees, shape (h g, 3)."""
    phi, lam = (
        part.ravel() for part in np.meshgrid(np.radians(latitude), np.radians(longitude), indexing="ij")
    )
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)


def _classification(points: Artifact, compressed: Artifact, weights: Tensor, logdet: float | None) -> Answer:
    """Predict the test labels, and judge by the network's own soft-max head."""
    kernel = kernels.from_dict(compressed.facts["kernel_parameters"])
    rows, tests = (torch.from_numpy(np.array(points.array(name))) for name in ("points", "held_out_points"))
    labels = torch.from_numpy(np.array(points.array("held_out_labels")))
    predicted = predict_labels(kernel, rows, weights, tests)
    return Answer(
        result={
            "accuracy": float((predicted == labels).double().mean()),
            "softmax_accuracy": points.facts["softmax_accuracy"],
            "n_test": len(labels),
        },
        arrays={"predicted_labels": (predicted.numpy(), "class")},
    )


def _capacitance(points: Artifact, compressed: Artifact, charges: Tensor, logdet: float | None) -> Answer:
    """Sum the charges of the conductor at unit potential, and compare with the known value."""
    value, reference = capacitance(charges), points.facts["reference"]
    return Answer(
        result={
            "capacitance": value,
            "reference": reference,
            "relative_error": abs(value - reference) / reference,
            "unit": "4π ε₀",
        },
        arrays={},
    )


ANSWERS = {"kriging": _kriging, "classification": _classification, "capacitance": _capacitance}

"""Kriging: the answer of a solved covariance matrix, with its uncertainty."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import KrigingResult
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Fit, Predict, require_fittable
from pipeline.data.fields import Field
from pipeline.data.globe import unit_vectors
from pipeline.hmatrix import FitWarning, GaussianProcess
from pipeline.hmatrix.gaussian_process import coverage, root_mean_square_error, variogram
from pipeline.hmatrix.kernels import Kernel
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.stages.parts.divided import collected, edges_of, mean_and_deviation, own_rows, own_share
from pipeline.stages.parts.predictions import AskedPlaces, corners_of, map_of, places_of

STEPS = 30  # of a fit, where a study does not say
MAP_DEGREES = 2.0
MOST_MAP_CELLS = 720  # along a side of a map that the page shows
LEVELS = tuple(level / 100 for level in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99))

Arrays = dict[str, tuple[NDArray[Any], str]]


def fitted(
    points: Artifact,
    kernel: Kernel,
    tolerance: float,
    smallest_nugget: float,
    asked: Fit,
    communicator: Communicator,
) -> GaussianProcess:
    """Return a Gaussian process fitted to the training values, standardized, or to as many as are asked for.

    All processes fit together, and get the same parameters. Its notes say where a parameter ended at a bound, or where
    the values say nothing of it.
    """
    places, values = own_rows(points, "points", communicator), _standardized(points, 0, communicator)[0]
    n, most = len(points.array("points")), asked.subsample
    if most is not None and most < n:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(asked.seed))[:most].numpy()
        first, last = edges_of(n, communicator)[communicator.rank :][:2]
        own = chosen[(chosen >= first) & (chosen < last)] - first
        places, values = places[own], values[own]
    require_fittable(n if most is None else min(most, n))
    # Standardized values have a variance of 1: the bound is the least ratio of noise to signal, or nearly so.
    process = GaussianProcess(
        kernel, tolerance=tolerance, bounds={"nugget": (smallest_nugget, 10.0)},
        max_iterations=asked.max_iterations or STEPS, random_state=asked.seed, communicator=communicator,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # its text is kept in `notes_`
        return process.fit(places, values)


@dataclass(frozen=True)
class KrigingAnswer:
    """What kriging says.

    Attributes:
        result: Numbers for the report.
        arrays: Arrays with units for its figures: `std` is that of observations, noise included, `grid_std` that of the
            field; `coverage_level` and `coverage_found` are the probabilities of central intervals and how many
            held-out values they hold; the variograms are of the values and of their residuals when each is left out,
            both standardized.
        field: Mean and standard deviation of every value at the places that the study asks for.
    """

    result: KrigingResult
    arrays: Arrays
    field: Field | None


def answer(
    points: Artifact,
    kernel: Kernel,
    nugget: float,
    tolerance: float,
    predict: Predict | None,
    communicator: Communicator,
) -> KrigingAnswer | None:
    """Predict the held-out values, a map and what a study asks for, all with standard deviations, and judge them.

    Values, matrices and predictions are divided among the processes. KrigingAnswer come together on process 0, which
    alone returns them; so do points and values, for their variogram.
    """
    facts = points.facts_as(PointsFacts)
    with together(communicator):
        places = own_rows(points, "points", communicator).astype(np.float64)
    corners = _corners(facts, places, communicator)
    with together(communicator):
        asked = None if predict is None else places_of(predict, facts, corners)
    names, units = facts.quantities or (facts.quantity or "values",), facts.units or (facts.unit or "",)
    results, arrays, quantities = [], Arrays(), dict[str, NDArray[np.float64]]()
    for column, (name, unit) in enumerate(zip(names, units, strict=True)):
        values, mean, deviation = _standardized(points, column, communicator)
        process = GaussianProcess(
            kernel, nugget=nugget, tolerance=tolerance, optimizer=None, communicator=communicator
        ).fit(places, values)
        judged = _judged(points, process, column, name, unit, communicator)
        if asked is not None:
            field, std = _predicted(process, asked.points, communicator)
            quantities |= {name: field * deviation + mean, f"{name}_std": std * deviation}
        known = (asked, quantities[name], quantities[f"{name}_std"]) if asked and asked.is_map else None
        drawn = _map(points, process, facts, corners, known, communicator) if column == 0 else {}
        if judged is not None:
            results.append(judged[0])
            arrays |= judged[1] | drawn if column == 0 else {}
    if communicator.rank:
        return None
    first = results[0].model_copy(update={"others": results[1:]})
    if asked is None or predict is None:
        return KrigingAnswer(first, arrays, None)
    told = {name: unit for value, unit in zip(names, units, strict=True) for name in (value, f"{value}_std")}
    written = replace(asked.field, quantities=quantities, units={**asked.field.units, **told})
    first = first.model_copy(update={"predictions": predict.file_name, "n_predicted": len(asked.points)})
    return KrigingAnswer(first, arrays, written)


def _corners(facts: PointsFacts, own: NDArray[np.float64], communicator: Communicator) -> NDArray[np.float64]:
    """Return what `corners_of` says of the points of all processes; collective."""
    found = corners_of(facts, own) if len(own) else np.zeros((0, len(facts.coordinates) or own.shape[1]))
    ends = torch.cat(communicator.all_gather(torch.from_numpy(found))).numpy()
    return np.stack([ends[::2].min(axis=0), ends[1::2].max(axis=0)])


def _standardized(
    points: Artifact, column: int, communicator: Communicator
) -> tuple[NDArray[np.float64], float, float]:
    """Return own training values, with the mean 0 and the variance 1 of all, and the mean and deviation taken off."""
    values = _own_column(points, "values", column, communicator)
    mean, deviation = mean_and_deviation(torch.from_numpy(values), communicator)
    return (values - mean) / (deviation or 1.0), mean, deviation or 1.0


def _own_column(points: Artifact, name: str, column: int, communicator: Communicator) -> NDArray[np.float64]:
    """Return own rows of one of several values, or of the only one, shape (own,)."""
    found = own_rows(points, name, communicator).astype(np.float64)
    return np.ascontiguousarray(found if found.ndim == 1 else found[:, column])


def _predicted(
    process: GaussianProcess, places: NDArray[np.float64], communicator: Communicator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation at places that all processes have; on process 0 alone, collective."""
    mean, std = process.predict(own_share(places, communicator), return_std=True)
    return collected(mean, communicator), collected(std, communicator)


def _judged(
    points: Artifact,
    process: GaussianProcess,
    column: int,
    quantity: str,
    unit: str,
    communicator: Communicator,
) -> tuple[KrigingResult, Arrays] | None:
    """Predict the held-out values, and compare; on process 0 alone, collective."""
    values, mean, deviation = _standardized(points, column, communicator)
    observed = _own_column(points, "held_out_values", column, communicator)
    held_out = own_rows(points, "held_out_points", communicator).astype(np.float64)
    scores = process.scores(held_out, (observed - mean) / deviation)
    predicted, std = process.predict(held_out, return_std=True, include_noise=True)
    left_out, left_out_std = process.leave_one_out()
    places = own_rows(points, "points", communicator).astype(np.float64)
    own = np.column_stack([places, values, left_out, (values - left_out) / left_out_std])
    told = np.column_stack([observed, predicted * deviation + mean, std * deviation])
    everybodys, told = collected(own, communicator), collected(told, communicator)
    if communicator.rank:
        return None
    observed, predicted, std = np.ascontiguousarray(told.T)
    values, left_out = np.ascontiguousarray(everybodys[:, -3:-1].T)
    found = variogram(everybodys[:, :-3], everybodys[:, [-3, -1]])
    inside = coverage(observed, predicted, std, LEVELS)
    places_unit = points.manifest["arrays"]["points"].get("unit") or ""
    result = KrigingResult(
        rmse=root_mean_square_error(predicted, observed),
        rmse_mean_predictor=root_mean_square_error(np.full_like(observed, mean), observed),
        mae=scores["mae"] * deviation,
        crps=scores["crps"] * deviation,
        log_score=scores["log_score"] + float(np.log(deviation)),
        coverage_95=scores["coverage_95"],
        rmse_left_out=root_mean_square_error(left_out, values) * deviation,
        std_relative_error=process.std_error_,
        unit=unit,
        quantity=quantity,
        n_held_out=len(observed),
        deviation=deviation,
        log_likelihood=process.log_likelihood_ - len(values) * float(np.log(deviation)),
    )
    return result, {
        "values": (observed, unit),
        "predicted": (predicted, unit),
        "std": (std, unit),
        "coverage_level": (np.array(list(inside)), "1"),
        "coverage_found": (np.array(list(inside.values())), "1"),
        "variogram_distance": (found.distance, places_unit),
        "variogram_values": (found.semivariance[:, 0], "1"),
        "variogram_residuals": (found.semivariance[:, 1], "1"),
    }


def _map(
    points: Artifact,
    process: GaussianProcess,
    facts: PointsFacts,
    corners: NDArray[np.float64],
    known: tuple[AskedPlaces, NDArray[np.float64], NDArray[np.float64]] | None,
    communicator: Communicator,
) -> Arrays:
    """The field on the grid of a map, and where the held-out values are; nothing but in two dimensions.

    `known` is a grid that a study asks for, with mean and standard deviation there, which are not predicted again.
    On process 0 alone, collective.
    """
    on_globe = points.has("held_out_longitude")
    # A data set on the globe covers it; a file may hold a part of it.
    in_a_box = facts.name == "file" or not on_globe
    if not on_globe and facts.dimension != 2:
        return {}
    if in_a_box and known is not None:
        lines, shown = known[0].lines(MOST_MAP_CELLS)
        field, std = (part[shown] for part in known[1:]) if communicator.rank == 0 else known[1:]
    else:
        if in_a_box:
            places = map_of(facts, corners)
            lines, shown = places.lines(MOST_MAP_CELLS)
            where = places.points[shown]
        else:
            lines = [np.arange(-end, end, MAP_DEGREES) + MAP_DEGREES / 2 for end in (180.0, 90.0)]
            where = unit_vectors(*(part.ravel() for part in np.meshgrid(lines[1], lines[0], indexing="ij")))
        _, mean, deviation = _standardized(points, 0, communicator)
        field, std = _predicted(process, where, communicator)
        field, std = field * deviation + mean, std * deviation
    if communicator.rank:
        return {}
    shape, unit = (len(lines[1]), len(lines[0])), facts.unit or ""
    names = ("longitude", "latitude") if on_globe else ("x", "y")
    units = "degrees" if on_globe else points.manifest["arrays"]["points"].get("unit") or ""
    held_out = (
        [np.array(points.array(f"held_out_{name}")) for name in names]
        if on_globe
        else list(np.array(points.array("held_out_points")).T)
    )
    arrays: Arrays = {
        "grid": (field.reshape(shape), unit),
        "grid_std": (std.reshape(shape), unit),
    }
    for name, line, own in zip(names, lines, held_out, strict=True):
        arrays |= {name: (np.ascontiguousarray(own), units), f"grid_{name}": (line, units)}
    return arrays

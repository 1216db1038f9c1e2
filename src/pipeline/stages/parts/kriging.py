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
from pipeline.config.matrices import Predict
from pipeline.data.fields import Field
from pipeline.data.globe import unit_vectors
from pipeline.hmatrix import FitWarning, GaussianProcess
from pipeline.hmatrix.gaussian_process import coverage, root_mean_square_error, variogram
from pipeline.hmatrix.kernels import Kernel
from pipeline.stages.parts.matrices import column_of, standardized
from pipeline.stages.parts.predictions import Places, corners_of, map_of, places_of
from pipeline.stages.parts.tensors import tensor

MAP_DEGREES = 2.0
MOST_MAP_CELLS = 720  # along a side of a map that the page shows
LEVELS = tuple(level / 100 for level in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99))

Arrays = dict[str, tuple[NDArray[Any], str]]


def fitted(
    points: Artifact, kernel: Kernel, tolerance: float, smallest_nugget: float, seed: int, most: int | None
) -> GaussianProcess:
    """Return a Gaussian process fitted to the training values, standardized, or to `most` of them drawn by `seed`.

    Its notes say where a parameter ended at a bound, or where the values say nothing of it.
    """
    places, values = tensor(points, "points").double(), standardized(points)[0]
    if most is not None and most < len(places):
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:most]
        places, values = places[chosen], values[chosen]
    # Standardized values have a variance of 1: the bound is the least ratio of noise to signal, or nearly so.
    process = GaussianProcess(
        kernel, tolerance=tolerance, bounds={"nugget": (smallest_nugget, 10.0)}, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # its text is kept in `notes_`
        return process.fit(places, values)


@dataclass(frozen=True)
class Predictions:
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
    points: Artifact, kernel: Kernel, nugget: float, tolerance: float, predict: Predict | None = None
) -> Predictions:
    """Predict the held-out values, a map and what a study asks for, all with standard deviations, and judge them."""
    facts = points.facts_as(PointsFacts)
    corners = corners_of(facts, tensor(points, "points").double().numpy())
    asked = None if predict is None else places_of(predict, facts, corners)
    names, units = facts.quantities or (facts.quantity or "values",), facts.units or (facts.unit or "",)
    results, arrays, quantities = [], Arrays(), dict[str, NDArray[np.float64]]()
    for column, (name, unit) in enumerate(zip(names, units, strict=True)):
        values, mean, deviation = standardized(points, column)
        places = tensor(points, "points").double()
        process = GaussianProcess(kernel, nugget=nugget, tolerance=tolerance, optimizer=None).fit(
            places, values
        )
        result, found = _judged(points, process, column, name, unit)
        if asked is not None:
            field, std = process.predict(asked.points, return_std=True)
            quantities |= {name: field * deviation + mean, f"{name}_std": std * deviation}
        if column == 0:
            arrays = found | _map(points, process, facts, corners, asked)
        results.append(result)
    first = results[0].model_copy(update={"others": results[1:]})
    if asked is None or predict is None:
        return Predictions(first, arrays, None)
    told = {name: unit for value, unit in zip(names, units, strict=True) for name in (value, f"{value}_std")}
    written = replace(asked.field, quantities=quantities, units={**asked.field.units, **told})
    first = first.model_copy(update={"predictions": predict.file_name, "n_predicted": len(asked.points)})
    return Predictions(first, arrays, written)


def _judged(
    points: Artifact, process: GaussianProcess, column: int, quantity: str, unit: str
) -> tuple[KrigingResult, Arrays]:
    """Predict the held-out values, and compare."""
    values, mean, deviation = standardized(points, column)
    observed = column_of(points, "held_out_values", column).numpy()
    held_out = tensor(points, "held_out_points").double().numpy()
    scores = process.scores(held_out, (observed - mean) / deviation)
    predicted, std = process.predict(held_out, return_std=True, include_noise=True)
    predicted, std = predicted * deviation + mean, std * deviation
    left_out, left_out_std = process.leave_one_out()
    residuals = (values.numpy() - left_out) / left_out_std
    places = tensor(points, "points").double()
    found = variogram(places, np.stack([values.numpy(), residuals], axis=1))
    inside = coverage(observed, predicted, std, LEVELS)
    places_unit = points.manifest["arrays"]["points"].get("unit") or ""
    result = KrigingResult(
        rmse=root_mean_square_error(predicted, observed),
        rmse_mean_predictor=root_mean_square_error(np.full_like(observed, mean), observed),
        mae=scores["mae"] * deviation,
        crps=scores["crps"] * deviation,
        log_score=scores["log_score"] + float(np.log(deviation)),
        coverage_95=scores["coverage_95"],
        rmse_left_out=root_mean_square_error(left_out, values.numpy()) * deviation,
        std_relative_error=process.std_error_,
        unit=unit,
        quantity=quantity,
        n_held_out=len(observed),
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
    asked: Places | None,
) -> Arrays:
    """The field on the grid of a map, and where the held-out values are; nothing but in two dimensions."""
    on_globe = points.has("held_out_longitude")
    if not on_globe and facts.dimension != 2:
        return {}
    if facts.name != "file":
        lines = [np.arange(-end, end, MAP_DEGREES) + MAP_DEGREES / 2 for end in (180.0, 90.0)]
        turned = [part.ravel() for part in np.meshgrid(lines[1], lines[0], indexing="ij")]
        where = unit_vectors(*turned)
    else:
        places = asked if asked is not None and asked.is_map else map_of(facts, corners)
        lines, where = places.lines(MOST_MAP_CELLS)
    _, mean, deviation = standardized(points)
    field, std = process.predict(where, return_std=True)
    shape, unit = (len(lines[1]), len(lines[0])), facts.unit or ""
    names = ("longitude", "latitude") if on_globe else ("x", "y")
    units = "degrees" if on_globe else points.manifest["arrays"]["points"].get("unit") or ""
    held_out = (
        [np.array(points.array(f"held_out_{name}")) for name in names]
        if on_globe
        else list(np.array(points.array("held_out_points")).T)
    )
    arrays: Arrays = {
        "grid": ((field * deviation + mean).reshape(shape), unit),
        "grid_std": ((std * deviation).reshape(shape), unit),
    }
    for name, line, own in zip(names, lines, held_out, strict=True):
        arrays |= {name: (np.ascontiguousarray(own), units), f"grid_{name}": (line, units)}
    return arrays

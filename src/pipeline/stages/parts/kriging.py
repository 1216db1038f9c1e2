"""Kriging: the answer of a solved covariance matrix, with its uncertainty."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import KrigingResult
from pipeline.artifacts.store import Artifact
from pipeline.data.globe import unit_vectors
from pipeline.hmatrix import FitWarning, GaussianProcess
from pipeline.hmatrix.gaussian_process import coverage, root_mean_square_error, variogram
from pipeline.hmatrix.kernels import Kernel
from pipeline.stages.parts.matrices import standardized
from pipeline.stages.parts.tensors import tensor

MAP_DEGREES = 2.0
MAP_CELLS = 180  # along the longer side of a map of a part of the globe
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


def answer(points: Artifact, kernel: Kernel, nugget: float, tolerance: float) -> tuple[KrigingResult, Arrays]:
    """Predict the held-out values and a map, both with standard deviations, and judge them.

    Returns:
        Numbers for the report, and arrays with units for its figures: `std` is that of observations, noise included,
        `grid_std` that of the field; `coverage_level` and `coverage_found` are the probabilities of central intervals
        and how many held-out values they hold; the variograms are of the values and of their residuals when each is
        left out, both standardized.
    """
    values, mean, deviation = standardized(points)
    places = tensor(points, "points").double()
    process = GaussianProcess(kernel, nugget=nugget, tolerance=tolerance, optimizer=None).fit(places, values)
    observed = tensor(points, "held_out_values").double().numpy()
    held_out = tensor(points, "held_out_points").double().numpy()
    scores = process.scores(held_out, (observed - mean) / deviation)
    predicted, std = process.predict(held_out, return_std=True, include_noise=True)
    predicted, std = predicted * deviation + mean, std * deviation
    left_out, left_out_std = process.leave_one_out()
    residuals = (values.numpy() - left_out) / left_out_std
    found = variogram(places, np.stack([values.numpy(), residuals], axis=1))
    inside = coverage(observed, predicted, std, LEVELS)
    facts = points.facts_as(PointsFacts)
    unit, places_unit = facts.unit or "", points.manifest["arrays"]["points"].get("unit") or ""
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
        quantity=facts.quantity or "values",
        n_held_out=len(observed),
        log_likelihood=process.log_likelihood_ - len(values) * float(np.log(deviation)),
    )
    arrays: Arrays = {
        "values": (observed, unit),
        "predicted": (predicted, unit),
        "std": (std, unit),
        "coverage_level": (np.array(list(inside)), "1"),
        "coverage_found": (np.array(list(inside.values())), "1"),
        "variogram_distance": (found.distance, places_unit),
        "variogram_values": (found.semivariance[:, 0], "1"),
        "variogram_residuals": (found.semivariance[:, 1], "1"),
    }
    if not points.has("held_out_longitude"):
        return result, arrays
    longitude, latitude = _grid(places, whole=facts.name != "file")
    grid = [part.ravel() for part in np.meshgrid(latitude, longitude, indexing="ij")]
    world, world_std = process.predict(unit_vectors(*grid), return_std=True)
    shape = len(latitude), len(longitude)
    return result, arrays | {
        "longitude": (tensor(points, "held_out_longitude").numpy(), "degrees"),
        "latitude": (tensor(points, "held_out_latitude").numpy(), "degrees"),
        "grid_longitude": (longitude, "degrees"),
        "grid_latitude": (latitude, "degrees"),
        "grid": ((world * deviation + mean).reshape(shape), unit),
        "grid_std": ((world_std * deviation).reshape(shape), unit),
    }


def _grid(places: Tensor, *, whole: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes and latitudes of a map: of the whole globe, or of the box around places on it."""
    if whole:
        longitude = np.arange(-180.0, 180.0, MAP_DEGREES) + MAP_DEGREES / 2
        return longitude, np.arange(-90.0, 90.0, MAP_DEGREES) + MAP_DEGREES / 2
    x, y, z = places.numpy().T
    sides = [np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(np.clip(z, -1.0, 1.0)))]
    step = max(max(float(np.ptp(side)) for side in sides), 1e-6) / MAP_CELLS
    grid = [np.arange(side.min() - step, side.max() + 2 * step, step) for side in sides]
    return grid[0], np.clip(grid[1], -90.0, 90.0)

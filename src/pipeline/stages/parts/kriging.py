"""Kriging: the answer of a solved covariance matrix, with its uncertainty."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.results.solution import KrigingResult
from pipeline.artifacts.store import Artifact
from pipeline.config.matrices import Fit, Predict, require_fittable
from pipeline.data.globe import unit_vectors
from pipeline.hmatrix import FitWarning, GaussianProcess
from pipeline.hmatrix.gaussian_process import coverage, root_mean_square_error, variogram
from pipeline.hmatrix.kernels import Kernel
from pipeline.runtime.communicator import Communicator
from pipeline.runtime.together import together
from pipeline.stages.parts.divided import collected, mean_and_deviation, own_range, own_rows, own_share
from pipeline.stages.parts.predictions import AskedPlaces, corners_of, map_of, places_of
from pipeline.stages.parts.solved import Answer, Arrays

STEPS = 30  # of a fit, unless a study says otherwise
MAP_DEGREES = 2.0
MOST_MAP_CELLS = 720  # along a side of a map that the page shows
LEVELS = tuple(level / 100 for level in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99))


def fitted(
    points: Artifact,
    kernel: Kernel,
    tolerance: float,
    smallest_nugget: float,
    asked: Fit,
    communicator: Communicator,
) -> GaussianProcess:
    """Return a Gaussian process fitted to the standardized training values, or to as many of them as the study asks.

    All processes fit together, and get the same parameters. The notes of the process say which parameters ended at a
    bound, and which ones the values tell nothing about.
    """
    places, values = own_rows(points, "points", communicator), _standardized(points, 0, communicator)[0]
    n, most = len(points.array("points")), asked.subsample
    if most is not None and most < n:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(asked.seed))[:most].numpy()
        first, last = own_range(n, communicator)
        own = chosen[(chosen >= first) & (chosen < last)] - first
        places, values = places[own], values[own]
    require_fittable(n if most is None else min(most, n))
    # Standardized values have a variance of 1: the bound is nearly the least ratio of noise to signal.
    process = GaussianProcess(
        kernel, tolerance=tolerance, bounds={"nugget": (smallest_nugget, 10.0)},
        max_iterations=asked.max_iterations or STEPS, random_state=asked.seed, communicator=communicator,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # its text is kept in `notes_`
        return process.fit(places, values)


def answer(
    points: Artifact,
    kernel: Kernel,
    nugget: float,
    tolerance: float,
    predict: Predict | None,
    communicator: Communicator,
) -> Answer:
    """Predict the held-out values, a map and the places that a study names, all with standard deviations; score them.

    Values, matrices and predictions are divided among the processes. The answer is put together on process 0, and so
    are points and values, for their variogram. Among its arrays, `std` is the standard deviation of observations, noise
    included, and `grid_std` that of the field. `coverage_level` and `coverage_found` are the probabilities of central
    intervals and the shares of held-out values in them. The variograms are those of the values and of their
    leave-one-out residuals, both standardized.
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
        quantity = _Quantity(
            points, process, places, values, mean, deviation, column, name, unit, communicator
        )
        result, judged = quantity.judged()
        known = None
        if asked is not None:
            known = quantity.predicted(asked.points)
            quantities |= {name: known[0], f"{name}_std": known[1]}
        if column == 0:
            arrays = judged | quantity.map(facts, corners, asked, known)
        results += [result] if result else []
    if communicator.rank:
        return Answer()
    found = results[0].model_copy(update={"others": results[1:]})
    files: dict[str, Callable[[Path], None]] = {}
    if asked is not None and predict is not None:
        told = {name: unit for one, unit in zip(names, units, strict=True) for name in (one, f"{one}_std")}
        written = replace(asked.field, quantities=quantities, units={**asked.field.units, **told})
        files = {predict.file_name: written.write}
        found = found.model_copy(update={"predictions": predict.file_name, "n_predicted": len(asked.points)})
    error = f"{found.rmse:.4g} {found.unit}".rstrip()  # the unit may be empty
    line = (
        f"{found.quantity} of {found.n_held_out} held-out places to {error} RMSE, "
        f"mean predictor {found.rmse_mean_predictor:.4g}; {found.coverage_95:.1%} lie in 95 % intervals"
    )
    return Answer(found, (line,), arrays=arrays, files=files)


def _corners(facts: PointsFacts, own: NDArray[np.float64], communicator: Communicator) -> NDArray[np.float64]:
    """Return `corners_of` for the points of all processes; collective."""
    found = corners_of(facts, own) if len(own) else np.zeros((0, len(facts.coordinates) or own.shape[1]))
    ends = torch.cat(communicator.all_gather(torch.from_numpy(found))).numpy()
    return np.stack([ends[::2].min(axis=0), ends[1::2].max(axis=0)])


def _standardized(
    points: Artifact, column: int, communicator: Communicator
) -> tuple[NDArray[np.float64], float, float]:
    """Return own training values, standardized by the mean and deviation of all, and this mean and deviation."""
    values = _own_column(points, "values", column, communicator)
    mean, deviation = mean_and_deviation(torch.from_numpy(values), communicator)
    return (values - mean) / (deviation or 1.0), mean, deviation or 1.0


def _own_column(points: Artifact, name: str, column: int, communicator: Communicator) -> NDArray[np.float64]:
    """Return own rows of one of several columns of values, or of the only one, shape (own,)."""
    found = own_rows(points, name, communicator).astype(np.float64)
    return np.ascontiguousarray(found if found.ndim == 1 else found[:, column])


@dataclass(frozen=True)
class _Quantity:
    """One quantity at the points: own rows, standardized by the mean and deviation of all, and its Gaussian process."""

    points: Artifact
    process: GaussianProcess
    places: NDArray[np.float64]
    values: NDArray[np.float64]
    mean: float
    deviation: float
    column: int
    name: str
    unit: str
    communicator: Communicator

    def predicted(self, places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation at places known to all processes; on process 0 alone, collective."""
        mean, std = self.process.predict(own_share(places, self.communicator), return_std=True)
        return (
            collected(mean, self.communicator) * self.deviation + self.mean,
            collected(std, self.communicator) * self.deviation,
        )

    def judged(self) -> tuple[KrigingResult | None, Arrays]:
        """Predict the held-out values and score them; on process 0 alone, collective."""
        mean, deviation = self.mean, self.deviation
        observed = _own_column(self.points, "held_out_values", self.column, self.communicator)
        held_out = own_rows(self.points, "held_out_points", self.communicator).astype(np.float64)
        scores = self.process.scores(held_out, (observed - mean) / deviation)
        predicted, std = self.process.predict(held_out, return_std=True, include_noise=True)
        left_out, left_out_std = self.process.leave_one_out()
        own = np.column_stack([self.places, self.values, left_out, (self.values - left_out) / left_out_std])
        told = np.column_stack([observed, predicted * deviation + mean, std * deviation])
        everybodys, told = collected(own, self.communicator), collected(told, self.communicator)
        if self.communicator.rank:
            return None, {}
        observed, predicted, std = np.ascontiguousarray(told.T)
        values, left_out = np.ascontiguousarray(everybodys[:, -3:-1].T)
        found = variogram(everybodys[:, :-3], everybodys[:, [-3, -1]])
        inside = coverage(observed, predicted, std, LEVELS)
        places_unit = self.points.manifest["arrays"]["points"].get("unit") or ""
        result = KrigingResult(
            rmse=root_mean_square_error(predicted, observed),
            rmse_mean_predictor=root_mean_square_error(np.full_like(observed, mean), observed),
            mae=scores["mae"] * deviation,
            crps=scores["crps"] * deviation,
            log_score=scores["log_score"] + float(np.log(deviation)),
            coverage_95=scores["coverage_95"],
            rmse_left_out=root_mean_square_error(left_out, values) * deviation,
            std_relative_error=self.process.std_error_,
            unit=self.unit,
            quantity=self.name,
            n_held_out=len(observed),
            deviation=deviation,
            log_likelihood=self.process.log_likelihood_ - len(values) * float(np.log(deviation)),
        )
        return result, {
            "values": (observed, self.unit),
            "predicted": (predicted, self.unit),
            "std": (std, self.unit),
            "coverage_level": (np.array(list(inside)), "1"),
            "coverage_found": (np.array(list(inside.values())), "1"),
            "variogram_distance": (found.distance, places_unit),
            "variogram_values": (found.semivariance[:, 0], "1"),
            "variogram_residuals": (found.semivariance[:, 1], "1"),
        }

    def map(
        self,
        facts: PointsFacts,
        corners: NDArray[np.float64],
        asked: AskedPlaces | None,
        known: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    ) -> Arrays:
        """The field on the grid of a map, and the places of held-out values; nothing unless there are two dimensions.

        Predictions in `known`, at the places that a study asks for, are used again where these places are a grid.
        On process 0 alone, collective.
        """
        on_globe = self.points.has("held_out_longitude")
        if not on_globe and facts.dimension != 2:
            return {}
        # A data set on the globe covers all of it, but a file may hold only a part.
        if on_globe and facts.name != "file":
            lines = [np.arange(-end, end, MAP_DEGREES) + MAP_DEGREES / 2 for end in (180.0, 90.0)]
            where = unit_vectors(*(part.ravel() for part in np.meshgrid(lines[1], lines[0], indexing="ij")))
            field, std = self.predicted(where)
        else:
            is_known = asked is not None and asked.is_map
            places = asked if asked is not None and is_known else map_of(facts, corners)
            lines, shown = places.lines(MOST_MAP_CELLS)
            if known is None or not is_known:
                field, std = self.predicted(places.points[shown])
            elif self.communicator.rank == 0:
                field, std = (part[shown] for part in known)
        if self.communicator.rank:
            return {}
        shape, unit = (len(lines[1]), len(lines[0])), facts.unit or ""
        names = ("longitude", "latitude") if on_globe else ("x", "y")
        units = "degrees" if on_globe else self.points.manifest["arrays"]["points"].get("unit") or ""
        held_out = (
            [np.array(self.points.array(f"held_out_{name}")) for name in names]
            if on_globe
            else list(np.array(self.points.array("held_out_points")).T)
        )
        arrays: Arrays = {"grid": (field.reshape(shape), unit), "grid_std": (std.reshape(shape), unit)}
        for name, line, own in zip(names, lines, held_out, strict=True):
            arrays |= {name: (np.ascontiguousarray(own), units), f"grid_{name}": (line, units)}
        return arrays

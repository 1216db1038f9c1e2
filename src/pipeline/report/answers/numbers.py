"""Fewer numbers: what hierarchical matrices save, and what they were for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts.results import solution
from pipeline.artifacts.results.operator import Compression
from pipeline.report import formatting as f
from pipeline.report.content import CoreAnswer
from pipeline.report.facts import doubt
from pipeline.report.figures.growth import exponents
from pipeline.report.metrics import MatrixMetrics, ScalingMetrics
from pipeline.report.quantity import Quantity
from pipeline.report.runs import at_chance

TITLE = "Fewer numbers"

#: Names of data sets that hold a user's own points. Their answer leads with the result that the user asked for.
OWN = ("file", "mesh")
MOST_BESIDE = 2  # other results that are told beside the first one
EARTH_RADIUS_KM = 6371.0


def answer_numbers(
    matrices: Mapping[str, MatrixMetrics], scaling: ScalingMetrics | None, n_classes: int = 0
) -> CoreAnswer | None:
    """Lead with the matrix that is compressed most (by approximation if any is), then say what it was for.

    With a user's own points or meshes, and where no memory was saved, the results lead.
    """
    findings = tuple(found for name, matrix in matrices.items() if (found := doubt(name, matrix)) is not None)
    if matrices:
        saving = {key: (not one.nothing_approximated, one.compression) for key, one in matrices.items()}
        name = max(saving, key=lambda key: saving[key])
        matrix, compress = matrices[name], matrices[name].compress
        n, n_rows = f.count(matrix.n), f.count(compress.n_rows)
        shape = f"{n} × {n}" if n == n_rows else f"{n} panels with {n_rows} quadrature points"
        text = (
            f"The {name} matrix, {shape}, takes {f.n_bytes(compress.n_bytes)} instead of "
            f"{f.n_bytes(compress.dense_bytes)}{_within(compress)}{_solved(matrix)}; "
            f"{told(name, matrix, n_classes).clause}{_others(name, matrices, n_classes)}."
        )
        headline, unit = _asked_for(name, matrices) or _saved(name, matrix)
        return CoreAnswer(TITLE, headline, unit, text, findings)
    storage = exponents(scaling.rows if scaling else []).get("operator_bytes")
    if storage is None:
        return None
    text = f"Storage grows as N to the power {storage.text}, the dense matrix as N^2."
    return CoreAnswer(TITLE, f"N^{f.decimal(storage.exponent, 2)}", "growth of storage", text)


def _asked_for(name: str, matrices: Mapping[str, MatrixMetrics]) -> tuple[str, str] | None:
    """Return the results of a user's own points, or of a matrix that saves no memory, with their words; memory is last.

    ``name`` is the matrix that is compressed most.
    """
    own = [key for key, matrix in matrices.items() if matrix.points in OWN]
    saves = matrices[name].compression >= 1
    found = [result for key in own or matrices if (result := told(key, matrices[key])).number]
    if (not own and saves) or not found:
        return None
    first, *others = found
    beside = [f"{other.words} {other.number}" for other in others[:MOST_BESIDE]]
    beside += [" ".join(_saved(name, matrices[name]))] if saves else []
    return first.number, "; ".join([first.words, *beside])


def _others(name: str, matrices: Mapping[str, MatrixMetrics], n_classes: int) -> str:
    """Return the clauses on the results of other matrices of a user's own points."""
    others = [(key, one) for key, one in matrices.items() if one.points in OWN and key != name and one.result]
    return "".join(f"; {told(*other, n_classes).clause}" for other in others[:MOST_BESIDE])


def _saved(name: str, matrix: MatrixMetrics) -> tuple[str, str]:
    """Return the memory of a matrix relative to a dense one, with its words."""
    exact = ", with nothing approximated" if matrix.nothing_approximated else ""
    if matrix.compression >= 1:
        return f.times(matrix.compression), f"less memory for {name}{exact}"
    return f.times(1 / matrix.compression), f"the memory of a dense matrix for {name}{exact}"


def _within(compress: Compression) -> str:
    """Return the clause on the error, with the tolerance that was asked for where the error misses it."""
    if not f.is_number(compress.relative_error):
        return ""
    missed = f", asked: {f.scientific(compress.tolerance, 1)}" if compress.missed else ""
    return f" (relative error {f.scientific(compress.relative_error)}{missed})"


def _solved(matrix: MatrixMetrics) -> str:
    """The clause on the direct solve, if there was one."""
    if matrix.solve is None:
        return ""
    spent = matrix.solve.factorize_seconds + matrix.solve.solve_seconds
    beside = " (beside other jobs)" if matrix.alone is False else ""
    done = "factorized and solved"
    if matrix.solve.factor_kind == "none":  # the layers of a wave take longer than their iterations
        done, spent = "assembled and solved", spent + matrix.solve.assemble_seconds
    return f" and is {done} in {f.seconds(spent)}{beside}"


@dataclass(frozen=True)
class ToldResult:
    """The result that a matrix was made for, in words.

    Attributes:
        sentence: All that is known of the result.
        number: The result's number for a headline; empty for systems, products and samples.
        words: The words that say what the number is.
        brief: One error of the prediction, where the sentence has several.
    """

    sentence: str
    number: str = ""
    words: str = ""
    brief: str = ""

    @property
    def clause(self) -> str:
        """The result in a sentence on several matrices."""
        return self.brief or f"{self.sentence[0].lower()}{self.sentence[1:].removesuffix('.')}"


def told(name: str, matrix: MatrixMetrics, n_classes: int = 0, study: str = "STUDY") -> ToldResult:
    """Put in words, with numbers, what a matrix was made for."""
    match matrix.result:
        case None:
            return ToldResult(f"The {name} matrix is compressed, and its task was not done.")
        case solution.KrigingResult() as result:
            quantity = Quantity.of(result)
            error = quantity.error(result.rmse)
            return ToldResult(
                _kriging_text(result, matrix.points, f"results/{study}/solve/{name}"),
                error,
                f"RMSE of the {quantity.name} at held-out points of {name}",
                f"kriging with {name} predicts the {quantity.name} of {f.count(result.n_held_out)} held-out points to "
                f"{error} RMSE",
            )
        case solution.CapacitanceResult() as result:
            return _capacitance(result, name, matrix.points)
        case solution.ScatteringResult() as result:
            section, lost = f.significant(result.cross_section, 4), f.percent(result.power_imbalance, 2)
            return ToldResult(
                f"A plane wave of wavenumber {f.setting(result.wavenumber)} is scattered by {name}, a sound-"
                f"{result.condition} surface with {f.significant(result.triangles_per_wavelength)} triangles per "
                f"wavelength. The scattering cross-section is {section} squared units of the mesh, |f| is "
                f"{f.significant(result.forward, 4)} forward and {f.significant(result.backward, 4)} backward. The "
                f"scattered power differs by {lost} from what the wave loses.",
                section,
                f"scattering cross-section of {name}, in squared units of the mesh",
                f"the scattering cross-section of {name} is {section} squared units of the mesh, and the scattered "
                f"power differs by {lost} from what the wave loses",
            )
        case solution.ClassificationResult() as result:
            chance = ", no better than chance" if at_chance(result.accuracy, n_classes) else ""
            head = f.percent(result.softmax_accuracy, 2)
            beside = f", beside {head} of the network's own soft-max head" if head != f.DASH else ""
            correct = f"{f.percent(result.accuracy, 2)} correctly{chance}{beside}"
            return ToldResult(f"Kernel ridge regression on {name} classifies {correct}.")
        case solution.SystemResult() as result:
            several = result.n_columns > 1
            many = f"{f.count(result.n_columns)} right-hand sides" if several else "right-hand side"
            norm = f"the solution's norm is {f.significant(result.solution_norm, 6)}"
            return ToldResult(f"The {name} system is solved for the {many} {result.right_hand_side}: {norm}.")
        case solution.ProductResult() as result:
            return ToldResult(
                f"The {name} matrix is multiplied by {result.vectors} in {f.seconds(result.seconds)}; sampled rows of "
                f"the product are off by {f.scientific(result.relative_error)}."
            )
        case solution.LogdetResult() as result:
            value = f.significant(result.log_determinant, 9)
            sentence = f"The log-determinant of {name}, {f.plural(result.n, 'row')}, is {value}."
            return ToldResult(sentence, value, f"log-determinant of {name}")
        case solution.SampleResult() as result:
            are, whose = ("is", "its") if result.n_samples == 1 else ("are", "their")
            return ToldResult(
                f"{f.plural(result.n_samples, 'sample')} of covariance {name} {are} drawn (seed {result.seed}); "
                f"{whose} mean square is {f.significant(result.mean_square, 4)}, and the variance "
                f"{f.significant(result.variance, 4)}."
            )


def _kriging_text(result: solution.KrigingResult, points: str, folder: str) -> str:
    quantity = Quantity.of(result)
    rmse = result.rmse if f.is_number(result.rmse) else math.inf
    places = f.plural(result.n_predicted or 0, "place")
    return f.sentences(
        f"Kriging predicts the {quantity.name} of {f.count(result.n_held_out)} held-out "
        f"{'points' if points == 'file' else points} to {quantity.error(result.rmse)} RMSE{quantity.factor(rmse)}; "
        f"their mean would give {quantity.error(result.rmse_mean_predictor)}.",
        f"Its 95 % intervals hold {f.percent(result.coverage_95, 1)} of them."
        if f.is_number(result.coverage_95)
        else "",
        f"The file {folder}/{result.predictions} holds mean and standard deviation at {places}."
        if result.predictions
        else "",
        *(_kriging_text(other, points, folder) for other in result.others),
    )


def _capacitance(result: solution.CapacitanceResult, name: str, points: str) -> ToldResult:
    """Put a capacitance in words, to the digits that its error leaves certain and one more."""
    error, digits, off = result.relative_error, 6, ""
    if f.is_number(error):
        off = f", off by {f.percent(error, 2) if error >= 1e-4 else f.scientific(error)}"
        digits = min(9, max(3, 1 - math.floor(math.log10(error)))) if error > 0 else 6
    value, reference = (f.significant(one, digits) for one in (result.capacitance, result.reference))
    known = f" against the known {reference}{off}" if result.reference is not None else ""
    sentence = f"The capacitance of the {points} comes out as {value} {result.unit}{known}."
    return ToldResult(sentence, value, f"{result.unit}: capacitance of {name}")


def fit_text(matrix: MatrixMetrics) -> str:
    """The fitted parameters with their intervals, in one sentence; empty where nothing was fitted."""
    if matrix.fit is None or not matrix.fit.intervals:
        return ""
    parts = ", ".join(
        f"{name.replace('_', ' ')} {_interval(found)}{_in_units(name, found, matrix)}"
        for name, found in matrix.fit.intervals.items()
    )
    many = f"{f.count(matrix.fit.n)} standardized values"
    return f"Fitted by maximum likelihood to {many}, with intervals of two standard errors: {parts}."


def _interval(found: tuple[float, float, float], factor: float = 1.0, unit: str = "") -> str:
    """A value with its lower and upper end, all times a factor."""
    low, value, high = (f.significant(factor * number, 3) for number in found)
    return f"{value}{unit} ({low} to {high}{unit})"


def _in_units(name: str, found: tuple[float, float, float], matrix: MatrixMetrics) -> str:
    """Return the clause on a fitted parameter in a unit that readers know: kilometers, or the unit of the values."""
    if matrix.on_globe and name.startswith("length_scale"):
        return f" radii of the Earth, which are {_interval(found, EARTH_RADIUS_KM, ' km')}"
    result = matrix.result
    what = {"variance": "field", "nugget": "noise"}.get(name)
    if what and isinstance(result, solution.KrigingResult) and f.is_number(result.deviation):
        low, value, high = (math.sqrt(max(number, 0.0)) for number in found)
        unit = Quantity.of(result).error(1.0).removeprefix(f.significant(1.0, 3))
        interval = _interval((low, value, high), result.deviation, unit)
        return f", a standard deviation of the {what} of {interval}"
    return ""

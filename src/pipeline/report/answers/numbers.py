"""Fewer numbers: what hierarchical matrices save, and what they were for."""

import math
from collections.abc import Mapping

from pipeline.artifacts.results.operator import Compression
from pipeline.artifacts.results.solution import (
    CapacitanceResult,
    ClassificationResult,
    KrigingResult,
    LogdetResult,
    ProductResult,
    SampleResult,
    ScatteringResult,
    SystemResult,
)
from pipeline.report.content import CoreAnswer
from pipeline.report.figures.growth import exponents
from pipeline.report.formatting import (
    count,
    decimal,
    is_number,
    n_bytes,
    percent,
    plural,
    scientific,
    seconds,
    setting,
    significant,
    times,
)
from pipeline.report.metrics import MatrixMetrics, ScalingMetrics
from pipeline.report.quantity import Quantity
from pipeline.report.runs import at_chance
from pipeline.report.solutions import doubt

TITLE = "Fewer numbers"

#: Points of one's own, by the names that studies give them: what was asked for is their result.
OWN = ("file", "mesh")
MOST_BESIDE = 2  # other results that are told beside the first one
EARTH_RADIUS_KM = 6371.0


def answer_numbers(
    matrices: Mapping[str, MatrixMetrics], scaling: ScalingMetrics | None, n_classes: int = 0
) -> CoreAnswer | None:
    """Lead with the matrix that is compressed most (by approximation if any is), then say what it was for.

    Of points or meshes of one's own, and where no memory was won, the results lead.
    """
    findings = tuple(found for name, matrix in matrices.items() if (found := doubt(name, matrix)) is not None)
    if matrices:
        name = max(
            matrices, key=lambda key: (not nothing_approximated(matrices[key]), compression(matrices[key]))
        )
        matrix, compress = matrices[name], matrices[name].compress
        text = (
            f"The {name} matrix, {_shape(matrix)}, takes {n_bytes(compress.n_bytes)} instead of "
            f"{n_bytes(compress.dense_bytes)}{_within(compress)}{_solved(matrix)}; "
            f"{_brief(name, matrix, n_classes)}{_others(name, matrices, n_classes)}."
        )
        headline, unit = _asked_for(name, matrices) or _saved(name, matrix)
        return CoreAnswer(TITLE, headline, unit, text, findings)
    storage = exponents(scaling.rows if scaling else []).get("operator_bytes")
    if storage is None:
        return None
    text = f"Storage grows as N to the power {storage.text}, the dense matrix as N^2."
    return CoreAnswer(TITLE, f"N^{decimal(storage.exponent, 2)}", "growth of storage", text)


def _asked_for(name: str, matrices: Mapping[str, MatrixMetrics]) -> tuple[str, str] | None:
    """The numbers that own points or a matrix which saves no memory were made for, with their words; memory comes last.

    Args:
        name: The matrix that is compressed most.
        matrices: All matrices of the study, by name.
    """
    own = [key for key, matrix in matrices.items() if matrix.points in OWN]
    if not own and compression(matrices[name]) >= 1:
        return None
    found = [result for key in own or matrices if (result := _result(key, matrices[key])) is not None]
    if not found:
        return None
    (headline, words), *others = found
    beside = [f"{what} {number}" for number, what in others[:MOST_BESIDE]]
    beside += [" ".join(_saved(name, matrices[name]))] if compression(matrices[name]) >= 1 else []
    return headline, "; ".join([words, *beside])


def _others(name: str, matrices: Mapping[str, MatrixMetrics], n_classes: int) -> str:
    """The clauses on what other matrices of own points were for."""
    others = [
        key for key, matrix in matrices.items() if matrix.points in OWN and key != name and matrix.result
    ]
    return "".join(f"; {_brief(key, matrices[key], n_classes)}" for key in others[:MOST_BESIDE])


def _result(name: str, matrix: MatrixMetrics) -> tuple[str, str] | None:
    """The number that a matrix was made for, with its words; none of systems, products and samples."""
    match matrix.result:
        case KrigingResult() as result:
            quantity = Quantity.of(result)
            return quantity.error(result.rmse), f"RMSE of the {quantity.name} at held-out points of {name}"
        case ScatteringResult() as result:
            words = f"scattering cross-section of {name}, in squared units of the mesh"
            return significant(result.cross_section, 4), words
        case CapacitanceResult() as result:
            return _capacitance(result), f"{result.unit}: capacitance of {name}"
        case LogdetResult() as result:
            return significant(result.log_determinant, 9), f"log-determinant of {name}"
        case _:
            return None


def _saved(name: str, matrix: MatrixMetrics) -> tuple[str, str]:
    """The memory that a matrix takes beside a dense one, with its words."""
    ratio, words = beside_dense(matrix)
    exact = ", with nothing approximated" if nothing_approximated(matrix) else ""
    return ratio, f"{words} for {name}{exact}"


def _shape(matrix: MatrixMetrics) -> str:
    if matrix.compress.n_rows != matrix.n:
        return f"{count(matrix.n)} panels with {count(matrix.compress.n_rows)} quadrature points"
    return f"{count(matrix.n)} × {count(matrix.n)}"


def _within(compress: Compression) -> str:
    """The clause on the error, which does not hide that it is not the one asked for."""
    if not is_number(compress.relative_error):
        return ""
    missed = f", asked: {scientific(compress.tolerance, 1)}" if compress.missed else ""
    return f" (relative error {scientific(compress.relative_error)}{missed})"


def _solved(matrix: MatrixMetrics) -> str:
    """The clause on the direct solve, if there was one."""
    if matrix.solve is None:
        return ""
    spent = matrix.solve.factorize_seconds + matrix.solve.solve_seconds
    beside = " (beside other jobs)" if matrix.alone is False else ""
    done = "factorized and solved"
    if matrix.solve.factor_kind == "none":  # the layers of a wave take longer than their iterations
        done, spent = "assembled and solved", spent + matrix.solve.assemble_seconds
    return f" and is {done} in {seconds(spent)}{beside}"


def compression(matrix: MatrixMetrics) -> float:
    """Dense over compressed bytes."""
    return matrix.compress.dense_bytes / max(matrix.compress.n_bytes, 1)


def beside_dense(matrix: MatrixMetrics) -> tuple[str, str]:
    """How the memory compares with a dense matrix's, as a number and its words."""
    ratio = compression(matrix)
    return (times(ratio), "less memory") if ratio >= 1 else (times(1 / ratio), "the memory of a dense matrix")


def nothing_approximated(matrix: MatrixMetrics) -> bool:
    """Whether all blocks are dense, so that a matrix is small for other reasons than its ranks."""
    if matrix.structure is not None and matrix.structure.blocks:
        return all(rank < 0 for *_, rank in matrix.structure.blocks)
    return matrix.compress.max_rank == 0


def _brief(name: str, matrix: MatrixMetrics, n_classes: int) -> str:
    """What a matrix was for, as a clause: one error of what was predicted, and not all that is known of it."""
    match matrix.result:
        case KrigingResult() as result:
            quantity = Quantity.of(result)
            return (
                f"kriging with {name} predicts the {quantity.name} of {count(result.n_held_out)} held-out points to "
                f"{quantity.error(result.rmse)} RMSE"
            )
        case ScatteringResult() as result:
            return (
                f"the scattering cross-section of {name} is {significant(result.cross_section, 4)} squared units of "
                f"the mesh, and the scattered power differs by {percent(result.power_imbalance, 2)} "
                "from what the wave loses"
            )
        case _:
            text = result_text(name, matrix, n_classes)
            return f"{text[0].lower()}{text[1:].removesuffix('.')}"


def result_text(name: str, matrix: MatrixMetrics, n_classes: int = 0, study: str = "STUDY") -> str:
    """What a matrix was for, in one sentence of numbers."""
    match matrix.result:
        case None:
            return f"The {name} matrix is compressed, and its task was not done."
        case KrigingResult() as result:
            return _kriging_text(result, matrix.points, f"results/{study}/solve/{name}")
        case CapacitanceResult() as result:
            return _capacitance_text(result, matrix.points)
        case ScatteringResult() as result:
            return _scattering_text(result, name)
        case ClassificationResult() as result:
            return _classification_text(result, name, n_classes)
        case SystemResult() as result:
            many = (
                f"{count(result.n_columns)} right-hand sides" if result.n_columns > 1 else "right-hand side"
            )
            norm = f"the solution's norm is {significant(result.solution_norm, 6)}"
            return f"The {name} system is solved for the {many} {result.right_hand_side}: {norm}."
        case ProductResult() as result:
            return (
                f"The {name} matrix is multiplied by {result.vectors} in {seconds(result.seconds)}; sampled rows of "
                f"the product are off by {scientific(result.relative_error)}."
            )
        case LogdetResult() as result:
            value = significant(result.log_determinant, 9)
            return f"The log-determinant of {name}, {plural(result.n, 'row')}, is {value}."
        case SampleResult() as result:
            are, whose = ("is", "its") if result.n_samples == 1 else ("are", "their")
            return (
                f"{plural(result.n_samples, 'sample')} of covariance {name} {are} drawn (seed {result.seed}); "
                f"{whose} mean square is {significant(result.mean_square, 4)}, and the variance "
                f"{significant(result.variance, 4)}."
            )


def _kriging_text(result: KrigingResult, points: str, folder: str) -> str:
    quantity = Quantity.of(result)
    rmse = result.rmse if is_number(result.rmse) else math.inf
    inside = (
        f" Its 95 % intervals hold {percent(result.coverage_95, 1)} of them."
        if is_number(result.coverage_95)
        else ""
    )
    written = (
        f" The file {folder}/{result.predictions} holds mean and standard deviation at "
        f"{plural(result.n_predicted or 0, 'place')}."
        if result.predictions
        else ""
    )
    others = "".join(f" {_kriging_text(other, points, folder)}" for other in result.others)
    return (
        f"Kriging predicts the {quantity.name} of {count(result.n_held_out)} held-out "
        f"{'points' if points == 'file' else points} to {quantity.error(result.rmse)} RMSE{quantity.factor(rmse)}; "
        f"their mean would give {quantity.error(result.rmse_mean_predictor)}.{inside}{written}{others}"
    )


def _capacitance_text(result: CapacitanceResult, points: str) -> str:
    error, digits = result.relative_error, _digits(result)
    off = f", off by {percent(error, 2) if error >= 1e-4 else scientific(error)}" if is_number(error) else ""
    known = (
        "" if result.reference is None else f" against the known {significant(result.reference, digits)}{off}"
    )
    return f"The capacitance of the {points} comes out as {_capacitance(result)} {result.unit}{known}."


def _capacitance(result: CapacitanceResult) -> str:
    return significant(result.capacitance, _digits(result))


def _digits(result: CapacitanceResult) -> int:
    """One digit more than the error leaves certain."""
    error = result.relative_error
    return min(9, max(3, 1 - math.floor(math.log10(error)))) if is_number(error) and error > 0 else 6


def _scattering_text(result: ScatteringResult, name: str) -> str:
    return (
        f"A plane wave of wavenumber {setting(result.wavenumber)} is scattered by {name}, a sound-"
        f"{result.condition} surface with {significant(result.triangles_per_wavelength, 2)} triangles per wavelength. "
        f"The scattering cross-section is {significant(result.cross_section, 4)} squared units of the mesh, |f| is "
        f"{significant(result.forward, 4)} forward and {significant(result.backward, 4)} backward. The scattered "
        f"power differs by {percent(result.power_imbalance, 2)} from what the wave loses."
    )


def _classification_text(result: ClassificationResult, name: str, n_classes: int) -> str:
    beside = (
        f", beside {percent(result.softmax_accuracy, 2)} of the network's own soft-max head"
        if is_number(result.softmax_accuracy)
        else ""
    )
    chance = ", no better than chance" if at_chance(result.accuracy, n_classes) else ""
    return f"Kernel ridge regression on {name} classifies {percent(result.accuracy, 2)} correctly{chance}{beside}."


def fit_text(matrix: MatrixMetrics) -> str:
    """The fitted parameters with their intervals, in one sentence; empty where nothing was fitted."""
    if matrix.fit is None or not matrix.fit.intervals:
        return ""
    parts = [
        f"{name.replace('_', ' ')} {_interval(found)}{_in_units(name, found, matrix)}"
        for name, found in matrix.fit.intervals.items()
    ]
    return (
        f"Fitted by maximum likelihood to {count(matrix.fit.n)} standardized values, with intervals of two standard "
        f"errors: {', '.join(parts)}."
    )


def _interval(found: tuple[float, float, float], factor: float = 1.0, unit: str = "") -> str:
    """A value with its lower and upper end, all times a factor."""
    low, value, high = (significant(factor * number, 3) for number in found)
    return f"{value}{unit} ({low} to {high}{unit})"


def _in_units(name: str, found: tuple[float, float, float], matrix: MatrixMetrics) -> str:
    """The clause that tells a fitted parameter in a unit of the reader: kilometers, or that of the values."""
    if matrix.on_globe and name.startswith("length_scale"):
        return f" radii of the Earth, which are {_interval(found, EARTH_RADIUS_KM, ' km')}"
    result = matrix.result
    of = {"variance": "field", "nugget": "noise"}.get(name)
    if of and isinstance(result, KrigingResult) and is_number(result.deviation):
        low, value, high = (math.sqrt(max(number, 0.0)) for number in found)
        unit = Quantity.of(result).error(1.0).removeprefix(significant(1.0, 3))
        return (
            f", a standard deviation of the {of} of {_interval((low, value, high), result.deviation, unit)}"
        )
    return ""

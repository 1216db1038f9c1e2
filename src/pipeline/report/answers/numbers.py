"""Fewer numbers: what hierarchical matrices save, and what they were for."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.report.content import Answer
from pipeline.report.figures.growth import exponents
from pipeline.report.formatting import (
    count,
    decimal,
    is_number,
    n_bytes,
    percent,
    scientific,
    seconds,
    significant,
    times,
)
from pipeline.report.quantity import Quantity
from pipeline.report.runs import at_chance
from pipeline.report.solutions import doubt

TITLE = "Fewer numbers"


def answer_numbers(
    matrices: Mapping[str, Any], scaling: Mapping[str, Any] | None, n_classes: int = 0
) -> Answer | None:
    """Lead with the matrix that is compressed most (by approximation if any is), then say what it was for."""
    findings = tuple(found for name, matrix in matrices.items() if (found := doubt(name, matrix)) is not None)
    ratios = {name: compression(matrix) for name, matrix in matrices.items()}
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if known:
        name = max(known, key=lambda key: (not nothing_approximated(matrices[key]), known[key]))
        matrix, compress = matrices[name], matrices[name]["compress"]
        text = (
            f"The {name} matrix, {_shape(matrix)}, takes {n_bytes(compress['n_bytes'])}, the dense one "
            f"{n_bytes(compress['dense_bytes'])}{_within(compress)}{_solved(matrix)}. "
            f"{result_text(name, matrix, n_classes)}"
        )
        exact = ", with nothing approximated" if nothing_approximated(matrix) else ""
        return Answer(TITLE, times(known[name]), f"less memory for {name}{exact}", text.rstrip(), findings)
    results = [text for name, matrix in matrices.items() if (text := result_text(name, matrix, n_classes))]
    if results:
        return Answer(TITLE, count(len(matrices)), "hierarchical matrices", results[0], findings)
    storage = exponents((scaling or {}).get("rows") or []).get("operator_bytes")
    if storage is None:
        return None
    text = f"Storage grows as N to the power {storage.text}, the dense matrix as N^2."
    return Answer(TITLE, f"N^{decimal(storage.exponent, 2)}", "growth of storage", text)


def _shape(matrix: Mapping[str, Any]) -> str:
    n, rows = matrix.get("n"), (matrix.get("compress") or {}).get("n_rows")
    if is_number(rows) and rows != n:
        return f"{count(n)} panels with {count(rows)} quadrature points"
    return f"{count(n)} × {count(n)}"


def _within(compress: Mapping[str, Any]) -> str:
    """The clause on the error, which does not hide that it is not the one asked for."""
    error = compress.get("relative_error")
    if not is_number(error):
        return ""
    missed = f", asked: {scientific(compress.get('tolerance'), 1)}" if compress.get("missed") else ""
    return f" (relative error {scientific(error)}{missed})"


def _solved(matrix: Mapping[str, Any]) -> str:
    """The clause on the direct solve, if there was one."""
    solve = matrix.get("solve") or {}
    known = [spent for key in ("factorize_seconds", "solve_seconds") if is_number(spent := solve.get(key))]
    beside = " (beside other jobs)" if matrix.get("alone") is False else ""
    return f" and is factorized and solved in {seconds(math.fsum(known))}{beside}" if known else ""


def compression(matrix: Mapping[str, Any]) -> float | None:
    """Dense over compressed bytes."""
    compress = matrix.get("compress") or {}
    dense, ours = compress.get("dense_bytes"), compress.get("n_bytes")
    return dense / ours if is_number(dense) and is_number(ours) and ours > 0 else None


def nothing_approximated(matrix: Mapping[str, Any]) -> bool:
    """Whether all blocks are dense, so that a matrix is small for other reasons than its ranks."""
    blocks = (matrix.get("structure") or {}).get("blocks")
    if blocks:
        return all(rank < 0 for *_, rank in blocks)
    return (matrix.get("compress") or {}).get("max_rank") == 0


def result_text(name: str, matrix: Mapping[str, Any], n_classes: int = 0) -> str:
    """What a matrix was for, in one sentence of numbers; empty if there is no result."""
    result = matrix.get("result") or {}
    if is_number(result.get("rmse")):
        held_out, points = result.get("n_held_out"), matrix.get("points") or "points"
        points = "points" if points == "file" else points
        quantity = Quantity.of(result)
        where = f" of {count(held_out)} held-out {points}" if is_number(held_out) else ""
        mean = result.get("rmse_mean_predictor")
        against = f"; the mean predictor {quantity.error(mean)}" if is_number(mean) else ""
        return (
            f"Kriging predicts the {quantity.name}{where} to {quantity.error(result['rmse'])} RMSE"
            f"{quantity.factor(result['rmse'])}{against}."
            + (
                f" Its 95 % intervals hold {percent(result['coverage_95'], 1)} of them."
                if is_number(result.get("coverage_95"))
                else ""
            )
            + (
                f" {result['predictions']}, beside its solution, holds mean and standard deviation at "
                f"{count(result.get('n_predicted'))} places."
                if result.get("predictions")
                else ""
            )
            + "".join(
                f" {result_text(name, {**matrix, 'result': other}, n_classes)}"
                for other in result.get("others") or []
            )
        )
    if is_number(result.get("capacitance")):
        reference, error = result.get("reference"), result.get("relative_error")
        # One digit more than the error leaves certain.
        digits = min(9, max(3, 1 - math.floor(math.log10(error)))) if is_number(error) and error > 0 else 6
        against = f" against the known {significant(reference, digits)}" if is_number(reference) else ""
        off = (
            f", off by {percent(error, 2) if error >= 1e-4 else scientific(error)}"
            if is_number(error)
            else ""
        )
        what = f"The capacitance of the {matrix.get('points') or name} comes out as"
        return (
            f"{what} {significant(result['capacitance'], digits)} {result.get('unit') or ''}".rstrip()
            + f"{against}{off}."
        )
    if is_number(result.get("accuracy")):
        softmax = result.get("softmax_accuracy")
        beside = (
            f", beside {percent(softmax, 2)} of the network's own soft-max head" if is_number(softmax) else ""
        )
        chance = ", no better than chance" if at_chance(result["accuracy"], n_classes) else ""
        correct = f"classifies {percent(result['accuracy'], 2)} correctly{chance}{beside}"
        return f"Kernel ridge regression on {name} {correct}."
    if is_number(result.get("solution_norm")):
        n_columns = result.get("n_columns") or 1
        many = f"{count(n_columns)} right-hand sides" if n_columns > 1 else "right-hand side"
        norm = f"the solution's norm is {significant(result['solution_norm'], 6)}"
        return f"The {name} system is solved for the {many} {result.get('right_hand_side', '')}: {norm}."
    return ""


def fit_text(matrix: Mapping[str, Any]) -> str:
    """The fitted parameters with their intervals, in one sentence; empty where nothing was fitted."""
    fit = matrix.get("fit") or {}
    parts = [
        f"{name.replace('_', ' ')} {significant(value, 3)} ({significant(low, 3)} to {significant(high, 3)})"
        for name, (low, value, high) in (fit.get("intervals") or {}).items()
    ]
    if not parts:
        return ""
    return (
        f"Fitted by maximum likelihood to {count(fit.get('n'))} standardized values, with intervals of two standard "
        f"errors: {', '.join(parts)}."
    )

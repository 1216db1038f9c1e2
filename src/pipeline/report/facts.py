"""Named values: what was measured on one matrix, and what the study was made from."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.artifacts.results.operator import Compression
from pipeline.artifacts.results.solution import KrigingResult
from pipeline.report.answers.numbers import compression, nothing_approximated
from pipeline.report.content import Fact
from pipeline.report.formatting import (
    count,
    decimal,
    instant,
    is_number,
    joules,
    listing,
    n_bytes,
    plural,
    scientific,
    seconds,
    setting,
    significant,
    times,
)
from pipeline.report.metrics import MatrixMetrics
from pipeline.report.quantity import Quantity
from pipeline.report.solutions import doubt

#: Above this tolerance of the factorization, its determinant is that of a preconditioner and says nothing.
LOOSEST_LOGDET = 1e-4

#: Memory within this factor of a dense matrix's is about as much.
ABOUT = 1.05

_NAMES = {"cpu": "CPU", "dirty": "Uncommitted changes", "uncommitted": "Not committed"}
_WIDE, _LINE = 60, 200


def matrix_facts(matrix: MatrixMetrics) -> tuple[Fact, ...]:
    """Everything measured on one matrix, as named values; what is not known is left out."""
    compress = matrix.compress
    rank = None if nothing_approximated(matrix) else largest_rank(matrix)
    items: Sequence[tuple[str, object, str]] = (
        ("Kernel", matrix.kernel, f"{kernel_text(matrix.kernel)}{_nugget(matrix)}"),
        ("Variance and nugget", _standardized(matrix) or None, _standardized(matrix)),
        ("Points", matrix.n, _points(matrix)),
        ("Storage", compress.n_bytes, f"{n_bytes(compress.n_bytes)} ({_beside_dense(matrix)}, "
         f"{n_bytes(compress.dense_bytes)}{_exactly(matrix)})"),
        ("Relative error", compress.relative_error, _error(compress)),
        ("Largest rank", rank, count(rank)),
        ("Fit of the kernel", matrix.fit and matrix.fit.seconds, _fit(matrix)),
        ("Compression", compress.seconds, f"{seconds(compress.seconds)}{_beside(matrix)}"),
        *_solution(matrix),
        *_likelihood(matrix),
    )  # fmt: skip
    alarmed = {"Relative error"} if compress.missed else set()
    alarmed |= {"Residual, exact rows"} if doubt("", matrix) else set()
    return tuple(
        Fact(name, text, "alarm" if name in alarmed else "")
        for name, value, text in items
        if value is not None
    )


def _beside_dense(matrix: MatrixMetrics) -> str:
    ratio = compression(matrix)
    if 1 / ABOUT < ratio < ABOUT:
        return "about as much as dense"
    return f"{times(ratio)} less than dense" if ratio >= 1 else f"{times(1 / ratio)} as much as dense"


def _solution(matrix: MatrixMetrics) -> list[tuple[str, object, str]]:
    """What factorization and solve took and gave; nothing of a product."""
    solve = matrix.solve
    if solve is None:
        return []
    # What is not known is left out: iterations with the diagonal alone factorize nothing.
    factorized = None if solve.factor_kind == "none" else solve.factorize_seconds
    return [
        ("Factorization", factorized, f"{seconds(solve.factorize_seconds)}, {n_bytes(solve.factor_bytes)} "
         f"at tolerance {setting(solve.factor_tolerance)}{_beside(matrix)}"),
        ("Assembly of the layers", solve.assemble_seconds if factorized is None else None,
         f"{seconds(solve.assemble_seconds)}{_beside(matrix)}"),
        ("Solve", solve.solve_seconds,
         f"{seconds(solve.solve_seconds)}, {plural(solve.iterations, 'iteration')}{_beside(matrix)}"),
        ("Residual, compressed matrix", solve.relative_residual, scientific(solve.relative_residual)),
        ("Residual, exact rows", solve.exact_residual, scientific(solve.exact_residual)),
        ("Divided among", solve.processes, _processes(solve.processes)),
        ("Dense algebra instead", solve.dense_seconds, _dense(matrix)),
    ]  # fmt: skip


def _dense(matrix: MatrixMetrics) -> str:
    """What dense algebra would take, beside what it would take the place of; a fit of the kernel comes on top."""
    solve = matrix.solve
    if solve is None or not is_number(solve.dense_seconds):
        return ""
    spent = matrix.compress.seconds + solve.factorize_seconds + solve.solve_seconds
    ratio = solve.dense_seconds / spent
    than = f"compression, factorization and solve together, {seconds(spent)}{_beside(matrix)}"
    beside = f"{times(ratio)} as long as {than}" if ratio >= 1 else f"{times(1 / ratio)} faster than {than}"
    fit = matrix.fit.seconds if matrix.fit is not None else None
    fitted = f"; the fit of the kernel, {seconds(fit)}, comes on top" if is_number(fit) else ""
    return (
        f"about {seconds(solve.dense_seconds)} on one process and {n_bytes(matrix.compress.dense_bytes)}: "
        f"{beside}{fitted}"
    )


def _fit(matrix: MatrixMetrics) -> str:
    if matrix.fit is None:
        return ""
    return f"{seconds(matrix.fit.seconds)}, to {plural(matrix.fit.n, 'value')}{_beside(matrix)}"


def _beside(matrix: MatrixMetrics) -> str:
    return ", beside other jobs" if matrix.alone is False else ""


def largest_rank(matrix: MatrixMetrics) -> int:
    """The largest rank of a block, from the blocks themselves if the matrix comes with them."""
    blocks = matrix.structure.blocks if matrix.structure is not None else []
    ranks = np.asarray(blocks, dtype=np.int64).reshape(-1, 5)[:, 4]
    largest = int(ranks.max(initial=-1))
    return largest if largest >= 0 else matrix.compress.max_rank


def _exactly(matrix: MatrixMetrics) -> str:
    """Where the gain comes from if not from low ranks: mirrored blocks kept once, numbers in single precision."""
    if not nothing_approximated(matrix):
        return ""
    gains = ["symmetry"] if matrix.compress.symmetric else []
    gains += ["single precision"] if matrix.compress.precision == "float32" else []
    return f"{f', by {listing(gains)}' if gains else ''}; nothing is approximated, all blocks are dense"


def kernel_text(text: str) -> str:
    """A kernel in words: "SquaredExponential(length_scale 0.5)" as "Squared exponential, length scale 0.5".

    Numbers have no more digits than a reader wants. A kernel made of kernels keeps its parentheses.
    """
    text = re.sub(r"\d+\.\d{4,}(e-?\d+)?", lambda number: significant(float(number.group()), 3), text)
    text = text.removesuffix("()").replace("_", " ")
    if text.count("(") == 1:
        text = text.removesuffix(")").replace("(", ", ")
    name, comma, parameters = text.partition(", ")
    words = re.sub(r"(?<=[a-z])([A-Z])(?=[a-z])", lambda letter: f" {letter.group().lower()}", name)
    return f"{words}{comma}{parameters}"


def _nugget(matrix: MatrixMetrics) -> str:
    if matrix.nugget == 0:
        return ""
    bound = " (the fit stopped at its smallest nugget)" if matrix.nugget_at_bound else ""
    return f", nugget {significant(matrix.nugget, 3)}{bound}"


def _standardized(matrix: MatrixMetrics) -> str:
    """What variance and nugget are in units of: kriging divides values by their standard deviation."""
    if not isinstance(matrix.result, KrigingResult) or not ("variance" in matrix.kernel or matrix.nugget):
        return ""
    deviation = matrix.result.deviation
    known = is_number(deviation) and not matrix.result.others  # each value has its own
    told = f", whose standard deviation is {Quantity.of(matrix.result).error(deviation)}" if known else ""
    return f"1 is the variance of the known values{told}"


def _points(matrix: MatrixMetrics) -> str:
    """How many of what; panels carry several quadrature points each."""
    rows = matrix.compress.n_rows
    panels = rows != matrix.n
    many = f"{plural(matrix.n, 'panel')}, {plural(rows, 'quadrature point')}" if panels else count(matrix.n)
    where = "longitude and latitude" if matrix.on_globe else f"{matrix.dimension}-D"
    held_out = matrix.result.n_held_out if isinstance(matrix.result, KrigingResult) else 0
    told = [many, "own file" if matrix.points == "file" else matrix.points, where]
    told += [f"{count(held_out)} of {count(matrix.n + held_out)} held out"] if held_out else []
    return " · ".join(told)


def _error(compress: Compression) -> str:
    error, asked = scientific(compress.relative_error), setting(compress.tolerance)
    return f"missed: {error}, asked {asked}" if compress.missed else f"{error} (asked: {asked})"


def _processes(processes: int) -> str:
    return f"{count(processes)} processes" if processes != 1 else "one process"


def _likelihood(matrix: MatrixMetrics) -> list[tuple[str, object, str]]:
    """Determinant and likelihood, with the tolerance that they hang on; none of a loose factorization or a low rank."""
    if matrix.solve is None or matrix.compress.form == "low_rank":
        return []
    tolerance = matrix.solve.factor_tolerance
    if tolerance > LOOSEST_LOGDET:
        return []
    likelihood = matrix.result.log_likelihood if isinstance(matrix.result, KrigingResult) else None
    # The matrix is the covariance of values that were divided by their standard deviation.
    of, values = (
        (" of standardized values", " of the values")
        if isinstance(matrix.result, KrigingResult)
        else ("", "")
    )
    found = {f"log det{of}": matrix.solve.logdet, f"log likelihood{values}": likelihood}
    return [
        (f"{name}, at tolerance {setting(tolerance)}", value, decimal(value, 1))
        for name, value in found.items()
    ]


def provenance_facts(found: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Where, when and from what the study was made; long values get a line of their own."""
    facts = []
    for key, value in found.items():
        if value in (None, "", [], {}) or (key == "dirty" and found.get("uncommitted")):
            continue  # unknown, or told by the names of the files
        text = instant(value) if key == "date" else _plain(value)
        name = _NAMES.get(str(key), str(key).replace("_", " ").capitalize())
        facts.append(Fact(name, text, "line" if len(text) > _LINE else "wide" if len(text) > _WIDE else ""))
    return tuple(sorted(facts, key=lambda fact: ("", "wide", "line").index(fact.form)))


def _with_unit(key: str, value: object) -> str:
    """A named value; where the name ends in its unit, the value has that: peak memory 182 MB."""
    what, _, unit = key.rpartition("_")
    write = {"seconds": seconds, "bytes": n_bytes, "joules": joules}.get(unit)
    if write is None or not is_number(value):
        return f"{key.replace('_', ' ')} {_plain(value)}"
    return f"{what.replace('_', ' ').replace('cpu', 'CPU')} {write(value)}".strip()


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return significant(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(_with_unit(str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)

"""Named values: what was measured on one matrix, and what the study was made from."""

import re
from collections.abc import Mapping

import numpy as np

from pipeline.artifacts.results.solution import KrigingResult, SolveCost
from pipeline.report import formatting as f
from pipeline.report.content import Fact, JudgedClaim
from pipeline.report.metrics import MatrixMetrics, Origin
from pipeline.report.quantity import Quantity

#: A factorization with a tolerance above this one is a preconditioner, whose determinant tells nothing of the matrix's.
LOOSEST_LOGDET = 1e-4

#: Rounding explains a residual up to this many times the tolerance.
FAR = 10.0

#: Within this factor of the memory of a dense matrix, the page calls it about as much.
ABOUT = 1.05

_NAMES = {"cpu": "CPU", "dirty": "Uncommitted changes", "uncommitted": "Not committed"}
_WIDE, _LINE = 60, 200


def matrix_facts(matrix: MatrixMetrics) -> tuple[Fact, ...]:
    """Everything measured on one matrix, as named values; what is not known is left out."""
    compress, fit = matrix.compress, matrix.fit
    beside, fitted = ", beside other jobs" if matrix.alone is False else "", ""
    if fit is not None and fit.seconds is not None:
        fitted = f"{f.seconds(fit.seconds)}, to {f.plural(fit.n, 'value')}{beside}"
    error, asked = "", f.setting(compress.tolerance)
    if compress.relative_error is not None:
        found = f.scientific(compress.relative_error)
        error = f"missed: {found}, asked {asked}" if compress.missed else f"{found} (asked: {asked})"
    bound = " (the fit stopped at its smallest nugget)" if matrix.nugget_at_bound else ""
    nugget = f", nugget {f.significant(matrix.nugget, 3)}{bound}" if matrix.nugget else ""
    items = {
        "Kernel": f"{kernel_text(matrix.kernel)}{nugget}",
        "Variance and nugget": _standardized(matrix),
        "Points": _points(matrix),
        "Storage": f"{f.n_bytes(compress.n_bytes)} ({_beside_dense(matrix)}, {f.n_bytes(compress.dense_bytes)}"
        f"{_exactly(matrix)})",
        "Relative error": error,
        "Largest rank": "" if matrix.nothing_approximated else f.count(largest_rank(matrix)),
        "Fit of the kernel": fitted,
        "Compression": f"{f.seconds(compress.seconds)}{beside}",
        **_solution(matrix, beside),
        **_likelihood(matrix),
    }
    alarms = {"Relative error": compress.missed, "Residual, exact rows": doubt("", matrix) is not None}
    return tuple(
        Fact(name, text, "alarm" if alarms.get(name) else "")
        for name, text in items.items()
        if text not in ("", f.DASH)
    )


def doubt(name: str, matrix: MatrixMetrics) -> JudgedClaim | None:
    """Return a verdict if the residual on exact rows is far above the tolerances of compression and solve.

    The residual of the compressed matrix tells how well that system was solved, not how close it is to the exact one.
    """
    if matrix.solve is None:
        return None
    residual = matrix.solve.exact_residual
    asked = max(matrix.compress.tolerance, matrix.solve.tolerance or 0.0)
    if not f.is_number(residual) or residual <= FAR * asked:
        return None
    return JudgedClaim(
        "does not hold",
        f"The {name} system is solved as exactly as was asked: on rows of the exact matrix, the residual is "
        f"{f.scientific(residual)}, {f.significant(residual / asked)} times the tolerance of {f.setting(asked)}. A "
        "smaller compress.tolerance brings the matrix nearer to the exact one.",
    )


def _beside_dense(matrix: MatrixMetrics) -> str:
    ratio = matrix.compression
    if 1 / ABOUT < ratio < ABOUT:
        return "about as much as dense"
    return f"{f.times(ratio)} less than dense" if ratio >= 1 else f"{f.times(1 / ratio)} as much as dense"


def _solution(matrix: MatrixMetrics, beside: str) -> dict[str, str]:
    """Cost and errors of factorization and solve; nothing for a product."""
    solve = matrix.solve
    if solve is None:
        return {}
    # Iterations with a diagonal preconditioner factorize nothing.
    first, cost = "Assembly of the layers", f"{f.seconds(solve.assemble_seconds)}"
    if solve.factor_kind != "none":
        at = f"{f.n_bytes(solve.factor_bytes)} at tolerance {f.setting(solve.factor_tolerance)}"
        first, cost = "Factorization", f"{f.seconds(solve.factorize_seconds)}, {at}"
    processes = "one process" if solve.processes == 1 else f"{f.count(solve.processes)} processes"
    return {
        first: f"{cost}{beside}",
        "Solve": f"{f.seconds(solve.solve_seconds)}, {f.plural(solve.iterations, 'iteration')}{beside}",
        "Residual, compressed matrix": f.scientific(solve.relative_residual),
        "Residual, exact rows": f.scientific(solve.exact_residual),
        "Divided among": processes,
        "With dense algebra": _dense(matrix, solve, beside),
    }


def _dense(matrix: MatrixMetrics, solve: SolveCost, beside: str) -> str:
    """Estimate the time and memory of dense algebra, beside the H2 times; a fit of the kernel comes on top of both."""
    if not f.is_number(solve.dense_seconds):
        return ""
    spent = matrix.compress.seconds + solve.factorize_seconds + solve.solve_seconds
    ratio = solve.dense_seconds / spent
    compared = f"{f.times(ratio)} as long as" if ratio >= 1 else f"{f.times(1 / ratio)} faster than"
    fit = matrix.fit.seconds if matrix.fit is not None else None
    fitted = f"; the fit of the kernel, {f.seconds(fit)}, comes on top" if f.is_number(fit) else ""
    return (
        f"about {f.seconds(solve.dense_seconds)} on one process and {f.n_bytes(matrix.compress.dense_bytes)}: "
        f"{compared} compression, factorization and solve together, {f.seconds(spent)}{beside}{fitted}"
    )


def largest_rank(matrix: MatrixMetrics) -> int:
    """The largest rank of a block, from the blocks themselves if the matrix comes with them."""
    blocks = matrix.structure.blocks if matrix.structure is not None else []
    ranks = np.asarray(blocks, dtype=np.int64).reshape(-1, 5)[:, 4]
    largest = int(ranks.max(initial=-1))
    return largest if largest >= 0 else matrix.compress.max_rank


def _exactly(matrix: MatrixMetrics) -> str:
    """Where the gain comes from without low ranks: mirrored blocks kept once, numbers in single precision."""
    if not matrix.nothing_approximated:
        return ""
    gains = ["symmetry"] if matrix.compress.symmetric else []
    gains += ["single precision"] if matrix.compress.precision == "float32" else []
    return f"{f', by {f.listing(gains)}' if gains else ''}; nothing is approximated, all blocks are dense"


def kernel_text(text: str) -> str:
    """A kernel in words: "SquaredExponential(length_scale 0.5)" as "Squared exponential, length scale 0.5".

    Numbers are cut to the digits that a reader wants. A kernel made of kernels keeps its parentheses.
    """
    text = re.sub(r"\d+\.\d{4,}(e-?\d+)?", lambda number: f.significant(float(number.group()), 3), text)
    text = text.removesuffix("()").replace("_", " ")
    if text.count("(") == 1:
        text = text.removesuffix(")").replace("(", ", ")
    name, comma, parameters = text.partition(", ")
    words = re.sub(r"(?<=[a-z])([A-Z])(?=[a-z])", lambda letter: f" {letter.group().lower()}", name)
    return f"{words}{comma}{parameters}"


def _standardized(matrix: MatrixMetrics) -> str:
    """The unit of variance and nugget: kriging divides values by their standard deviation."""
    if not isinstance(matrix.result, KrigingResult) or not ("variance" in matrix.kernel or matrix.nugget):
        return ""
    deviation = matrix.result.deviation
    known = f.is_number(deviation) and not matrix.result.others  # each value has its own deviation
    told = f", whose standard deviation is {Quantity.of(matrix.result).error(deviation)}" if known else ""
    return f"1 is the variance of the known values{told}"


def _points(matrix: MatrixMetrics) -> str:
    """The number and kind of the points; panels carry several quadrature points each."""
    rows = matrix.compress.n_rows
    panels = rows != matrix.n
    many = (
        f"{f.plural(matrix.n, 'panel')}, {f.plural(rows, 'quadrature point')}"
        if panels
        else f.count(matrix.n)
    )
    where = "longitude and latitude" if matrix.on_globe else f"{matrix.dimension}-D"
    held_out = matrix.result.n_held_out if isinstance(matrix.result, KrigingResult) else 0
    told = [many, "own file" if matrix.points == "file" else matrix.points, where]
    told += [f"{f.count(held_out)} of {f.count(matrix.n + held_out)} held out"] if held_out else []
    return " · ".join(told)


def _likelihood(matrix: MatrixMetrics) -> dict[str, str]:
    """Determinant and likelihood, with their tolerance; nothing for a loose factorization or a low-rank matrix."""
    if matrix.solve is None or matrix.compress.form == "low_rank":
        return {}
    tolerance = matrix.solve.factor_tolerance
    if tolerance > LOOSEST_LOGDET:
        return {}
    # A covariance describes the values after division by their standard deviation.
    at, logdet = f", at tolerance {f.setting(tolerance)}", f.decimal(matrix.solve.logdet, 1)
    if not isinstance(matrix.result, KrigingResult):
        return {f"log det{at}": logdet}
    return {
        f"log det of standardized values{at}": logdet,
        f"log likelihood of the values{at}": f.decimal(matrix.result.log_likelihood, 1),
    }


def provenance_facts(found: Origin) -> tuple[Fact, ...]:
    """Where, when and from what the study was made; long values get a line of their own."""
    facts = []
    for key, value in found:
        if value in (None, "", [], {}, ()) or (key == "dirty" and found.uncommitted):
            continue  # unknown, or told by the names of the files
        text = f.instant(value) if key == "date" else _plain(value)
        name = _NAMES.get(key, key.replace("_", " ").capitalize())
        facts.append(Fact(name, text, "line" if len(text) > _LINE else "wide" if len(text) > _WIDE else ""))
    return tuple(sorted(facts, key=lambda fact: ("", "wide", "line").index(fact.form)))


def _with_unit(key: str, value: object) -> str:
    """A named value; where the name ends in a unit, the value is written with that unit: peak memory 182 MB."""
    what, _, unit = key.rpartition("_")
    write = {"seconds": f.seconds, "bytes": f.n_bytes, "joules": f.joules}.get(unit)
    if write is None or not f.is_number(value):
        return f"{key.replace('_', ' ')} {_plain(value)}"
    return f"{what.replace('_', ' ').replace('cpu', 'CPU')} {write(value)}".strip()


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f.significant(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(_with_unit(str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)

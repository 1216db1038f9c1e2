"""Named values: what was measured on one matrix, and what the study was made from."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    scientific,
    seconds,
    setting,
    significant,
    times,
)
from pipeline.report.solutions import doubt

#: Above this tolerance of the factorization, its determinant is that of a preconditioner and says nothing.
LOOSEST_LOGDET = 1e-4

_NAMES = {"cpu": "CPU", "dirty": "Uncommitted changes", "uncommitted": "Not committed"}
_WIDE, _LINE = 60, 200


def matrix_facts(matrix: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Everything measured on one matrix, as named values; what is missing is left out."""
    compress, solve = (matrix.get(key) or {} for key in ("compress", "solve"))
    ratio = compression(matrix)
    than_dense = f"{times(ratio)} less than dense, {n_bytes(compress.get('dense_bytes'))}"
    less = f" ({than_dense}{_exactly(matrix)})" if ratio else ""
    rank = None if nothing_approximated(matrix) else largest_rank(matrix)
    items: Sequence[tuple[str, object, str]] = (
        ("Kernel", matrix.get("kernel"), f"{_kernel(str(matrix.get('kernel')))}{_nugget(matrix)}"),
        ("Points", matrix.get("n"), _points(matrix)),
        ("Storage", compress.get("n_bytes"), f"{n_bytes(compress.get('n_bytes'))}{less}"),
        ("Relative error", compress.get("relative_error"), _error(compress)),
        ("Largest rank", rank, count(rank)),
        ("Compression", compress.get("seconds"), f"{seconds(compress.get('seconds'))}{_beside(matrix)}"),
        ("Factorization", solve.get("factorize_seconds"), f"{seconds(solve.get('factorize_seconds'))}, "
         f"{n_bytes(solve.get('factor_bytes'))} at tolerance {setting(solve.get('factor_tolerance'))}"),
        ("Solve", solve.get("solve_seconds"), f"{seconds(solve.get('solve_seconds'))}, "
         f"{count(solve.get('iterations'))} iterations{_beside(matrix)}"),
        ("Residual, compressed matrix", solve.get("relative_residual"), scientific(solve.get("relative_residual"))),
        ("Residual, exact rows", solve.get("exact_residual"), scientific(solve.get("exact_residual"))),
        ("Divided among", solve.get("processes"), _processes(solve.get("processes"))),
        *_likelihood(matrix),
    )  # fmt: skip
    alarmed = {"Relative error"} if compress.get("missed") else set()
    alarmed |= {"Residual, exact rows"} if doubt("", matrix) else set()
    return tuple(
        Fact(name, text.strip(), "alarm" if name in alarmed else "")
        for name, value, text in items
        if value is not None
    )


def _beside(matrix: Mapping[str, Any]) -> str:
    return ", beside other jobs" if matrix.get("alone") is False else ""


def largest_rank(matrix: Mapping[str, Any]) -> int | None:
    """The largest rank of a block, from the blocks themselves if the matrix comes with them."""
    ranks = np.asarray((matrix.get("structure") or {}).get("blocks", ()), dtype=np.int64).reshape(-1, 5)[:, 4]
    largest = int(ranks.max(initial=-1))
    return largest if largest >= 0 else (matrix.get("compress") or {}).get("max_rank")


def _exactly(matrix: Mapping[str, Any]) -> str:
    """Where the gain comes from if not from low ranks: mirrored blocks kept once, numbers in single precision."""
    if not nothing_approximated(matrix):
        return ""
    compress = matrix.get("compress") or {}
    gains = ["symmetry"] if compress.get("symmetric") else []
    gains += ["single precision"] if compress.get("precision") == "float32" else []
    return f"{f', by {listing(gains)}' if gains else ''}; nothing is approximated, all blocks are dense"


def _kernel(text: str) -> str:
    """A kernel's name and parameters, with no more digits than a reader wants."""
    text = re.sub(r"\d+\.\d{4,}(e-?\d+)?", lambda number: significant(float(number.group()), 4), text)
    return text.removesuffix("()")


def _nugget(matrix: Mapping[str, Any]) -> str:
    nugget = matrix.get("nugget")
    if not is_number(nugget) or nugget == 0:
        return ""
    bound = " (the fit stopped at its smallest nugget)" if matrix.get("nugget_at_bound") else ""
    return f", nugget {significant(nugget, 3)}{bound}"


def _points(matrix: Mapping[str, Any]) -> str:
    """How many of what; panels carry several quadrature points each."""
    n, rows = matrix.get("n"), (matrix.get("compress") or {}).get("n_rows")
    panels = is_number(rows) and rows != n
    many = f"{count(n)} panels, {count(rows)} quadrature points" if panels else count(n)
    parts = [
        many,
        str(matrix.get("points") or ""),
        f"{matrix['dimension']}-D" if matrix.get("dimension") else "",
    ]
    return " · ".join(part for part in parts if part)


def _error(compress: Mapping[str, Any]) -> str:
    error, asked = scientific(compress.get("relative_error")), setting(compress.get("tolerance"))
    return f"missed: {error}, asked {asked}" if compress.get("missed") else f"{error} (asked: {asked})"


def _processes(processes: object) -> str:
    return f"{count(processes)} processes" if is_number(processes) and processes != 1 else "one process"


def _likelihood(matrix: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    """Determinant and likelihood, with the tolerance that they hang on; none from a loose factorization."""
    solve, result = (matrix.get(key) or {} for key in ("solve", "result"))
    tolerance = solve.get("factor_tolerance")
    if is_number(tolerance) and tolerance > LOOSEST_LOGDET:
        return []
    at = f", at tolerance {setting(tolerance)}" if is_number(tolerance) else ""
    found = {"log det": solve.get("logdet"), "log likelihood": result.get("log_likelihood")}
    return [(f"{name}{at}", value, decimal(value, 1)) for name, value in found.items()]


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

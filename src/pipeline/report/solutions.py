"""Is a solution as exact as was asked, on rows of the exact matrix?"""

from collections.abc import Mapping
from typing import Any

from pipeline.report.content import Finding
from pipeline.report.formatting import is_number, scientific, setting, significant

#: A residual this many times above the tolerance is no longer its rounding up.
FAR = 10.0


def doubt(name: str, matrix: Mapping[str, Any]) -> Finding | None:
    """A verdict where the residual on exact rows is far above the tolerances of compression and solve.

    The residual of the compressed matrix says how well that was solved, not how well it stands for the exact one.
    """
    compress, solve = (matrix.get(key) or {} for key in ("compress", "solve"))
    residual = solve.get("exact_residual")
    asked = [value for value in (compress.get("tolerance"), solve.get("tolerance")) if is_number(value)]
    if not is_number(residual) or not asked or residual <= FAR * max(asked):
        return None
    return Finding(
        "does not hold",
        f"The {name} system is solved as exactly as was asked: on rows of the exact matrix, the residual is "
        f"{scientific(residual)}, {significant(residual / max(asked))} times the tolerance of {setting(max(asked))}.",
    )

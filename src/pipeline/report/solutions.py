"""Whether a solution meets its tolerance on rows of the exact matrix."""

from pipeline.report.content import JudgedClaim
from pipeline.report.formatting import is_number, scientific, setting, significant
from pipeline.report.metrics import MatrixMetrics

#: Rounding explains a residual up to this many times the tolerance.
FAR = 10.0


def doubt(name: str, matrix: MatrixMetrics) -> JudgedClaim | None:
    """Return a verdict if the residual on exact rows is far above the tolerances of compression and solve.

    The residual of the compressed matrix tells how well that system was solved, not how close it is to the exact one.
    """
    if matrix.solve is None:
        return None
    residual = matrix.solve.exact_residual
    asked = max(matrix.compress.tolerance, matrix.solve.tolerance or 0.0)
    if not is_number(residual) or residual <= FAR * asked:
        return None
    return JudgedClaim(
        "does not hold",
        f"The {name} system is solved as exactly as was asked: on rows of the exact matrix, the residual is "
        f"{scientific(residual)}, {significant(residual / asked)} times the tolerance of {setting(asked)}. A "
        "smaller compress.tolerance brings the matrix nearer to the exact one.",
    )

"""Facts of growth with the number of points."""

from pydantic import BaseModel

from pipeline.artifacts.results import Facts, Number


class ScalingFacts(Facts):
    """Facts of the measurement; its rows are a file of their own."""

    kernel: str
    points: str
    tolerance: float


class ScalingRow(BaseModel):
    """Seconds, bytes and error for one number of points."""

    n: int
    compress_seconds: float
    factorize_seconds: float
    product_seconds: float
    solve_seconds: float
    operator_bytes: int
    factor_bytes: int
    relative_error: Number

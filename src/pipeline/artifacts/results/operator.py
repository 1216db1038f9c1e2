"""Facts of a compressed matrix."""

from typing import Any

from pydantic import BaseModel

from pipeline.artifacts.results import Facts, Number


class Level(BaseModel):
    """One level of the tree: its boxes, their unknowns and skeletons, and their cost."""

    level: int
    boxes: int
    unknowns: int
    skeletons: int
    seconds: Number = None
    bytes: int


class Compression(BaseModel):
    """Cost and result of compression.

    Attributes:
        form: "hierarchical" or "low_rank".
        seconds: Time without the fit of the kernel, which has seconds of its own.
        n_rows: Rows of the compressed matrix: quadrature points for boundary elements, else the unknowns.
        symmetric: Whether mirrored blocks are kept once.
        missed: Whether the error is well above the tolerance.
    """

    n_rows: int
    seconds: float
    n_bytes: int
    dense_bytes: int
    symmetric: bool
    precision: str
    tolerance: float
    relative_error: Number
    missed: bool
    max_rank: int
    levels: list[Level]
    notes: list[str]
    form: str = "hierarchical"


class FittedCovariance(BaseModel):
    """A covariance fitted by maximum likelihood.

    Attributes:
        log_likelihood: Log-likelihood of the standardized values, in nats.
        steps: How often the likelihood was differentiated.
        intervals: Fitted value of each parameter between its lower and upper end, two standard errors either way.
    """

    log_likelihood: Number
    n: int
    steps: int
    intervals: dict[str, tuple[float, float, float]]
    seconds: Number = None


class OperatorFacts(Facts):
    """A kernel matrix in H2 form.

    Attributes:
        kernel_parameters: The kernel as `kernels.from_dict` reads it.
        nugget_at_bound: Whether a fit stopped at its smallest nugget.
        fit: The fit of the kernel and the nugget, where the study does not give them.
    """

    kernel: str
    kernel_parameters: dict[str, Any]
    nugget: float
    nugget_at_bound: bool
    fit: FittedCovariance | None = None
    compress: Compression

"""Facts of a solved system, and of its result."""

from pydantic import BaseModel, Field

from pipeline.artifacts.results import Facts, Number


class SolveCost(BaseModel):
    """Cost and accuracy of factorization and solve.

    Attributes:
        exact_residual: Residual on sampled rows of the exact matrix; None for boundary elements (rows of integrals).
        logdet: Logarithm of the determinant, from a Cholesky factorization; None for a low-rank matrix.
        dense_seconds: Estimate from one block: time to evaluate, factorize and solve the dense matrix on one process.
    """

    assemble_seconds: float
    factorize_seconds: float
    factor_bytes: int
    factor_tolerance: float
    factor_kind: str
    solve_seconds: float
    iterations: int
    relative_residual: Number
    exact_residual: Number
    logdet: Number
    processes: int
    notes: list[str]
    tolerance: Number = None
    dense_seconds: Number = None


class KrigingResult(BaseModel):
    """Predictions of held-out values, in their unit.

    Attributes:
        mae: Mean absolute error.
        deviation: Standard deviation of the known values, by which they were divided before the fit.
        crps: Continuous ranked probability score.
        log_score: Minus the mean logarithm of the predictive density.
        coverage_95: Share of held-out values within their 95 % intervals.
        rmse_left_out: RMSE of the training values, each predicted from all others.
        std_relative_error: Relative standard error of the standard deviations of the map.
        predictions: File of the predictions that the study asked for, beside the solution.
    """

    rmse: Number
    rmse_mean_predictor: Number
    unit: str
    quantity: str
    n_held_out: int
    deviation: Number = None
    log_likelihood: Number
    mae: Number = None
    crps: Number = None
    log_score: Number = None
    coverage_95: Number = None
    rmse_left_out: Number = None
    std_relative_error: Number = None
    predictions: str | None = None
    n_predicted: int | None = None
    others: list["KrigingResult"] = Field(default_factory=list)


class CapacitanceResult(BaseModel):
    """The capacitance of a conductor beside its known value, where there is one."""

    capacitance: Number
    reference: Number
    relative_error: Number
    unit: str


class ScatteringResult(BaseModel):
    """The wave that a surface scatters, in the unit of its mesh.

    Attributes:
        triangles_per_wavelength: The wavelength over the longest edge.
        forward: |f| straight on, where the scattered wave is f exp(i k r)/r far away.
        backward: |f| back to where the wave came from.
        cross_section: Scattered power, divided by the incident power through a unit area.
        power_imbalance: Relative difference between scattered power and the power that the incident wave loses, which
            the forward wave gives (optical theorem); it is an error, mainly of the mesh.
    """

    wavenumber: float
    condition: str
    triangles_per_wavelength: float
    forward: Number
    backward: Number
    cross_section: Number
    power_imbalance: Number


class ClassificationResult(BaseModel):
    """Shares of right answers on the test images."""

    accuracy: Number
    softmax_accuracy: Number
    n_test: int


class SystemResult(BaseModel):
    """The solution of a system of equations with a right-hand side in words; the 2-norm is that of all columns."""

    right_hand_side: str
    n_columns: int
    solution_norm: Number


class ProductResult(BaseModel):
    """A product with vectors, in words; the 2-norm is that of all columns, the error that of sampled exact rows."""

    vectors: str
    n_columns: int
    product_norm: Number
    relative_error: Number
    seconds: float


class LogdetResult(BaseModel):
    """The logarithm of a determinant of n rows."""

    log_determinant: Number
    n: int


class SampleResult(BaseModel):
    """Draws from the normal distribution whose covariance is the matrix.

    The mean of all squares has the expected value `variance`, the mean of the matrix's diagonal.
    """

    n_samples: int
    seed: int
    mean_square: Number
    variance: Number


Result = (
    KrigingResult
    | CapacitanceResult
    | ScatteringResult
    | ClassificationResult
    | SystemResult
    | ProductResult
    | LogdetResult
    | SampleResult
)


class SolutionFacts(Facts):
    """A solution and its answer; a product solves nothing."""

    result: Result
    solve: SolveCost | None = None

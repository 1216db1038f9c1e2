"""Facts of a solved system, and of what it was solved for."""

from typing import ClassVar

from pydantic import BaseModel, Field

from pipeline.artifacts.results.facts import Facts, Number


class SolveCost(BaseModel):
    """What factorization and solve took, and how exact they are.

    Attributes:
        relative_residual: That of the compressed matrix.
        exact_residual: That of sampled rows of the exact matrix; none for boundary elements, whose rows are integrals.
        tolerance: Relative residual that was asked for.
        logdet: Logarithm of the determinant, from a Cholesky factorization.
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


class KrigingResult(BaseModel):
    """Predictions of held-out values, in their unit.

    Attributes:
        mae: Mean absolute error.
        crps: Continuous ranked probability score.
        log_score: Minus the mean logarithm of the predictive density.
        coverage_95: Share of held-out values within their 95 % intervals.
        rmse_left_out: RMSE of the training values, each predicted from all others.
        std_relative_error: Relative standard error of the standard deviations of the map.
        predictions: File of the predictions that the study asked for, beside the solution.
        n_predicted: How many places it has.
        others: The same of the other values, where there are several.
    """

    rmse: Number
    rmse_mean_predictor: Number
    unit: str
    quantity: str
    n_held_out: int
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
    """The capacitance of a conductor beside its known value."""

    capacitance: Number
    reference: float
    relative_error: Number
    unit: str


class ClassificationResult(BaseModel):
    """Shares of right answers on the test images."""

    accuracy: Number
    softmax_accuracy: Number
    n_test: int


class SystemResult(BaseModel):
    """The solution of a system of equations.

    Attributes:
        right_hand_side: What it was solved for, in words.
        n_columns: How many right-hand sides.
        solution_norm: 2-norm of all solutions together.
    """

    right_hand_side: str
    n_columns: int
    solution_norm: Number


Result = KrigingResult | CapacitanceResult | ClassificationResult | SystemResult


class SolutionFacts(Facts):
    """A solution and its answer."""

    KIND: ClassVar[str] = "solution"

    result: Result
    solve: SolveCost

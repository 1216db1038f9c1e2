"""Hierarchical matrices: points, kernel, and how each is compressed, factorized and solved with."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.choice import Choice
from pipeline.config.points import AnyPoints
from pipeline.config.section import Section
from pipeline.hmatrix.kernels import Kernel, LaplaceSingleLayer, Matern, SquaredExponential
from pipeline.options import Count, NotNegative, Positive, Seed, Tolerance

Task = Literal["kriging", "capacitance", "classification"]
STUDIED = {kernel.name: kernel for kernel in (Matern, SquaredExponential, LaplaceSingleLayer)}
AnyKernel = Annotated[Kernel, Choice(STUDIED, required=("length_scale",))]


class Fit(Section):
    """Choose length scale, variance and nugget by maximum likelihood."""

    subsample: Annotated[int, Field(ge=10, le=10**7)] | None = Field(
        None, description="How many training points to use; null takes all."
    )
    seed: Seed = Field(0, description="Seed of the draw of these points.")


class Compress(Section):
    """How a matrix is represented."""

    tolerance: Tolerance = Field(1e-6, description="Relative 2-norm error of a product with a random vector.")


class Factor(Section):
    """How a matrix is factorized."""

    tolerance: Tolerance = Field(
        1e-2,
        description="Tolerance of the factorization; looser than compress.tolerance makes a preconditioner.",
    )
    kind: Literal["auto", "cholesky", "ldlt", "lu"] = Field(
        "auto", description="Kind of factorization: cholesky, ldlt or lu; auto follows the kernel."
    )
    parts: Count = Field(
        4,
        description="Ranges of boxes that threads divide among them. The result depends on their number, not on that "
        "of threads.",
    )


class Solve(Section):
    """How systems of equations are solved."""

    tolerance: Tolerance = Field(1e-8, description="Relative residual of the solution.")
    max_iterations: Count = Field(200, description="Largest number of iterations of conjugate gradients.")


class CompressSpec(Section):
    """What the stage `compress` reads of a matrix."""

    kernel: AnyKernel = Field(description="The kernel, by name.")
    nugget: NotNegative = Field(
        0.0,
        description="Noise variance or ridge that is added to the diagonal, in units of the kernel's "
        "variance. Points at the "
        "same place need one.",
    )
    task: Task = Field(
        description="What the solution is for: kriging (predict held-out values), capacitance (of a "
        "conductor), "
        "classification (by kernel ridge regression)."
    )
    fit: Fit | None = Field(
        None,
        description="Choose length scale, variance and nugget by maximum likelihood on a part of the "
        "training points; "
        "null takes those above.",
    )
    compress: Compress = Field(default=Compress(), description="How the matrix is represented.")


class SolveSpec(Section):
    """What the stage `solve` reads of a matrix."""

    task: Task = Field(
        description="What the solution is for: kriging (predict held-out values), capacitance (of a "
        "conductor), "
        "classification (by kernel ridge regression)."
    )
    factor: Factor = Field(default=Factor(), description="How the matrix is factorized.")
    solve: Solve = Field(default=Solve(), description="How systems are solved.")


class Matrix(CompressSpec, SolveSpec):
    """One hierarchical matrix and the question that it answers."""

    points: AnyPoints = Field(description="The points, by name.")

    @model_validator(mode="after")
    def _task_fits_points(self) -> "Matrix":
        wanted = {
            "kriging": ("airports", "cities", "geoid"),
            "capacitance": ("sphere", "cube"),
            "classification": ("embeddings",),
        }
        if self.points.name not in wanted[self.task]:
            raise PydanticCustomError(
                "task",
                "task '{task}' needs points {wanted}, found '{found}'",
                {"task": self.task, "wanted": " or ".join(wanted[self.task]), "found": self.points.name},
            )
        if (self.task == "capacitance") != (self.kernel.name == "laplace_single_layer"):
            raise PydanticCustomError(
                "task",
                "task 'capacitance' goes with kernel 'laplace_single_layer' and no other task does, found '{kernel}'",
                {"kernel": self.kernel.name},
            )
        if self.fit is not None and (self.task != "kriging" or self.kernel.name != "matern"):
            raise PydanticCustomError("task", "fit needs task 'kriging' and kernel 'matern'")
        return self


class Scaling(Section):
    """Time and storage against the number of points: uniform points in the unit square, Matern 1/2, nugget 1e-2."""

    sizes: tuple[Annotated[int, Field(ge=256, le=10**9)], ...] = Field(
        (2048, 4096, 8192), min_length=2, description="Numbers of points, increasing."
    )
    length_scale: Positive = Field(0.1, description="Length scale of the kernel, in sides of the square.")
    tolerance: Tolerance = Field(1e-6, description="Tolerance of compression and factorization.")

"""Hierarchical matrices: points, kernel, and how each is compressed, factorized and solved with."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.section import Count, Name, NotNegative, Positive, Section, Seed, Tolerance


class AirportPoints(Section):
    """28,298 airports on the unit sphere with their elevations."""

    name: Literal["airports"] = "airports"
    n: Count | None = Field(None, description="Use this many, drawn by seed; all if empty.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Part kept for judging predictions.")
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")


class CityPoints(Section):
    """Up to 234,908 cities on the unit sphere with their populations."""

    name: Literal["cities"] = "cities"
    n: Count | None = Field(None, description="Use this many, drawn by seed; all if empty.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Part kept for judging predictions.")
    seed: Seed = Field(0, description="Seed of the draw and of the held-out part.")


class SphereMesh(Section):
    """Triangles on the unit sphere."""

    name: Literal["sphere"] = "sphere"
    refinements: int = Field(4, ge=0, le=8, description="20 * 4^refinements triangles.")


class CubeMesh(Section):
    """Triangles on the unit cube's surface."""

    name: Literal["cube"] = "cube"
    divisions: int = Field(
        24, ge=1, le=4096, description="Squares along an edge; 12 * divisions^2 triangles."
    )
    grading: float = Field(
        2.0, ge=1, le=6, description="Concentration of triangles toward the edges; 1 is uniform."
    )


class Embeddings(Section):
    """Features of the half-precision network."""

    name: Literal["embeddings"] = "embeddings"
    run: Name = Field(description="Training run whose converted network computes the features.")
    samples: Count = Field(8192, description="Training images to use, at most.")


Points = Annotated[
    AirportPoints | CityPoints | SphereMesh | CubeMesh | Embeddings, Field(discriminator="name")
]


class MaternKernel(Section):
    """Matern covariance."""

    name: Literal["matern"] = "matern"
    nu: Positive = Field(0.5, description="Smoothness.")
    length_scale: Positive = Field(description="In the unit of the points.")
    variance: Positive = Field(1.0, description="k(x, x).")


class SquaredExponentialKernel(Section):
    """Gaussian kernel exp(-r^2 / (2 l^2))."""

    name: Literal["squared_exponential"] = "squared_exponential"
    length_scale: Positive = Field(
        description="l, in the unit of the points; of the median distance for embeddings."
    )
    variance: Positive = Field(1.0, description="k(x, x).")


class LaplaceKernel(Section):
    """Single-layer potential 1 / (4 pi r)."""

    name: Literal["laplace_single_layer"] = "laplace_single_layer"


Kernel = Annotated[MaternKernel | SquaredExponentialKernel | LaplaceKernel, Field(discriminator="name")]


class Fit(Section):
    """Choose length scale, variance and nugget by maximum likelihood on a part of the training points."""

    subsample: Annotated[int, Field(ge=10, le=10**6)] = Field(2000, description="Points used.")
    seed: Seed = Field(0, description="Seed of the subsample.")


class Compress(Section):
    """How a matrix is represented."""

    tolerance: Tolerance = Field(1e-6, description="Relative 2-norm error of a product with a random vector.")


class Factor(Section):
    """How a matrix is factorized."""

    tolerance: Tolerance = Field(1e-2, description="Looser than compress.tolerance makes a preconditioner.")
    kind: Literal["auto", "cholesky", "ldlt", "lu"] = Field(
        "auto", description="Factorization; auto follows the kernel."
    )


class Solve(Section):
    """How systems are solved."""

    tolerance: Tolerance = Field(1e-8, description="Relative residual of the solution.")
    max_iterations: Count = Field(200, description="Iterations of conjugate gradients at most.")


class Matrix(Section):
    """One hierarchical matrix and the question that it answers."""

    points: Points = Field(description="The points, by name.")
    kernel: Kernel = Field(description="The kernel, by name.")
    nugget: NotNegative = Field(0.0, description="Added to the diagonal; noise variance or ridge.")
    task: Literal["kriging", "capacitance", "classification"] = Field(description="What the solution is for.")
    fit: Fit | None = Field(
        None, description="Fit kernel and nugget by likelihood; without it they are used as given."
    )
    compress: Compress = Field(default=Compress())
    factor: Factor = Field(default=Factor())
    solve: Solve = Field(default=Solve())

    @model_validator(mode="after")
    def _task_fits_points(self) -> "Matrix":
        wanted = {
            "kriging": ("airports", "cities"),
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
        (2048, 4096, 8192), min_length=2, description="Points."
    )
    length_scale: Positive = Field(0.1, description="Of the kernel, in sides of the square.")
    tolerance: Tolerance = Field(1e-6, description="Of compression and factorization.")

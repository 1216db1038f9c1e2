"""Compressed matrices: points and kernel, and how each matrix is compressed, factorized and solved."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.choice import Choice
from pipeline.config.points import AnyPoints, ColumnName, FilePoints, OwnMesh
from pipeline.config.section import ALL_DIFFERENT, Section, wrong
from pipeline.data import PLACES
from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels import KERNELS, Custom, Helmholtz, Imported, Kernel, Stationary
from pipeline.options import Count, NotNegative, Positive, Seed, Tolerance
from pipeline.runtime.words import counted

Task = Literal[
    "kriging", "capacitance", "scattering", "classification", "solve", "product", "logdet", "sample"
]
# A user's own kernel is a function in Python, and in a study the path of that function.
STUDIED: dict[str, type[Kernel]] = {
    name: kind for name, kind in KERNELS.items() if kind not in (Custom, Imported)
} | {"custom": Imported}
ANY_POINTS = (*PLACES, "file", "embeddings", "uniform_square", "uniform_cube", "fibonacci_sphere")
# The kinds of points that each task accepts.
POINTS_OF: dict[str, tuple[str, ...]] = {
    "kriging": (*PLACES, "file"),
    "capacitance": ("sphere", "cube", "mesh"),
    "scattering": ("sphere", "cube", "mesh"),
    "classification": ("embeddings",),
    **dict.fromkeys(("solve", "product", "logdet", "sample"), ANY_POINTS),
}
# Least number of points to fit a covariance to, and most numbers that samples hold together: 8 GB.
FEWEST_FITTED, MOST_DRAWN = 10, 10**9
AskedTask = Annotated[
    Task,
    Field(
        description="What the matrix is for: kriging (predict held-out values), capacitance (of a conductor), "
        "scattering (of a plane wave), classification (by kernel ridge regression), solve (a system of equations), "
        "product (with vectors), logdet (the logarithm of its determinant), or sample (draws of that covariance)."
    ),
]
AnyKernel = Annotated[Kernel, Choice(STUDIED, required=("length_scale",))]


def require_fittable(n: int) -> None:
    """Raise ConfigError if n points are too few to fit a covariance to."""
    if n < FEWEST_FITTED:
        raise ConfigError(
            f"fit: {counted(n, 'point')} {'is' if n == 1 else 'are'} left to fit to; wanted {FEWEST_FITTED} at least, "
            "so choose a smaller points.held_out, or give more points"
        )


def require_drawable(samples: int, n: int) -> None:
    """Raise ConfigError if samples of n points have more numbers than may be drawn at once."""
    if samples * n > MOST_DRAWN:
        raise ConfigError(
            f"samples: {samples:,} samples of {n:,} points are {samples * n:.3g} numbers; wanted at most "
            f"{MOST_DRAWN:,}, so draw fewer"
        )


class Fit(Section):
    """Choose length scale, variance and nugget by maximum likelihood."""

    LATER: ClassVar[frozenset[str]] = frozenset({"max_iterations"})

    subsample: Annotated[int, Field(ge=FEWEST_FITTED, le=10**7)] | None = Field(
        None, description="Number of training points to use; null takes all."
    )
    seed: Seed = Field(0, description="Seed of the draw of these points.")
    max_iterations: Count | None = Field(
        None, description="Largest number of steps of the optimizer; null allows 30."
    )


class Compress(Section):
    """How a matrix is represented."""

    tolerance: Tolerance = Field(1e-6, description="Relative 2-norm error of a product with a random vector.")
    form: Literal["hierarchical", "low_rank"] = Field(
        "hierarchical",
        description="hierarchical (H2), or low_rank: columns at random pivots and the diagonal, for smooth covariances "
        "of points with many coordinates; factor is left out then.",
    )


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
        description="Number of parts, ranges of boxes on which the threads work. The result depends on this number, "
        "not on that of threads.",
    )
    balance: Literal["equal", "measured"] = Field(
        "equal",
        description="How boxes are divided among processes: equal, or measured, which suits nodes of different speeds: "
        "in proportion to speeds that are measured first. GPUs then work in batches, and the result depends "
        "on the measurement.",
    )


class Grid(Section):
    """A grid over the box of the points."""

    spacing: Positive = Field(
        description="Distance between the rows and between the columns of the grid, in the unit of the coordinates. "
        "A grid has 10,000,000 places at most."
    )


class Predict(Section):
    """Where values are predicted, with their standard deviations, and how these are written."""

    path: str | None = Field(
        None,
        min_length=1,
        description="File of the places: CSV, .npy, .npz, Parquet, NetCDF, GeoJSON or GeoTIFF, with the same "
        "coordinates as the points. If it ends in .csv, .nc or .tif, predictions are written in that "
        "format.",
    )
    coordinates: Annotated[tuple[ColumnName, ...] | None, ALL_DIFFERENT] = Field(
        None,
        min_length=1,
        description="Columns of the coordinates in that file; null takes the points' own names.",
    )
    grid: Grid | None = Field(None, description="A grid over the box of the points, in place of a file.")
    format: Literal["csv", "nc", "tif"] | None = Field(
        None,
        description="Format of the predictions: csv, nc (NetCDF) or tif (GeoTIFF); null takes that of path, or else "
        "nc.",
    )

    @model_validator(mode="after")
    def _a_file_or_a_grid(self) -> "Predict":
        if (self.path is None) == (self.grid is None):
            raise wrong("predict needs either a path or a grid, and not both")
        return self

    @property
    def file_name(self) -> str:
        """The file that the predictions are written to, beside the solution."""
        ending = Path(self.path or "places.nc").suffix.lower().removeprefix(".")
        return f"predictions.{self.format or (ending if ending in ('csv', 'nc', 'tif') else 'csv')}"


class Wave(Section):
    """The plane wave that comes in, and what the surface does to it."""

    direction: tuple[float, float, float] = Field(
        (0.0, 0.0, 1.0), description="Direction of the wave: three coordinates, of any length but 0."
    )
    condition: Literal["soft", "hard"] = Field(
        "soft",
        description="soft: the pressure vanishes on the surface; hard: its derivative along the normal does.",
    )

    @model_validator(mode="after")
    def _goes_somewhere(self) -> "Wave":
        if not 0 < math.hypot(*self.direction) < math.inf:
            raise wrong("direction must be three finite numbers that are not all 0")
        return self


class Solve(Section):
    """How systems of equations are solved."""

    tolerance: Tolerance = Field(1e-8, description="Relative residual of the solution.")
    max_iterations: Count = Field(200, description="Largest number of iterations of conjugate gradients.")


class CompressSpec(Section):
    """What the stage `compress` reads of a matrix."""

    kernel: AnyKernel = Field(description="The kernel, by name.")
    nugget: NotNegative = Field(
        0.0,
        description="Noise variance or ridge that is added to the diagonal, in units of the kernel's variance. "
        "Points at the same place need one above 0.",
    )
    task: AskedTask
    fit: Fit | None = Field(
        None,
        description="Choose length scale, variance and nugget by maximum likelihood on the training points; null "
        "keeps those above. A kernel's length_scale: fit asks for it, too.",
    )
    compress: Compress = Field(default=Compress(), description="How the matrix is represented.")


class SolveSpec(Section):
    """What the stage `solve` reads of a matrix."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"right_hand_side", "predict", "vectors", "samples", "seed", "wave"}
    )

    task: AskedTask
    right_hand_side: str | None = Field(
        None,
        min_length=1,
        description="Right-hand sides of task solve: a .npy file of shape (n,) or (n, m). Null takes the values at "
        "the points, or ones if points have no values.",
    )
    vectors: str | None = Field(
        None,
        min_length=1,
        description="Vectors that task product multiplies: a .npy file of shape (n,) or (n, m). Null takes the "
        "values at the points, or ones if points have no values.",
    )
    samples: Count | None = Field(
        None,
        description="Number of samples that task sample draws; null draws one. Samples times points are 1e9 numbers "
        "(8 GB) at most, over all processes together.",
    )
    seed: Seed | None = Field(None, description="Seed of the samples; null is 0.")
    predict: Predict | None = Field(
        None,
        description="Where task kriging predicts values and their standard deviations; null predicts the held-out "
        "values and a map.",
    )
    wave: Wave | None = Field(
        None,
        description="Wave that task scattering sends at the surface; null sends a plane wave along the third "
        "coordinate at a soft surface.",
    )
    factor: Factor = Field(default=Factor(), description="How the matrix is factorized.")
    solve: Solve = Field(default=Solve(), description="How systems are solved.")


class Matrix(CompressSpec, SolveSpec):
    """One compressed matrix and the question that it answers."""

    points: AnyPoints = Field(description="The points, by name.")

    @model_validator(mode="before")
    @classmethod
    def _fit_a_length_scale(cls, data: Any) -> Any:
        """Take `length_scale: fit` for a fit that starts from a length scale derived from the points."""
        kernel = data.get("kernel") if isinstance(data, Mapping) else None
        if not isinstance(kernel, Mapping) or kernel.get("length_scale") != "fit":
            return data
        fit = {} if data.get("fit") is None else data["fit"]
        return {**data, "kernel": {**kernel, "length_scale": 1.0}, "fit": fit}

    @model_validator(mode="after")
    def _task_fits_points(self) -> "Matrix":
        wanted = POINTS_OF[self.task]
        if self.points.name not in wanted:
            raise wrong(f"task '{self.task}' needs points {' or '.join(wanted)}, found '{self.points.name}'")
        if self.task == "kriging" and isinstance(self.points, FilePoints) and not self.points.part_held_out:
            raise wrong("task 'kriging' needs points.value, and points.held_out above 0 to judge predictions")
        if self.predict is not None and self.task != "kriging":
            raise wrong("predict belongs to task 'kriging', and only to it")
        if self.fit is not None and isinstance(self.points, FilePoints) and len(self.points.values) > 1:
            raise wrong(f"fit needs one points.value, found {len(self.points.values)}; make a matrix of each")
        for key, task in (
            ("right_hand_side", "solve"),
            ("vectors", "product"),
            ("samples", "sample"),
            ("seed", "sample"),
            ("wave", "scattering"),
        ):
            if self.task != task and getattr(self, key) is not None:
                raise wrong(f"{key} belongs to task '{task}', and only to it")
        return self

    @model_validator(mode="after")
    def _task_fits_kernel(self) -> "Matrix":
        if self.task == "capacitance" and self.kernel.name != "laplace_single_layer":
            raise wrong(f"task 'capacitance' needs kernel 'laplace_single_layer', found '{self.kernel.name}'")
        if self.task == "scattering" and not (
            isinstance(self.kernel, Helmholtz)
            and complex(self.kernel.wavenumber).imag == 0
            and complex(self.kernel.wavenumber).real > 0
        ):
            raise wrong(
                "task 'scattering' needs kernel 'helmholtz' and a wavenumber above 0, found "
                f"'{self.kernel.name}'"
            )
        if self.task in ("kriging", "classification", "logdet", "sample") and (
            self.kernel.singular or self.kernel.is_complex or not self.kernel.positive_definite
        ):
            raise wrong(
                f"task '{self.task}' needs a covariance, such as matern; kernel '{self.kernel.name}' is not "
                "positive definite, or has no value at distance 0 (a custom kernel says positive_definite: true)"
            )
        if self.compress.form == "low_rank":
            if self.task not in ("classification", "solve", "product"):
                raise wrong(
                    f"compress.form 'low_rank' needs task classification, solve or product, found '{self.task}'"
                )
            if self.kernel.singular or not self.kernel.positive_definite or self.nugget == 0:
                raise wrong(
                    "compress.form 'low_rank' needs a covariance, such as squared_exponential, and a nugget above "
                    f"0; found kernel '{self.kernel.name}' and nugget {self.nugget}"
                )
            if "factor" in self.model_fields_set:
                raise wrong(
                    "factor belongs to compress.form 'hierarchical': one formula factorizes a matrix of low rank, "
                    "without settings; leave factor out"
                )
        stationary = [name for name, kind in KERNELS.items() if issubclass(kind, Stationary)]
        with_length_scale = f"a kernel of {', '.join(stationary)}; found kernel '{self.kernel.name}'"
        if self.task == "classification" and not isinstance(self.kernel, Stationary):
            raise wrong(f"task 'classification' needs {with_length_scale}")
        if self.fit is not None and (self.task != "kriging" or not isinstance(self.kernel, Stationary)):
            raise wrong(f"fit needs task 'kriging' and {with_length_scale}, task '{self.task}'")
        return self

    def files(self) -> dict[str, str]:
        """The user's own files that the matrix is made from, by the key that names each."""
        found = {"points.path": self.points.path} if isinstance(self.points, FilePoints | OwnMesh) else {}
        if self.predict is not None and self.predict.path is not None:
            found["predict.path"] = self.predict.path
        named = {"right_hand_side": self.right_hand_side, "vectors": self.vectors}
        return found | {key: path for key, path in named.items() if path is not None}


class Scaling(Section):
    """Time and storage against the number of points: uniform points in the unit square, Matern 1/2, nugget 1e-2."""

    sizes: tuple[Annotated[int, Field(ge=256, le=10**9)], ...] = Field(
        (2048, 4096, 8192), min_length=2, description="Numbers of points, increasing."
    )
    length_scale: Positive = Field(0.1, description="Length scale of the kernel, in sides of the square.")
    tolerance: Tolerance = Field(1e-6, description="Tolerance of compression and factorization.")

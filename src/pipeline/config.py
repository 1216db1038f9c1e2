"""Studies: what a user may write in a YAML file, validated before anything runs.

A study is one file merged over `config/default.yaml`. Every section is a frozen model that refuses unknown keys, so a
misspelled key is an error with its full path and never a silent default. Each rule of the workflow reads one *spec*,
the section that `specs` cuts out for it; a changed value re-runs that spec and what hangs on it, nothing else.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pipeline.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Tolerance = Annotated[float, Field(gt=0, lt=1)]

# Collections whose entries a study names itself: a study file replaces them whole instead of adding to the default's.
NAMED_COLLECTIONS = (("training", "runs"), ("matrices",))


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.4)
                    hint = (
                        f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(cls.model_fields)}"
                    )
                    raise PydanticCustomError(
                        "unknown_key", "unknown key '{key}'; {hint}", {"key": str(key), "hint": hint}
                    )
        return data


class ImageData(Section):
    """The images that the networks learn."""

    name: Literal["fashion_mnist", "digits"] = Field("fashion_mnist", description="Data set.")
    directory: str | None = Field(
        None, description="Folder with IDX files; without one the data set is found or fetched."
    )
    train_samples: Count = Field(8192, description="Training images, drawn by split_seed.")
    validation_samples: Count = Field(4096, description="Images on which hyper-parameters may be chosen.")
    split_seed: int = Field(1234, ge=0, description="Seed of the fixed train, validation and test split.")


class CnnModel(Section):
    """Three strided convolutions and two fully connected layers."""

    name: Literal["cnn"] = "cnn"
    batch_norm: bool = Field(False, description="Batch normalization behind each convolution.")


class MlpModel(Section):
    """Fully connected layers."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = Field((128, 64), description="Widths of the hidden layers.")


class Sgd(Section):
    """Gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Heavy-ball momentum.")
    weight_decay: NotNegative = Field(5e-4, description="L2 penalty on weight matrices, not on biases.")


class Kfac(Sgd):
    """K-FAC preconditioning in front of gradient descent with momentum."""

    name: Literal["kfac"] = "kfac"  # type: ignore[assignment]
    damping: Positive = Field(
        3e-2, description="Tikhonov damping, split between the two factors by their traces."
    )
    factor_decay: float = Field(0.5, ge=0, lt=1, description="Moving average of the Kronecker factors.")
    factor_interval: Count = Field(5, description="Steps between updates of the factors.")
    inverse_interval: Count = Field(5, description="Steps between inversions of the factors.")
    kl_clip: NotNegative = Field(
        1e-3, description="Bound on the predicted KL divergence of a step; 0 is none."
    )
    sample_fraction: float = Field(
        0.25, gt=0, le=1, description="Part of each batch that the factors are taken from."
    )


class WeightNoise(Section):
    """The loss averaged over Gaussian perturbations of the weights."""

    name: Literal["weight_noise"] = "weight_noise"
    std: Positive = Field(description="Standard deviation relative to each weight matrix's root mean square.")
    antithetic: bool = Field(True, description="Draw perturbations in pairs of opposite sign.")
    annealed: bool = Field(False, description="Let the deviation fall to zero during training.")


class Mixup(Section):
    """Convex combinations of pairs of samples and labels."""

    name: Literal["mixup"] = "mixup"
    alpha: Positive = Field(description="Parameter of the Beta distribution of the weights.")


class LabelSmoothing(Section):
    """Part of every label spread over all classes."""

    name: Literal["label_smoothing"] = "label_smoothing"
    amount: float = Field(gt=0, lt=1, description="The part that is spread.")


class Run(Section):
    """One way of training, repeated for every seed."""

    label: str = Field("", max_length=80, description="What the report calls it; the run's name if empty.")
    optimizer: Annotated[Sgd | Kfac, Field(discriminator="name")] = Field(description="The method, by name.")
    smoothing: tuple[Annotated[WeightNoise | Mixup | LabelSmoothing, Field(discriminator="name")], ...] = (
        Field((), description="Smoothings of the objective, applied together.")
    )
    batch_size: Count = Field(description="Samples of one step, over all processes.")
    epochs: Count = Field(description="Passes over the training images.")
    warmup_epochs: NotNegative = Field(
        1.0, description="Epochs over which the learning rate rises to its peak."
    )
    micro_batch: Count = Field(256, description="Samples of one forward and backward pass.")


class Roles(Section):
    """Which runs the claims of large-batch training compare."""

    reference: Name = Field(description="Small-batch SGD.")
    large_batch: Name = Field(description="Large-batch SGD.")
    second_order: Name = Field(description="Large-batch K-FAC.")
    smoothed: Name = Field(description="Large-batch K-FAC with a smoothed objective.")


class Training(Section):
    """All training runs of the study."""

    runs: dict[Name, Run] = Field(min_length=1, description="Training runs by name.")
    claims: Roles | None = Field(None, description="The runs that the report's claims table compares.")


class Precision(Section):
    """Half-precision inference."""

    runs: tuple[Name, ...] = Field(
        (), description="Training runs whose network (first seed) is converted and timed."
    )
    batch_sizes: tuple[Count, ...] = Field(
        (1, 64), min_length=1, description="Batch sizes at which layers are timed."
    )
    min_samples: Annotated[int, Field(ge=5)] = Field(60, description="Timed repetitions of each layer.")


class AirportPoints(Section):
    """28,298 airports on the unit sphere with their elevations."""

    name: Literal["airports"] = "airports"
    n: Count | None = Field(None, description="Use this many, drawn by seed; all if empty.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Part kept for judging predictions.")
    seed: int = Field(0, ge=0, description="Seed of the draw and of the held-out part.")


class CityPoints(Section):
    """Up to 234,908 cities on the unit sphere with their populations."""

    name: Literal["cities"] = "cities"
    n: Count | None = Field(None, description="Use this many, drawn by seed; all if empty.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Part kept for judging predictions.")
    seed: int = Field(0, ge=0, description="Seed of the draw and of the held-out part.")


class SphereMesh(Section):
    """Triangles on the unit sphere."""

    name: Literal["sphere"] = "sphere"
    refinements: int = Field(4, ge=0, le=8, description="20 * 4^refinements triangles.")


class CubeMesh(Section):
    """Triangles on the unit cube's surface."""

    name: Literal["cube"] = "cube"
    divisions: Count = Field(24, description="Squares along an edge; 12 * divisions^2 triangles.")
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

    subsample: Annotated[int, Field(ge=10)] = Field(2000, description="Points used.")
    seed: int = Field(0, ge=0, description="Seed of the subsample.")


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

    sizes: tuple[Annotated[int, Field(ge=256)], ...] = Field(
        (2048, 4096, 8192), min_length=2, description="Points."
    )
    length_scale: Positive = Field(0.1, description="Of the kernel, in sides of the square.")
    tolerance: Tolerance = Field(1e-6, description="Of compression and factorization.")


class Study(Section):
    """A whole study."""

    study: Name = Field("default", description="Names the folder of results.")
    description: str = Field("", max_length=500, description="One or two sentences for the report.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1), min_length=1, description="Seeds of every training run."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks are trained.")
    dataset: ImageData = Field(default=ImageData())
    model: Annotated[CnnModel | MlpModel, Field(discriminator="name")] = Field(default=CnnModel())
    training: Training
    precision: Precision = Field(default=Precision())
    matrices: dict[Name, Matrix] = Field({}, description="Hierarchical matrices by name.")
    scaling: Scaling | None = Field(
        None, description="Growth with the number of points; without it the report has none."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Study":
        for path, values in (("seeds", self.seeds), ("precision.runs", self.precision.runs)):
            if len(set(values)) < len(values):
                raise PydanticCustomError(
                    "fit",
                    "{path}: entries must differ, found {found}",
                    {"path": path, "found": str(list(values))},
                )
        for name, recipe in self.training.runs.items():
            if recipe.batch_size > self.dataset.train_samples:
                raise PydanticCustomError(
                    "fit",
                    "training.runs.{name}.batch_size: {size} is more than dataset.train_samples, {samples}",
                    {"name": name, "size": recipe.batch_size, "samples": self.dataset.train_samples},
                )
        if self.scaling is not None and list(self.scaling.sizes) != sorted(set(self.scaling.sizes)):
            raise PydanticCustomError("fit", "scaling.sizes: must increase from one to the next")
        named = {f"precision.runs.{i}": run for i, run in enumerate(self.precision.runs)}
        if self.training.claims is not None:
            named |= {
                f"training.claims.{role}": run for role, run in self.training.claims.model_dump().items()
            }
        for name, matrix in self.matrices.items():
            if isinstance(matrix.points, Embeddings):
                named[f"matrices.{name}.points.run"] = matrix.points.run
        for path, run in named.items():
            if run not in self.training.runs:
                known = ", ".join(self.training.runs)
                raise PydanticCustomError(
                    "run",
                    "{path}: no training run '{run}'; known: {known}",
                    {"path": path, "run": run, "known": known},
                )
        return self


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of sections over another, key by key; a mapping with another `name` replaces its whole section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        same_kind = (
            isinstance(below, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", below.get("name")) == below.get("name")
        )
        merged[key] = merge(below, value) if same_kind and isinstance(below, Mapping) else value
    return merged


def load_study(config: Mapping[str, Any], default: Path) -> Study:
    """Validate a study.

    Args:
        config: What Snakemake read: a study file and `--config` values, or nothing. One that names its `study`
            brings its own runs and matrices, in place of the default's; one that doesn't changes the default study.
        default: Path of `default.yaml`.

    Raises:
        ConfigError: With the full path of the first value that is wrong.
    """
    base = read_yaml(default)
    if "study" in config:
        for path in NAMED_COLLECTIONS:
            section: Any = base
            for key in path[:-1]:
                section = section.get(key) or {}
            section.pop(path[-1], None)
        (base.get("training") or {}).pop("claims", None)
        (base.get("precision") or {}).pop("runs", None)
        base.pop("scaling", None)
        base.pop("description", None)
    return validate(merge(base, config))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def validate(config: Mapping[str, Any]) -> Study:
    """Turn a tree of values into a study, or say in one line what is wrong with it."""
    if {"kind", "schema_version"} <= config.keys():
        raise ConfigError(
            "a manifest was given as a configuration: --configfile takes all words that follow it; "
            "put targets before it"
        )
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        lines = [_describe(problem, config) for problem in error.errors()]
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise ConfigError("; also ".join(lines[:3]) + more) from None


def _describe(problem: Any, config: Mapping[str, Any]) -> str:
    """One line for one pydantic error: path, what was wanted, what was found."""
    path, here = [], config
    for step in problem["loc"]:
        # pydantic puts the tag of a tagged union into the location; the user's file has no such step.
        if isinstance(here, Mapping) and here.get("name") == step and step not in here:
            continue
        path.append(str(step))
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = {}
    context = problem.get("ctx", {})
    if problem["type"] == "unknown_key":
        path.append(context["key"])
    prefix = ".".join(path) + ": " if path else ""
    if problem["type"] in ("missing", "union_tag_not_found"):
        what = "its method" if path[-1] == "optimizer" else "it"
        return f"{prefix}missing; name {what} (see config/default.yaml for the choices)"
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{prefix}unknown name '{context['tag']}'; {hint}known: {', '.join(known)}"
    own_text = problem["type"] in ("unknown_key", "run", "task", "fit")
    return f"{prefix}{problem['msg']}" + ("" if own_text else f", found {problem['input']!r}"[:80])


def specs(study: Study) -> dict[str, dict[str, Any]]:
    """Cut a study into the specs that the rules read, by the path of each below `spec/`.

    What a rule does not read is not in its spec, so that changing it re-runs nothing that does not depend on it.
    """
    whole = study.model_dump(mode="json")
    parts: dict[str, dict[str, Any]] = {"dataset": whole["dataset"]}
    for name, run in whole["training"]["runs"].items():
        recipe = {key: value for key, value in run.items() if key != "label"}
        parts[f"training/{name}"] = {"run": recipe, "model": whole["model"], "device": study.device}
    parts["precision"] = {key: whole["precision"][key] for key in ("batch_sizes", "min_samples")}
    for name, matrix in whole["matrices"].items():
        parts[f"points/{name}"] = {"points": matrix["points"]}
        parts[f"compress/{name}"] = {
            key: matrix[key] for key in ("kernel", "nugget", "task", "fit", "compress")
        }
        parts[f"solve/{name}"] = {key: matrix[key] for key in ("task", "factor", "solve")}
    if study.scaling is not None:
        parts["scaling"] = whole["scaling"]
    parts["report"] = {
        "study": study.study,
        "description": study.description,
        "seeds": list(study.seeds),
        "runs": {name: run["label"] or name for name, run in whole["training"]["runs"].items()},
        "claims": whole["training"]["claims"],
    }
    return parts


def schema() -> dict[str, Any]:
    """The JSON schema of a study file after merging."""
    return Study.model_json_schema()

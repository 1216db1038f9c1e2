"""A whole study: its sections, and the conditions between them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.images import ImageData
from pipeline.config.matrices import Matrix, Scaling
from pipeline.config.models import MODEL_SECTIONS, Model
from pipeline.config.points import Embeddings
from pipeline.config.precision import Precision
from pipeline.config.section import Name, Section, Seeds, misfit, wrong
from pipeline.config.training import Training

# Folders that all studies share, beside the folder of each study.
RESERVED = ("checkpoints", "history", "slurm", "pbs", "sge")


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise wrong(f"'{name}' is a folder of all studies together; choose another name")
    return name


class Study(Section):
    """A whole study."""

    study: Annotated[Name, AfterValidator(_not_reserved)] = Field(
        "default", description="Names the folder of results."
    )
    description: str = Field("", max_length=500, description="One or two sentences for the report.")
    beside: dict[Name, Annotated[str, Field(min_length=1)]] = Field(
        {},
        description="Other studies, by name and file, that only train. The same call computes them, and the page "
        "says whether its verdicts hold there, too.",
    )
    seeds: Seeds = Field(
        (0, 1),
        description="Every training run without seeds of its own is repeated with each of these seeds.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where networks are trained: auto (a GPU where there is one), cpu, cuda."
    )
    dataset: ImageData = Field(default=ImageData(), description="The images that the networks learn.")
    model: Model = Field(default=MODEL_SECTIONS["cnn"](name="cnn"), description="The network, by name.")
    training: Training = Field(default=Training(), description="All training runs of the study.")
    precision: Precision = Field(default=Precision(), description="Half-precision inference.")
    matrices: dict[Name, Matrix] = Field({}, description="Compressed matrices by name.")
    scaling: Scaling | None = Field(
        None,
        description="Time and storage against the number of points, uniform in the unit square, of a Matern kernel "
        "with nu 0.5 and nugget 1e-2; null leaves it out.",
    )

    def seeds_by_run(self) -> dict[str, tuple[int, ...]]:
        """The seeds of each training run: its own, or those of the study."""
        return {name: run.seeds or self.seeds for name, run in self.training.runs.items()}

    def files(self) -> dict[str, str]:
        """The user's own files that the study reads, by the path of the key that names each."""
        parts = {"dataset": self.dataset.files()} if self.training.runs else {}
        parts |= {f"matrices.{name}": matrix.files() for name, matrix in self.matrices.items()}
        parts |= {f"precision.networks.{name}": own.files() for name, own in self.precision.networks.items()}
        return {f"{part}.{key}": file for part, files in parts.items() for key, file in files.items()}

    @model_validator(mode="after")
    def _holds_something(self) -> "Study":
        if not (self.training.runs or self.matrices or self.scaling or self.precision.networks):
            raise misfit(
                "training.runs: the study holds nothing; give it runs, matrices, a scaling series or precision.networks"
            )
        return self

    @model_validator(mode="after")
    def _is_not_beside_itself(self) -> "Study":
        if self.study in self.beside:
            raise misfit(f"beside.{self.study}: is the name of this study itself; name another study")
        if self.beside and not self.training.runs:
            raise misfit("beside: this study has no training.runs to compare; remove beside")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Study":
        for name in self.precision.networks:
            if name in self.training.runs:
                raise misfit(f"precision.networks.{name}: is a training run's name too; choose another")
        for name, run in self.training.runs.items():
            path, own, samples = f"training.runs.{name}", run.train_samples, self.dataset.train_samples
            if own is not None and own > samples:
                raise misfit(f"{path}.train_samples: {own} is more than dataset.train_samples, {samples}")
            there = "dataset.train_samples" if own is None else f"{path}.train_samples"
            if (size := run.recipe().batch_size) > (own or samples):
                raise misfit(f"{path}.batch_size: {size} is more than {there}, {own or samples}")
        if self.scaling is not None and list(self.scaling.sizes) != sorted(set(self.scaling.sizes)):
            raise misfit("scaling.sizes: must increase from one to the next")
        converted = bool(self.precision.runs) or any(
            isinstance(matrix.points, Embeddings) for matrix in self.matrices.values()
        )
        if converted and self.model.name == "vit":
            raise misfit(
                "model.name: the attention of a vit cannot be converted to half precision; choose another "
                "model, or leave precision.runs empty and embeddings out of the matrices"
            )
        named = {f"precision.runs.{i}": run for i, run in enumerate(self.precision.runs)}
        if self.training.claims is not None:
            named |= {
                f"training.claims.{role}": run for role, run in self.training.claims.model_dump().items()
            }
        for name, matrix in self.matrices.items():
            if isinstance(matrix.points, Embeddings):
                named[f"matrices.{name}.points.run"] = matrix.points.run
        for path, wanted_run in named.items():
            if wanted_run not in self.training.runs:
                known = ", ".join(self.training.runs)
                raise wrong(f"{path}: no training run '{wanted_run}'; known: {known}")
        return self


def schema() -> dict[str, Any]:
    """The JSON schema of a study file after it was merged over the default."""
    return Study.model_json_schema()

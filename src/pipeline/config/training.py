"""Training runs: optimizer, smoothing, batch, and the claims that compare them."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.choice import Choice, section_of
from pipeline.config.models import Model
from pipeline.config.report import Roles
from pipeline.config.section import Name, Section, Seeds, misfit
from pipeline.errors import ConfigError
from pipeline.options import Count, Positive, Seed
from pipeline.training import (
    AUGMENTATIONS,
    METHODS,
    SCHEDULES,
    SMOOTHINGS,
    Recipe,
    Schedule,
    Smoothing,
)
from pipeline.training.augmentation import Augmentation
from pipeline.training.optimizers import Optimizer
from pipeline.training.search import N_FINALISTS, with_values

if TYPE_CHECKING:

    class _RecipeKeys(Section, Recipe):
        """The section below as mypy sees it, which cannot compute keys: a recipe's attributes except `n_measured`."""

else:
    # Keys of a run that belong to its recipe.
    _RecipeKeys = section_of(
        Section,
        Recipe,
        without={"n_measured"},
        hints={
            Optimizer: Annotated[Optimizer, Choice(METHODS)],
            Smoothing: Annotated[Smoothing, Choice(SMOOTHINGS)],
            Augmentation: Annotated[Augmentation, Choice(AUGMENTATIONS, without=("full_steps",))],
            Schedule: Annotated[Schedule, Choice(SCHEDULES)],
        },
    )


class RunSpec(_RecipeKeys):
    """One way of training."""

    epochs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="Passes over the training images.")
    train_samples: Count | None = Field(
        None, description="Number of training images, counted from the first; null takes them all."
    )

    @model_validator(mode="after")
    def _makes_a_recipe(self) -> "RunSpec":
        try:
            self.recipe()
        except ConfigError as error:
            raise misfit(f"optimizer: {error}") from None
        return self

    def with_values(self, values: Mapping[str, float]) -> Self:
        """Return this run with other options for its optimizer and its smoothings."""
        optimizer, smoothing = with_values(self.optimizer, self.smoothing, values)
        found: Self = self.model_copy(update={"optimizer": optimizer, "smoothing": smoothing})
        return found

    def recipe(self) -> Recipe:
        return Recipe(**{key: getattr(self, key) for key in _RecipeKeys.model_fields})


class Run(RunSpec):
    """One way of training, repeated for every seed."""

    label: str = Field("", max_length=80, description="What the report calls it; the run's name if empty.")
    seeds: Seeds | None = Field(
        None, description="Seeds that this run is repeated with; null takes those of the study."
    )
    search: dict[str, tuple[Positive, Positive]] = Field(
        {},
        description="Range of each option to tune, such as lr: [0.01, 1.0] or mixup.alpha: [0.1, 1.0]. Options are "
        "drawn evenly on a logarithmic scale; momentum by 1 - momentum.",
    )

    @model_validator(mode="after")
    def _ranges_are_of_options(self) -> "Run":
        for name, (low, high) in self.search.items():
            if low >= high:
                raise misfit(f"search.{name}: must rise, found {low} to {high}")
            try:
                for end in (low, high):
                    self.with_values({name: end})
            except ValueError as error:
                raise misfit(f"search.{name}: {error}") from None
        return self


class TuningSpec(Section):
    """The spec of the stage `tune`.

    Attributes:
        search: Range of each option.
        trials: Number of trials.
        final_seeds: Further seeds of the two best trials.
        seed: Seed of the drawn options, and of every trial's weights, order and smoothing.
    """

    run: RunSpec
    search: dict[str, tuple[float, float]]
    trials: int
    final_seeds: int = 0
    seed: int
    model: Model
    device: Literal["auto", "cpu", "cuda"]


class TrainingSpec(Section):
    """The spec of the stage `train`."""

    run: RunSpec
    model: Model
    device: Literal["auto", "cpu", "cuda"]
    test: bool


class Training(Section):
    """All training runs of the study."""

    runs: dict[Name, Run] = Field({}, description="Training runs by name; a study may have none.")
    test: bool = Field(
        True,
        description="Whether finished networks are judged on the test images. Set false while hyper-parameters are "
        "chosen on the validation images.",
    )
    claims: Roles | None = Field(None, description="Runs that the claims of large-batch training compare.")
    sweeps: dict[str, Annotated[tuple[Name, ...], Field(min_length=2)]] = Field(
        {},
        description="Runs of each method, from the smallest batch to the largest. The first run measures noise_scale, "
        "which predicts the batch from which the method loses accuracy; the other runs judge the prediction.",
    )
    trials: Annotated[int, Field(ge=0, le=10**4)] = Field(
        0,
        description="Number of trials of every run that has a search. The trial that is best on the validation "
        "images is trained with all seeds. 0: runs are trained as they stand.",
    )
    final_seeds: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="Number of further seeds with which the two best trials of each run are trained. The trial with "
        "the better mean on the validation images is chosen. 0: one seed decides.",
    )
    tuning_seed: Seed = Field(
        1000, description="Seed of the trials: of their options, initial weights and order of images."
    )

    @property
    def tuned(self) -> list[str]:
        """Names of the runs whose options are chosen by trials."""
        return [name for name, run in self.runs.items() if run.search] if self.trials else []

    @property
    def n_of_trials(self) -> int:
        """The largest number of trainings that the trials take."""
        return len(self.tuned) * (self.trials + min(self.trials, N_FINALISTS) * self.final_seeds)

    @model_validator(mode="after")
    def _final_seeds_are_seeds(self) -> "Training":
        if self.tuning_seed + self.final_seeds >= 2**63:
            raise misfit("tuning_seed: the final_seeds after it must lie below 2^63")
        return self

    @model_validator(mode="after")
    def _sweeps_can_be_judged(self) -> "Training":
        for method, names in self.sweeps.items():
            path = f"sweeps.{method}"
            for name in names:
                if name not in self.runs:
                    raise misfit(f"{path}: no training run '{name}'; known: {', '.join(self.runs)}")
            sizes = [self.runs[name].recipe().batch_size for name in names]
            if any(small >= large for small, large in pairwise(sizes)):
                raise misfit(f"{path}: batch sizes must rise, found {sizes}")
            if not self.runs[names[0]].recipe().noise_scale:
                raise misfit(
                    f"{path}: {names[0]} measures no noise to predict from; set training.runs.{names[0]}.noise_scale "
                    "to true"
                )
        return self

    @model_validator(mode="after")
    def _searches_are_alike(self) -> "Training":
        sizes = {name: len(self.runs[name].search) for name in self.tuned}
        first = next(iter(sizes), "")
        for name, size in sizes.items():
            if size != sizes[first]:
                raise misfit(
                    f"runs.{name}.search: has {size} options and that of {first} has {sizes[first]}; give all runs "
                    "the same number, so that none is tuned more than another"
                )
        return self

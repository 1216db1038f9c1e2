"""Training runs: optimizer, smoothing, batch, and the claims that compare them."""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.choice import Choice, section_of
from pipeline.config.models import Model
from pipeline.config.report import Roles
from pipeline.config.section import Name, Section
from pipeline.errors import ConfigError
from pipeline.options import Count
from pipeline.training import (
    AUGMENTATIONS,
    METHODS,
    SCHEDULES,
    SMOOTHINGS,
    KFACSettings,
    Recipe,
    Schedule,
    Smoothing,
)
from pipeline.training.augmentation import Augmentation
from pipeline.training.optimizers import Optimizer

# Keys of a run that are a recipe's; the optimizer's own options stand below its name.
_METHOD_OPTIONS = {field.name for method in METHODS.values() for field in fields(method)}
_RecipeKeys = section_of(
    Section,
    Recipe,
    without={*_METHOD_OPTIONS, "kfac", "n_measured"},
    hints={
        Smoothing: Annotated[Smoothing, Choice(SMOOTHINGS)],
        Augmentation: Annotated[Augmentation, Choice(AUGMENTATIONS, without=("full_steps",))],
        Schedule: Annotated[Schedule, Choice(SCHEDULES)],
    },
)


class RunSpec(_RecipeKeys):  # type: ignore[misc, valid-type]  # computed: its keys are read through `recipe`
    """One way of training."""

    optimizer: Annotated[Optimizer, Choice(METHODS)] = Field(description="The method, by name.")
    epochs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="Passes over the training images.")
    train_samples: Count | None = Field(
        None, description="Take the first so many of the training images; null takes them all."
    )

    @model_validator(mode="after")
    def _makes_a_recipe(self) -> "RunSpec":
        try:
            self.recipe()
        except ConfigError as error:
            raise PydanticCustomError("fit", "optimizer: {why}", {"why": str(error)}) from None
        return self

    def recipe(self) -> Recipe:
        """The recipe that training follows."""
        optimizer = {field.name: getattr(self.optimizer, field.name) for field in fields(self.optimizer)}
        settings = {field.name: optimizer.pop(field.name, None) for field in fields(KFACSettings)}
        return Recipe(
            optimizer=self.optimizer.name,
            **optimizer,
            kfac=KFACSettings(**settings) if isinstance(self.optimizer, KFACSettings) else None,
            **{key: getattr(self, key) for key in _RecipeKeys.model_fields if key != "optimizer"},
        )


class Run(RunSpec):
    """One way of training, repeated for every seed."""

    label: str = Field("", max_length=80, description="What the report calls it; the run's name if empty.")


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
        description="Judge finished networks on the test images; false while hyper-parameters are "
        "chosen on the "
        "validation images.",
    )
    claims: Roles | None = Field(None, description="Which runs the claims of large-batch training compare.")

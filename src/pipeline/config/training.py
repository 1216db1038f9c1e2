"""Training runs: optimizer, smoothing, batch, and the claims that compare them."""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.choice import Choice
from pipeline.config.images import Model
from pipeline.config.report import Roles
from pipeline.config.section import Name, Section
from pipeline.options import Count, NotNegative
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
from pipeline.training.schedule import Cosine


class RunSpec(Section):
    """One way of training."""

    optimizer: Annotated[Optimizer, Choice(METHODS)] = Field(description="The method, by name.")
    smoothing: tuple[Annotated[Smoothing, Choice(SMOOTHINGS)], ...] = Field(
        (), description="Smoothings of the objective, applied together."
    )
    augmentation: tuple[Annotated[Augmentation, Choice(AUGMENTATIONS, without=("full_steps",))], ...] = Field(
        (), description="Random changes of the training images, applied in order."
    )
    train_samples: Count | None = Field(
        None, description="Take the first so many of the training images; null takes them all."
    )
    batch_size: Count = Field(description="Samples of one step, over all processes.")
    epochs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="Passes over the training images.")
    warmup_epochs: NotNegative = Field(
        1.0, description="Epochs over which the learning rate rises to its peak."
    )
    schedule: Annotated[Schedule, Choice(SCHEDULES)] = Field(
        default_factory=Cosine, description="Decay of the learning rate after the warm-up."
    )
    coupled_momentum: bool = Field(False, description="Let momentum fall with the learning rate.")
    rescaled_weights: bool = Field(
        False, description="Keep the norm of weights that batch normalization follows."
    )
    micro_batch: Count = Field(
        256, description="Samples of one forward and backward pass; a batch is cut into such pieces."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of activations and their gradients, where autocasting lowers it."
    )

    def recipe(self) -> Recipe:
        """The recipe that training follows."""
        optimizer = {field.name: getattr(self.optimizer, field.name) for field in fields(self.optimizer)}
        settings = {field.name: optimizer.pop(field.name, None) for field in fields(KFACSettings)}
        return Recipe(
            optimizer=self.optimizer.name,
            **optimizer,
            kfac=KFACSettings(**settings) if isinstance(self.optimizer, KFACSettings) else None,
            smoothing=self.smoothing,
            augmentation=self.augmentation,
            batch_size=self.batch_size,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            schedule=self.schedule,
            coupled_momentum=self.coupled_momentum,
            rescaled_weights=self.rescaled_weights,
            micro_batch=self.micro_batch,
            precision=self.precision,
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

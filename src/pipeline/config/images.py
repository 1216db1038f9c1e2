"""Which images are learnt, and by what network."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Section, Seed


class ImageData(Section):
    """The images that the networks learn."""

    name: Literal["fashion_mnist", "digits"] = Field("fashion_mnist", description="Data set.")
    directory: str | None = Field(
        None, description="Folder with IDX files; without one the data set is found or fetched."
    )
    train_samples: Count = Field(8192, description="Training images, drawn by split_seed.")
    validation_samples: Count = Field(4096, description="Images on which hyper-parameters may be chosen.")
    split_seed: Seed = Field(1234, description="Seed of the fixed train, validation and test split.")


class CnnModel(Section):
    """Three strided convolutions and two fully connected layers."""

    name: Literal["cnn"] = "cnn"
    batch_norm: bool = Field(False, description="Batch normalization behind each convolution.")


class MlpModel(Section):
    """Fully connected layers."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (128, 64), description="Widths of the hidden layers."
    )


Model = Annotated[CnnModel | MlpModel, Field(discriminator="name")]

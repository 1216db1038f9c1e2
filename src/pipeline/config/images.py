"""Which images are learnt, and by what network."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Section


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


class ResnetModel(Section):
    """ResNet-18 for small images."""

    name: Literal["resnet"] = "resnet"
    width: Count = Field(64, description="Channels of the first stage; each later one doubles them.")
    blocks: tuple[Count, ...] = Field(
        (2, 2, 2, 2), min_length=1, description="Residual blocks of each stage."
    )


Model = Annotated[CnnModel | MlpModel | ResnetModel, Field(discriminator="name")]

"""The images of a study, and their data sets."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Section, misfit
from pipeline.data import IMAGES, load_images
from pipeline.data.images import ImageSet
from pipeline.data.splits import Split, split
from pipeline.options import Count, Seed

#: Number of images to train and validate on, for data sets of a fixed size; a folder's are counted when it is read.
N_IMAGES = {"fashion_mnist": 60_000, "digits": 1_437, "letters": 24_800}
#: Keys that a user's own data sets need.
NEEDED = {"folder": ("directory", "image_size", "channels"), "idx": ("directory",), "arrays": ("path",)}


class ImageData(Section):
    """The images that the networks learn."""

    LATER: ClassVar[frozenset[str]] = frozenset({"path"})

    name: Literal[tuple(IMAGES)] = Field(  # type: ignore[valid-type]
        "fashion_mnist",
        description="The data set: fashion_mnist (60,000 + 10,000 images of 28x28), digits (1,797 of 8x8), letters "
        "(31,000 digits and letters of 28x28 in many typefaces, 62 classes), folder "
        "(images of your own, which need directory, image_size and channels), idx (your own gray images in four IDX "
        "files, which need directory), or arrays (your own in one .npz or HDF5 file, which needs path).",
    )
    directory: str | None = Field(
        None,
        min_length=1,
        description="Folder with four IDX files, or with train/CLASS/* and test/CLASS/*. With null, Fashion-MNIST is "
        "taken from Debian's package (installed or fetched) or from the public copy.",
    )
    path: str | None = Field(
        None,
        min_length=1,
        description="File of the data set arrays: .npz, .h5 or .hdf5 with train_images, train_labels, test_images and "
        "test_labels; images are uint8 of shape (n, height, width) or (n, 3, height, width).",
    )
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Pixels that the images of a folder are scaled to."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="Channels of the images of a folder: 1 is gray, 3 is color."
    )
    train_samples: Count = Field(
        8192,
        description="Number of training images. They are drawn from the training part by split_seed, in the "
        "proportions of the classes.",
    )
    validation_samples: Count = Field(
        4096,
        description="Number of images of the training part on which hyper-parameters may be chosen. The test part is "
        "always used whole.",
    )
    split_seed: Seed = Field(
        1234,
        description="Seed of the fixed split into training and validation images; "
        "training has its own seeds.",
    )

    def load(self, cache: Path) -> tuple[ImageSet, Split]:
        """Return the images and their fixed split; downloads are kept in `cache`."""
        own: dict[str, Any] = self.model_dump(include={"image_size", "channels"}, exclude_none=True)
        if self.path is not None:
            own["path"] = Path(self.path)
        directory = Path(self.directory) if self.directory else None
        images = load_images(self.name, directory=directory, cache=cache, **own)
        return images, split(
            images,
            train_samples=self.train_samples,
            validation_samples=self.validation_samples,
            seed=self.split_seed,
        )

    @model_validator(mode="after")
    def _keys_are_those_of_the_data_set(self) -> "ImageData":
        for key in ("directory", "image_size", "channels", "path"):
            given, needed = getattr(self, key) is not None, key in NEEDED.get(self.name, ())
            if needed and not given:
                who = "a folder of images" if self.name == "folder" else f"data set {self.name}"
                raise misfit(f"{key}: missing; {who} needs it")
            if given and not needed and key == "path":
                raise misfit("path: belongs to data set arrays")
            if given and not needed and key != "directory":
                raise misfit(f"{key}: only of a folder of images; {self.name} brings its own")
        return self

    @model_validator(mode="after")
    def _as_many_as_there_are(self) -> "ImageData":
        there = N_IMAGES.get(self.name)
        if there is not None and self.train_samples + self.validation_samples > there:
            raise misfit(
                f"train_samples: {self.train_samples} and {self.validation_samples} validation_samples are more "
                f"than the {there} images that {self.name} has for both (config/default.yaml gives what a study "
                f"leaves out); write for example train_samples: {there - there // 4}, validation_samples: "
                f"{there // 4}"
            )
        return self

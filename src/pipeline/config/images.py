"""The images of a study, and their data sets."""

from dataclasses import MISSING
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from pipeline.config.choice import section_of_all
from pipeline.config.section import Section, misfit
from pipeline.data import IMAGES, Images, ImageSet, Split, split
from pipeline.data.images import PATHS
from pipeline.options import Count, Seed, options_of, type_hints

_AnyImages = section_of_all(Section, IMAGES, "AnyImages", "The data set, by name.")
_OPTIONS = tuple(key for key in _AnyImages.model_fields if key != "name")


class ImageData(_AnyImages):  # type: ignore[misc, valid-type]  # computed
    """The images that the networks learn."""

    LATER: ClassVar[frozenset[str]] = frozenset(_OPTIONS) - {"directory", "image_size", "channels"}

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

    @property
    def images(self) -> Images:
        """The data set with its options."""
        given = {key: Path(value) if key in PATHS else value for key, value in self._given().items()}
        return IMAGES[self.name](**given)

    def files(self) -> dict[str, str]:
        """The user's own files that the images are read from, by the key that names each."""
        return {} if self.path is None else {"path": self.path}

    def load(self, cache: Path) -> tuple[ImageSet, Split]:
        """Return the images and their fixed split; downloads are kept in `cache`."""
        images = self.images.load(cache)
        return images, split(
            images,
            train_samples=self.train_samples,
            validation_samples=self.validation_samples,
            seed=self.split_seed,
        )

    def _given(self) -> dict[str, Any]:
        return {key: value for key in _OPTIONS if (value := getattr(self, key)) is not None}

    @model_validator(mode="after")
    def _options_are_those_of_the_data_set(self) -> "ImageData":
        given = self._given()
        for key in given:
            sets = [name for name, kind in IMAGES.items() if key in type_hints(kind)]
            if self.name not in sets:
                raise misfit(
                    f"{key}: belongs to data set {' or '.join(sets)}, found {self.name}; leave it out"
                )
        for option in options_of(IMAGES[self.name]):
            if option.default is MISSING and option.name not in given:
                raise misfit(f"{option.name}: missing; data set {self.name} needs it")
        return self

    @model_validator(mode="after")
    def _as_many_as_there_are(self) -> "ImageData":
        there = self.images.N_TRAIN
        if there is not None and self.train_samples + self.validation_samples > there:
            raise misfit(
                f"train_samples: {self.train_samples} and {self.validation_samples} validation_samples are more "
                f"than the {there} images that {self.name} has for both (config/default.yaml gives what a study "
                f"leaves out); write for example train_samples: {there - there // 4}, validation_samples: "
                f"{there // 4}"
            )
        return self

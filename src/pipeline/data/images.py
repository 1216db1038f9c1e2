"""Image data sets by their options, and the labeled images with a fixed test part that each of them loads."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.options import require_bounds

#: Names of the options that are paths: of a folder, and of a file. The workflow notices when their content changes.
PATHS = ("directory", "path")


@dataclass(frozen=True)
class ImageSet:
    """Images with one label each, divided into training and test parts by those who made the set.

    Attributes:
        train_images: Shape (n, height, width) if gray, else (n, 3, height, width), uint8, 0 (no ink) to 255.
        train_labels: Shape (n,), int64, indices into `classes`.
        test_images: The same for m images.
        test_labels: Shape (m,), int64.
        classes: The name of each class.
        source: The origin of the images, in words, for the provenance.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: list[str]
    source: str


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """An image data set that studies know by name; its fields are what a study may set.

    A field without a default has to be given. A field of type `Path` has one of the names in `PATHS`.
    """

    #: Name of the data set in studies.
    name: ClassVar[str]
    #: Number of images to train and validate on; None if it is known only after they are read.
    N_TRAIN: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        require_bounds(self)

    @abstractmethod
    def load(self, cache: Path) -> ImageSet:
        """Return the images.

        Args:
            cache: A folder where a downloaded file may be kept.

        Raises:
            ConfigError: If the images are not available, or their files are damaged.
        """

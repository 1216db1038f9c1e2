"""A labelled set of images with its fixed test part, as which every image data set is loaded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

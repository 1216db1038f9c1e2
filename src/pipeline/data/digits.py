"""The small handwritten digits that come with scikit-learn: for studies that must end in a minute."""

from pathlib import Path

import numpy as np

from pipeline.data.images import ImageSet
from pipeline.errors import ConfigError

N_TEST = 360


def load_digits(*, directory: Path | None, cache: Path) -> ImageSet:
    """Load the 1,797 images of 8 x 8 pixels; the last 360 in the file's order are the test part.

    The file's values 0..16 are scaled to 0..255, as in other image sets. `cache` is not used, since nothing is
    downloaded.

    Raises:
        ConfigError: If a `directory` is given, which would not be read.
    """
    if directory is not None:
        raise ConfigError(
            f"dataset.directory: found {directory}, but the digits come with scikit-learn; leave it out"
        )
    from sklearn import datasets

    content = datasets.load_digits()
    images = np.rint(content.images * (255 / 16)).astype(np.uint8)
    labels = content.target.astype(np.int64)
    return ImageSet(
        train_images=images[:-N_TEST],
        train_labels=labels[:-N_TEST],
        test_images=images[-N_TEST:],
        test_labels=labels[-N_TEST:],
        classes=[str(digit) for digit in range(10)],
        source="scikit-learn's digits",
    )

"""The small handwritten digits that come with scikit-learn: for studies that must end in a minute."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.data.images import Images, ImageSet

N_TEST = 360


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """1,437 + 360 handwritten digits of 8 x 8 pixels."""

    name: ClassVar[str] = "digits"
    N_TRAIN: ClassVar[int] = 1_437

    def load(self, cache: Path) -> ImageSet:
        """Return the digits; the last 360 in the file's order are the test part.

        The file's values 0..16 are scaled to 0..255, as in other image sets.
        """
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

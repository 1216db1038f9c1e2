"""A user's images in four IDX files, the format of MNIST and its relatives."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.data.arrays import checked_images
from pipeline.data.idx import read_idx
from pipeline.data.images import Images, ImageSet
from pipeline.errors import ConfigError

#: The files by the names of their arrays in `arrays.ARRAYS`; a compressed file ends in `.gz`.
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True, kw_only=True)
class IdxImages(Images):
    """Gray images of your own, in four IDX files.

    Shapes and labels are checked, and classes are named by their numbers; there is no checksum.

    Attributes:
        directory: Folder with the four IDX files under MNIST's names, compressed or not.
    """

    name: ClassVar[str] = "idx"

    directory: Path

    def load(self, cache: Path) -> ImageSet:
        """Read the images and their labels from the four files of `FILES`."""
        paths = {name: _path(self.directory, file) for name, file in FILES.items()}
        found = {
            name: read_idx(path, n_dimensions=3 if name.endswith("images") else 1)
            for name, path in paths.items()
        }
        places = {name: f"{path}: {name}" for name, path in paths.items()}
        return checked_images(places, found, f"IDX files in {self.directory}")


def _path(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            return path
    raise ConfigError(
        f"dataset.directory: wanted {name} (or {name}.gz) in {directory}, found neither; name a folder with "
        f"{', '.join(FILES.values())}"
    )
